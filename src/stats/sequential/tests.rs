//! Tests of `sequential`.

use proptest::prelude::*;

use super::*;
use crate::stats::SplitMix64;
use crate::stats::golden::{close, golden, numbers};

/// Expected values: as printed by R's gsDesign (`sfLDOF`).
#[test]
fn boundaries_equal_published_ones() {
    let published: [(&[f64], &[f64]); 2] =
        [(&[0.5, 1.0], &[2.963, 1.969]), (&[0.2, 0.4, 0.6, 0.8, 1.0], &[4.877, 3.357, 2.680, 2.290, 2.031])];
    for (information, expected) in published {
        let found = obrien_fleming_boundaries(0.025, information).unwrap();
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 6e-4), "{found:?}");
    }
}

#[test]
fn boundaries_equal_those_of_the_multivariate_normal_and_of_the_brownian_bridge() {
    for (name, tolerance) in [("obrien_fleming", 2e-5), ("obrien_fleming_of_three", 1e-8)] {
        for case in golden()[name].as_array().unwrap() {
            let alpha = case["alpha"].as_f64().unwrap();
            let found = obrien_fleming_boundaries(alpha, &numbers(&case["information"])).unwrap();
            for (found, expected) in found.into_iter().zip(numbers(&case["boundaries"])) {
                assert!(close(found, expected, tolerance), "{found} {case}");
            }
        }
    }
}

#[test]
fn simulated_paths_cross_as_often_as_they_may() {
    let information = [0.125, 0.25, 0.5, 1.0];
    let boundaries = obrien_fleming_boundaries(0.2, &information).unwrap();
    let mut generator = SplitMix64::new(3);
    let n = 100_000;
    let mut crossed = [0_usize; 4];
    for _ in 0..n {
        let (mut place, mut before) = (0.0, 0.0_f64);
        for (look, (share, boundary)) in information.iter().zip(&boundaries).enumerate() {
            let z = normal_quantile(generator.uniform().max(1e-12)).unwrap();
            place += z * (share - before).sqrt();
            before = *share;
            if place >= boundary * share.sqrt() {
                crossed[look] += 1;
                break;
            }
        }
    }
    let mut total = 0;
    for (look, share) in information.iter().enumerate() {
        total += crossed[look];
        let expected = obrien_fleming_spent(0.2, *share).unwrap();
        let error = (expected * (1.0 - expected) / f64::from(n)).sqrt();
        assert!((total as f64 / f64::from(n) - expected).abs() < 4.5 * error, "{look} {total} {expected}");
    }
}

#[test]
fn one_look_is_a_fixed_design() {
    for alpha in [1e-9, 1e-5, 0.025, 0.3] {
        let [boundary] = obrien_fleming_boundaries(alpha, &[1.0]).unwrap()[..] else { panic!() };
        assert!(close(boundary, -normal_quantile(alpha).unwrap(), 1e-12), "{alpha} {boundary}");
    }
    assert_eq!(obrien_fleming_boundaries(0.025, &[]), Some(Vec::new()));
}

#[test]
fn a_look_that_may_spend_nothing_has_a_finite_boundary() {
    let found = obrien_fleming_boundaries(1e-5, &[0.001, 0.01, 0.5, 1.0]).unwrap();
    assert!(found[0] > 37.0 && found[1] > 37.0 && found.iter().all(|z| z.is_finite()), "{found:?}");
    let without = obrien_fleming_boundaries(1e-5, &[0.5, 1.0]).unwrap();
    assert!(close(found[2], without[0], 1e-9) && close(found[3], without[1], 1e-9), "{found:?} {without:?}");
}

#[test]
fn looks_that_do_not_rise_have_no_boundaries() {
    for looks in [&[0.5, 0.5, 1.0][..], &[0.6, 0.4], &[0.0, 1.0], &[0.5, 1.1], &[f64::NAN, 1.0], &[0.5, f64::NAN]] {
        assert_eq!(obrien_fleming_boundaries(0.025, looks), None, "{looks:?}");
    }
    for alpha in [0.0, 0.5, -0.1, f64::NAN] {
        assert_eq!(obrien_fleming_boundaries(alpha, &[0.5, 1.0]), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn boundaries_are_finite_and_at_least_those_of_one_look(
        alpha in prop_oneof![1e-5..1e-3, 1e-3..0.3],
        steps in proptest::collection::vec(0.001..1.0_f64, 1..12),
    ) {
        let whole: f64 = steps.iter().sum::<f64>() + 0.01;
        let mut share = 0.01;
        let looks: Vec<f64> = steps.iter().map(|step| { share += step; (share / whole).min(1.0) }).collect();
        let found = obrien_fleming_boundaries(alpha, &looks).unwrap();
        let fixed = -normal_quantile(alpha).unwrap();
        prop_assert!(found.iter().all(|z| z.is_finite() && *z >= fixed - 1e-9 && *z < 40.0), "{found:?}");
        let less = obrien_fleming_boundaries(alpha * 0.9, &looks).unwrap();
        prop_assert!(found.iter().zip(&less).all(|(z, stricter)| stricter >= z), "{found:?} {less:?}");
    }
}
