//! Exact unconditional tests of a fall, for tables with so few discordant pairs that the normal limit is unreliable.

use super::binomial::{bulk, lower_tail};
use super::paired::tango_score;
use super::{PairedCounts, clopper_pearson};

/// The error probability of the discordance's confidence interval, which is added to the p value.
const NUISANCE_ERROR: f64 = 0.001;

/// Steps of the grid over that interval.
const N_STEPS: usize = 100;

/// Scores closer than this are tied; they differ only by rounding.
const TIE: f64 = 1e-9;

/// Returns the exact one-sided p value of "the fall is at least `margin`" against "it is less".
///
/// Berger and Boos (1994), "P values maximized over a confidence set for the nuisance parameter", JASA 89, 1012-1016.
/// It is the greatest probability, at a fall of `margin`, of a table whose Tango's z is not above the observed one's,
/// plus 0.001. The maximum is over discordances (shares of discordant pairs) on a grid of their 99.9% Clopper-Pearson
/// interval. A discordance below `margin` does not allow such a fall; if the whole interval is below it, the p value is
/// 0.001. `None` without pairs or for a margin outside (0, 1).
pub fn exact_non_inferiority_p(counts: PairedCounts, margin: f64) -> Option<f64> {
    let is_valid = counts.is_possible() && margin > 0.0 && margin < 1.0;
    is_valid.then(|| greatest_p(counts, margin)).flatten()
}

/// Returns the exact one-sided p value of "the fall is at most `margin`" against "it is more", as
/// [`exact_non_inferiority_p`] does.
///
/// A discordance below `margin` allows only smaller falls, which all satisfy the hypothesis. The greatest, with all
/// discordant pairs lost, is the least favourable. `None` without pairs or for a margin outside [0, 1).
pub fn exact_inferiority_p(counts: PairedCounts, margin: f64) -> Option<f64> {
    let is_valid = counts.is_possible() && (0.0..1.0).contains(&margin);
    // The fall of the first result against the second is at least -margin.
    let swapped = PairedCounts { n_lost: counts.n_gained, n_gained: counts.n_lost, n: counts.n };
    is_valid.then(|| greatest_p(swapped, -margin)).flatten()
}

/// Returns the p value of "the fall is at least `supposed`".
fn greatest_p(counts: PairedCounts, supposed: f64) -> Option<f64> {
    let observed = tango_score(counts, supposed) + TIE;
    let n_discordant = counts.n_lost + counts.n_gained;
    let [low, high] = clopper_pearson(n_discordant, counts.n, 1.0 - NUISANCE_ERROR)?;
    let low = low.max(supposed);
    if low > high {
        return Some(NUISANCE_ERROR);
    }
    let grid: Vec<(f64, usize, Vec<f64>)> = (0..=N_STEPS)
        .map(|step| {
            let discordance = low + (high - low) * step as f64 / N_STEPS as f64;
            let (first, masses) = bulk(counts.n, discordance);
            (discordance, first, masses)
        })
        .collect();
    let first = grid.iter().map(|(_, first, _)| *first).min()?;
    let end = grid.iter().map(|(_, first, masses)| first + masses.len()).max()?;
    let n_extreme: Vec<usize> = (first..end).map(|d| count_extreme(d, counts.n, supposed, observed)).collect();
    let p = |(discordance, start, masses): &(f64, usize, Vec<f64>)| -> f64 {
        let lost_share = lost_share(*discordance, supposed);
        let at = |(d, mass): (usize, &f64)| match n_extreme[d - first] {
            0 => 0.0,
            n_extreme => mass * lower_tail(n_extreme - 1, d, lost_share),
        };
        (*start..).zip(masses).map(at).sum()
    };
    let greatest = grid.iter().map(p).fold(0.0, f64::max);
    Some((greatest + NUISANCE_ERROR).min(1.0))
}

/// Returns the share of lost pairs among discordant pairs if the fall is `supposed`, or as near to it as possible.
fn lost_share(discordance: f64, supposed: f64) -> f64 {
    if discordance > 0.0 { (0.5 + 0.5 * supposed / discordance).clamp(0.0, 1.0) } else { 0.5 }
}

