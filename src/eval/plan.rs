//! What remains to be asked; pure.

use std::collections::{BTreeMap, HashSet};

use crate::dataset::Dataset;
use crate::domain::{Mode, RunSet, Subject, Trial, TrialKey, select};

/// What one dataset still needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetWork {
    /// All samples of the run, as positions in the dataset, in evaluation order.
    pub selected: Vec<usize>,
    /// Those that a subject has not answered yet.
    pub remaining: Vec<SampleWork>,
}

/// What one sample still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleWork {
    /// Its position in the dataset.
    pub position: usize,
    /// The runs whose model must answer.
    pub models: RunSet,
    /// The runs that lack the encoder's answer.
    pub encoder: RunSet,
}

/// The key of one subject's trial of one sample.
pub(super) fn key(dataset: &Dataset, position: usize, subject: Subject) -> TrialKey {
    let mode = match subject {
        Subject::Model => Mode::Generate,
        Subject::Encoder => Mode::ZeroShot,
    };
    TrialKey { dataset: dataset.name.clone(), sample: dataset.samples[position].id.clone(), subject, mode }
}

/// What `dataset` still needs, given the trials that each run has recorded.
pub fn plan(
    dataset: &Dataset,
    sample_seed: u64,
    limit: Option<usize>,
    has_encoder: bool,
    recorded: &[HashSet<TrialKey>],
) -> DatasetWork {
    let names: Vec<&str> = dataset.labels.names().collect();
    let selected = select(&dataset.samples, &names, sample_seed, limit);
    let remaining = selected
        .iter()
        .map(|&position| {
            let lacking = |subject| {
                let key = key(dataset, position, subject);
                RunSet::of(recorded.len(), |run| !recorded[run].contains(&key))
            };
            let encoder = if has_encoder { lacking(Subject::Encoder) } else { RunSet::default() };
            SampleWork { position, models: lacking(Subject::Model), encoder }
        })
        .filter(|work| !work.models.is_empty() || !work.encoder.is_empty())
        .collect();
    DatasetWork { selected, remaining }
}

/// The order of a finished run: samples as in their dataset, the model before its encoder.
pub(super) fn order(datasets: &[Dataset], works: &[DatasetWork]) -> Vec<TrialKey> {
    let mut keys = Vec::new();
    for (dataset, work) in datasets.iter().zip(works) {
        let mut selected = work.selected.clone();
        selected.sort_unstable();
        for position in selected {
            keys.push(key(dataset, position, Subject::Model));
            keys.push(key(dataset, position, Subject::Encoder));
        }
    }
    keys
}

/// Recorded answers of the model that still wait for a verdict.
pub(super) fn unjudged(recorded: &BTreeMap<TrialKey, Trial>) -> Vec<Trial> {
    recorded
        .values()
        .filter(|trial| trial.subject == Subject::Model && trial.answer.is_some() && is_open(trial))
        .cloned()
        .collect()
}

fn is_open(trial: &Trial) -> bool {
    matches!(trial.outcome, crate::domain::Outcome::Unscored(reason) if reason.is_retried_on_resume())
}
