//! Two runs, dataset by dataset.

use std::collections::{BTreeMap, BTreeSet};

use super::images::{Images, Side, by_dataset};
use super::measures::{
    classes, confusion_shifts, encoder_cells, errors, funnel, judge_agreement, judges, lost_images,
    n_pairs_of_all_judges, transitions,
};
use super::summarise::{constant_answer, retention};
use super::{
    COMPARISON_SCHEMA, CandidateComparison, Comparison, DatasetComparison, FieldDifference, Interval, PairTable,
};
use crate::domain::{DatasetSpec, Outcome, RunSpec, Trial};
use crate::stats::{PairCells, ratio_interval};

const CONFIDENCE: f64 = 0.95;
const N_RESAMPLES: usize = 2_000;
/// Fixed, so that the same trials always give the same interval.
const BOOTSTRAP_SEED: u64 = 0x656d_7401;

/// A recorded run.
#[derive(Clone, Copy, Debug)]
pub struct RunView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its identity.
    pub identity: &'a str,
    /// What it is a run of.
    pub spec: &'a RunSpec,
    /// Its trials, in any order; the codes of all runs must have been made with the same tuned-on labels.
    pub trials: &'a [Trial],
}

/// A candidate with what was found of its comparability.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The run.
    pub run: RunView<'a>,
    /// The fields in which it differs from the baseline, all of them allowed to.
    pub differences: &'a [FieldDifference],
}

/// Compares each candidate with the baseline on the datasets that both have.
pub fn compare_runs(
    baseline: RunView<'_>,
    candidates: &[Candidate<'_>],
    tuned_on: &BTreeSet<String>,
    allowed_different: &[String],
) -> Comparison {
    Comparison {
        schema: COMPARISON_SCHEMA.to_owned(),
        baseline: baseline.name.to_owned(),
        baseline_identity: baseline.identity.to_owned(),
        candidates: candidates.iter().map(|candidate| compare_candidate(baseline, candidate, tuned_on)).collect(),
        allowed_different: allowed_different.to_vec(),
        tuned_on: tuned_on.iter().cloned().collect(),
    }
}

/// The outcomes before and after of every image that both runs have, by dataset, paired as in [`compare_runs`].
pub fn outcome_pairs(baseline: &[Trial], candidate: &[Trial]) -> BTreeMap<String, Vec<(Outcome, Outcome)>> {
    let (before, after) = (by_dataset(baseline), by_dataset(candidate));
    let shared = before.iter().filter_map(|(name, before)| Some((name, before, after.get(name)?)));
    shared
        .map(|(name, before, after)| {
            let images = Images::pair(before, after).images;
            let outcomes = images.iter().map(|image| (image.model[0].outcome, image.model[1].outcome));
            ((*name).to_owned(), outcomes.collect())
        })
        .collect()
}

fn compare_candidate(
    baseline: RunView<'_>,
    candidate: &Candidate<'_>,
    tuned_on: &BTreeSet<String>,
) -> CandidateComparison {
    let run = candidate.run;
    let has = |spec: &RunSpec, name: &str| spec.datasets.iter().any(|dataset| dataset.dataset == name);
    let (before, after) = (by_dataset(baseline.trials), by_dataset(run.trials));
    let nothing = Side::default();
    let datasets = baseline.spec.datasets.iter().filter(|dataset| has(run.spec, &dataset.dataset)).map(|dataset| {
        let name = dataset.dataset.as_str();
        let images = Images::pair(before.get(name).unwrap_or(&nothing), after.get(name).unwrap_or(&nothing));
        compare_dataset(dataset, tuned_on.contains(name), &images)
    });
    let only_candidate = run.spec.datasets.iter().filter(|dataset| !has(baseline.spec, &dataset.dataset));
    CandidateComparison {
        run: run.name.to_owned(),
        identity: run.identity.to_owned(),
        datasets: datasets.collect(),
        only_candidate: only_candidate.map(|dataset| dataset.dataset.clone()).collect(),
        differences: candidate.differences.to_vec(),
    }
}

fn compare_dataset(dataset: &DatasetSpec, is_tuned_on: bool, found: &Images<'_>) -> DatasetComparison {
    let images = found.images.as_slice();
    let mut table = PairTable::default();
    for image in images {
        let [before, after] = image.is_correct();
        table.add(before, after);
    }
    let cells = [encoder_cells(images, 0), encoder_cells(images, 1)];
    let lost = lost_images(images);
    let n_known = lost.iter().filter(|image| image.encoder.as_ref().is_some_and(|(_, is_right)| *is_right)).count();
    let of_run = |run: usize| images.iter().map(move |image| image.model[run]);
    DatasetComparison {
        split: dataset.split.clone(),
        is_training_split: dataset.is_training_split,
        is_tuned_on,
        n_unreadable: found.n_unreadable,
        n_unpaired: found.n_unpaired,
        encoder_knows: cells[1].map(|_| n_known),
        retention_before: cells[0].and_then(retention),
        retention_before_interval: cells[0].and_then(retention_interval),
        retention_after: cells[1].and_then(retention),
        retention_after_interval: cells[1].and_then(retention_interval),
        funnel: funnel(images),
        transitions: transitions(images),
        errors_before: errors(of_run(0)),
        errors_after: errors(of_run(1)),
        constant_answer_before: constant_answer(&of_run(0).collect::<Vec<_>>()),
        constant_answer_after: constant_answer(&of_run(1).collect::<Vec<_>>()),
        classes: classes(dataset, images),
        confusion_shifts: confusion_shifts(images),
        judges: judges(images),
        n_pairs_of_all_judges: n_pairs_of_all_judges(images),
        judge_agreement: judge_agreement(images),
        encoder_cells_after: cells[1].map(|cells| [cells.both, cells.only_first, cells.only_second, cells.neither]),
        lost,
        ..DatasetComparison::of_table(&dataset.dataset, dataset.labels.len(), table)
    }
}

fn retention_interval(cells: PairCells) -> Option<Interval> {
    ratio_interval(cells, CONFIDENCE, N_RESAMPLES, BOOTSTRAP_SEED)
}
