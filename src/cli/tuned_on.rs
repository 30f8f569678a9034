//! What a model was fine-tuned on, as people and adapters say it: `--tuned-on`, `run.json`, `emt.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use super::data::Places;
use super::{environment, sources};
use crate::compare;
use crate::dataset::{self, Catalog, DatasetHub, OpenRequest};
use crate::domain::{AnswerType, Label, LabelSet, RunSpec, Trial};
use crate::eval;

/// The key of `run.json`'s environment under which the datasets stand that the adapter itself names.
pub(super) const BY_ADAPTER: &str = "adapter_tuned_on";
/// The same of the datasets that `--tuned-on RUN:DATASET` named for this run alone.
pub(super) const BY_FLAG: &str = "tuned_on";
/// The same of the label sets of both, by dataset, as far as they were known when the run was made.
pub(super) const LABELS: &str = "tuned_on_labels";

/// One part of `--tuned-on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// The run that it is for, `None` of all.
    pub run: Option<usize>,
    /// The dataset, by name or path.
    pub dataset: &'a str,
}

/// The parts of `--tuned-on`: `DATASET`, or `RUN:DATASET` where RUN is one of `runs`.
pub(super) fn parts<'a>(list: Option<&'a str>, runs: &[&str]) -> Result<Vec<Part<'a>>> {
    let parts = list.into_iter().flat_map(|list| list.split(',')).map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let Some((run, dataset)) = part.split_once(':') else { return Ok(Part { run: None, dataset: part }) };
            match runs.iter().position(|known| *known == run) {
                Some(run) if !dataset.is_empty() => Ok(Part { run: Some(run), dataset }),
                _ if Path::new(part).exists() => Ok(Part { run: None, dataset: part }),
                _ => bail!(
                    "--tuned-on {part}: there is no candidate of that name; hint: RUN:DATASET, where RUN is one of {}",
                    runs.join(", ")
                ),
            }
        })
        .collect()
}

/// The labels of a dataset that `--tuned-on` names: of the catalog, of what lies at a path, or of what the hub's cache holds.
pub(super) fn labels_of(text: &str, places: &Places) -> Result<LabelSet> {
    let (catalog, roots) = (places.catalog()?, places.roots());
    let error = match catalog.labels_of(text) {
        Ok(labels) => return Ok(labels.clone()),
        Err(error) => error,
    };
    let hub = DatasetHub::new(environment::hub_cache(), None, |_| {});
    let found = sources::found(&catalog, &hub, text, None)?;
    if found.text == text && !Path::new(text).exists() && !text.contains('=') {
        return Err(error.context("--tuned-on names a dataset whose labels are not known"));
    }
    let request = OpenRequest { text: &found.text, split: found.split.as_deref(), ..OpenRequest::default() };
    Ok(dataset::open(&catalog, &roots, &request)?.description.labels)
}

/// What is known of the fine-tuning of the runs that a command makes.
pub(super) struct Planned {
    /// Of all runs, by dataset: it is a part of their specification.
    pub of_all: BTreeMap<String, LabelSet>,
    /// By run, what is said of it alone.
    of_runs: Vec<BTreeMap<String, LabelSet>>,
}

impl Planned {
    /// Reads `--tuned-on` for the runs of these names.
    pub fn new(list: Option<&str>, runs: &[&str], places: &Places) -> Result<Self> {
        let mut planned = Self { of_all: BTreeMap::new(), of_runs: vec![BTreeMap::new(); runs.len()] };
        for Part { run, dataset } in parts(list, runs)? {
            let into = match run {
                Some(run) => &mut planned.of_runs[run],
                None => &mut planned.of_all,
            };
            into.insert(dataset.to_owned(), labels_of(dataset, places)?);
        }
        Ok(planned)
    }

    /// The datasets that a person named for `run`.
    pub fn said(&self, run: usize) -> BTreeSet<String> {
        self.of_all.keys().chain(self.of_runs[run].keys()).cloned().collect()
    }

    /// The datasets of `run`: those that a person named, else those of the adapter's `emt.json`, which are `notes`.
    pub fn of_run(&self, run: usize, notes: Option<&Value>) -> BTreeSet<String> {
        let said = self.said(run);
        match said.is_empty() {
            true => strings(notes.and_then(|notes| notes.get("tuned_on"))).into_iter().collect(),
            false => said,
        }
    }

    /// What `run.json` of `run` records beside its specification; `notes` is the adapter's `emt.json`.
    pub fn environment(&self, run: usize, notes: Option<&Value>, places: &Places) -> Result<Map<String, Value>> {
        let catalog = places.catalog()?;
        let (mut fields, mut labels) = (Map::new(), self.of_runs[run].clone());
        let names = strings(notes.and_then(|notes| notes.get("tuned_on")));
        for name in &names {
            if let (false, Some(found)) = (labels.contains_key(name), of_adapter(notes, name, &catalog)) {
                labels.insert(name.clone(), found);
            }
        }
        if !names.is_empty() {
            fields.insert(BY_ADAPTER.into(), names.into());
        }
        if !self.of_runs[run].is_empty() {
            fields.insert(BY_FLAG.into(), self.of_runs[run].keys().cloned().collect::<Vec<_>>().into());
        }
        if !labels.is_empty() {
            fields.insert(LABELS.into(), serde_json::to_value(labels)?);
        }
        Ok(fields)
    }
}

