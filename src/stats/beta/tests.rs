use proptest::prelude::*;

use super::*;
use crate::stats::golden::{golden, numbers};

#[test]
fn probabilities_equal_scipys() {
    for case in golden()["beta_cdf"].as_array().unwrap() {
        let [x, a, b, expected] = numbers(case)[..] else { panic!("{case}") };
        let found = cdf(x, a, b).unwrap();
        assert!((found - expected).abs() <= 1e-10 * expected.min(1.0 - expected).max(1e-4), "{case} {found}");
    }
}

#[test]
fn quantiles_equal_scipys() {
    for case in golden()["beta_quantile"].as_array().unwrap() {
        let [p, a, b, expected] = numbers(case)[..] else { panic!("{case}") };
        let found = quantile(p, a, b).unwrap();
        assert!((found - expected).abs() <= 1e-10 * expected, "{case} {found}");
    }
}

#[test]
fn what_is_no_distribution_has_no_probabilities() {
    for (a, b) in [(0.0, 1.0), (1.0, -1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)] {
        assert_eq!((cdf(0.5, a, b), quantile(0.5, a, b)), (None, None));
    }
    assert_eq!((quantile(-0.1, 1.0, 1.0), quantile(f64::NAN, 1.0, 1.0), cdf(f64::NAN, 1.0, 1.0)), (None, None, None));
    assert_eq!((cdf(-1.0, 2.0, 3.0), cdf(2.0, 2.0, 3.0)), (Some(0.0), Some(1.0)));
    assert_eq!((quantile(0.0, 2.0, 3.0), quantile(1.0, 2.0, 3.0)), (Some(0.0), Some(1.0)));
}

proptest! {
    #[test]
    fn quantiles_undo_probabilities_and_mirror(p in 0.0005..0.9995, a in 0.5..5e4, b in 0.5..5e4) {
        let x = quantile(p, a, b).unwrap();
        prop_assert!((cdf(x, a, b).unwrap() - p).abs() < 1e-9, "{x}");
        prop_assert!((quantile(1.0 - p, b, a).unwrap() - (1.0 - x)).abs() < 1e-10, "{x}");
    }
}
