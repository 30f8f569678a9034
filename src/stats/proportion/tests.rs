//! Tests of `proportion`.

use proptest::prelude::*;

use super::*;
use crate::stats::{SplitMix64, binomial_sample};

#[test]
fn the_mean_of_one_proportion_has_its_interval_and_of_four_equal_ones_half_its_width() {
    let [low, high] = wilson(320, 640, 0.95).unwrap();
    let one = mean_of_proportions(&[(320, 640)], 0.95).unwrap();
    assert!((one[0] - low).abs() < 1e-12 && (one[1] - high).abs() < 1e-12);
    let [low_of_four, high_of_four] = mean_of_proportions(&[(320, 640); 4], 0.95).unwrap();
    assert!(((high_of_four - low_of_four) / (high - low) - 0.5).abs() < 1e-12);
    assert_eq!(mean_of_proportions(&[], 0.95), None);
    assert_eq!(mean_of_proportions(&[(1, 2), (0, 0)], 0.95), None);
}

#[test]
fn the_interval_of_a_mean_covers_it_about_as_often_as_it_says() {
    let (rates, n) = ([0.98, 0.6, 0.03], 40);
    let mean = rates.iter().sum::<f64>() / 3.0;
    let mut random = SplitMix64::new(3);
    let covers = |_: &usize| {
        let counts = rates.map(|rate| (binomial_sample(&mut random, n, rate).unwrap(), n));
        let [low, high] = mean_of_proportions(&counts, 0.95).unwrap();
        low <= mean && mean <= high
    };
    let n_covered = (0..4000).filter(covers).count();
    assert!((3740..=3900).contains(&n_covered), "{n_covered} of 4000");
}
use crate::stats::binomial::mass;
use crate::stats::golden::{close, golden, numbers};

#[test]
fn wilson_equals_statsmodels() {
    for case in golden()["wilson"].as_array().unwrap() {
        let [k, n, confidence, low, high] = numbers(case)[..] else { panic!("{case}") };
        let interval = wilson(k as usize, n as usize, confidence).unwrap();
        assert!(close(interval[0], low, 1e-13) && close(interval[1], high, 1e-13), "{case} {interval:?}");
    }
}

#[test]
fn clopper_pearson_equals_statsmodels() {
    for case in golden()["clopper_pearson"].as_array().unwrap() {
        let [k, n, confidence, low, high] = numbers(case)[..] else { panic!("{case}") };
        let interval = clopper_pearson(k as usize, n as usize, confidence).unwrap();
        assert!(close(interval[0], low, 1e-10) && close(interval[1], high, 1e-10), "{case} {interval:?}");
    }
}

/// The rule of three: with none of n, the 95% upper bound is 1 - 0.05^(1/n).
#[test]
fn the_exact_bound_of_none_is_known() {
    for n in [1, 10, 1000] {
        let bound = clopper_pearson_upper(0, n, 0.95).unwrap();
        assert!(close(bound, 1.0 - 0.05_f64.powf(1.0 / n as f64), 1e-10), "{n} {bound}");
        assert!(close(clopper_pearson_lower(n, n, 0.95).unwrap(), 1.0 - bound, 1e-10));
    }
}

#[test]
fn nothing_observed_has_no_interval() {
    assert_eq!(clopper_pearson(0, 0, 0.95), None);
    assert_eq!((clopper_pearson_lower(3, 2, 0.95), clopper_pearson_upper(1, 2, f64::NAN)), (None, None));
    assert_eq!(wilson(0, 0, 0.95), None);
    assert_eq!(wilson(3, 2, 0.95), None);
    assert_eq!(wilson(1, 2, 1.0), None);
}

/// P(the interval contains the rate), summed over all counts.
#[test]
fn clopper_pearson_covers_at_least_its_level() {
    for n in [1, 5, 30] {
        let intervals: Vec<[f64; 2]> = (0..=n).map(|k| clopper_pearson(k, n, 0.9).unwrap()).collect();
        for rate in (1..200).map(|i| f64::from(i) / 200.0) {
            let holds = |k: &usize| intervals[*k][0] <= rate && rate <= intervals[*k][1];
            let covered: f64 = (0..=n).filter(holds).map(|k| mass(k as f64, (n - k) as f64, rate, 1.0 - rate)).sum();
            assert!(covered >= 0.9 - 1e-9, "{n} {rate} {covered}");
        }
    }
}

proptest! {
    #[test]
    fn clopper_pearson_mirrors_and_rises_with_successes(n in 1_usize..20_000, share in 0.0..=1.0) {
        let k = (n as f64 * share) as usize;
        let [low, high] = clopper_pearson(k, n, 0.95).unwrap();
        let rate = k as f64 / n as f64;
        prop_assert!(0.0 <= low && low <= rate && rate <= high && high <= 1.0 && low < high);
        let [mirrored_low, mirrored_high] = clopper_pearson(n - k, n, 0.95).unwrap();
        prop_assert!(close(low, 1.0 - mirrored_high, 1e-10) && close(high, 1.0 - mirrored_low, 1e-10));
        if k < n {
            let [next_low, next_high] = clopper_pearson(k + 1, n, 0.95).unwrap();
            prop_assert!(next_low > low && next_high >= high);
        }
    }

    #[test]
    fn wilson_holds_the_rate_and_mirrors(n in 1_usize..20_000, share in 0.0..=1.0) {
        let k = (n as f64 * share) as usize;
        let [low, high] = wilson(k, n, 0.95).unwrap();
        let rate = k as f64 / n as f64;
        prop_assert!(0.0 <= low && low <= rate && rate <= high && high <= 1.0 && low < high);
        let [mirrored_low, mirrored_high] = wilson(n - k, n, 0.95).unwrap();
        prop_assert!(close(low, 1.0 - mirrored_high, 1e-12) && close(high, 1.0 - mirrored_low, 1e-12));
    }
}
