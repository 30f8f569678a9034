//! The events of a run, for an observer.

use crate::judging::JudgeCounters;

/// One event of a run.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A dataset starts; `n_done` of its `n_total` samples were recorded earlier.
    DatasetStarted {
        /// Its name.
        dataset: &'a str,
        /// Samples of the run.
        n_total: usize,
        /// Samples that an earlier sitting recorded.
        n_done: usize,
    },
    /// A batch was answered and recorded.
    Progress {
        /// The dataset.
        dataset: &'a str,
        /// Samples recorded so far, earlier sittings included.
        n_done: usize,
        /// Correct model trials of the dataset in this sitting.
        n_correct: usize,
        /// Unscored trials in this sitting, including those that wait for a judge.
        n_unscored: usize,
        /// The judges' counters.
        judges: JudgeCounters,
    },
    /// Everything is answered; verdicts are still missing.
    WaitingForJudges {
        /// Answers without a verdict.
        n_open: usize,
        /// The judges' counters.
        judges: JudgeCounters,
    },
    /// A warning.
    Warning(String),
    /// An informative note.
    Note(String),
}

/// Watches a run.
pub trait Observer {
    /// Receives `event`; must return quickly.
    fn event(&mut self, event: Event<'_>);
}

/// Ignores all events.
impl Observer for () {
    fn event(&mut self, _event: Event<'_>) {}
}
