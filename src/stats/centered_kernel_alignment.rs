//! Whether two sets of features of the same images have the same geometry.

use super::dense::product_transposed;

/// The part of a side's squared norm below which what varies is rounding.
const VARIATION_MIN: f64 = 1e-24;

/// The linear centred kernel alignment of two sets of features. 1 for features that are equal but for rotation, scale and
/// shift.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelAlignment {
    /// Within [0, 1]. It is near 1 for any two sets that have far fewer rows than dimensions.
    pub biased: f64,
    /// Free of that bias: about 0 for unrelated sets, and it may be negative. `None` for fewer than four rows, or where
    /// the unbiased estimate of a side with itself is not above 0.
    pub debiased: Option<f64>,
}

/// Returns the linear centred kernel alignment of two sets of features of the same `n_rows` items.
///
/// Each set has its rows one after the other, so its number of dimensions is its length by `n_rows`; the two may differ.
/// Kornblith et al. (2019), "Similarity of neural network representations revisited", ICML. The debiased estimator is
/// that of Nguyen, Raghu and Kornblith (2021), ICLR, equation 3, with the unbiased independence criterion of Song et al.
/// (2012), JMLR 13. `None` if a side does not vary between items, for no rows, for lengths that are no multiple of
/// `n_rows`, and for entries that are not finite.
pub fn centered_kernel_alignment(first: &[f64], second: &[f64], n_rows: usize) -> Option<KernelAlignment> {
    let (first, second) = (centred_kernel(first, n_rows)?, centred_kernel(second, n_rows)?);
    let dependence = |first: &[f64], second: &[f64]| -> f64 { first.iter().zip(second).map(|(a, b)| a * b).sum() };
    let biased = dependence(&first, &second) / dependence(&first, &first).sqrt() / dependence(&second, &second).sqrt();
    let (first, second) = (Hollow::new(first, n_rows), Hollow::new(second, n_rows));
    let of_sides = [first.dependence(&first), second.dependence(&second)];
    let debiased = (n_rows > 3 && of_sides.iter().all(|value| *value > 0.0))
        .then(|| first.dependence(&second) / of_sides[0].sqrt() / of_sides[1].sqrt());
    biased.is_finite().then_some(KernelAlignment { biased, debiased })
}

/// The scalar products of all rows after centring each dimension, `(n_rows, n_rows)`. `None` if the rows do not vary.
fn centred_kernel(features: &[f64], n_rows: usize) -> Option<Vec<f64>> {
    let is_set = n_rows > 0
        && !features.is_empty()
        && features.len().is_multiple_of(n_rows)
        && features.iter().all(|value| value.is_finite());
    if !is_set {
        return None;
    }
    let n_dimensions = features.len() / n_rows;
    let mut means = vec![0.0; n_dimensions];
    for row in features.chunks_exact(n_dimensions) {
        means.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / n_rows as f64);
    }
    let centred: Vec<f64> = features.iter().zip(means.iter().cycle()).map(|(value, mean)| value - mean).collect();
    let square = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
    let varies = square(&centred) > VARIATION_MIN * square(features);
    varies.then(|| product_transposed(&centred, &centred, n_dimensions))
}

/// A kernel with zeros on its diagonal.
struct Hollow {
    kernel: Vec<f64>,
    /// The sums of its rows.
    sums: Vec<f64>,
}

impl Hollow {
    fn new(mut kernel: Vec<f64>, n_rows: usize) -> Self {
        kernel.iter_mut().step_by(n_rows + 1).for_each(|value| *value = 0.0);
        let sums = kernel.chunks_exact(n_rows).map(|row| row.iter().sum()).collect();
        Self { kernel, sums }
    }

    /// The unbiased independence criterion (Song et al. 2012, equation 5), times `n (n - 3)`. Not defined for fewer than
    /// four rows.
    fn dependence(&self, other: &Self) -> f64 {
        let n = self.sums.len() as f64;
        let product = |first: &[f64], second: &[f64]| -> f64 { first.iter().zip(second).map(|(a, b)| a * b).sum() };
        let totals = self.sums.iter().sum::<f64>() * other.sums.iter().sum::<f64>();
        product(&self.kernel, &other.kernel) + totals / ((n - 1.0) * (n - 2.0))
            - 2.0 / (n - 2.0) * product(&self.sums, &other.sums)
    }
}

#[cfg(test)]
mod tests;
