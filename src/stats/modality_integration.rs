//! The Modality Integration Rate: how far apart a language model holds the states of images and of text.
//!
//! Huang et al. (2024), "Deciphering cross-modal alignment in large vision-language models with Modality Integration
//! Rate", arXiv 2410.07167. Per layer it is the Frechet distance of two Gaussians.

use std::borrow::Cow;

use super::dense::{gram, product_transposed, semidefinite_factor, symmetric_eigenvalues, transposed};

/// A row is an outlier if its norm is more standard deviations than this from the median norm.
const N_DEVIATIONS: f64 = 3.0;

/// What becomes of rows whose norm is far from the median.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outliers {
    /// Each becomes the row of the medians by dimension, over all rows. The released code does this.
    ReplaceMedian,
    /// They are left out. The paper's text says so.
    Drop,
    /// They stay.
    Off,
}

/// Which term joins the two covariances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossTerm {
    /// The trace of the square root of the product of the covariances, as in the paper.
    Exact,
    /// The trace of the product itself. The released fast mode comes to this in exact arithmetic, because its recursion
    /// begins on its fixed point. It is above 0 for equal sets and may be negative.
    Published,
}

/// The distance of the image states and the text states of one layer, in its parts. All are free of the layer's scale.
#[derive(Clone, Debug, PartialEq)]
pub struct ModalityIntegration {
    /// What both sets were multiplied with: 1 by the mean norm of the text rows.
    pub alpha: f64,
    /// The squared distance of the two means.
    pub mean_gap: f64,
    /// The trace of the covariance of the image rows.
    pub trace_vision: f64,
    /// The trace of the covariance of the text rows.
    pub trace_text: f64,
    /// The cross term: a trace, by [`CrossTerm`].
    pub cross: f64,
    /// The indices of the image rows that were outliers, ascending.
    pub vision_outliers: Vec<usize>,
    /// The indices of the text rows that were outliers, ascending.
    pub text_outliers: Vec<usize>,
}

impl ModalityIntegration {
    /// The Frechet distance of the layer. For equal sets and the exact term it is 0 but for rounding, of either sign.
    pub fn fid(&self) -> f64 {
        self.mean_gap + self.trace_vision + self.trace_text - 2.0 * self.cross
    }
}

/// Returns the distance of the image states and the text states of one layer.
///
/// `vision` and `text` have their rows of `n_dimensions` entries one after the other, one row for each token. The steps
/// are those of the paper and its released code: both sets are multiplied with the reciprocal of the mean norm of the
/// text; outliers of each set are treated; means and covariances (divided by the number of rows less 1) are compared.
/// A row is an outlier if its norm is more than three standard deviations from the median norm. A median of an even
/// number of values is the lower of the two in the middle.
///
/// The exact term has two routes. If one set has fewer rows than dimensions, it is the nuclear norm of the centred rows'
/// products, `||X_v X_t^T||_* / sqrt((r - 1) (s - 1))`: `r s d` multiplications and the eigenvalues of a matrix as large
/// as the smaller set. Otherwise it is the sum of the square roots of the eigenvalues of `F^T S_v F`, where
/// `S_t = F F^T`: `(r + s) d^2 / 2` multiplications for the covariances and about `4 d^3` for the rest, on one thread.
/// Square roots of eigenvalues near 0 have an error of up to about 1e-8 of the largest root.
///
/// `None` if a set has fewer than two rows, the lengths are no multiple of `n_dimensions`, an entry is not finite, or
/// all text rows are 0.
pub fn modality_integration(
    vision: &[f64],
    text: &[f64],
    n_dimensions: usize,
    outliers: Outliers,
    cross_term: CrossTerm,
) -> Option<ModalityIntegration> {
    let is_set = |rows: &[f64]| {
        n_dimensions > 0
            && rows.len().is_multiple_of(n_dimensions)
            && rows.len() >= 2 * n_dimensions
            && rows.iter().all(|value| value.is_finite())
    };
    if !is_set(vision) || !is_set(text) {
        return None;
    }
    let text_norms = norms(text, n_dimensions);
    let alpha = text_norms.len() as f64 / text_norms.iter().sum::<f64>();
    if !(alpha.is_finite() && alpha > 0.0) {
        return None;
    }
    let vision = Centred::new(vision, n_dimensions, alpha, outliers)?;
    let text = Centred::new(text, n_dimensions, alpha, outliers)?;
    let mean_gap = vision.means.iter().zip(&text.means).map(|(vision, text)| (vision - text).powi(2)).sum();
    let (trace_vision, trace_text) = (vision.trace(), text.trace());
    let cross = match cross_term {
        CrossTerm::Exact => trace_of_root(&vision, &text)?,
        CrossTerm::Published => trace_of_product(&vision, &text),
    };
    let (vision_outliers, text_outliers) = (vision.outliers, text.outliers);
    let found =
        ModalityIntegration { alpha, mean_gap, trace_vision, trace_text, cross, vision_outliers, text_outliers };
    found.fid().is_finite().then_some(found)
}

/// Returns the Modality Integration Rate, given the distances of the layers: the decimal logarithm of their sum.
///
/// The paper sums the layers 1 to L, without the embeddings. Lower means closer. `None` if the sum is not above 0.
pub fn modality_integration_rate(fids: &[f64]) -> Option<f64> {
    let sum: f64 = fids.iter().sum();
    (sum.is_finite() && sum > 0.0).then(|| libm::log10(sum))
}

/// The Euclidean norms of the rows.
fn norms(rows: &[f64], n_dimensions: usize) -> Vec<f64> {
    rows.chunks_exact(n_dimensions).map(|row| row.iter().map(|value| value * value).sum::<f64>().sqrt()).collect()
}

