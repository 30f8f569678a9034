use super::*;
use crate::stats::symmetric_eigen;

/// Entries that no structure ties together.
fn scattered(n_rows: usize, n_columns: usize) -> Vec<f64> {
    (0..n_rows * n_columns).map(|at| ((at * at) as f64 * 0.7391 + 1.0).sin()).collect()
}

fn plain_product(left: &[f64], right: &[f64], n_columns: usize) -> Vec<f64> {
    let row = |left: &[f64]| -> Vec<f64> {
        right.chunks(n_columns).map(|right| left.iter().zip(right).map(|(a, b)| a * b).sum()).collect()
    };
    left.chunks(n_columns).flat_map(row).collect()
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < tolerance, "{found} for {expected}");
    }
}

#[test]
fn products_in_tiles_are_the_plain_products() {
    for (n_left, n_right, n_columns) in [(1, 1, 1), (5, 3, 7), (53, 97, 21), (9, 50, 1030)] {
        let (left, right) = (scattered(n_left, n_columns), scattered(n_right, n_columns));
        let expected = plain_product(&left, &right, n_columns);
        assert_close(&product_transposed(&left, &right, n_columns), &expected, 1e-9);
        assert_close(&gram(&right, n_columns), &plain_product(&right, &right, n_columns), 1e-9);
        assert_eq!(transposed(&transposed(&left, n_columns), n_left), left);
    }
    assert_eq!(product_transposed(&[], &[], 4), Vec::<f64>::new());
    assert_eq!(gram(&[], 0), Vec::<f64>::new());
}

#[test]
fn eigenvalues_alone_are_those_with_vectors() {
    for n in [1, 2, 3, 10, 45] {
        let matrix = gram(&scattered(n, n / 2 + 1), n / 2 + 1);
        let shifted: Vec<f64> = (0..n * n).map(|at| matrix[at] - if at % (n + 1) == 0 { 5.0 } else { 0.0 }).collect();
        let mut found = symmetric_eigenvalues(shifted.clone(), n).unwrap();
        let (mut expected, _) = symmetric_eigen(&shifted, n).unwrap();
        found.sort_by(f64::total_cmp);
        expected.sort_by(f64::total_cmp);
        assert_close(&found, &expected, 1e-10 * n as f64);
    }
}

#[test]
fn eigenvalues_of_special_matrices_are_known() {
    assert_eq!(symmetric_eigenvalues(Vec::new(), 0), Some(Vec::new()));
    assert_eq!(symmetric_eigenvalues(vec![0.0; 9], 3), Some(vec![0.0; 3]));
    assert_eq!(symmetric_eigenvalues(vec![f64::NAN], 1), None);
    assert_eq!(symmetric_eigenvalues(vec![1.0; 3], 2), None);
    // All ones: once n, else 0.
    let mut found = symmetric_eigenvalues(vec![1.0; 400], 20).unwrap();
    found.sort_by(f64::total_cmp);
    assert!((found[19] - 20.0).abs() < 1e-12 && found[..19].iter().all(|value| value.abs() < 1e-13), "{found:?}");
}

#[test]
fn a_factor_makes_the_matrix_again_with_as_many_rows_as_its_rank() {
    for (n, rank) in [(1, 1), (6, 6), (30, 12), (30, 1)] {
        let matrix = gram(&scattered(n, rank), rank);
        let factor = semidefinite_factor(&matrix, n);
        assert_eq!(factor.len(), rank * n, "{n} {rank}");
        assert_close(&gram(&transposed(&factor, n), rank), &matrix, 1e-10);
    }
    assert_eq!(semidefinite_factor(&[0.0; 4], 2), Vec::<f64>::new());
    assert_eq!(semidefinite_factor(&[], 0), Vec::<f64>::new());
}
