//! A comparison of recorded runs: `emt report` and `emt gate` share it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::comparability;
use super::recorded_run::RecordedRun;
use super::tuned_on;
use crate::compare::{self, Candidate, Comparison, FieldDifference, RunView, SAMPLES};
use crate::dataset::Catalog;
use crate::domain::{LabelSet, RunSpec, Trial};

/// A comparison of runs, as it is asked for.
#[derive(Clone, Copy)]
pub struct Compare<'a> {
    /// The run before fine-tuning.
    pub baseline: &'a RecordedRun,
    /// The runs after it.
    pub candidates: &'a [RecordedRun],
    /// By candidate, the datasets that it was fine-tuned on.
    pub tuned_on: &'a [BTreeSet<String>],
    /// Whether candidates may lack a dataset of the baseline.
    pub may_lack: &'a dyn Fn(&str) -> bool,
    /// The fields that may differ: those of `comparable` in `run.json`, and `samples`.
    pub allow_different: &'a [String],
    /// Where labels of datasets that no run has are looked up.
    pub catalog: &'a Catalog,
}

/// The trials of one run and dataset on their way into the comparison.
#[derive(Clone, Copy)]
pub struct Passing<'a> {
    /// 0 is the baseline, then the candidates.
    pub run: usize,
    /// Of this dataset alone.
    pub spec: &'a RunSpec,
    /// Its trials.
    pub trials: &'a [Trial],
    /// Whether the codes of errors were computed again already.
    pub is_recoded: bool,
}

impl Compare<'_> {
    /// Compares one dataset at a time, which `watch` sees pass. The codes of errors are computed again with the labels that a
    /// candidate was fine-tuned on, of the candidate and of the baseline next to it.
    ///
    /// # Errors
    /// The runs are not comparable, an image has no partner, or a file cannot be read.
    pub fn run(&self, watch: &mut dyn FnMut(Passing<'_>) -> Result<()>) -> Result<Comparison> {
        let Self { baseline, candidates, tuned_on, may_lack, allow_different, catalog } = *self;
        check_fields(allow_different, baseline)?;
        let mut differences = Vec::with_capacity(candidates.len());
        for candidate in candidates.iter() {
            differences.push(differing(baseline, candidate, may_lack, allow_different)?);
        }
        let mut labels = Vec::with_capacity(candidates.len());
        for (candidate, tuned_on) in candidates.iter().zip(tuned_on) {
            labels.push(tuned_labels(baseline, candidates, candidate, tuned_on, catalog));
        }
        let all_labels: BTreeMap<String, LabelSet> =
            labels.iter().flatten().map(|(name, set)| (name.clone(), set.clone())).collect();
        let runs: Vec<&RecordedRun> = std::iter::once(baseline).chain(candidates).collect();
        let mut comparison: Option<Comparison> = None;
        for dataset in &baseline.manifest.spec.datasets {
            let name = dataset.dataset.as_str();
            let mut parts: Vec<(RunSpec, Vec<Trial>)> = Vec::with_capacity(runs.len());
            let mut before = Vec::new();
            for (index, run) in runs.iter().enumerate() {
                let (spec, mut trials) = (run.spec_of(name), run.trials_of(name)?);
                watch(Passing { run: index, spec: &spec, trials: &trials, is_recoded: false })?;
                let of_run = if index == 0 { &all_labels } else { &labels[index - 1] };
                if index == 0 && labels.iter().any(|labels| *labels != all_labels) {
                    before.clone_from(&trials);
                }
                tuned_on::recode(&spec, &mut trials, of_run)?;
                watch(Passing { run: index, spec: &spec, trials: &trials, is_recoded: true })?;
                parts.push((spec, trials));
            }
            for (index, differences) in differences.iter().enumerate() {
                let mut own = Vec::new();
                if labels[index] != all_labels {
                    own.clone_from(&before);
                    tuned_on::recode(&parts[0].0, &mut own, &labels[index])?;
                }
                let view = |at: usize| RunView {
                    name: &runs[at].name,
                    identity: &runs[at].manifest.identity,
                    spec: &parts[at].0,
                    trials: if at == 0 && labels[index] != all_labels { &own } else { &parts[at].1 },
                };
                let compared = Candidate { run: view(index + 1), differences };
                let mut part = compare::compare_runs(view(0), &[compared], &tuned_on[index], allow_different);
                if tuned_on[index].iter().any(|name| !labels[index].contains_key(name)) {
                    // The leaks of those whose labels are known are not all.
                    let datasets = part.candidates.iter_mut().flat_map(|candidate| &mut candidate.datasets);
                    datasets.for_each(|dataset| dataset.is_leak_known = false);
                }
                add(&mut comparison, index, part);
            }
        }
        let Some(mut comparison) = comparison else {
            bail!("the run `{}` has no dataset; hint: evaluate one with --datasets", baseline.name);
        };
        for (compared, candidate) in comparison.candidates.iter_mut().zip(candidates) {
            let only = candidate.manifest.spec.datasets.iter().filter(|dataset| !baseline.has(&dataset.dataset));
            compared.only_candidate = only.map(|dataset| dataset.dataset.clone()).collect();
        }
        if !allow_different.iter().any(|field| field == SAMPLES) {
            refuse_unpaired(&comparison)?;
        }
        Ok(comparison)
    }
}

