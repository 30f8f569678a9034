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
mod tests {
    use super::*;

    const EXACT: CrossTerm = CrossTerm::Exact;

    /// Half a unit of the last digit that the reference prints.
    const PRINTED: f64 = 0.51e-10;

    fn near(found: f64, expected: f64, tolerance: f64) -> bool {
        (found - expected).abs() < tolerance
    }

    /// The sets of layer 1 or 2 of the reference toy: 14 rows and 13 rows of five dimensions.
    fn toy(layer: usize) -> (Vec<f64>, Vec<f64>) {
        let (l, at) = (layer as f64, |index: usize| ((index / 5) as f64, (index % 5) as f64));
        let vision = (0..70).map(|index| {
            let (i, j) = at(index);
            let value = 3.0 / l * (0.37 * (i + 1.0) * (j + 2.0) * l + 0.1 * j).sin() + 0.2 * j;
            if index / 5 == 3 { value * 40.0 } else { value }
        });
        let text = (0..65).map(|index| {
            let (i, j) = at(index);
            (0.53 * (i + 2.0) * (j + 1.0) + 0.2 * l).cos() + 0.3
        });
        (vision.collect(), text.collect())
    }

    /// Rows of `n_dimensions` that no structure ties together.
    fn scattered(n_rows: usize, n_dimensions: usize, seed: f64) -> Vec<f64> {
        (0..n_rows * n_dimensions).map(|at| ((at * at) as f64 * 0.7391 + seed).sin() * (1.0 + seed / 9.0)).collect()
    }

    /// Rows with the mean 0 and the covariance `diag(deviations^2)`: a pair of opposite rows for each dimension.
    fn with_deviations(deviations: &[f64]) -> Vec<f64> {
        let n = deviations.len();
        let size = ((2 * n - 1) as f64 / 2.0).sqrt();
        let row = |at: usize| -> Vec<f64> {
            let sign = if at.is_multiple_of(2) { size } else { -size };
            (0..n).map(|j| if j == at / 2 { sign * deviations[j] } else { 0.0 }).collect()
        };
        (0..2 * n).flat_map(row).collect()
    }

    fn off(vision: &[f64], text: &[f64], n_dimensions: usize, cross: CrossTerm) -> ModalityIntegration {
        modality_integration(vision, text, n_dimensions, Outliers::Off, cross).unwrap()
    }

    #[test]
    fn the_toy_layers_meet_the_reference_to_all_printed_digits() {
        let expected = [
            [
                0.6027946059,
                0.3276558827,
                8.2864430989,
                0.8298915577,
                2.5843253812,
                1.4767080776,
                4.2753397769,
                6.4905743841,
            ],
            [
                0.5982170909,
                0.1063666472,
                2.2275311614,
                0.9512699091,
                1.4377079432,
                0.4164463050,
                0.4097518313,
                2.4522751077,
            ],
        ];
        for (layer, expected) in (1..).zip(expected) {
            let (vision, text) = toy(layer);
            let of = |cross| modality_integration(&vision, &text, 5, Outliers::ReplaceMedian, cross).unwrap();
            let (exact, fast) = (of(EXACT), of(CrossTerm::Published));
            let found = [
                exact.alpha,
                exact.mean_gap,
                exact.trace_vision,
                exact.trace_text,
                exact.cross,
                fast.cross,
                exact.fid(),
                fast.fid(),
            ];
            for (found, expected) in found.into_iter().zip(expected) {
                assert!(near(found, expected, PRINTED), "layer {layer}: {found} for {expected}");
            }
            assert_eq!(exact.vision_outliers, [3]);
            assert_eq!(exact.text_outliers, if layer == 1 { vec![10] } else { Vec::new() });
        }
    }

    #[test]
    fn the_toy_rates_meet_the_reference_to_all_printed_digits() {
        for (outliers, cross, expected) in [
            (Outliers::ReplaceMedian, EXACT, 0.6707180871),
            (Outliers::ReplaceMedian, CrossTerm::Published, 0.9514759216),
            (Outliers::Drop, EXACT, 0.7067503991),
        ] {
            let fids = [1, 2].map(|layer| {
                let (vision, text) = toy(layer);
                modality_integration(&vision, &text, 5, outliers, cross).unwrap().fid()
            });
            let found = modality_integration_rate(&fids).unwrap();
            assert!(near(found, expected, PRINTED), "{outliers:?} {cross:?}: {found} for {expected}");
        }
    }

    #[test]
    fn isotropic_sets_have_their_closed_form() {
        for n in [1, 2, 5, 40] {
            let (vision, text) = (with_deviations(&vec![2.0; n]), with_deviations(&vec![0.75; n]));
            let shifted: Vec<f64> = vision.iter().map(|value| value + 0.5).collect();
            let found = off(&shifted, &text, n, EXACT);
            let expected = found.alpha.powi(2) * n as f64 * (1.25_f64.powi(2) + 0.25);
            assert!(near(found.fid() / expected, 1.0, 1e-9), "{n}: {found:?}");
        }
    }

    #[test]
    fn covariances_along_the_same_axes_have_their_closed_form() {
        let (vision, text) = (with_deviations(&[3.0, 0.1, 0.0, 1.0]), with_deviations(&[0.5, 0.4, 2.0, 0.0]));
        let found = off(&vision, &text, 4, EXACT);
        let expected = found.alpha.powi(2) * (2.5_f64.powi(2) + 0.3_f64.powi(2) + 4.0 + 1.0);
        assert!(near(found.fid(), expected, 1e-7), "{} for {expected}", found.fid());
    }

