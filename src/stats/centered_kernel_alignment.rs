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
mod tests {
    use super::*;

    fn scattered(n_rows: usize, n_dimensions: usize, seed: f64) -> Vec<f64> {
        (0..n_rows * n_dimensions).map(|at| ((at * at) as f64 * 0.7391 + seed).sin() + 0.1 * seed).collect()
    }

    fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-12
    }

    /// Computed by numpy from the definitions: norms of covariances, and traces of products of kernels.
    #[test]
    fn both_estimates_meet_numpy() {
        for (n_rows, dimensions, biased, debiased) in [
            (7, [3, 5], 0.443_308_321_916_578, -0.288_536_215_422_541),
            (12, [4, 9], 0.410_611_105_175_968, 0.011_790_257_853_778),
            (10, [30, 2], 0.476_326_384_109_529, 0.130_514_951_839_724),
        ] {
            let (first, second) = (scattered(n_rows, dimensions[0], 1.0), scattered(n_rows, dimensions[1], 4.0));
            let found = centered_kernel_alignment(&first, &second, n_rows).unwrap();
            assert!(near(found.biased, biased) && near(found.debiased.unwrap(), debiased), "{found:?}");
        }
    }

    #[test]
    fn the_biased_estimate_is_that_of_the_covariances() {
        // ||X^T Y||^2 / (||X^T X|| ||Y^T Y||) for centred X and Y of one dimension is the squared correlation.
        let found = centered_kernel_alignment(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0], 4).unwrap();
        assert!(near(found.biased, 0.64), "{found:?}");
    }

    #[test]
    fn rotation_scale_and_shift_do_not_matter() {
        let first = scattered(12, 4, 1.0);
        let (sine, cosine) = 0.6_f64.sin_cos();
        let turned: Vec<f64> = first
            .chunks(4)
            .flat_map(|row| [cosine * row[0] - sine * row[2], row[3], sine * row[0] + cosine * row[2], row[1]])
            .map(|value| 7.0 - 3.0 * value)
            .collect();
        let found = centered_kernel_alignment(&first, &turned, 12).unwrap();
        assert!(near(found.biased, 1.0) && near(found.debiased.unwrap(), 1.0), "{found:?}");
        let other = scattered(12, 9, 4.0);
        let (one, two) =
            (centered_kernel_alignment(&first, &other, 12), centered_kernel_alignment(&turned, &other, 12));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(near(one.biased, two.biased) && near(one.debiased.unwrap(), two.debiased.unwrap()));
    }

    #[test]
    fn unrelated_sets_of_many_dimensions_are_alike_only_by_bias() {
        let mut random = crate::stats::SplitMix64::new(7);
        let mut set = |n: usize| -> Vec<f64> { (0..n).map(|_| random.uniform() - 0.5).collect() };
        let found = centered_kernel_alignment(&set(20 * 500), &set(20 * 500), 20).unwrap();
        assert!(found.biased > 0.9 && found.debiased.unwrap().abs() < 0.15, "{found:?}");
    }

    #[test]
    fn a_side_that_does_not_vary_has_no_alignment() {
        let rows = scattered(6, 3, 2.0);
        let constant: Vec<f64> = [0.1, 0.7, -1e6].repeat(6);
        assert_eq!(centered_kernel_alignment(&rows, &constant, 6), None);
        assert_eq!(centered_kernel_alignment(&constant, &rows, 6), None);
        assert_eq!(centered_kernel_alignment(&rows, &[0.0; 6], 6), None);
        assert_eq!(centered_kernel_alignment(&rows[..3], &rows[3..6], 1), None);
    }

    #[test]
    fn sets_of_other_shapes_have_no_alignment() {
        assert_eq!(centered_kernel_alignment(&[], &[], 0), None);
        assert_eq!(centered_kernel_alignment(&[], &[], 3), None);
        assert_eq!(centered_kernel_alignment(&[1.0, 2.0, 3.0], &[1.0, 2.0], 2), None);
        assert_eq!(centered_kernel_alignment(&[1.0, f64::INFINITY], &[1.0, 2.0], 2), None);
        let three = centered_kernel_alignment(&[1.0, 2.0, 4.0], &[1.0, 5.0, 4.0], 3).unwrap();
        assert_eq!(three.debiased, None);
    }
}
