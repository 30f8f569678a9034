//! Results of two graders or two models on the same items: a 2 x 2 table of which only the discordant cells matter.

use super::binomial::{lower_tail, mass};
use super::{normal_cdf, normal_quantile};

/// The changes between a first and a second result on the same `n` items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairedCounts {
    /// Right first, wrong second.
    pub n_lost: usize,
    /// Wrong first, right second.
    pub n_gained: usize,
    /// The number of pairs.
    pub n: usize,
}

impl PairedCounts {
    /// Returns the first rate less the second: (lost - gained) / n. `None` without pairs.
    pub fn fall(self) -> Option<f64> {
        (self.n > 0).then(|| (self.n_lost as f64 - self.n_gained as f64) / self.n as f64)
    }

    /// Whether there are pairs, and not more discordant pairs than pairs.
    pub(super) fn is_possible(self) -> bool {
        self.n > 0 && self.n_lost.checked_add(self.n_gained).is_some_and(|discordant| discordant <= self.n)
    }
}

/// Returns McNemar's exact two-sided p value: twice the binomial tail of the rarer direction among the discordant
/// pairs, at most 1 (McNemar 1947, Psychometrika 12, 153-157; exact form as in statsmodels).
pub fn mcnemar_exact(counts: PairedCounts) -> f64 {
    (2.0 * discordant_tail(counts).0).min(1.0)
}

/// Returns the mid-p form, which counts half of the observed table and is less conservative (Fagerland et al. 2013, BMC
/// Medical Research Methodology 13:91).
pub fn mcnemar_mid_p(counts: PairedCounts) -> f64 {
    let (tail, point) = discordant_tail(counts);
    (2.0 * tail - point).min(1.0)
}

/// Returns McNemar's exact one-sided p value: the probability that at least as many of the discordant pairs are lost,
/// if losing and gaining are equally likely. It is small if more was lost than chance explains; 1 without discordant
/// pairs.
pub fn mcnemar_exact_one_sided(counts: PairedCounts) -> f64 {
    // At least this many lost is the same as at most this many gained.
    lower_tail(counts.n_gained, counts.n_lost + counts.n_gained, 0.5)
}

/// Returns P(X <= least) and P(X = least) for X of Binomial(lost + gained, 1/2), where least is the lesser of the two
/// counts.
fn discordant_tail(counts: PairedCounts) -> (f64, f64) {
    let n = counts.n_lost + counts.n_gained;
    let least = counts.n_lost.min(counts.n_gained);
    (lower_tail(least, n, 0.5), mass(least as f64, (n - least) as f64, 0.5, 0.5))
}

