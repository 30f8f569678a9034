//! Trials to the numbers of `summary.json`.

use std::collections::{BTreeMap, BTreeSet};

use unicode_normalization::UnicodeNormalization;

use super::{
    ConstantAnswer, DatasetSummary, EncoderHeading, EncoderPairs, JudgeHeading, ModelHeading, SCHEMA, SubjectSummary,
    Summary, SummaryInput, pair,
};
use crate::domain::{DatasetSpec, EncoderRelation, ErrorKind, Mode, Outcome, RunSpec, Subject, Trial, UnscoredReason};
use crate::stats::{PairCells, ratio_interval, wilson};

const CONFIDENCE: f64 = 0.95;

/// Enough for the second digit of a 95% endpoint (Efron and Tibshirani 1993, section 13.3, ask for 1,000).
const N_RESAMPLES: usize = 2_000;

/// Fixed, so that the same trials always give the same interval.
const BOOTSTRAP_SEED: u64 = 0x656d_7400;

/// An answer is called constant from more than this share of the scored answers (emt-protocol 4.3, case 11).
const CONSTANT_SHARE: f64 = 0.5;

/// All numbers of one run, a dataset at a time in the order of `spec`. The order of `trials` does not matter.
pub fn summarise(input: &SummaryInput<'_>, spec: &RunSpec, trials: &[Trial]) -> Summary {
    Summary {
        schema: SCHEMA.to_owned(),
        run: input.run.to_owned(),
        model: ModelHeading {
            name: spec.model.name.clone(),
            family: spec.model.family.clone(),
            adapter: spec.model.adapter.clone(),
            compute_type: spec.compute_type.clone(),
            device_kind: spec.device_kind.clone(),
        },
        encoder: encoder_heading(spec, trials),
        judge: JudgeHeading {
            name: spec.judges.iter().map(|judge| judge.judge.as_str()).collect::<Vec<_>>().join("+"),
            judges: spec.judges.clone(),
            uncertain_share: input.uncertain_share,
        },
        datasets: spec.datasets.iter().map(|dataset| dataset_summary(dataset, trials)).collect(),
    }
}

/// The share of the model's scored answers of which `is_certain` says no; `None` where it knows of none.
///
/// `is_certain` gives `None` for a trial that the rules did not read.
pub fn uncertain_share(trials: &[Trial], is_certain: impl Fn(&Trial) -> Option<bool>) -> Option<f64> {
    let readings: Vec<bool> = trials
        .iter()
        .filter(|trial| is_of(trial, Subject::Model, Mode::Generate) && is_correct(trial).is_some())
        .filter_map(is_certain)
        .collect();
    let n_uncertain = readings.iter().filter(|certain| !**certain).count();
    (!readings.is_empty()).then(|| n_uncertain as f64 / readings.len() as f64)
}

fn encoder_heading(spec: &RunSpec, trials: &[Trial]) -> EncoderHeading {
    let comparator = match (&spec.encoder, encoder_mode(trials)) {
        (None, _) => "none",
        (Some(_), Mode::Probe) => "probe",
        (Some(_), _) => "zero_shot",
    };
    EncoderHeading {
        relation: spec.encoder.as_ref().map_or(EncoderRelation::None, |encoder| encoder.relation),
        comparator: comparator.to_owned(),
        tower_equal: spec.encoder.as_ref().map(|encoder| encoder.tower_equal),
        name: spec.encoder.as_ref().map(|encoder| encoder.name.clone()),
        family: spec.encoder.as_ref().map(|encoder| encoder.family.clone()),
    }
}

/// The encoder's mode that counts: zero-shot wherever it ran.
fn encoder_mode(trials: &[Trial]) -> Mode {
    let ran = |mode| trials.iter().any(|trial| is_of(trial, Subject::Encoder, mode));
    if !ran(Mode::ZeroShot) && ran(Mode::Probe) { Mode::Probe } else { Mode::ZeroShot }
}

fn dataset_summary(dataset: &DatasetSpec, trials: &[Trial]) -> DatasetSummary {
    let trials: Vec<&Trial> =
        trials.iter().filter(|trial| trial.dataset == dataset.dataset && trial.split == dataset.split).collect();
    let of =
        |subject, mode| -> Vec<&Trial> { trials.iter().copied().filter(|trial| is_of(trial, subject, mode)).collect() };
    let model = of(Subject::Model, Mode::Generate);
    let zero_shot = of(Subject::Encoder, Mode::ZeroShot);
    let encoder = if zero_shot.is_empty() { of(Subject::Encoder, Mode::Probe) } else { zero_shot };
    let (cells, n_unscored) = encoder_cells(&model, &encoder);
    let has_pairs = !model.is_empty() && !encoder.is_empty();
    DatasetSummary {
        dataset: dataset.dataset.clone(),
        split: dataset.split.clone(),
        is_training_split: dataset.is_training_split,
        n_samples: trials.iter().map(|trial| &trial.sample).collect::<BTreeSet<_>>().len(),
        n_classes: dataset.labels.len(),
        model: subject_summary(&model),
        model_score: subject_summary(&of(Subject::Model, Mode::Score)),
        encoder: subject_summary(&encoder),
        retention: retention(cells),
        retention_interval: ratio_interval(cells, CONFIDENCE, N_RESAMPLES, BOOTSTRAP_SEED),
        pairs: has_pairs.then_some(EncoderPairs {
            both_correct: cells.both,
            only_encoder: cells.only_second,
            only_model: cells.only_first,
            both_wrong: cells.neither,
            unscored: n_unscored,
        }),
        constant_answer: constant_answer(&model),
    }
}