/// The labels of a dataset that an adapter's `emt.json` names: the catalog has their aliases, too.
fn of_adapter(notes: Option<&Value>, name: &str, catalog: &Catalog) -> Option<LabelSet> {
    if let Ok(labels) = catalog.labels_of(name) {
        return Some(labels.clone());
    }
    let datasets = notes?.get("datasets")?.as_array()?;
    let found = datasets.iter().find(|dataset| dataset["dataset"] == name)?;
    let labels = strings(found.get("labels"));
    LabelSet::new(labels.into_iter().map(Label::named).collect(), AnswerType::Object).ok()
}

fn strings(list: Option<&Value>) -> Vec<String> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// The datasets that a recorded run was fine-tuned on: what a person said when it was evaluated, else what its adapter says.
pub(super) fn recorded(spec: &RunSpec, environment: &Map<String, Value>) -> BTreeSet<String> {
    let said = said_of(spec, environment);
    if said.is_empty() { strings(environment.get(BY_ADAPTER)).into_iter().collect() } else { said }
}

/// What a person said of it when it was evaluated.
pub(super) fn said_of(spec: &RunSpec, environment: &Map<String, Value>) -> BTreeSet<String> {
    spec.tuned_on.keys().cloned().chain(strings(environment.get(BY_FLAG))).collect()
}

/// The label set of the fine-tuned dataset `name` as a run knows it.
pub(super) fn labels_in(spec: &RunSpec, environment: &Map<String, Value>, name: &str) -> Option<LabelSet> {
    if let Some(recorded) = spec.tuned_on.get(name) {
        return Some(recorded.clone());
    }
    if let Some(dataset) = spec.datasets.iter().find(|dataset| dataset.dataset == name) {
        return LabelSet::new(dataset.labels.clone(), dataset.answer_type).ok();
    }
    serde_json::from_value(environment.get(LABELS)?.get(name)?.clone()).ok()
}

/// The label sets of all of `names`; `None` where one of them is not known, since leaks would be counted too few.
fn all_labels(spec: &RunSpec, environment: &Map<String, Value>) -> Option<BTreeMap<String, LabelSet>> {
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
pub(super) fn with_leaks(
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
pub(super) fn recode(spec: &RunSpec, trials: &mut [Trial], tuned_on: &BTreeMap<String, LabelSet>) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_for_all_runs_or_for_the_one_that_it_names() {
        let found = parts(Some("cifar10, two:mnist,"), &["one", "two"]).unwrap();
        assert_eq!(found, [Part { run: None, dataset: "cifar10" }, Part { run: Some(1), dataset: "mnist" }]);
        for slip in ["three:mnist", "one:"] {
            let message = parts(Some(slip), &["one", "two"]).unwrap_err().to_string();
            assert!(message.contains(slip) && message.contains("one, two"), "{message}");
        }
    }

    #[test]
    fn what_a_person_says_stands_in_place_of_what_the_adapter_says() {
        let planned = Planned::new(Some("two:cifar100"), &["one", "two"], &Places::default()).unwrap();
        let notes = serde_json::json!({
            "tuned_on": ["photos/train"],
            "datasets": [{"dataset": "photos/train", "labels": ["cat", "dog"]}],
        });
        let mut spec = spec();
        let effective = |run: usize, spec: &RunSpec| {
            let environment = planned.environment(run, Some(&notes), &Places::default()).unwrap();
            let labels = all_labels(spec, &environment).unwrap();
            labels.iter().map(|(name, labels)| (name.clone(), labels.len())).collect::<Vec<_>>()
        };
        assert_eq!(effective(0, &spec), [("photos/train".to_owned(), 2)], "the adapter's own labels");
        assert_eq!(effective(1, &spec), [("cifar100".to_owned(), 100)]);
        spec.tuned_on.insert("miniimagenet".into(), labels_of("miniimagenet", &Places::default()).unwrap());
        assert_eq!(effective(0, &spec), [("miniimagenet".to_owned(), 100)]);
        assert_eq!(effective(1, &spec).len(), 2);
        let unknown = serde_json::json!({"tuned_on": ["photos/train", "mnist"]});
        let environment = planned.environment(0, Some(&unknown), &Places::default()).unwrap();
        spec.tuned_on.clear();
        assert_eq!(all_labels(&spec, &environment), None, "leaks of the one are not all leaks");
    }

    fn spec() -> RunSpec {
        crate::compare::testing::spec(false)
    }
}