    #[test]
    fn equal_sets_are_at_distance_0() {
        for (n_rows, n_dimensions) in [(30, 6), (14, 5), (5, 12), (2, 3)] {
            let rows = scattered(n_rows, n_dimensions, 1.0);
            for outliers in [Outliers::ReplaceMedian, Outliers::Drop, Outliers::Off] {
                let found = modality_integration(&rows, &rows, n_dimensions, outliers, EXACT).unwrap();
                assert!(found.fid().abs() < 1e-6 * found.trace_text && found.mean_gap == 0.0, "{found:?}");
            }
        }
    }

    #[test]
    fn the_published_term_is_above_0_for_equal_sets() {
        let rows = with_deviations(&[0.5_f64.sqrt(), 0.25_f64.sqrt(), 0.125_f64.sqrt()]);
        // Scaled so that the norms of the text have the mean 1, which keeps the covariance as it is.
        let mean_norm = norms(&rows, 3).iter().sum::<f64>() / 6.0;
        let found = off(&rows, &rows, 3, CrossTerm::Published);
        let unscaled = 2.0 * found.trace_text * mean_norm.powi(2) - 2.0 * found.cross * mean_norm.powi(4);
        assert!(near(unscaled, 1.09375, 1e-12), "{unscaled}");
        assert!(found.fid() > 0.01, "{found:?}");
    }

    #[test]
    fn both_routes_to_the_cross_term_agree() {
        // Dimensions of zeros change no trace, and lead to the route by rows.
        for (n_vision, n_text, n_dimensions) in [(20, 15, 6), (9, 40, 7), (8, 8, 8)] {
            let (vision, text) = (scattered(n_vision, n_dimensions, 2.0), scattered(n_text, n_dimensions, 5.0));
            let padded = |rows: &[f64]| -> Vec<f64> {
                rows.chunks(n_dimensions).flat_map(|row| row.iter().copied().chain([0.0; 50])).collect()
            };
            for cross in [EXACT, CrossTerm::Published] {
                let by_dimensions = off(&vision, &text, n_dimensions, cross);
                let by_rows = off(&padded(&vision), &padded(&text), n_dimensions + 50, cross);
                assert!(near(by_rows.cross / by_dimensions.cross, 1.0, 1e-9), "{by_rows:?} {by_dimensions:?}");
                assert!(near(by_rows.fid(), by_dimensions.fid(), 1e-9));
            }
        }
    }

    #[test]
    fn sets_on_two_lines_have_the_cross_term_of_their_angle() {
        // Covariances of rank 1, along two directions of 60 degrees.
        let line = |direction: [f64; 2], times: [f64; 3]| -> Vec<f64> {
            times.into_iter().flat_map(|time| direction.map(|part| part * time)).collect()
        };
        let vision = line([1.0, 0.0], [-2.0, 0.0, 2.0]);
        let text = line([0.5, 0.75_f64.sqrt()], [-1.0, 0.0, 1.0]);
        let found = off(&vision, &text, 2, EXACT);
        let expected = found.alpha.powi(2) * 2.0 * 1.0 * 0.5;
        assert!(near(found.cross, expected, 1e-7), "{} for {expected}", found.cross);
    }

    #[test]
    fn a_common_scale_and_the_order_of_rows_do_not_matter() {
        let (vision, text) = toy(1);
        let of = |vision: &[f64], text: &[f64]| {
            modality_integration(vision, text, 5, Outliers::ReplaceMedian, EXACT).unwrap()
        };
        let fid = of(&vision, &text).fid();
        let scaled = |rows: &[f64]| -> Vec<f64> { rows.iter().map(|value| value * 37.5).collect() };
        let reversed = |rows: &[f64]| -> Vec<f64> { rows.chunks(5).rev().flatten().copied().collect() };
        assert!(near(of(&scaled(&vision), &scaled(&text)).fid(), fid, 1e-9));
        assert!(near(of(&reversed(&vision), &reversed(&text)).fid(), fid, 1e-9));
        assert!((of(&scaled(&vision), &text).fid() - fid).abs() > 1.0, "the scale of one set alone matters");
    }

    #[test]
    fn a_common_rotation_does_not_matter_without_outliers() {
        let (vision, text) = toy(1);
        let (sine, cosine) = 0.7_f64.sin_cos();
        let turned = |rows: &[f64]| -> Vec<f64> {
            let mut rows = rows.to_vec();
            for row in rows.chunks_mut(5) {
                for (i, j) in [(0, 3), (1, 4), (2, 0), (3, 1)] {
                    (row[i], row[j]) = (cosine * row[i] - sine * row[j], sine * row[i] + cosine * row[j]);
                }
            }
            rows
        };
        let (found, expected) = (off(&turned(&vision), &turned(&text), 5, EXACT), off(&vision, &text, 5, EXACT));
        assert!(near(found.fid() / expected.fid(), 1.0, 1e-9), "{found:?} {expected:?}");
        assert!(found.vision_outliers.is_empty());
    }

    #[test]
    fn sets_that_have_no_covariance_have_no_distance() {
        let rows = [1.0, 2.0, 3.0, 5.0];
        let of = |vision: &[f64], text: &[f64], n| modality_integration(vision, text, n, Outliers::Drop, EXACT);
        assert!(of(&rows, &rows, 2).is_some());
        assert_eq!(of(&[], &[], 0), None);
        assert_eq!(of(&[], &rows, 2), None);
        assert_eq!(of(&rows, &rows[..2], 2), None);
        assert_eq!(of(&rows, &rows, 3), None);
        assert_eq!(of(&rows, &[0.0; 4], 2), None);
        assert_eq!(of(&[1.0, f64::NAN, 0.0, 0.0], &rows, 2), None);
        assert_eq!((modality_integration_rate(&[]), modality_integration_rate(&[-1.0, 0.5])), (None, None));
        assert_eq!(modality_integration_rate(&[40.0, 60.0]), Some(2.0));
    }
}
