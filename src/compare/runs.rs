//! Compares two runs, dataset by dataset.

use std::collections::{BTreeMap, BTreeSet};

use super::image_counts::{
    classes, confusion_shifts, encoder_cells, errors, funnel, gained_images, judge_agreement, judges, lost_images,
    n_pairs_of_all_judges, transitions,
};
use super::images::{Image, Images, Side, by_dataset, is_correct};
use super::settings::shown_setting_differences;
use super::summarise::{constant_answer, retention, retention_interval};
use super::{
    COMPARISON_SCHEMA, CandidateComparison, Comparison, DatasetComparison, FieldDifference, PairTable, TowerForgetting,
};
use crate::domain::{DatasetSpec, Mode, Outcome, ProbeSpec, RunSpec, Trial};

/// A recorded run.
#[derive(Clone, Copy, Debug)]
pub struct RunView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its identity.
    pub identity: &'a str,
    /// Its specification.
    pub spec: &'a RunSpec,
    /// Its trials, in any order. The codes of all runs must be computed with the same tuned-on labels.
    pub trials: &'a [Trial],
}

/// A candidate with the result of its comparability check.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The run.
    pub run: RunView<'a>,
    /// The fields in which it differs from the baseline; all are allowed to.
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

/// Returns, by dataset, the outcomes before and after of every image that both runs have, paired as in
/// [`compare_runs`].
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
        let probes = baseline.spec.probe.as_ref().zip(run.spec.probe.as_ref());
        DatasetComparison {
            tower: probes.and_then(|probes| tower(name, probes, &images.images)),
            is_leak_known: !tuned_on.is_empty(),
            ..compare_dataset(dataset, tuned_on.contains(name), &images)
        }
    });
    let only_candidate = run.spec.datasets.iter().filter(|dataset| !has(baseline.spec, &dataset.dataset));
    CandidateComparison {
        run: run.name.to_owned(),
        identity: run.identity.to_owned(),
        datasets: datasets.collect(),
        only_candidate: only_candidate.map(|dataset| dataset.dataset.clone()).collect(),
        differences: candidate.differences.to_vec(),
        settings: settings_of(baseline.spec, candidate.run.spec),
        tuned_on: tuned_on.iter().cloned().collect(),
    }
}

/// Returns the differences between the models' settings, if both runs record them.
fn settings_of(before: &RunSpec, after: &RunSpec) -> Vec<FieldDifference> {
    let both = before.model.settings.as_ref().zip(after.model.settings.as_ref());
    both.map(|(before, after)| shown_setting_differences(before, after)).unwrap_or_default()
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
        is_leak_known: false,
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
        n_distinct_images: images.iter().map(|image| &image.model[0].content).collect::<BTreeSet<_>>().len(),
        is_unchanged: !images.is_empty() && images.iter().all(Image::is_unchanged),
        lost,
        gained: gained_images(images),
        ..DatasetComparison::of_table(&dataset.dataset, dataset.labels.len(), table)
    }
}

/// Compares the probes before and after; `None` if their training images differ or one did not run.
fn tower(dataset: &str, probes: (&ProbeSpec, &ProbeSpec), images: &[Image<'_>]) -> Option<TowerForgetting> {
    let (before, after) = probes;
    let shots = before.datasets.get(dataset).filter(|shots| Some(*shots) == after.datasets.get(dataset))?;
    let mut table = PairTable::default();
    for image in images {
        let [Some(before), Some(after)] = image.encoder else { continue };
        if before.mode == Mode::Probe && after.mode == Mode::Probe {
            table.add(is_correct(before), is_correct(after));
        }
    }
    let is_alike = before.classifier == after.classifier && table.n_pairs() > 0;
    is_alike.then(|| TowerForgetting::of_table(shots.n_shots(), before.tower == after.tower, table))
}

#[cfg(test)]
mod tests;
