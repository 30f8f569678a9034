//! What a run's model was fine-tuned on, as its files say it: `run.json`, and the adapter's `emt.json` that it records.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::{Map, Value};

use super::recorded_run::RecordedRun;
use crate::compare;
use crate::dataset::Catalog;
use crate::domain::{LabelSet, RunSpec, Trial};
use crate::eval;

/// The key of `run.json`'s environment under which the datasets stand that the adapter itself names.
pub const BY_ADAPTER: &str = "adapter_tuned_on";
/// The same of the datasets that `--tuned-on RUN:DATASET` named for this run alone.
pub const BY_FLAG: &str = "tuned_on";
/// The same of the label sets of both, by dataset, as far as they were known when the run was made.
pub const LABELS: &str = "tuned_on_labels";

/// A dataset that somebody says that models were fine-tuned on: a part of `--tuned-on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The run that it is for, `None` of all.
    pub run: Option<usize>,
    /// The dataset, by name or path.
    pub dataset: &'a str,
}

/// The texts of a list.
pub fn strings(list: Option<&Value>) -> Vec<String> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// The datasets that a recorded run was fine-tuned on: what a person said when it was evaluated, else what its adapter says.
pub fn recorded(spec: &RunSpec, environment: &Map<String, Value>) -> BTreeSet<String> {
    let said = said_of(spec, environment);
    if said.is_empty() { strings(environment.get(BY_ADAPTER)).into_iter().collect() } else { said }
}

/// What a person said of it when it was evaluated.
pub fn said_of(spec: &RunSpec, environment: &Map<String, Value>) -> BTreeSet<String> {
    spec.tuned_on.keys().cloned().chain(strings(environment.get(BY_FLAG))).collect()
}

/// The label set of the fine-tuned dataset `name` as a run knows it.
pub fn labels_in(spec: &RunSpec, environment: &Map<String, Value>, name: &str) -> Option<LabelSet> {
    if let Some(recorded) = spec.tuned_on.get(name) {
        return Some(recorded.clone());
    }
    if let Some(dataset) = spec.datasets.iter().find(|dataset| dataset.dataset == name) {
        return LabelSet::new(dataset.labels.clone(), dataset.answer_type).ok();
    }
    serde_json::from_value(environment.get(LABELS)?.get(name)?.clone()).ok()
}

/// The label sets of all of `names`; `None` where one of them is not known, since leaks would be counted too few.
pub fn all_labels(spec: &RunSpec, environment: &Map<String, Value>) -> Option<BTreeMap<String, LabelSet>> {
    let catalog = Catalog::embedded();
    recorded(spec, environment)
        .into_iter()
        .map(|name| {
            let found = labels_in(spec, environment, &name).or_else(|| catalog.labels_of(&name).ok().cloned())?;
            Some((name, found))
        })
        .collect()
}

/// A run with the leaks that its fine-tuning explains: the specification with their labels, and the trials with their codes.
/// `None` where that is what is recorded.
pub fn with_leaks(
    spec: &RunSpec,
    environment: &Map<String, Value>,
    trials: &[Trial],
) -> Result<Option<(RunSpec, Vec<Trial>)>> {
    let Some(labels) = all_labels(spec, environment).filter(|labels| labels != &spec.tuned_on) else { return Ok(None) };
    let mut trials = trials.to_vec();
    recode(spec, &mut trials, &labels)?;
    Ok(Some((RunSpec { tuned_on: labels, ..spec.clone() }, trials)))
}

/// Makes the codes of `trials` anew, with the fine-tuned labels `tuned_on` in place of those of `spec`.
pub fn recode(spec: &RunSpec, trials: &mut [Trial], tuned_on: &BTreeMap<String, LabelSet>) -> Result<()> {
    if &spec.tuned_on == tuned_on {
        return Ok(());
    }
    let mut spec = spec.clone();
    spec.tuned_on.clone_from(tuned_on);
    let judged = eval::judged_datasets(&spec)?;
    let places: BTreeMap<&str, usize> =
        spec.datasets.iter().enumerate().map(|(place, dataset)| (dataset.dataset.as_str(), place)).collect();
    compare::recode(trials, |name| {
        let judged = &judged[*places.get(name)?];
        Some((&judged.labels, &judged.grader))
    });
    Ok(())
}

/// By candidate, the datasets that it was fine-tuned on: those that `said` names for it and those that a person named when it
/// was evaluated; if there are none, those that its adapter names.
pub fn of_candidates(said: &[Part<'_>], candidates: &[RecordedRun]) -> Vec<BTreeSet<String>> {
    let of_candidate = |(index, run): (usize, &RecordedRun)| {
        let own = said.iter().filter(|part| part.run.is_none_or(|of| of == index));
        let named: BTreeSet<String> = own.map(|part| part.dataset.to_owned()).collect();
        match named.is_empty() {
            true => run.tuned_on(),
            false => named.into_iter().chain(said_of(&run.manifest.spec, &run.manifest.environment)).collect(),
        }
    };
    candidates.iter().enumerate().map(of_candidate).collect()
}
