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
mod tests;