/// Adds what was found of one dataset and the candidate at `index`.
fn add(comparison: &mut Option<Comparison>, index: usize, part: Comparison) {
    let Some(whole) = comparison else {
        *comparison = Some(part);
        return;
    };
    let tuned_on: BTreeSet<String> = whole.tuned_on.drain(..).chain(part.tuned_on).collect();
    whole.tuned_on = tuned_on.into_iter().collect();
    for part in part.candidates {
        match whole.candidates.get_mut(index) {
            Some(known) => known.datasets.extend(part.datasets),
            None => whole.candidates.push(part),
        }
    }
}

/// A slip in a field's name would silently allow nothing.
fn check_fields(allowed: &[String], baseline: &RecordedRun) -> Result<()> {
    let mut known: Vec<&str> = baseline.manifest.comparable.keys().map(String::as_str).collect();
    // A run that decodes by no settings has no such field.
    known.extend(
        [compare::GENERATION_CONFIG, SAMPLES]
            .into_iter()
            .filter(|field| !baseline.manifest.comparable.contains_key(*field)),
    );
    match allowed.iter().find(|field| !known.contains(&field.as_str())) {
        Some(field) => {
            bail!("--allow-different {field}: there is no such field; hint: it is one of {}", known.join(", "))
        }
        None => Ok(()),
    }
}

fn differing(
    baseline: &RecordedRun,
    candidate: &RecordedRun,
    may_lack: &dyn Fn(&str) -> bool,
    allowed: &[String],
) -> Result<Vec<FieldDifference>> {
    let differences = comparability::checked(baseline, candidate, allowed)?;
    let mut lacking = baseline
        .manifest
        .spec
        .datasets
        .iter()
        .map(|dataset| dataset.dataset.as_str())
        .filter(|&name| !candidate.has(name) && !may_lack(name));
    if let Some(name) = lacking.next() {
        bail!(
            "`{}` lacks the dataset `{name}`, which `{}` has; hint: evaluate it, too, or ignore it in the policy of `emt gate`, \
             or choose with its --datasets",
            candidate.name,
            baseline.name
        );
    }
    Ok(differences)
}

/// In what the model of `candidate`, a run called `name`, is configured otherwise than the one of `baseline`; `None` where
/// nothing differs or a run does not tell.
pub fn settings_note(baseline: &RunSpec, candidate: &RunSpec, name: &str) -> Option<String> {
    let (before, after) = baseline.model.settings.as_ref().zip(candidate.model.settings.as_ref())?;
    let differences = compare::shown_setting_differences(before, after);
    let told = (!differences.is_empty()).then(|| compare::settings_in_words(&differences))?;
    Some(format!("`{name}` runs with its own settings: {told}"))
}

/// The labels of every fine-tuned dataset: from the runs, else from the catalog. One that is not known adds no labels.
fn tuned_labels(
    baseline: &RecordedRun,
    candidates: &[RecordedRun],
    candidate: &RecordedRun,
    tuned_on: &BTreeSet<String>,
    catalog: &Catalog,
) -> BTreeMap<String, LabelSet> {
    let mut labels = BTreeMap::new();
    for run in [baseline, candidate] {
        labels.extend(run.manifest.spec.tuned_on.clone());
    }
    for name in tuned_on {
        if labels.contains_key(name) {
            continue;
        }
        let runs = [candidate, baseline].into_iter().chain(candidates);
        let found = runs
            .map(|run| &run.manifest)
            .find_map(|manifest| tuned_on::labels_in(&manifest.spec, &manifest.environment, name))
            .or_else(|| catalog.labels_of(name).ok().cloned());
        labels.extend(found.map(|found| (name.clone(), found)));
    }
    labels
}

fn refuse_unpaired(comparison: &Comparison) -> Result<()> {
    for candidate in &comparison.candidates {
        if let Some(dataset) = candidate.datasets.iter().find(|dataset| dataset.n_unpaired > 0) {
            bail!(
                "{} images of `{}` are in only one of `{}` and `{}`, and {} in both; hint: evaluate both on the same \
                 images (--limit, --data), or --allow-different samples",
                dataset.n_unpaired,
                dataset.dataset,
                comparison.baseline,
                candidate.run,
                dataset.n_pairs
            );
        }
    }
    Ok(())
}
