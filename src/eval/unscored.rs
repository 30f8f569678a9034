//! Measures how much of a run is unscored.

use std::collections::BTreeMap;

use crate::domain::{Mode, Outcome, Subject, Trial, UnscoredReason};

/// The unscored share of one subject in one mode on one dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct UnscoredShare {
    /// The dataset's name.
    pub dataset: String,
    /// The subject.
    pub subject: Subject,
    /// The mode.
    pub mode: Mode,
    /// Unscored trials as a share of all trials, from 0 to 1.
    pub share: f64,
}

/// Returns the largest unscored share over datasets, subjects and modes. Trials with an unreadable image do not count
/// as unscored.
pub fn largest_unscored_share(trials: &[Trial]) -> Option<UnscoredShare> {
    let mut counts: BTreeMap<(&str, Subject, Mode), (usize, usize)> = BTreeMap::new();
    for trial in trials {
        let (n, n_unscored) = counts.entry((&trial.dataset, trial.subject, trial.mode)).or_default();
        *n += 1;
        if matches!(trial.outcome, Outcome::Unscored(reason) if reason != UnscoredReason::ImageUnreadable) {
            *n_unscored += 1;
        }
    }
    counts
        .into_iter()
        .map(|((dataset, subject, mode), (n, n_unscored))| UnscoredShare {
            dataset: dataset.to_owned(),
            subject,
            mode,
            share: n_unscored as f64 / n as f64,
        })
        .max_by(|a, b| a.share.total_cmp(&b.share))
}

#[cfg(test)]
mod tests;
