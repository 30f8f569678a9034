//! How a run's datasets were opened: found before the run, recorded in it, and opened again for a report.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::forms;
use crate::dataset::{Catalog, DataRoots, DatasetHub, FoundOnHub, OpenRequest};

/// The key of `run.json`'s environment for the sources of a run's datasets.
pub(super) const KEY: &str = "datasets";

/// How a run opened one of its datasets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    /// As a person typed it: `cifar10`, `./photos/val`, `mine=photos`, `me/photos`.
    pub given: String,
    /// The name that it was given, or that it has on the hub; absent where its path names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it lay, absolute; absent for a dataset of the catalog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The split that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// The columns of a table, where a person named them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_column: Option<String>,
    /// See `image_column`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// The sheet of `--labels`, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// The folders in which the catalog's datasets were looked for, absolute.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<PathBuf>,
}

impl Source {
    /// What `run.json` says of the dataset; `None` in runs of earlier versions.
    pub fn of_run(environment: &serde_json::Map<String, Value>, dataset: &str) -> Option<Self> {
        serde_json::from_value(environment.get(KEY)?.get(dataset)?.clone()).ok()
    }

    /// As it was opened, with the path absolute; `None` for a dataset of the catalog.
    pub fn text(&self) -> Option<String> {
        let path = self.path.as_ref()?;
        // A name is part of the samples' ids.
        Some(match &self.name {
            Some(name) => format!("{name}={}", path.display()),
            None => path.display().to_string(),
        })
    }
}

/// What `run.json` says of a dataset that was opened by `request`; `None` where its images are part of the program.
pub(super) fn recorded(catalog: &Catalog, roots: &DataRoots, given: &str, request: &OpenRequest) -> Option<Value> {
    if is_embedded(given) {
        return None;
    }
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let is_of_catalog = catalog.names().any(|name| name == request.text);
    let named = request.text.split_once('=').filter(|_| !Path::new(request.text).exists());
    let path = (!is_of_catalog).then(|| absolute(Path::new(named.map_or(request.text, |(_, path)| path))));
    let source = Source {
        given: given.to_owned(),
        name: named.map(|(name, _)| name.to_owned()),
        path,
        split: request.split.map(str::to_owned),
        image_column: request.image_column.map(str::to_owned),
        label_column: request.label_column.map(str::to_owned),
        labels: request.labels_file.map(absolute),
        data: if is_of_catalog { roots.folders().map(absolute).collect() } else { Vec::new() },
    };
    serde_json::to_value(source).ok()
}

/// Names on the hub become paths in its cache; names of the catalog and what lies here stay as they are.
pub(super) fn found(catalog: &Catalog, hub: &DatasetHub<'_>, given: &str, split: Option<&str>) -> Result<FoundOnHub> {
    let here = || FoundOnHub { text: given.to_owned(), split: split.map(str::to_owned), chosen_of: Vec::new() };
    if catalog.names().any(|name| name == given) {
        return Ok(here());
    }
    let found = hub.find(given, split)?;
    Ok(found.map_or_else(here, |found| FoundOnHub { split: found.split.or_else(|| split.map(str::to_owned)), ..found }))
}

/// Whether the images of the dataset of this name are part of the program.
pub(super) fn is_embedded(name: &str) -> bool {
    name.starts_with("embedded/")
}

/// Refuses those of `flags` that were typed where all datasets are part of the program: they say how others are found and read.
pub(super) fn refuse_flags_of_files<'n>(names: impl IntoIterator<Item = &'n str>, flags: &[&str]) -> Result<()> {
    let names: Vec<&str> = names.into_iter().collect();
    if names.is_empty() || !names.iter().all(|name| is_embedded(name)) {
        return Ok(());
    }
    match flags.iter().find(|flag| forms::was_typed(flag)) {
        Some(flag) => {
            bail!(
                "--{flag} has no effect on {}, whose images are part of the program; hint: leave it out",
                names.join(", ")
            )
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
