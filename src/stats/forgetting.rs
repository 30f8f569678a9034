//! Forgetting by item, beyond what guessing explains.

use super::PairedCounts;

/// Forgetting and backward transfer per item, corrected for guessing. All are shares of the items.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChanceCorrected {
    /// Right before, wrong after.
    pub forgetting: f64,
    /// Wrong before, right after.
    pub backward_transfer: f64,
    /// The part of each that a model would show by guessing where it does not know.
    pub by_chance: f64,
    /// Forgetting less chance, at least 0.
    pub true_forgetting: f64,
    /// Backward transfer less chance, at least 0.
    pub true_backward_transfer: f64,
    /// The largest possible forgetting: the share that was known before.
    pub max_forgetting: f64,
}

/// Returns forgetting and backward transfer corrected for guessing among `n_choices` labels; `n_right_before` items
/// were right before.
///
/// Harmon et al. (2025), "Mapping post-training forgetting in language models at scale", arXiv 2510.17776: chance is
/// (1 - before) (1 - after) / (choices - 1), and the most that can be forgotten (choices * before - 1) / (choices - 1).
/// It assumes uniform guesses among the labels. Free generation guesses among more, so there the correction is an upper
/// bound and true forgetting a lower bound. `None` without items, for contradictory counts, or for fewer than two
/// choices.
pub fn chance_corrected(counts: PairedCounts, n_right_before: usize, n_choices: usize) -> Option<ChanceCorrected> {
    let PairedCounts { n_lost, n_gained, n } = counts;
    let is_possible = n_lost <= n_right_before && n_right_before <= n && n_gained <= n - n_right_before;
    if n == 0 || !is_possible || n_choices < 2 {
        return None;
    }
    let share = |count: usize| count as f64 / n as f64;
    let (forgetting, backward_transfer) = (share(n_lost), share(n_gained));
    let (wrong_before, wrong_after) = (share(n - n_right_before), share(n - n_right_before + n_lost - n_gained));
    let others = (n_choices - 1) as f64;
    let by_chance = wrong_before * wrong_after / others;
    Some(ChanceCorrected {
        forgetting,
        backward_transfer,
        by_chance,
        true_forgetting: (forgetting - by_chance).max(0.0),
        true_backward_transfer: (backward_transfer - by_chance).max(0.0),
        max_forgetting: ((n_choices as f64 * share(n_right_before) - 1.0) / others).max(0.0),
    })
}

/// Returns the share of items that were right before and are wrong after.
///
/// Yan et al. (2021), "Positive-congruent training", CVPR. `None` without items or if the counts exceed `n`.
pub fn negative_flip_rate(counts: PairedCounts) -> Option<f64> {
    counts.is_possible().then(|| counts.n_lost as f64 / counts.n as f64)
}

/// Returns a model's accuracy divided by its encoder's, the retained share of the encoder's skill (Zhai et al. 2023,
/// arXiv 2309.10313). `None` if the encoder's is 0 or either is not a rate.
pub fn retention(accuracy: f64, encoder_accuracy: f64) -> Option<f64> {
    let are_rates = [accuracy, encoder_accuracy].iter().all(|rate| (0.0..=1.0).contains(rate));
    (are_rates && encoder_accuracy > 0.0).then(|| accuracy / encoder_accuracy)
}

#[cfg(test)]
mod tests {
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
}
