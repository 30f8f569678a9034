//! Intervals for a proportion.

use super::normal_quantile;

/// Wilson's score interval `[low, high]` for `n_successes` of `n`, two-sided at `confidence` (such as 0.95).
///
/// Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22, 209-212;
/// without continuity correction. `None` without observations, for more successes than observations, or for a
/// confidence outside (0, 1).
pub fn wilson(n_successes: usize, n: usize, confidence: f64) -> Option<[f64; 2]> {
    if n == 0 || n_successes > n || !(confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let z = normal_quantile(0.5 + confidence / 2.0)?;
    let (p, n) = (n_successes as f64 / n as f64, n as f64);
    let z2 = z * z / n;
    let centre = (p + z2 / 2.0) / (1.0 + z2);
    let half = z * (p * (1.0 - p) / n + z2 / (4.0 * n)).sqrt() / (1.0 + z2);
    // Rounding must not leave the observed rate, or [0, 1], outside at 0 and at n successes.
    Some([(centre - half).clamp(0.0, p), (centre + half).clamp(p, 1.0)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
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
    fn nothing_observed_has_no_interval() {
        assert_eq!(wilson(0, 0, 0.95), None);
        assert_eq!(wilson(3, 2, 0.95), None);
        assert_eq!(wilson(1, 2, 1.0), None);
    }

    proptest! {
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
}
