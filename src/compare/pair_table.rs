//! All pairs of two runs by outcome.

use serde::{Deserialize, Serialize};

use super::Interval;
use crate::stats::PairedCounts;

/// Pairs of trials by outcome before and after; an unscored trial is neither right nor wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairTable {
    /// Right before and after.
    pub both_correct: usize,
    /// Right before, wrong after.
    pub lost: usize,
    /// Wrong before, right after.
    pub gained: usize,
    /// Wrong before and after.
    pub both_wrong: usize,
    /// Unscored before, right after.
    pub unscored_correct: usize,
    /// Unscored before, wrong after.
    pub unscored_wrong: usize,
    /// Right before, unscored after.
    pub correct_unscored: usize,
    /// Wrong before, unscored after.
    pub wrong_unscored: usize,
    /// Unscored before and after.
    pub both_unscored: usize,
}

impl PairTable {
    /// Counts one pair; `None` is unscored.
    pub fn add(&mut self, before: Option<bool>, after: Option<bool>) {
        let cell = match (before, after) {
            (Some(true), Some(true)) => &mut self.both_correct,
            (Some(true), Some(false)) => &mut self.lost,
            (Some(false), Some(true)) => &mut self.gained,
            (Some(false), Some(false)) => &mut self.both_wrong,
            (None, Some(true)) => &mut self.unscored_correct,
            (None, Some(false)) => &mut self.unscored_wrong,
            (Some(true), None) => &mut self.correct_unscored,
            (Some(false), None) => &mut self.wrong_unscored,
            (None, None) => &mut self.both_unscored,
        };
        *cell += 1;
    }

    /// Pairs scored on both sides.
    pub fn n_scored(self) -> usize {
        self.both_correct + self.lost + self.gained + self.both_wrong
    }

    /// Pairs with either side unscored.
    pub fn n_unscored(self) -> usize {
        self.unscored_correct + self.unscored_wrong + self.correct_unscored + self.wrong_unscored + self.both_unscored
    }

    /// All pairs.
    pub fn n_pairs(self) -> usize {
        self.n_scored() + self.n_unscored()
    }

    /// The pairs scored on both sides, as a 2 x 2 table.
    pub fn scored(self) -> PairedCounts {
        PairedCounts { n_lost: self.lost, n_gained: self.gained, n: self.n_scored() }
    }

    /// All pairs with every unscored trial counted against a pass: an unscored baseline as right, an unscored candidate
    /// as wrong.
    pub fn against_a_pass(self) -> PairedCounts {
        PairedCounts {
            n_lost: self.lost + self.unscored_wrong + self.correct_unscored + self.both_unscored,
            n_gained: self.gained,
            n: self.n_pairs(),
        }
    }

    /// All pairs with every unscored trial counted against a fail: an unscored baseline as wrong, an unscored candidate
    /// as right.
    pub fn against_a_fail(self) -> PairedCounts {
        PairedCounts {
            n_lost: self.lost,
            n_gained: self.gained + self.unscored_correct + self.wrong_unscored + self.both_unscored,
            n: self.n_pairs(),
        }
    }

    /// The fall over all pairs, with every unscored trial counted against a fail, then against a pass.
    pub fn bounds(self) -> Option<Interval> {
        Some([self.against_a_fail().fall()?, self.against_a_pass().fall()?])
    }

    /// The baseline's right trials and scored trials, whatever the candidate's outcome.
    pub fn baseline(self) -> (usize, usize) {
        let n_correct = self.both_correct + self.lost + self.correct_unscored;
        (n_correct, n_correct + self.gained + self.both_wrong + self.wrong_unscored)
    }

    /// Accuracies before and after, over the pairs scored on both sides.
    pub fn accuracies(self) -> Option<[f64; 2]> {
        let n = self.n_scored();
        let share = |n_correct: usize| n_correct as f64 / n as f64;
        (n > 0).then(|| [share(self.both_correct + self.lost), share(self.both_correct + self.gained)])
    }
}

#[cfg(test)]
mod tests;
