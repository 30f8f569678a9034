//! Turns trials into the numbers of `summary.json`.

use std::collections::{BTreeMap, BTreeSet};

use unicode_normalization::UnicodeNormalization;

use super::{
    CONFIDENCE, ConstantAnswer, DatasetSummary, EncoderHeading, EncoderPairs, Interval, JudgeHeading, ModelHeading,
    ProbeHeading, SCHEMA, ShotsAccuracy, SubjectSummary, Summary, SummaryInput, pair,
};
use crate::domain::{
    DatasetSpec, EncoderRelation, ErrorKind, Mode, Outcome, ProbeSpec, RunSpec, Subject, Trial, UnscoredReason,
};
use crate::stats::{PairCells, ratio_interval, wilson};

/// Enough resamples for the second digit of a 95% endpoint (Efron and Tibshirani 1993, section 13.3, ask for 1,000).
const N_RESAMPLES: usize = 2_000;

/// Fixed, so that equal trials always give equal intervals.
const BOOTSTRAP_SEED: u64 = 0x656d_7400;

/// The share of scored answers above which an answer is called constant. The threshold is our own.
const CONSTANT_SHARE: f64 = 0.5;

/// Computes all numbers of one run, by dataset in the order of `spec`. The order of `trials` does not matter.
pub fn summarise(input: &SummaryInput<'_>, spec: &RunSpec, trials: &[Trial]) -> Summary {
    Summary {
        schema: SCHEMA.to_owned(),
        run: input.run.to_owned(),
        model: ModelHeading {
            name: spec.model.name.clone(),
            family: spec.model.family.clone(),
            adapter: spec.model.adapter.clone(),
            computing: spec.computing.clone(),
            server_flips: input.server_flips,
        },
        encoder: encoder_heading(spec, trials),
        judge: JudgeHeading {
            name: spec.judges.iter().map(|judge| judge.judge.as_str()).collect::<Vec<_>>().join("+"),
            judges: spec.judges.clone(),
            uncertain_share: input.uncertain_share,
        },
        datasets: spec.datasets.iter().map(|dataset| dataset_summary(dataset, spec.probe.as_ref(), trials)).collect(),
        tuned_on: spec.tuned_on.keys().cloned().collect(),
    }
}

/// Returns the share of the model's scored answers for which `is_certain` is false; `None` if it is known for no
/// answer.
///
/// `is_certain` returns `None` for a trial that the rules did not read.
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
    let comparator = match (&spec.encoder, &spec.probe, encoder_mode(trials)) {
        (None, None, _) => "none",
        (None, Some(_), _) | (Some(_), _, Mode::Probe) => "probe",
        (Some(_), ..) => "zero_shot",
    };
    let probe = spec.probe.as_ref().filter(|_| comparator == "probe");
    // A probe always uses the model's own tower.
    let without = if probe.is_some() { EncoderRelation::Own } else { EncoderRelation::None };
    let encoder = spec.encoder.as_ref();
    EncoderHeading {
        relation: encoder.map_or(without, |encoder| encoder.relation),
        comparator: comparator.to_owned(),
        tower_equal: encoder.map(|encoder| encoder.tower_equal).or(probe.map(|_| true)),
        name: encoder.map(|encoder| encoder.name.clone()),
        family: encoder.map(|encoder| encoder.family.clone()),
        tower_change: encoder.and_then(|encoder| encoder.tower_change.clone()),
        probe: probe.map(|probe| ProbeHeading {
            classifier: probe.classifier,
            shots: probe.datasets.values().map(|shots| shots.n_shots()).collect::<BTreeSet<_>>().into_iter().collect(),
        }),
    }
}

/// The encoder's mode that counts: zero-shot if it ran.
fn encoder_mode(trials: &[Trial]) -> Mode {
    let ran = |mode| trials.iter().any(|trial| is_of(trial, Subject::Encoder, mode));
    if !ran(Mode::ZeroShot) && ran(Mode::Probe) { Mode::Probe } else { Mode::ZeroShot }
}

