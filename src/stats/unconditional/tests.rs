//! Tests of `unconditional`.

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
