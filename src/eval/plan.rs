//! What remains to be asked; pure.

use std::collections::{BTreeMap, HashSet};

use crate::dataset::Dataset;
use crate::domain::{Mode, RunSet, Subject, Trial, TrialKey, select};

/// What one dataset still needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetWork {
    /// All samples of the run, as positions in the dataset, in evaluation order.
    pub selected: Vec<usize>,
    /// The batches in which a subject has not answered yet, one after the other.
    pub remaining: Vec<SampleWork>,
    /// Samples that every subject of every run has answered.
    pub n_recorded: usize,
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
///
/// Batches are cut from the whole order and asked as a whole, even where some of their samples are recorded: the last
/// digits of a logit depend on its neighbours, and a resumed run must end as one that was never interrupted.
pub fn plan(
    dataset: &Dataset,
    sample_seed: u64,
    limit: Option<usize>,
    has_encoder: bool,
    recorded: &[HashSet<TrialKey>],
    batch_size: usize,
) -> DatasetWork {
    let names: Vec<&str> = dataset.labels.names().collect();
    let selected = select(&dataset.samples, &names, sample_seed, limit);
    let lacks = |run: usize, position: usize, subject| !recorded[run].contains(&key(dataset, position, subject));
    let is_recorded = |&&position: &&usize| {
        let lacks = |subject| (0..recorded.len()).any(|run| lacks(run, position, subject));
        !(lacks(Subject::Model) || has_encoder && lacks(Subject::Encoder))
    };
    let n_recorded = selected.iter().filter(is_recorded).count();
    let mut remaining = Vec::new();
    for batch in selected.chunks(batch_size.max(1)) {
        let asked =
            |subject| RunSet::of(recorded.len(), |run| batch.iter().any(|&position| lacks(run, position, subject)));
        let models = asked(Subject::Model);
        let encoder = if has_encoder { asked(Subject::Encoder) } else { RunSet::default() };
        if !models.is_empty() || !encoder.is_empty() {
            remaining.extend(batch.iter().map(|&position| SampleWork { position, models, encoder }));
        }
    }
    DatasetWork { selected, remaining, n_recorded }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Catalog, DataRoots, OpenRequest, open};

    fn digits() -> Dataset {
        let request = OpenRequest { text: "embedded/mnist", split: None, labels_file: None };
        open(&Catalog::embedded(), &DataRoots::default(), &request).unwrap()
    }

    #[test]
    fn a_batch_that_lacks_one_trial_is_asked_as_a_whole_by_the_runs_that_lack_it() {
        let dataset = digits();
        let whole = plan(&dataset, 7, Some(10), true, &[HashSet::new(), HashSet::new()], 4);
        assert_eq!(whole.remaining.len(), 10);
        let all: HashSet<TrialKey> = whole
            .selected
            .iter()
            .flat_map(|&position| [Subject::Model, Subject::Encoder].map(|subject| key(&dataset, position, subject)))
            .collect();
        let mut torn = all.clone();
        torn.remove(&key(&dataset, whole.selected[5], Subject::Model));
        let resumed = plan(&dataset, 7, Some(10), true, &[all.clone(), torn], 4);
        assert_eq!(resumed.n_recorded, 9);
        let positions: Vec<usize> = resumed.remaining.iter().map(|work| work.position).collect();
        assert_eq!(positions, whole.selected[4..8]);
        for work in &resumed.remaining {
            assert_eq!(work.models.iter().collect::<Vec<_>>(), [1]);
            assert!(work.encoder.is_empty());
        }
        assert!(plan(&dataset, 7, Some(10), true, &[all.clone(), all], 4).remaining.is_empty());
    }

    #[test]
    fn a_larger_limit_asks_the_last_batch_of_the_smaller_one_again() {
        let dataset = digits();
        let small = plan(&dataset, 7, Some(10), false, &[HashSet::new()], 4);
        let recorded = small.selected.iter().map(|&position| key(&dataset, position, Subject::Model)).collect();
        let larger = plan(&dataset, 7, Some(20), false, &[recorded], 4);
        let positions: Vec<usize> = larger.remaining.iter().map(|work| work.position).collect();
        assert_eq!(positions, larger.selected[8..], "its batch has other neighbours now");
    }
}