fn is_of(trial: &Trial, subject: Subject, mode: Mode) -> bool {
    trial.subject == subject && trial.mode == mode
}

/// `None` for an unscored trial, which is neither.
fn is_correct(trial: &Trial) -> Option<bool> {
    match trial.outcome {
        Outcome::Correct => Some(true),
        Outcome::Incorrect(_) => Some(false),
        Outcome::Unscored(_) => None,
    }
}

fn subject_summary(trials: &[&Trial]) -> Option<SubjectSummary> {
    if trials.is_empty() {
        return None;
    }
    let mut kinds: BTreeMap<String, usize> = ErrorKind::ALL.iter().map(|kind| (kind.name().to_owned(), 0)).collect();
    let mut codes = BTreeMap::new();
    let mut unscored = BTreeMap::new();
    let mut n_correct = 0;
    for trial in trials {
        match trial.outcome {
            Outcome::Correct => n_correct += 1,
            Outcome::Incorrect(code) => {
                *kinds.entry(code.kind().name().to_owned()).or_default() += 1;
                *codes.entry(code.name().to_owned()).or_default() += 1;
            }
            Outcome::Unscored(reason) => *unscored.entry(reason_name(reason).to_owned()).or_default() += 1,
        }
    }
    let n_trials = trials.len();
    let n_unscored: usize = unscored.values().sum();
    let n_scored = n_trials - n_unscored;
    let share = |n: usize, of: usize| n as f64 / of as f64;
    Some(SubjectSummary {
        n_trials,
        n_correct,
        n_incorrect: n_scored - n_correct,
        n_unscored,
        accuracy: (n_scored > 0).then(|| share(n_correct, n_scored)),
        accuracy_interval: wilson(n_correct, n_scored, CONFIDENCE),
        accuracy_bounds: Some([share(n_correct, n_trials), share(n_correct + n_unscored, n_trials)]),
        balanced_accuracy: balanced_accuracy(trials),
        kinds,
        codes,
        unscored,
    })
}

/// The mean over the classes that have a scored trial.
fn balanced_accuracy(trials: &[&Trial]) -> Option<f64> {
    let mut classes: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for trial in trials {
        if let Some(correct) = is_correct(trial) {
            let (n_correct, n_scored) = classes.entry(&trial.label).or_default();
            *n_correct += usize::from(correct);
            *n_scored += 1;
        }
    }
    let sum: f64 = classes.values().map(|&(n_correct, n_scored)| n_correct as f64 / n_scored as f64).sum();
    (!classes.is_empty()).then(|| sum / classes.len() as f64)
}

/// The 2 x 2 table of pairs scored on both sides (first: the model), and the pairs with a side unscored.
fn encoder_cells(model: &[&Trial], encoder: &[&Trial]) -> (PairCells, usize) {
    let pairing = pair(
        model.iter().copied(),
        encoder.iter().copied(),
        |trial| (trial.content.as_str(), trial.label.as_str()),
        |trial| trial.sample.as_str(),
    );
    let mut cells = PairCells { both: 0, only_first: 0, only_second: 0, neither: 0 };
    let mut n_unscored = 0;
    for (model, encoder) in pairing.pairs {
        match (is_correct(model), is_correct(encoder)) {
            (Some(true), Some(true)) => cells.both += 1,
            (Some(true), Some(false)) => cells.only_first += 1,
            (Some(false), Some(true)) => cells.only_second += 1,
            (Some(false), Some(false)) => cells.neither += 1,
            (None, _) | (_, None) => n_unscored += 1,
        }
    }
    (cells, n_unscored)
}

fn retention(cells: PairCells) -> Option<f64> {
    let n_encoder = cells.both + cells.only_second;
    (n_encoder > 0).then(|| (cells.both + cells.only_first) as f64 / n_encoder as f64)
}

/// The answer that more than [`CONSTANT_SHARE`] of the scored trials share, however cased, spaced or ended.
fn constant_answer(trials: &[&Trial]) -> Option<ConstantAnswer> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut n_scored = 0;
    for trial in trials.iter().filter(|trial| is_correct(trial).is_some()) {
        let Some(answer) = &trial.answer else { continue };
        *counts.entry(plain(&answer.text)).or_default() += 1;
        n_scored += 1;
    }
    let (answer, count) = counts.into_iter().max_by_key(|&(_, count)| count)?;
    let share = count as f64 / n_scored as f64;
    (share > CONSTANT_SHARE).then_some(ConstantAnswer { answer, share })
}

fn plain(answer: &str) -> String {
    let lower = answer.nfkc().collect::<String>().to_lowercase();
    let words = lower.split_whitespace().collect::<Vec<_>>().join(" ");
    words.trim_end_matches(['.', '!', ',', ':', ';']).to_owned()
}

fn reason_name(reason: UnscoredReason) -> &'static str {
    match reason {
        UnscoredReason::Pending => "pending",
        UnscoredReason::ImageUnreadable => "image_unreadable",
        UnscoredReason::ModelError => "model_error",
        UnscoredReason::JudgeFailed => "judge_failed",
        UnscoredReason::JudgeUnparsable => "judge_unparsable",
        UnscoredReason::JudgeBudget => "judge_budget",
    }
}
