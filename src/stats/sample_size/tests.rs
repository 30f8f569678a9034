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
    assert_eq!((minimum_detectable_fall(0, 0.1, 0.025, 0.8), n_for_power(f64::NAN, 0.02, 0.025, 0.8)), (None, None));
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
