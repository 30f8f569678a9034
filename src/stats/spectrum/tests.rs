use super::*;

#[test]
fn eigenvalues_and_vectors_make_the_matrix_again() {
    let matrix = [4.0, 1.0, -2.0, 1.0, 2.0, 0.5, -2.0, 0.5, 3.0];
    let (values, vectors) = symmetric_eigen(&matrix, 3).unwrap();
    for (at, expected) in matrix.iter().enumerate() {
        let (i, j) = (at / 3, at % 3);
        let made: f64 = (0..3).map(|k| vectors[i * 3 + k] * values[k] * vectors[j * 3 + k]).sum();
        assert!((made - expected).abs() < 1e-12, "{made} for {expected}");
    }
    assert!((values.iter().sum::<f64>() - 9.0).abs() < 1e-12, "the trace");
    assert_eq!(symmetric_eigen(&[1.0, f64::NAN, 0.0, 1.0], 2), None);
}

#[test]
fn a_product_has_the_singular_values_of_its_closed_form() {
    // B has the columns 3 e0 and 2 e1, A the rows e0 and 5 e2: B A is diag-like with 3 and 10.
    let singular = singular_values_of_product(&[9.0, 0.0, 0.0, 4.0], &[1.0, 0.0, 0.0, 25.0], 2).unwrap();
    assert!((singular[0] - 10.0).abs() < 1e-12 && (singular[1] - 3.0).abs() < 1e-12, "{singular:?}");
    let rank = effective_rank(&[1.0, 1.0, 1.0, 0.0]).unwrap();
    assert!((rank - 3.0).abs() < 1e-12);
    assert_eq!(effective_rank(&[0.0, 0.0]), None);
}
