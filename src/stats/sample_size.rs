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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stats::golden::close;
    use crate::stats::non_inferiority_p;

    fn counts(n_lost: usize, n_gained: usize, n: usize) -> PairedCounts {
        PairedCounts { n_lost, n_gained, n }
    }

    #[test]
    fn sizes_equal_a_table_worked_out_apart() {
        let discordances = [0.05, 0.1, 0.2, 0.3];
        for (alpha, margin, sizes) in [
            (0.025, 0.01, [3925, 7849, 15_698, 23_547]),
            (0.025, 0.02, [982, 1963, 3925, 5887]),
            (0.025, 0.03, [437, 873, 1745, 2617]),
            (0.0125, 0.02, [1189, 2377, 4753, 7129]),
        ] {
            for (discordance, size) in discordances.into_iter().zip(sizes) {
                assert_eq!(n_for_power(discordance, margin, alpha, 0.8), Some(size), "{alpha} {margin} {discordance}");
                let fall = minimum_detectable_fall(size, discordance, alpha, 0.8).unwrap();
                assert!(fall <= margin && close(fall, margin, 1e-4), "{fall}");
            }
        }
    }

    #[test]
    fn what_is_needed_follows_the_discordance_seen() {
        // (99 + 1) / (998 + 2) is a tenth.
        assert_eq!(n_needed(counts(50, 49, 998), 0.02, 0.025), Some(1963));
        // Without a flip the second bound applies: 1.96^2 * 49 is 188.2.
        assert_eq!(n_needed(counts(0, 0, 5000), 0.02, 0.025), Some(189));
    }

    #[test]
    fn with_fewer_pairs_even_no_flip_shows_nothing() {
        for (margin, alpha) in [(0.02, 0.025), (0.05, 0.0125), (0.01, 0.025)] {
            let n = n_needed(counts(0, 0, 1_000_000), margin, alpha).unwrap();
            assert!(non_inferiority_p(counts(0, 0, n), margin).unwrap() <= alpha, "{n}");
            assert!(non_inferiority_p(counts(0, 0, n - 1), margin).unwrap() > alpha, "{n}");
        }
    }

    #[test]
    fn what_decides_depends_on_how_near_the_fall_lies_to_the_margin() {
        // Without a fall it equals `n_needed`; at half the margin it needs four times as many, less the square of the
        // fall.
        assert_eq!(n_to_decide(counts(50, 50, 998), 0.02, 0.025), n_needed(counts(50, 50, 998), 0.02, 0.025));
        let half = n_to_decide(counts(55, 45, 998), 0.02, 0.025).unwrap();
        assert!((half as f64 / (4.0 * 1981.2) - 1.0).abs() < 0.02, "{half}");
        // A large fall needs few pairs; no number of pairs decides one at the margin.
        let large = n_to_decide(counts(30, 5, 100), 0.02, 0.025).unwrap();
        assert!(large < 60, "{large}");
        assert_eq!(n_to_decide(counts(20, 0, 1000), 0.02, 0.025), None);
        assert_eq!(n_to_decide(counts(0, 0, 50), 0.02, 0.025), n_needed(counts(0, 0, 50), 0.02, 0.025));
    }

    #[test]
    fn levels_and_shares_outside_their_range_have_no_size() {
        for (discordance, margin, alpha, power) in
            [(1.1, 0.02, 0.025, 0.8), (0.1, 0.0, 0.025, 0.8), (0.1, 0.02, 0.5, 0.8), (0.1, 0.02, 0.025, 1.0)]
        {
            assert_eq!(n_for_power(discordance, margin, alpha, power), None);
        }
        assert_eq!(n_needed(counts(3, 3, 5), 0.02, 0.025), None);
        assert_eq!(
            (minimum_detectable_fall(0, 0.1, 0.025, 0.8), n_for_power(f64::NAN, 0.02, 0.025, 0.8)),
            (None, None)
        );
    }

    proptest! {
        #[test]
        fn more_discordance_or_less_margin_needs_more(discordance in 0.01..0.5, margin in 0.005..0.1, alpha in 0.001..0.2) {
            let n = n_for_power(discordance, margin, alpha, 0.8).unwrap();
            prop_assert!(n_for_power(discordance * 1.5, margin, alpha, 0.8).unwrap() >= n);
            prop_assert!(n_for_power(discordance, margin * 0.8, alpha, 0.8).unwrap() >= n);
            prop_assert!(n_for_power(discordance, margin, alpha / 2.0, 0.9).unwrap() >= n);
        }
    }
}
