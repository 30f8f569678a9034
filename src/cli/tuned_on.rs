//! What a model was fine-tuned on, as people and adapters say it: `--tuned-on` and `emt.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use super::data::Places;
use super::{environment, sources};
use crate::dataset::{self, Catalog, DatasetHub, OpenRequest};
use crate::domain::{AnswerType, Label, LabelSet};
use crate::study::tuned_on::{BY_ADAPTER, BY_FLAG, LABELS, Part, strings};

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

#[cfg(test)]
mod tests;
