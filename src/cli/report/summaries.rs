//! Summaries of runs whose trials are read one dataset at a time.

use anyhow::Result;

use crate::compare::Summary;
use crate::domain::{RunSpec, Trial};
use crate::study;

/// By run, the summary of what has come so far.
pub(super) struct Summaries(Vec<Option<Summary>>);

impl Summaries {
    /// Of this many runs.
    pub fn new(n_runs: usize) -> Self {
        Self((0..n_runs).map(|_| None).collect())
    }

    /// Adds the trials of one dataset, of which alone `spec` speaks, to the run of that number.
    pub fn add(&mut self, run: usize, name: &str, spec: &RunSpec, trials: &[Trial]) -> Result<()> {
        let part = study::summary(name, spec, trials, None)?;
        self.0[run] = Some(match self.0[run].take() {
            None => part,
            Some(whole) => joined(whole, part),
        });
        Ok(())
    }

    /// The summaries, in the order of the runs.
    pub fn finish(self) -> Vec<Summary> {
        self.0.into_iter().flatten().collect()
    }
}

fn joined(mut whole: Summary, part: Summary) -> Summary {
    let n_scored = |summary: &Summary| -> f64 {
        let models = summary.datasets.iter().filter_map(|dataset| dataset.model.as_ref());
        models.map(|model| (model.n_correct + model.n_incorrect) as f64).sum()
    };
    let n = [n_scored(&whole), n_scored(&part)];
    whole.judge.uncertain_share = match (whole.judge.uncertain_share, part.judge.uncertain_share) {
        (Some(first), Some(second)) => Some((first * n[0] + second * n[1]) / (n[0] + n[1])),
        (first, second) => first.or(second),
    };
    whole.datasets.extend(part.datasets);
    whole
}