/// Returns how many tables with `n_discordant` pairs, counting from none lost, have a score of at most `observed`. The
/// score rises with each pair that is lost instead of gained.
fn count_extreme(n_discordant: usize, n: usize, supposed: f64, observed: f64) -> usize {
    let (mut low, mut high) = (0, n_discordant + 1);
    while low < high {
        let n_lost = low + (high - low) / 2;
        let counts = PairedCounts { n_lost, n_gained: n_discordant - n_lost, n };
        if tango_score(counts, supposed) <= observed {
            low = n_lost + 1;
        } else {
            high = n_lost;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stats::binomial::mass;
    use crate::stats::golden::{close, golden, numbers};

    fn counts(n_lost: usize, n_gained: usize, n: usize) -> PairedCounts {
        PairedCounts { n_lost, n_gained, n }
    }

    fn tables(n: usize) -> impl Iterator<Item = PairedCounts> {
        (0..=n).flat_map(move |lost| (0..=n - lost).map(move |gained| counts(lost, gained, n)))
    }

    /// Returns the trinomial probability of a table.
    fn probability(table: PairedCounts, lost: f64, gained: f64) -> f64 {
        let (b, c, n) = (table.n_lost as f64, table.n_gained as f64, table.n as f64);
        let discordance = lost + gained;
        let share = if discordance > 0.0 { lost / discordance } else { 0.5 };
        mass(b + c, n - b - c, discordance, 1.0 - discordance) * mass(b, c, share, 1.0 - share)
    }

    /// Sums over all tables at every point of the grid, without sorting, cutting or searching.
    fn brute_force(observed: PairedCounts, margin: f64, is_inferiority: bool) -> f64 {
        let n = observed.n;
        let [low, high] = clopper_pearson(observed.n_lost + observed.n_gained, n, 0.999).unwrap();
        let low = if is_inferiority { low } else { low.max(margin) };
        if low > high {
            return 0.001;
        }
        let z = tango_score(observed, margin);
        let is_extreme = |table: &PairedCounts| {
            let score = tango_score(*table, margin);
            if is_inferiority { score >= z - 1e-9 } else { score <= z + 1e-9 }
        };
        let extreme: Vec<PairedCounts> = tables(n).filter(is_extreme).collect();
        let p = |step: i32| -> f64 {
            let discordance = low + (high - low) * f64::from(step) / 100.0;
            let fall = margin.min(discordance);
            let (lost, gained) = ((discordance + fall) / 2.0, (discordance - fall) / 2.0);
            extreme.iter().map(|table| probability(*table, lost, gained)).sum()
        };
        ((0..=100).map(p).fold(0.0, f64::max) + 0.001).min(1.0)
    }

    #[test]
    fn p_values_equal_those_of_all_tables_enumerated() {
        for n in [1, 2, 5, 12] {
            for table in tables(n) {
                for margin in [0.02, 0.1, 0.3] {
                    let found = exact_non_inferiority_p(table, margin).unwrap();
                    assert!(close(found, brute_force(table, margin, false), 1e-10), "{table:?} {margin} {found}");
                }
                for margin in [0.0, 0.02, 0.3] {
                    let found = exact_inferiority_p(table, margin).unwrap();
                    assert!(close(found, brute_force(table, margin, true), 1e-10), "{table:?} {margin} {found}");
                }
            }
        }
    }

    #[test]
    fn p_values_equal_pythons() {
        for case in golden()["exact_unconditional"].as_array().unwrap() {
            let [lost, gained, n, margin, pass, fail] = numbers(case)[..] else { panic!("{case}") };
            let found = counts(lost as usize, gained as usize, n as usize);
            let p = (exact_non_inferiority_p(found, margin).unwrap(), exact_inferiority_p(found, margin).unwrap());
            assert!(close(p.0, pass, 1e-9) && close(p.1, fail, 1e-9), "{case} {p:?}");
        }
    }

    /// The defining property of a test: at every discordance, a p value of alpha or less has at most probability alpha.
    #[test]
    fn the_size_never_exceeds_the_level() {
        for (n, margin) in [(15, 0.1), (40, 0.05)] {
            let p_values: Vec<(PairedCounts, f64, f64)> = tables(n)
                .map(|t| (t, exact_non_inferiority_p(t, margin).unwrap(), exact_inferiority_p(t, margin).unwrap()))
                .collect();
            for discordance in (0..=40).map(|step| f64::from(step) / 40.0) {
                for alpha in [0.025, 0.1] {
                    let fall = margin.min(discordance);
                    let of = |table| probability(table, (discordance + fall) / 2.0, (discordance - fall) / 2.0);
                    let pass: f64 = p_values.iter().filter(|(_, p, _)| *p <= alpha).map(|(t, ..)| of(*t)).sum();
                    let fail: f64 = p_values.iter().filter(|(.., p)| *p <= alpha).map(|(t, ..)| of(*t)).sum();
                    assert!(discordance < margin || pass <= alpha, "{n} {discordance} {alpha} {pass}");
                    assert!(fail <= alpha, "{n} {discordance} {alpha} {fail}");
                }
            }
        }
    }

    #[test]
    fn a_discordance_below_the_margin_is_no_fall_of_that_size() {
        // With 5 lost of a hundred thousand, a fall of 2% is impossible.
        let few = counts(5, 0, 100_000);
        assert_eq!(exact_non_inferiority_p(few, 0.02), Some(0.001));
        assert_eq!(exact_inferiority_p(few, 0.02), Some(1.0));
        // With no flips in 500, neither side is shown at 1 percent, but 2 percent is ruled out.
        let none = counts(0, 0, 500);
        assert!(exact_non_inferiority_p(none, 0.005).unwrap() > 0.05);
        assert!(exact_non_inferiority_p(none, 0.02).unwrap() < 0.0011);
        assert!(exact_inferiority_p(none, 0.0).unwrap() >= 1.0);
    }

    #[test]
    fn impossible_counts_and_margins_have_no_p_value() {
        assert_eq!(exact_non_inferiority_p(counts(3, 3, 5), 0.02), None);
        assert_eq!(exact_non_inferiority_p(counts(0, 0, 0), 0.02), None);
        assert_eq!(exact_non_inferiority_p(counts(1, 1, 5), 0.0), None);
        assert_eq!(exact_inferiority_p(counts(1, 1, 5), -0.1), None);
        assert_eq!(exact_inferiority_p(counts(1, 1, 5), f64::NAN), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn another_loss_instead_of_a_gain_never_helps(lost in 0_usize..19, gained in 1_usize..19, agreed in 1_usize..3000, margin in 0.005..0.1) {
            let n = lost + gained + agreed;
            let (before, after) = (counts(lost, gained, n), counts(lost + 1, gained - 1, n));
            prop_assert!(exact_non_inferiority_p(after, margin) >= exact_non_inferiority_p(before, margin));
            prop_assert!(exact_inferiority_p(after, margin) <= exact_inferiority_p(before, margin));
        }
    }
}
