//! Plans what remains to be asked; pure.

use std::collections::{BTreeMap, HashSet};

use super::judge::is_judged;
use super::task::Task;
use crate::dataset::Dataset;
use crate::domain::{Mode, Outcome, RunSet, SampleSet, Subject, Trial, TrialKey, UnscoredReason, select};

/// Which samples of a dataset are evaluated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection<'a> {
    /// The seed of their order.
    pub sample_seed: u64,
    /// So many at most; `None` is all.
    pub limit: Option<usize>,
    /// Only these; `None` is all.
    pub samples: Option<&'a SampleSet>,
}

impl Selection<'_> {
    /// The samples as positions in `dataset`, in evaluation order. Named ones keep the order that they have among all, and the limit
    /// counts within them.
    pub fn of(&self, dataset: &Dataset) -> Vec<usize> {
        let Self { sample_seed, limit, samples } = *self;
        let names: Vec<&str> = dataset.labels.names().collect();
        let Some(samples) = samples else { return select(&dataset.samples, &names, sample_seed, limit) };
        let mut selected = select(&dataset.samples, &names, sample_seed, None);
        selected.retain(|&position| samples.contains(&dataset.name, &dataset.samples[position].id));
        selected.truncate(limit.unwrap_or(usize::MAX));
        selected
    }
}

/// The work that one dataset still needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatasetWork {
    /// All samples of the run, as positions in the dataset, in evaluation order.
    pub selected: Vec<usize>,
    /// The samples of all batches in which a subject's answer is missing, in order.
    pub remaining: Vec<SampleWork>,
    /// Samples that every subject of every run has answered.
    pub n_recorded: usize,
}

/// The work that one sample still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleWork {
    /// Its position in the dataset.
    pub position: usize,
    /// The runs whose model must answer.
    pub generate: RunSet,
    /// The runs whose model must score the labels.
    pub score: RunSet,
    /// The runs that lack the encoder's answer.
    pub encoder: RunSet,
    /// The runs whose probe must answer.
    pub probe: RunSet,
}

impl SampleWork {
    /// The runs whose model must answer or score.
    pub fn models(&self) -> RunSet {
        self.generate.union(self.score)
    }

    /// The runs that lack any answer.
    pub fn runs(&self) -> RunSet {
        self.generate.union(self.score).union(self.encoder).union(self.probe)
    }

    /// Keeps only the work of the runs in `kept`.
    pub fn only(self, kept: RunSet) -> Self {
        Self {
            generate: self.generate.intersection(kept),
            score: self.score.intersection(kept),
            encoder: self.encoder.intersection(kept),
            probe: self.probe.intersection(kept),
            ..self
        }
    }
}

/// The subjects and modes that can be asked about a sample, in the order of a finished run.
const ASKED: [(Subject, Mode); 4] = [
    (Subject::Model, Mode::Generate),
    (Subject::Model, Mode::Score),
    (Subject::Encoder, Mode::ZeroShot),
    (Subject::Encoder, Mode::Probe),
];

/// Returns the key of one sample's trial.
pub(super) fn key(dataset: &Dataset, position: usize, subject: Subject, mode: Mode) -> TrialKey {
    TrialKey { dataset: dataset.name.clone(), sample: dataset.samples[position].id.clone(), subject, mode }
}

/// How samples are grouped into batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Images per pass of the encoder and of a local model.
    pub size: usize,
    /// Whether the models are behind a server. A served model is asked only about the samples that it lacks, since the
    /// server makes its own batches.
    pub is_served: bool,
}

/// Returns the keys of the trials that need not be asked again.
pub fn settled_keys(trials: &[Trial]) -> HashSet<TrialKey> {
    let is_lost = |trial: &&Trial| trial.outcome != Outcome::Unscored(UnscoredReason::ModelUnreachable);
    trials.iter().filter(is_lost).map(Trial::key).collect()
}

/// Plans what `dataset` still needs of the samples of `selection` from the models in `modes` and from their comparator (zero-shot or a probe), given
/// the trials that each run has recorded.
///
/// Local batches are cut from the whole order and evaluated whole, even if some of their samples are recorded. The last
/// digits of a logit depend on its neighbours in the batch, and a resumed run must give the same results as an
/// uninterrupted one.
pub fn plan(
    dataset: &Dataset,
    selection: Selection<'_>,
    modes: &[Mode],
    comparator: Option<Mode>,
    recorded: &[HashSet<TrialKey>],
    batching: Batching,
) -> DatasetWork {
    let selected = selection.of(dataset);
    let is_asked = |(subject, mode): (Subject, Mode)| match subject {
        Subject::Model => modes.contains(&mode),
        Subject::Encoder => comparator == Some(mode),
    };
    // Returns the runs that lack a trial of one of the samples.
    let lacking = |samples: &[usize], (subject, mode): (Subject, Mode)| {
        RunSet::of(recorded.len(), |run| {
            let lacks = |&position: &usize| !recorded[run.place()].contains(&key(dataset, position, subject, mode));
            is_asked((subject, mode)) && samples.iter().any(lacks)
        })
    };
    let is_recorded = |&&position: &&usize| ASKED.iter().all(|&asked| lacking(&[position], asked).is_empty());
    let n_recorded = selected.iter().filter(is_recorded).count();
    let mut remaining = Vec::new();
    for batch in selected.chunks(batching.size.max(1)) {
        let of_batch = ASKED.map(|asked| lacking(batch, asked));
        if of_batch.iter().all(|runs| runs.is_empty()) {
            continue;
        }
        remaining.extend(batch.iter().map(|&position| {
            let [mut generate, mut score, encoder, probe] = of_batch;
            if batching.is_served {
                [generate, score, ..] = ASKED.map(|asked| lacking(&[position], asked));
            }
            SampleWork { position, generate, score, encoder, probe }
        }));
    }
    DatasetWork { selected, remaining, n_recorded }
}

/// Returns the order of a finished run: samples in dataset order, and for each the model's answer, its label scores,
/// then the encoder.
pub(super) fn order(tasks: &[Task]) -> Vec<TrialKey> {
    let mut keys = Vec::new();
    for Task { dataset, work, .. } in tasks {
        let mut selected = work.selected.clone();
        selected.sort_unstable();
        for position in selected {
            keys.extend(ASKED.map(|(subject, mode)| key(dataset, position, subject, mode)));
        }
    }
    keys
}

/// Returns the recorded answers of the model that still wait for a verdict.
pub(super) fn unjudged(recorded: &BTreeMap<TrialKey, Trial>) -> Vec<Trial> {
    recorded.values().filter(|trial| is_judged(trial) && is_open(trial)).cloned().collect()
}

fn is_open(trial: &Trial) -> bool {
    matches!(trial.outcome, Outcome::Unscored(reason) if reason.is_retried_on_resume())
}

#[cfg(test)]
mod tests;
