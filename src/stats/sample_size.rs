//! How many pairs a decision about a fall needs, and the smallest fall that a number of pairs can show.

use super::{PairedCounts, normal_quantile};

/// The default power for choosing a sample size.
pub const POWER: f64 = 0.8;

/// Returns the pairs needed to show, with `power`, that a true fall of 0 is below `margin` at a one-sided `alpha`, if a
/// share `discordance` of the pairs changes: (z_{1 - alpha} + z_power)^2 discordance / margin^2, rounded up.
///
/// Nam (1997), "Establishing equivalence of two treatments and sample size requirements in matched-pairs design",
/// Biometrics 53, 1422-1430, in its large-sample form. `None` unless 0 < alpha < 0.5 <= power < 1, 0 <= discordance <=
/// 1 and 0 < margin < 1.
pub fn n_for_power(discordance: f64, margin: f64, alpha: f64, power: f64) -> Option<usize> {
    let is_valid = (0.0..=1.0).contains(&discordance) && margin > 0.0 && margin < 1.0;
    let z = z_sum(alpha, power).filter(|_| is_valid)?;
    Some((z * z * discordance / (margin * margin)).ceil() as usize)
}

/// Returns the pairs that a decision at `margin` and one-sided `alpha` is likely to need, given the discordance so far.
///
/// The greater of [`n_for_power`] at power 0.8, with discordance (lost + gained + 1) / (n + 2), and of z_{1 - alpha}^2
/// (1 - margin) / margin. Below the latter, even no change at all would not show that the fall is below the margin.
/// `None` if the counts exceed `n`, or for levels and margins that [`n_for_power`] rejects.
pub fn n_needed(counts: PairedCounts, margin: f64, alpha: f64) -> Option<usize> {
    let n_discordant = counts.n_lost.checked_add(counts.n_gained).filter(|discordant| *discordant <= counts.n)?;
    let discordance = (n_discordant + 1) as f64 / (counts.n + 2) as f64;
    let by_power = n_for_power(discordance, margin, alpha, POWER)?;
    let z = normal_quantile(alpha)?;
    Some(by_power.max((z * z * (1.0 - margin) / margin).ceil() as usize))
}

/// Returns the pairs that would show, with power 0.8 at a one-sided `alpha`, on which side of `margin` the true fall
/// is, if it equals the observed one: (z_{1 - alpha} + z_power)^2 (discordance - fall^2) / (margin - fall)^2, rounded
/// up, and at least [`n_needed`] if the fall is below the margin.
///
/// Nam (1997), as [`n_for_power`], with a true fall other than 0. `None` as there, and if the fall is within a
/// ten-thousandth of the margin: then no number of pairs is enough.
pub fn n_to_decide(counts: PairedCounts, margin: f64, alpha: f64) -> Option<usize> {
    let at_no_fall = n_needed(counts, margin, alpha)?;
    let fall = counts.fall().unwrap_or(0.0);
    let discordance = (counts.n_lost + counts.n_gained + 1) as f64 / (counts.n + 2) as f64;
    let (z, distance) = (z_sum(alpha, POWER)?, margin - fall);
    if distance.abs() < 1e-4 {
        return None;
    }
    let n = (z * z * (discordance - fall * fall).max(0.0) / (distance * distance)).ceil() as usize;
    Some(if distance > 0.0 { n.max(at_no_fall) } else { n })
}

/// Returns the smallest true fall that `n` pairs show to be above 0 with `power` at a one-sided `alpha`: (z_{1 - alpha}
/// + z_power) sqrt(discordance / n). It is also the smallest margin below which a true fall of 0 can be shown.
///
/// Connor (1987), "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43,
/// 207-211, in its large-sample form. `None` without pairs, or as [`n_for_power`].
pub fn minimum_detectable_fall(n: usize, discordance: f64, alpha: f64, power: f64) -> Option<f64> {
    let is_valid = n > 0 && (0.0..=1.0).contains(&discordance);
    let z = z_sum(alpha, power).filter(|_| is_valid)?;
    Some(z * (discordance / n as f64).sqrt())
}

fn z_sum(alpha: f64, power: f64) -> Option<f64> {
    let is_valid = alpha > 0.0 && alpha < 0.5 && (0.5..1.0).contains(&power);
    is_valid.then(|| Some(normal_quantile(power)? - normal_quantile(alpha)?)).flatten()
}

#[cfg(test)]
mod tests;
