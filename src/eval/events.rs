//! The events of a run, for an observer.

use crate::judging::JudgeCounters;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A dataset begins; `n_done` of its `n_total` samples were recorded earlier.
    DatasetStarted {
        /// Its name.
        dataset: &'a str,
        /// Samples of the run.
        n_total: usize,
        /// Of them, recorded by an earlier sitting.
        n_done: usize,
    },
    /// A batch was answered and recorded.
    Progress {
        /// The dataset.
        dataset: &'a str,
        /// Samples recorded so far, earlier sittings included.
        n_done: usize,
        /// Model trials of the dataset that were correct in this sitting.
        n_correct: usize,
        /// Those unscored in this sitting, those that wait for a judge included.
        n_unscored: usize,
        /// What the judges have done.
        judges: JudgeCounters,
    },
    /// Everything is answered; judges are still being waited for.
    WaitingForJudges {
        /// Answers without a verdict.
        n_open: usize,
        /// What the judges have done.
        judges: JudgeCounters,
    },
    /// A person should know.
    Warning(String),
    /// A person may want to know.
    Note(String),
}

/// Watches a run.
pub trait Observer {
    /// Receives `event`; must return quickly.
    fn event(&mut self, event: Event<'_>);
}

/// Watches nothing.
impl Observer for () {
    fn event(&mut self, _event: Event<'_>) {}
}
