//! Counts over the images of two runs.

use std::collections::{BTreeMap, BTreeSet};

use super::images::{Image, is_correct};
use super::{
    ClassComparison, ConfusionShift, Errors, Funnel, GainedImage, JudgeAgreement, JudgeComparison, LostImage,
    PairTable, Transition, bare_answer,
};
use crate::domain::{DatasetSpec, ErrorKind, Judgement, Outcome, Trial};
use crate::stats::{PairCells, cohen_kappa, holm, mcnemar_exact};

/// The number of confusion shifts that are kept.
const N_SHIFTS: usize = 12;

/// Counts the model of `run` against its encoder on the images scored on both sides; `None` without an encoder.
pub(super) fn encoder_cells(images: &[Image<'_>], run: usize) -> Option<PairCells> {
    let mut cells = PairCells { both: 0, only_first: 0, only_second: 0, neither: 0 };
    let mut has_encoder = false;
    for image in images {
        let Some(encoder) = image.encoder[run] else { continue };
        has_encoder = true;
        match (is_correct(image.model[run]), is_correct(encoder)) {
            (Some(true), Some(true)) => cells.both += 1,
            (Some(true), Some(false)) => cells.only_first += 1,
            (Some(false), Some(true)) => cells.only_second += 1,
            (Some(false), Some(false)) => cells.neither += 1,
            (None, _) | (_, None) => {}
        }
    }
    has_encoder.then_some(cells)
}

/// Counts encoder, scoring and generation of both runs; `None` if a run lacks one of them.
pub(super) fn funnel(images: &[Image<'_>]) -> Option<Funnel> {
    let has_all = |run: usize| images.iter().any(|image| image.encoder[run].is_some() && image.scoring[run].is_some());
    if !(has_all(0) && has_all(1)) {
        return None;
    }
    let counts = |run: usize| {
        let mut counts: BTreeMap<String, usize> =
            (0..8).map(|bits| (funnel_key([bits & 4 > 0, bits & 2 > 0, bits & 1 > 0]), 0)).collect();
        for cell in images.iter().filter_map(|image| image.funnel(run)) {
            *counts.entry(funnel_key(cell)).or_default() += 1;
        }
        counts
    };
    let mut funnel = Funnel { before: counts(0), after: counts(1), ..Funnel::default() };
    for image in images.iter().filter(|image| image.is_lost()) {
        let right = |trial: Option<&Trial>| trial.and_then(is_correct);
        match (right(image.encoder[1]), right(image.scoring[1])) {
            (_, Some(true)) => funnel.lost_wording += 1,
            (Some(true), Some(false)) => funnel.lost_choice += 1,
            (Some(false), Some(false)) => funnel.lost_unknown += 1,
            (_, None) | (None, _) => {}
        }
    }
    Some(funnel)
}

fn funnel_key([encoder, scoring, generation]: [bool; 3]) -> String {
    format!("e{}s{}g{}", u8::from(encoder), u8::from(scoring), u8::from(generation))
}

/// Counts pairs by state before and after, most frequent first.
pub(super) fn transitions(images: &[Image<'_>]) -> Vec<Transition> {
    let mut counts: BTreeMap<[&str; 2], usize> = BTreeMap::new();
    for image in images {
        *counts.entry(image.model.map(state)).or_default() += 1;
    }
    let mut transitions: Vec<Transition> =
        counts.into_iter().map(|([from, to], n)| Transition { from: from.to_owned(), to: to.to_owned(), n }).collect();
    transitions.sort_by_key(|transition| std::cmp::Reverse(transition.n));
    transitions
}

fn state(trial: &Trial) -> &'static str {
    match trial.outcome {
        Outcome::Correct => "correct",
        Outcome::Incorrect(code) => code.name(),
        Outcome::Unscored(_) => "unscored",
    }
}

/// Counts errors by kind and code.
pub(super) fn errors<'a>(trials: impl Iterator<Item = &'a Trial>) -> Errors {
    let kinds = ErrorKind::ALL.iter().map(|kind| (kind.name().to_owned(), 0)).collect();
    let mut errors = Errors { n_scored: 0, kinds, codes: BTreeMap::new() };
    for trial in trials {
        errors.n_scored += usize::from(is_correct(trial).is_some());
        if let Outcome::Incorrect(code) = trial.outcome {
            *errors.kinds.entry(code.kind().name().to_owned()).or_default() += 1;
            *errors.codes.entry(code.name().to_owned()).or_default() += 1;
        }
    }
    errors
}

/// Compares every class of the dataset, most forgotten first.
pub(super) fn classes(dataset: &DatasetSpec, images: &[Image<'_>]) -> Vec<ClassComparison> {
    let mut tables: BTreeMap<&str, PairTable> = BTreeMap::new();
    for image in images {
        let [before, after] = image.is_correct();
        tables.entry(&image.model[0].label).or_default().add(before, after);
    }
    let table = |label: &str| tables.get(label).copied().unwrap_or_default();
    let tested: Vec<&str> = dataset.label_names().filter(|label| table(label).n_scored() > 0).collect();
    let p_values: Vec<f64> = tested.iter().map(|label| mcnemar_exact(table(label).scored())).collect();
    let adjusted: BTreeMap<&str, f64> = tested.iter().copied().zip(holm(&p_values)).collect();
    let mut classes: Vec<ClassComparison> = dataset
        .label_names()
        .map(|label| {
            let table = table(label);
            let accuracies = table.accuracies();
            ClassComparison {
                label: label.to_owned(),
                n_scored: table.n_scored(),
                n_lost: table.lost,
                n_gained: table.gained,
                baseline_accuracy: accuracies.map(|[before, _]| before),
                candidate_accuracy: accuracies.map(|[_, after]| after),
                forgetting: table.scored().fall(),
                p_holm: adjusted.get(label).copied(),
            }
        })
        .collect();
    // A stable sort: equal falls keep the order of the label set, and a class without a pair is last.
    let fall = |class: &ClassComparison| class.forgetting.unwrap_or(f64::NEG_INFINITY);
    classes.sort_by(|a, b| fall(b).total_cmp(&fall(a)));
    classes
}

/// Counts what is said instead of a label more or less often than before.
pub(super) fn confusion_shifts(images: &[Image<'_>]) -> Vec<ConfusionShift> {
    let mut counts: BTreeMap<(&str, String), [usize; 2]> = BTreeMap::new();
    for image in images {
        for (run, trial) in image.model.into_iter().enumerate() {
            let (Outcome::Incorrect(_), Some(text)) = (trial.outcome, trial.text()) else { continue };
            counts.entry((&trial.label, bare_answer(text))).or_default()[run] += 1;
        }
    }
    let mut shifts: Vec<ConfusionShift> = counts
        .into_iter()
        .filter(|(_, [before, after])| before.abs_diff(*after) > 1)
        .map(|((label, said), [n_before, n_after])| ConfusionShift { label: label.to_owned(), said, n_before, n_after })
        .collect();
    shifts.sort_by_key(|shift| std::cmp::Reverse(shift.n_before.abs_diff(shift.n_after)));
    shifts.truncate(N_SHIFTS);
    shifts
}

/// The pairs that changed from right to wrong, in sample order.
pub(super) fn lost_images(images: &[Image<'_>]) -> Vec<LostImage> {
    let lost = images.iter().filter_map(|image| {
        let [before, after] = image.model;
        let (Outcome::Correct, Outcome::Incorrect(code_after)) = (before.outcome, after.outcome) else {
            return None;
        };
        Some(LostImage {
            sample: after.sample.clone(),
            content: after.content.clone(),
            label: after.label.clone(),
            said_before: said(before),
            said_after: said(after),
            code_after,
            encoder: choice(image.encoder[1]),
            scoring: choice(image.scoring[1]),
        })
    });
    let mut lost: Vec<LostImage> = lost.collect();
    lost.sort_by(|a, b| a.sample.cmp(&b.sample));
    lost
}

/// The pairs that changed from wrong to right, in sample order.
pub(super) fn gained_images(images: &[Image<'_>]) -> Vec<GainedImage> {
    let gained = images.iter().filter_map(|image| {
        let [before, after] = image.model;
        let (Outcome::Incorrect(code_before), Outcome::Correct) = (before.outcome, after.outcome) else {
            return None;
        };
        Some(GainedImage {
            sample: after.sample.clone(),
            content: after.content.clone(),
            label: after.label.clone(),
            said_before: said(before),
            said_after: said(after),
            code_before,
            encoder: choice(image.encoder[1]),
            scoring: choice(image.scoring[1]),
        })
    });
    let mut gained: Vec<GainedImage> = gained.collect();
    gained.sort_by(|a, b| a.sample.cmp(&b.sample));
    gained
}

fn said(trial: &Trial) -> String {
    trial.text().unwrap_or_default().to_owned()
}

/// The label that was chosen, and whether it is right.
fn choice(trial: Option<&Trial>) -> Option<(String, bool)> {
    let trial = trial?;
    Some((trial.text()?.to_owned(), is_correct(trial)?))
}

/// Grades a trial by `judge` only: `undecided` is incorrect, no verdict is unscored.
fn graded_by(trial: &Trial, judge: &str) -> Option<bool> {
    let verdict = trial.verdicts.iter().find(|verdict| verdict.judge == judge)?;
    verdict.result.as_ref().ok().map(|&verdict| verdict == Judgement::Correct)
}

fn judge_names<'a>(trials: impl Iterator<Item = &'a Trial>) -> BTreeSet<&'a str> {
    trials.flat_map(|trial| &trial.verdicts).map(|verdict| verdict.judge.as_str()).collect()
}

/// Grades the same pairs by each judge separately.
pub(super) fn judges(images: &[Image<'_>]) -> Vec<JudgeComparison> {
    judge_names(images.iter().flat_map(|image| image.model))
        .into_iter()
        .map(|judge| {
            let mut table = PairTable::default();
            for image in images {
                let [before, after] = image.model.map(|trial| graded_by(trial, judge));
                table.add(before, after);
            }
            let accuracies = table.accuracies();
            JudgeComparison {
                judge: judge.to_owned(),
                baseline_accuracy: accuracies.map(|[before, _]| before),
                candidate_accuracy: accuracies.map(|[_, after]| after),
                forgetting: table.scored().fall(),
                table,
            }
        })
        .collect()
}

/// Counts the pairs in which each of two or more judges gave a verdict on both sides.
pub(super) fn n_pairs_of_all_judges(images: &[Image<'_>]) -> usize {
    let names = judge_names(images.iter().flat_map(|image| image.model));
    let is_judged = |trial: &Trial| names.iter().all(|judge| graded_by(trial, judge).is_some());
    if names.len() < 2 { 0 } else { images.iter().filter(|image| image.model.into_iter().all(is_judged)).count() }
}

/// Compares each two judges of each run on the answers that both judged.
pub(super) fn judge_agreement(images: &[Image<'_>]) -> Vec<JudgeAgreement> {
    let mut agreements = Vec::new();
    for (run, side) in ["baseline", "candidate"].into_iter().enumerate() {
        let trials = || images.iter().map(|image| image.model[run]);
        let names: Vec<&str> = judge_names(trials()).into_iter().collect();
        for (index, first) in names.iter().enumerate() {
            for second in &names[index + 1..] {
                agreements.extend(agreement_of(side, [first, second], trials()));
            }
        }
    }
    agreements
}

fn agreement_of<'a>(side: &str, judges: [&str; 2], trials: impl Iterator<Item = &'a Trial>) -> Option<JudgeAgreement> {
    let mut cells = [0_usize; 4];
    for trial in trials {
        let (Some(first), Some(second)) = (graded_by(trial, judges[0]), graded_by(trial, judges[1])) else { continue };
        cells[usize::from(!first) * 2 + usize::from(!second)] += 1;
    }
    let n: usize = cells.iter().sum();
    let kappa = cohen_kappa(&[[cells[0], cells[1]], [cells[2], cells[3]]], 0.95);
    (n > 0).then(|| JudgeAgreement {
        side: side.to_owned(),
        judges: judges.map(str::to_owned),
        cells,
        agreement: Some((cells[0] + cells[3]) as f64 / n as f64),
        kappa: kappa.map(|kappa| kappa.kappa),
        kappa_interval: kappa.map(|kappa| kappa.interval),
    })
}