/// Returns Tango's score interval `[low, high]` for the fall, two-sided at `confidence`.
///
/// Tango (1998), "Equivalence test and confidence interval for the difference in proportions for the paired-sample
/// design", Statistics in Medicine 17, 891-908. It is also valid without discordant pairs. `None` without pairs, if the
/// counts exceed `n`, or for a confidence outside (0, 1).
pub fn tango_interval(counts: PairedCounts, confidence: f64) -> Option<[f64; 2]> {
    if !(counts.is_possible() && confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let z = normal_quantile(0.5 + confidence / 2.0)?;
    let fall = counts.fall()?;
    // The score falls as the supposed difference rises from -1 to 1, and is 0 at the observed one.
    let low = root(-1.0, fall, |difference| tango_score(counts, difference) - z);
    let high = root(fall, 1.0, |difference| tango_score(counts, difference) + z);
    Some([low, high])
}

/// Returns the one-sided p value of "the fall is at least `margin`" against "it is less" (Tango 1998). It is small if
/// the second result is shown to be non-inferior. `None` without pairs or for a margin outside (0, 1).
pub fn non_inferiority_p(counts: PairedCounts, margin: f64) -> Option<f64> {
    tango_z(counts, margin).filter(|_| margin > 0.0).map(normal_cdf)
}

/// Returns the one-sided p value of "the fall is at most `margin`" against "it is more" (Tango 1998). It is small if
/// the second result is shown to be inferior. `None` without pairs or for a margin outside [0, 1).
pub fn inferiority_p(counts: PairedCounts, margin: f64) -> Option<f64> {
    tango_z(counts, margin).filter(|_| margin >= 0.0).map(|z| normal_cdf(-z))
}

/// Returns Tango's z of the observed fall against a supposed one. It is positive if the observed fall is greater, and
/// standard normal for many pairs if the supposition is true. `None` without pairs or for a supposed fall outside (-1,
/// 1).
pub fn tango_z(counts: PairedCounts, supposed_fall: f64) -> Option<f64> {
    let is_valid = counts.is_possible() && supposed_fall > -1.0 && supposed_fall < 1.0;
    is_valid.then(|| tango_score(counts, supposed_fall))
}

/// Returns [`tango_z`] of counts and a fall that are known to be possible.
pub(super) fn tango_score(counts: PairedCounts, supposed: f64) -> f64 {
    // Tango's difference is the gain, c - b; the fall is its negative.
    let (b, c, n) = (counts.n_lost as f64, counts.n_gained as f64, counts.n as f64);
    let difference = -supposed;
    let quadratic = 2.0 * n;
    let linear = -b - c + (2.0 * n - c + b) * difference;
    let constant = -b * difference * (1.0 - difference);
    let root = (linear * linear - 4.0 * quadratic * constant).max(0.0).sqrt();
    let q = (root - linear) / (2.0 * quadratic);
    let numerator = b - c - n * supposed;
    let variance = n * (2.0 * q + difference * (1.0 - difference));
    match variance {
        _ if numerator == 0.0 => 0.0,
        variance if variance > 0.0 => numerator / variance.sqrt(),
        _ => f64::INFINITY.copysign(numerator),
    }
}

/// Returns where the falling function `f` crosses 0 between `low` and `high`, or an end if it does not cross.
fn root(mut low: f64, mut high: f64, f: impl Fn(f64) -> f64) -> f64 {
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if f(middle) > 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stats::golden::{close, golden, numbers};

    fn counts(n_lost: usize, n_gained: usize, n: usize) -> PairedCounts {
        PairedCounts { n_lost, n_gained, n }
    }

    #[test]
    fn mcnemar_equals_statsmodels_and_scipy() {
        for case in golden()["mcnemar"].as_array().unwrap() {
            let [lost, gained, exact, mid] = numbers(case)[..] else { panic!("{case}") };
            let found = counts(lost as usize, gained as usize, (lost + gained) as usize + 100);
            assert!(close(mcnemar_exact(found), exact, 1e-9), "{case} {}", mcnemar_exact(found));
            assert!(close(mcnemar_mid_p(found), mid, 1e-9), "{case} {}", mcnemar_mid_p(found));
        }
    }

    /// Expected values: R's PropCIs (`scoreci.mp`) and Tango's own formula.
    #[test]
    fn tango_meets_published_vectors() {
        for (lost, gained, n, low, high) in
            [(30, 20, 1000, -0.0040, 0.0246), (300, 200, 10_000, 0.00564, 0.01443), (5, 0, 200, 0.00568, 0.05718)]
        {
            let [found_low, found_high] = tango_interval(counts(lost, gained, n), 0.95).unwrap();
            assert!((found_low - low).abs() < 6e-5 && (found_high - high).abs() < 6e-5, "{found_low} {found_high}");
        }
        for (lost, gained, n, margin, z) in [
            (30, 20, 1000, 0.02, 1.3715),
            (30, 20, 1000, 0.03, 2.6102),
            (300, 200, 10_000, 0.02, 4.337),
            (120, 100, 5000, 0.01, 1.9963),
            (0, 0, 500, 0.01, 2.2473),
        ] {
            assert!((-tango_score(counts(lost, gained, n), margin) - z).abs() < 5e-4);
        }
        let p = non_inferiority_p(counts(30, 20, 1000), 0.02).unwrap();
        assert!((p - 0.0851).abs() < 5e-5, "{p}");
    }

    #[test]
    fn mcnemar_one_sided_equals_scipys_binomial_test() {
        for case in golden()["mcnemar_one_sided"].as_array().unwrap() {
            let [lost, gained, expected] = numbers(case)[..] else { panic!("{case}") };
            let found = mcnemar_exact_one_sided(counts(lost as usize, gained as usize, (lost + gained) as usize));
            assert!((found - expected).abs() <= 1e-10 * expected, "{case} {found}");
        }
    }

    #[test]
    fn tangos_z_is_that_of_the_likelihood_under_the_constraint() {
        for case in golden()["tango"].as_array().unwrap() {
            let [lost, gained, n, supposed, z] = numbers(case)[..] else { panic!("{case}") };
            let found = tango_z(counts(lost as usize, gained as usize, n as usize), supposed).unwrap();
            assert!(close(found, z, 1e-5), "{case} {found}");
        }
    }

    #[test]
    fn a_supposition_beyond_possible_falls_has_no_p_value() {
        let found = counts(3, 1, 50);
        assert_eq!((tango_z(found, 1.0), tango_z(found, -1.0), tango_z(found, f64::NAN)), (None, None, None));
        assert_eq!((non_inferiority_p(found, 0.0), inferiority_p(found, -0.01)), (None, None));
        assert_eq!((inferiority_p(counts(3, 1, 2), 0.1), inferiority_p(counts(0, 0, 0), 0.1)), (None, None));
        // No change, and none supposed.
        assert_eq!(inferiority_p(counts(0, 0, 50), 0.0), Some(0.5));
    }

    #[test]
    fn at_no_difference_tangos_score_is_mcnemars() {
        let score = tango_score(counts(30, 20, 1000), 0.0);
        assert!((score * score - 2.0).abs() < 1e-12);
    }

    #[test]
    fn without_pairs_there_is_nothing() {
        assert_eq!(tango_interval(counts(0, 0, 0), 0.95), None);
        assert_eq!(tango_interval(counts(3, 3, 5), 0.95), None);
        assert_eq!(counts(0, 0, 0).fall(), None);
        assert_eq!(mcnemar_exact(counts(0, 0, 10)), 1.0);
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_fall_and_mirrors(lost in 0_usize..400, gained in 0_usize..400, agreed in 1_usize..2000) {
            let found = counts(lost, gained, lost + gained + agreed);
            let [low, high] = tango_interval(found, 0.95).unwrap();
            let fall = found.fall().unwrap();
            prop_assert!(-1.0 <= low && low <= fall && fall <= high && high <= 1.0, "{low} {fall} {high}");
            let [mirrored_low, mirrored_high] = tango_interval(counts(gained, lost, found.n), 0.95).unwrap();
            prop_assert!(close(low, -mirrored_high, 1e-9) && close(high, -mirrored_low, 1e-9));
        }

        #[test]
        fn the_two_sides_of_a_margin_share_one(lost in 0_usize..200, gained in 0_usize..200, margin in 0.001..0.9) {
            let found = counts(lost, gained, lost + gained + 100);
            let (pass, fail) = (non_inferiority_p(found, margin).unwrap(), inferiority_p(found, margin).unwrap());
            prop_assert!(close(pass + fail, 1.0, 1e-12));
            let mirrored = tango_z(counts(gained, lost, found.n), -margin).unwrap();
            prop_assert!(close(tango_z(found, margin).unwrap(), -mirrored, 1e-9));
        }

        #[test]
        fn a_lost_pair_instead_of_a_gained_one_raises_z(lost in 0_usize..60, gained in 1_usize..60, agreed in 0_usize..500, supposed in -0.9..0.9) {
            let n = lost + gained + agreed;
            let (less, more) = (counts(lost, gained, n), counts(lost + 1, gained - 1, n));
            prop_assert!(tango_z(more, supposed).unwrap() > tango_z(less, supposed).unwrap());
        }

        #[test]
        fn more_losses_never_help(lost in 0_usize..200, gained in 0_usize..200, agreed in 1_usize..2000) {
            let n = lost + gained + agreed;
            let before = non_inferiority_p(counts(lost, gained, n), 0.02).unwrap();
            let after = non_inferiority_p(counts(lost + 1, gained, n), 0.02).unwrap();
            prop_assert!(after >= before - 1e-12, "{before} {after}");
        }
    }
}
