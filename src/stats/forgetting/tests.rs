use proptest::prelude::*;

use super::*;
use crate::stats::golden::close;

fn counts(n_lost: usize, n_gained: usize, n: usize) -> PairedCounts {
    PairedCounts { n_lost, n_gained, n }
}

/// Worked by hand from the paper's formulas.
#[test]
fn forgetting_beyond_chance_meets_worked_vectors() {
    // Ten choices, 0.8 to 0.7 with 15% lost: chance is 0.2 * 0.3 / 9.
    let found = chance_corrected(counts(150, 50, 1000), 800, 10).unwrap();
    assert!(close(found.true_forgetting, 0.143_333_333_333, 1e-10), "{found:?}");
    assert!(close(found.true_backward_transfer, 0.043_333_333_333, 1e-10) && close(found.forgetting, 0.15, 1e-15));
    assert!(close(found.max_forgetting, 7.0 / 9.0, 1e-12));
    let found = chance_corrected(counts(100, 0, 1000), 800, 4).unwrap();
    assert!(close(found.true_forgetting, 0.08, 1e-12), "{found:?}");
    // Two choices, both at chance.
    let found = chance_corrected(counts(25, 25, 100), 50, 2).unwrap();
    assert_eq!((found.true_forgetting, found.true_backward_transfer, found.max_forgetting), (0.0, 0.0, 0.0));
}

#[test]
fn counts_that_contradict_each_other_have_no_forgetting() {
    assert_eq!(chance_corrected(counts(5, 0, 10), 4, 10), None);
    assert_eq!(chance_corrected(counts(0, 5, 10), 6, 10), None);
    assert_eq!(chance_corrected(counts(0, 0, 0), 0, 10), None);
    assert_eq!(chance_corrected(counts(1, 1, 10), 5, 1), None);
    assert_eq!((negative_flip_rate(counts(0, 0, 0)), negative_flip_rate(counts(3, 1, 12))), (None, Some(0.25)));
}

#[test]
fn retention_needs_an_encoder_that_is_ever_right() {
    assert_eq!(retention(0.4, 0.8), Some(0.5));
    assert_eq!((retention(0.4, 0.0), retention(f64::NAN, 0.5), retention(1.4, 0.5)), (None, None, None));
}

proptest! {
    #[test]
    fn before_and_after_mirror(both in 0_usize..300, lost in 0_usize..300, gained in 0_usize..300, neither in 1_usize..300) {
        let n = both + lost + gained + neither;
        let found = chance_corrected(counts(lost, gained, n), both + lost, 10).unwrap();
        let mirrored = chance_corrected(counts(gained, lost, n), both + gained, 10).unwrap();
        prop_assert_eq!(found.true_forgetting, mirrored.true_backward_transfer);
        prop_assert!(found.true_forgetting <= found.forgetting && found.forgetting <= 1.0);
    }
}