/// The lower median. `values` has at least one entry and is left in another order.
fn lower_median(values: &mut [f64]) -> f64 {
    let middle = (values.len() - 1) / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// The indices of the rows whose norm is far from the median. There are at least two rows.
fn outlying(rows: &[f64], n_dimensions: usize, alpha: f64) -> Vec<usize> {
    let norms: Vec<f64> = norms(rows, n_dimensions).into_iter().map(|norm| alpha * norm).collect();
    let n = norms.len() as f64;
    let mean = norms.iter().sum::<f64>() / n;
    let deviation = (norms.iter().map(|norm| (norm - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let median = lower_median(&mut norms.clone());
    (0..norms.len()).filter(|&row| (norms[row] - median).abs() > N_DEVIATIONS * deviation).collect()
}

/// A set of rows after scaling and the treatment of its outliers.
struct Centred {
    /// One row for each dimension, with the entries of all rows less their mean.
    columns: Vec<f64>,
    n_rows: usize,
    n_dimensions: usize,
    /// The mean of each dimension.
    means: Vec<f64>,
    /// The indices of the rows that were outliers.
    outliers: Vec<usize>,
}

impl Centred {
    /// `None` if fewer than two rows are left.
    fn new(rows: &[f64], n_dimensions: usize, alpha: f64, treatment: Outliers) -> Option<Self> {
        let outliers = match treatment {
            Outliers::Off => Vec::new(),
            Outliers::ReplaceMedian | Outliers::Drop => outlying(rows, n_dimensions, alpha),
        };
        let mut rows = Cow::Borrowed(rows);
        if treatment == Outliers::Drop && !outliers.is_empty() {
            let kept = rows.chunks_exact(n_dimensions).enumerate().filter(|(row, _)| !outliers.contains(row));
            rows = Cow::Owned(kept.flat_map(|(_, row)| row).copied().collect());
        }
        let n_rows = rows.len() / n_dimensions;
        if n_rows < 2 {
            return None;
        }
        let mut columns = transposed(&rows, n_dimensions);
        let mut scratch = Vec::new();
        let mut centre = |column: &mut [f64]| {
            column.iter_mut().for_each(|value| *value *= alpha);
            if treatment == Outliers::ReplaceMedian && !outliers.is_empty() {
                scratch.clear();
                scratch.extend_from_slice(column);
                let median = lower_median(&mut scratch);
                outliers.iter().for_each(|&row| column[row] = median);
            }
            let mean = column.iter().sum::<f64>() / n_rows as f64;
            column.iter_mut().for_each(|value| *value -= mean);
            mean
        };
        let means = columns.chunks_exact_mut(n_rows).map(&mut centre).collect();
        Some(Self { columns, n_rows, n_dimensions, means, outliers })
    }

    /// The number of rows less 1.
    fn divisor(&self) -> f64 {
        (self.n_rows - 1) as f64
    }

    /// The trace of the covariance.
    fn trace(&self) -> f64 {
        self.columns.iter().map(|value| value * value).sum::<f64>() / self.divisor()
    }

    /// The covariance, of shape `(n_dimensions, n_dimensions)`.
    fn covariance(&self) -> Vec<f64> {
        let mut products = gram(&self.columns, self.n_rows);
        products.iter_mut().for_each(|product| *product /= self.divisor());
        products
    }

    /// The centred rows, of shape `(n_rows, n_dimensions)`.
    fn rows(&self) -> Vec<f64> {
        transposed(&self.columns, self.n_rows)
    }
}

/// The products of the centred rows of both sets, where one has fewer rows than dimensions, else `None`. They have a row
/// for each row of the smaller set and a column for each of the larger.
fn products_of_rows(vision: &Centred, text: &Centred) -> Option<Vec<f64>> {
    let (small, large) = if vision.n_rows < text.n_rows { (vision, text) } else { (text, vision) };
    let is_cheaper = small.n_rows < small.n_dimensions;
    is_cheaper.then(|| product_transposed(&small.rows(), &large.rows(), small.n_dimensions))
}

/// The trace of the square root of the product of the covariances.
fn trace_of_root(vision: &Centred, text: &Centred) -> Option<f64> {
    if let Some(products) = products_of_rows(vision, text) {
        let (n_small, n_large) = (vision.n_rows.min(text.n_rows), vision.n_rows.max(text.n_rows));
        let values = symmetric_eigenvalues(gram(&products, n_large), n_small)?;
        return Some(sum_of_roots(&values) / (vision.divisor() * text.divisor()).sqrt());
    }
    let n = vision.n_dimensions;
    // The covariances are symmetric, so rows may stand for columns.
    let factor = semidefinite_factor(&text.covariance(), n);
    let left = product_transposed(&factor, &vision.covariance(), n);
    let values = symmetric_eigenvalues(product_transposed(&left, &factor, n), factor.len() / n)?;
    Some(sum_of_roots(&values))
}

/// The sum of the square roots of eigenvalues that are not negative but for rounding. Those within a rounding of the
/// largest are 0: the roots of many would add up.
fn sum_of_roots(values: &[f64]) -> f64 {
    let rounding = f64::EPSILON * values.iter().copied().fold(0.0, f64::max);
    values.iter().filter(|value| **value > rounding).map(|value| value.sqrt()).sum()
}

/// The trace of the product of the covariances.
fn trace_of_product(vision: &Centred, text: &Centred) -> f64 {
    match products_of_rows(vision, text) {
        Some(products) => {
            products.iter().map(|product| product * product).sum::<f64>() / (vision.divisor() * text.divisor())
        }
        None => vision.covariance().iter().zip(text.covariance()).map(|(vision, text)| vision * text).sum(),
    }
}

#[cfg(test)]
mod tests;