fn dataset_summary(dataset: &DatasetSpec, probe: Option<&ProbeSpec>, trials: &[Trial]) -> DatasetSummary {
    let trials: Vec<&Trial> =
        trials.iter().filter(|trial| trial.dataset == dataset.dataset && trial.split == dataset.split).collect();
    let of =
        |subject, mode| -> Vec<&Trial> { trials.iter().copied().filter(|trial| is_of(trial, subject, mode)).collect() };
    let model = of(Subject::Model, Mode::Generate);
    let zero_shot = of(Subject::Encoder, Mode::ZeroShot);
    let is_probed = zero_shot.is_empty();
    let encoder = if is_probed { of(Subject::Encoder, Mode::Probe) } else { zero_shot };
    let shots = probe.and_then(|probe| probe.datasets.get(&dataset.dataset)).map(|shots| shots.n_shots());
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
        encoder: subject_summary(&encoder).map(|summary| SubjectSummary {
            shots: shots.filter(|_| is_probed),
            fewer_shots: fewer_shots(&encoder),
            ..summary
        }),
        retention: retention(cells),
        retention_interval: retention_interval(cells),
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

/// Whether a trial is correct; `None` if it is unscored.
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
    let corrected: Vec<bool> =
        trials.iter().filter_map(|trial| trial.prior_corrected.as_ref()).map(|choice| choice.is_correct).collect();
    let n_corrected = corrected.iter().filter(|&&is_correct| is_correct).count();
    Some(SubjectSummary {
        n_trials,
        n_correct,
        n_incorrect: n_scored - n_correct,
        n_unscored,
        accuracy: (n_scored > 0).then(|| share(n_correct, n_scored)),
        accuracy_interval: wilson(n_correct, n_scored, CONFIDENCE),
        accuracy_bounds: Some([share(n_correct, n_trials), share(n_correct + n_unscored, n_trials)]),
        balanced_accuracy: balanced_accuracy(trials),
        prior_corrected_accuracy: (!corrected.is_empty()).then(|| share(n_corrected, corrected.len())),
        prior_corrected_interval: wilson(n_corrected, corrected.len(), CONFIDENCE),
        shots: None,
        fewer_shots: Vec::new(),
        kinds,
        codes,
        unscored,
    })
}

/// The accuracies of a probe with fewer shots than its trials have.
fn fewer_shots(trials: &[&Trial]) -> Vec<ShotsAccuracy> {
    let mut counts: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for choice in trials.iter().flat_map(|trial| &trial.fewer_shots) {
        let (n_correct, n) = counts.entry(choice.shots).or_default();
        *n_correct += usize::from(choice.is_correct);
        *n += 1;
    }
    let accuracy = |(shots, (n_correct, n)): (usize, (usize, usize))| ShotsAccuracy {
        shots,
        accuracy: Some(n_correct as f64 / n as f64),
        accuracy_interval: wilson(n_correct, n, CONFIDENCE),
    };
    counts.into_iter().map(accuracy).collect()
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

/// The 2 x 2 table of pairs scored on both sides (first: the model), and the number of pairs with an unscored side.
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

pub(super) fn retention(cells: PairCells) -> Option<f64> {
    let n_encoder = cells.both + cells.only_second;
    (n_encoder > 0).then(|| (cells.both + cells.only_first) as f64 / n_encoder as f64)
}

/// The interval of [`retention`] by paired bootstrap, the same for a single run and in a comparison.
pub(super) fn retention_interval(cells: PairCells) -> Option<Interval> {
    ratio_interval(cells, CONFIDENCE, N_RESAMPLES, BOOTSTRAP_SEED)
}

/// The answer that more than [`CONSTANT_SHARE`] of the scored trials share, ignoring case, spacing and ending.
pub(super) fn constant_answer(trials: &[&Trial]) -> Option<ConstantAnswer> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut n_scored = 0;
    for trial in trials.iter().filter(|trial| is_correct(trial).is_some()) {
        let Some(text) = trial.text() else { continue };
        *counts.entry(plain(text)).or_default() += 1;
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
        UnscoredReason::ModelError | UnscoredReason::ModelUnreachable => "model_error",
        UnscoredReason::ThoughtCutOff => "thought_cut_off",
        UnscoredReason::JudgeFailed => "judge_failed",
        UnscoredReason::JudgeUnparsable => "judge_unparsable",
        UnscoredReason::JudgeBudget => "judge_budget",
    }
}

#[cfg(test)]
mod tests;
