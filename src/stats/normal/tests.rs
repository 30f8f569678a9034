use super::*;
use crate::stats::golden::{close, golden, numbers};

#[test]
fn quantiles_equal_scipys() {
    for case in golden()["normal_quantile"].as_array().unwrap() {
        let [p, expected] = numbers(case)[..] else { panic!("{case}") };
        assert!(close(quantile(p).unwrap(), expected, 1e-14), "{p}");
    }
}

#[test]
fn probabilities_equal_scipys() {
    for case in golden()["normal_quantile"].as_array().unwrap() {
        let [p, z] = numbers(case)[..] else { panic!("{case}") };
        assert!((cdf(z) / p - 1.0).abs() < 1e-11, "{z}");
    }
}

#[test]
fn what_is_no_probability_has_no_quantile() {
    for p in [0.0, 1.0, -0.1, f64::NAN] {
        assert_eq!(quantile(p), None);
    }
}
