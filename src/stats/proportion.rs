//! Intervals for a proportion.

use super::{beta_quantile, normal_quantile};

/// Returns Wilson's score interval `[low, high]` for `n_successes` of `n`, two-sided at `confidence` (such as 0.95).
///
/// Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22, 209-212; without
/// continuity correction. `None` without observations, for more successes than observations, or for a confidence
/// outside (0, 1).
pub fn wilson(n_successes: usize, n: usize, confidence: f64) -> Option<[f64; 2]> {
    if !is_observed(n_successes, n, confidence) {
        return None;
    }
    let z = normal_quantile(0.5 + confidence / 2.0)?;
    let (p, n) = (n_successes as f64 / n as f64, n as f64);
    let z2 = z * z / n;
    let centre = (p + z2 / 2.0) / (1.0 + z2);
    let half = z * (p * (1.0 - p) / n + z2 / (4.0 * n)).sqrt() / (1.0 + z2);
    // At 0 and at n successes, rounding must not move the observed rate outside the interval, or the interval outside
    // [0, 1].
    Some([(centre - half).clamp(0.0, p), (centre + half).clamp(p, 1.0)])
}

/// Returns the exact interval `[low, high]` for `n_successes` of `n`, two-sided at `confidence`; its coverage is never
/// lower.
///
/// Clopper and Pearson (1934), "The use of confidence or fiducial limits illustrated in the case of the binomial",
/// Biometrika 26, 404-413. `None` as for [`wilson`].
pub fn clopper_pearson(n_successes: usize, n: usize, confidence: f64) -> Option<[f64; 2]> {
    let one_sided = 0.5 + confidence / 2.0;
    Some([clopper_pearson_lower(n_successes, n, one_sided)?, clopper_pearson_upper(n_successes, n, one_sided)?])
}

/// Returns the exact one-sided lower bound: the rate at which `n_successes` or more have probability 1 - `confidence`.
pub fn clopper_pearson_lower(n_successes: usize, n: usize, confidence: f64) -> Option<f64> {
    match n_successes {
        _ if !is_observed(n_successes, n, confidence) => None,
        0 => Some(0.0),
        k => beta_quantile(1.0 - confidence, k as f64, (n - k + 1) as f64),
    }
}

/// Returns the exact one-sided upper bound: the rate at which `n_successes` or fewer have probability 1 - `confidence`.
pub fn clopper_pearson_upper(n_successes: usize, n: usize, confidence: f64) -> Option<f64> {
    match n_successes {
        _ if !is_observed(n_successes, n, confidence) => None,
        k if k == n => Some(1.0),
        k => beta_quantile(confidence, (k + 1) as f64, (n - k) as f64),
    }
}

/// Returns the interval of the mean of independent proportions, each `(successes, observations)`, two-sided at `confidence`.
///
/// Zou and Donner (2008), "Construction of confidence intervals about effect measures: a general approach", Statistics in
/// Medicine 27, 1693-1702: the distances of the mean to its limits are those of the single [`wilson`] intervals, added in
/// squares. Of one proportion it is Wilson's interval. `None` without proportions, or if one of them has no interval.
pub fn mean_of_proportions(counts: &[(usize, usize)], confidence: f64) -> Option<[f64; 2]> {
    let share = 1.0 / counts.len() as f64;
    let (mut mean, mut below, mut above) = (0.0, 0.0, 0.0);
    for &(n_successes, n) in counts {
        let [low, high] = wilson(n_successes, n, confidence)?;
        let p = n_successes as f64 / n as f64;
        mean += share * p;
        below += (share * (p - low)).powi(2);
        above += (share * (high - p)).powi(2);
    }
    (!counts.is_empty()).then(|| [(mean - below.sqrt()).max(0.0), (mean + above.sqrt()).min(1.0)])
}

fn is_observed(n_successes: usize, n: usize, confidence: f64) -> bool {
    n > 0 && n_successes <= n && confidence > 0.0 && confidence < 1.0
}

#[cfg(test)]
mod tests;
