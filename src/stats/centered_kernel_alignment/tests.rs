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
    let (one, two) = (centered_kernel_alignment(&first, &other, 12), centered_kernel_alignment(&turned, &other, 12));
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
