//! `datasets.toml`: what is known about datasets without reading the disk.
#![expect(clippy::disallowed_methods, reason = "reads a catalog that a person named")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::labels;
use super::readers::{READERS, Reader};
use crate::assets::catalog::DATASETS_TOML;
use crate::domain::{AnswerType, LabelSet, nearest, text};

/// The datasets that can be named on the command line.
#[derive(Clone, Debug)]
pub struct Catalog {
    pub(super) sample_seed: u64,
    pub(super) entries: Vec<Entry>,
    pub(super) origin: String,
}

/// One dataset of the catalog.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) labels: LabelSet,
    pub(super) wire: WireDataset,
}

impl Catalog {
    /// Returns the catalog that is compiled into the binary.
    pub fn embedded() -> Catalog {
        Self::parse(DATASETS_TOML, "the embedded datasets.toml").expect("a test parses the embedded catalog")
    }

    /// Reads the user's own catalog (`--datasets-file`), which replaces the embedded one.
    pub fn from_file(path: &Path) -> anyhow::Result<Catalog> {
        let place = || format!("failed to read the catalog `{}`", path.display());
        let bytes = std::fs::read(path).with_context(place)?;
        Self::parse(text::decode(&bytes).with_context(place)?, &path.display().to_string())
    }

    /// Parses and checks a catalog; `origin` names it in errors.
    pub(super) fn parse(text: &str, origin: &str) -> anyhow::Result<Catalog> {
        let wire: WireCatalog =
            toml::from_str(text).with_context(|| format!("failed to read the catalog `{origin}`"))?;
        let mut datasets = wire.dataset;
        for subset in wire.subset {
            datasets.push(subset.of_dataset(&datasets).with_context(|| format!("in the catalog `{origin}`"))?);
        }
        let mut entries: Vec<Entry> = Vec::new();
        for dataset in datasets {
            let name = dataset.name.clone();
            ensure!(
                !entries.iter().any(|other| other.name == name),
                "the catalog `{origin}` names the dataset `{name}` twice"
            );
            let entry = Entry::check(dataset)
                .with_context(|| format!("the catalog `{origin}` has an error in the dataset `{name}`"))?;
            entries.push(entry);
        }
        ensure!(!entries.is_empty(), "the catalog `{origin}` names no dataset");
        Ok(Catalog { sample_seed: wire.sample_seed, entries, origin: origin.to_owned() })
    }

    /// Returns the names of all datasets in the catalog's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// Returns the seed of the order of samples, both for datasets of the catalog and for those given by path.
    pub fn sample_seed(&self) -> u64 {
        self.sample_seed
    }

    /// Returns the labels of the dataset `name`, as for `--tuned-on`; nothing needs to be on disk.
    pub fn labels_of(&self, name: &str) -> anyhow::Result<&LabelSet> {
        Ok(&self.entry(name)?.labels)
    }

    /// Returns the dataset `name`, or an error that lists the known names.
    pub(super) fn entry(&self, name: &str) -> anyhow::Result<&Entry> {
        self.entries.iter().find(|entry| entry.name == name).with_context(|| {
            let names: Vec<&str> = self.names().collect();
            let mend = match nearest(name, &names) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("a folder of class folders is used by its path, as in ./{name}"),
            };
            format!("unknown dataset `{name}`: {} knows {}; hint: {mend}", self.origin, names.join(", "))
        })
    }
}

impl Entry {
    fn check(wire: WireDataset) -> anyhow::Result<Entry> {
        ensure!(!wire.name.is_empty() && !wire.name.contains(['=', '\\']), "a name must not be empty or contain `=`");
        ensure!(
            !wire.name.split('/').any(|part| matches!(part, "" | "." | "..")),
            "the name `{}` has an empty part or `..`",
            wire.name
        );
        for template in std::iter::once(&wire.caption_template).chain(&wire.caption_ensemble) {
            ensure!(template.contains("{}"), "the caption `{template}` lacks `{{}}`, the placeholder of the label");
        }
        if !wire.splits.contains_key(&wire.default_split) {
            bail!("default_split `{}` is not among its splits", wire.default_split);
        }
        let labels = labels::from_catalog(&wire)?;
        for file in &wire.files {
            super::fetch::check_file(file)?;
        }
        Ok(Entry { name: wire.name.clone(), labels, wire })
    }

    /// Whether the images of a split are compiled into the program.
    pub(super) fn is_embedded(&self, split: &str) -> bool {
        let is_embedded = |split: &WireSplit| split.alternatives.iter().any(|a| a.reader.is_built_in);
        self.wire.splits.get(split).is_some_and(is_embedded)
    }

    /// Returns the requested split, or the default one.
    pub(super) fn split<'a>(&'a self, asked: Option<&'a str>) -> anyhow::Result<(&'a str, &'a WireSplit)> {
        let name = asked.unwrap_or(&self.wire.default_split);
        let split = self.wire.splits.get(name).with_context(|| {
            let names: Vec<&str> = self.wire.splits.keys().map(String::as_str).collect();
            format!("the dataset `{}` has no split `{name}`; hint: it has {}", self.name, names.join(", "))
        })?;
        Ok((name, split))
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireCatalog {
    #[serde(default = "default_sample_seed")]
    sample_seed: u64,
    dataset: Vec<WireDataset>,
    #[serde(default)]
    subset: Vec<WireSubset>,
}

/// Returns the embedded catalog's value, so that a user's own catalog keeps the order by default.
fn default_sample_seed() -> u64 {
    230_910_313
}

/// One `[[dataset]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireDataset {
    pub(super) name: String,
    pub(super) answer_type: AnswerType,
    pub(super) noun: String,
    pub(super) caption_template: String,
    #[serde(default)]
    pub(super) caption_ensemble: Vec<String>,
    pub(super) licence: String,
    pub(super) may_redistribute: bool,
    pub(super) source: String,
    pub(super) default_split: String,
    #[serde(default)]
    pub(super) evaluated_by_default: bool,
    #[serde(default)]
    pub(super) labels: Vec<String>,
    #[serde(default)]
    pub(super) wordnet_ids: Option<WordnetIds>,
    #[serde(default)]
    pub(super) aliases: BTreeMap<String, Vec<String>>,
    pub(super) splits: BTreeMap<String, WireSplit>,
    #[serde(default)]
    pub(super) checksums: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) files: Vec<WireFile>,
}

/// One `[[subset]]` table: other splits of a dataset, under their own name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSubset {
    name: String,
    of: String,
    splits: BTreeMap<String, WireSplit>,
}

impl WireSubset {
    /// Returns the dataset with the subset's name and splits; everything else is as in the dataset that it is `of`.
    fn of_dataset(self, datasets: &[WireDataset]) -> anyhow::Result<WireDataset> {
        let whole = datasets.iter().find(|dataset| dataset.name == self.of).with_context(|| {
            format!("the subset `{}` is `of` `{}`, which is not a dataset of the catalog", self.name, self.of)
        })?;
        Ok(WireDataset {
            name: self.name,
            splits: self.splits,
            evaluated_by_default: false,
            checksums: BTreeMap::new(),
            files: Vec::new(),
            // Its images are already compiled into the program.
            may_redistribute: true,
            ..whole.clone()
        })
    }
}

/// The classes of ImageNet.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum WordnetIds {
    /// `"all"`.
    Word(String),
    /// A list.
    List(Vec<String>),
}

/// One split with its possible places.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireSplit {
    #[serde(default)]
    pub(super) n_samples: Option<usize>,
    pub(super) alternatives: Vec<Alternative>,
}

/// A place below a data root, and the reader for it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Alternative {
    #[serde(deserialize_with = "reader")]
    pub(super) reader: &'static Reader,
    #[serde(default)]
    pub(super) folder: String,
    pub(super) files: Vec<String>,
    #[serde(default)]
    pub(super) label_bytes: Option<usize>,
    #[serde(default)]
    pub(super) inside: Option<String>,
    #[serde(default)]
    pub(super) all_classes: bool,
    #[serde(default)]
    pub(super) path_column: Option<String>,
    #[serde(default)]
    pub(super) label_column: Option<String>,
    #[serde(default)]
    pub(super) images: Option<String>,
}

/// Returns the reader of this name.
fn reader<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<&'static Reader, D::Error> {
    let name = String::deserialize(deserializer)?;
    READERS.into_iter().find(|reader| reader.name == name).ok_or_else(|| {
        let known: Vec<String> = READERS.iter().map(|reader| format!("`{}`", reader.name)).collect();
        serde::de::Error::custom(format!("unknown reader `{name}`, expected one of {}", known.join(", ")))
    })
}

/// One file to download.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireFile {
    pub(super) url: String,
    pub(super) folder: PathBuf,
    #[serde(default)]
    pub(super) md5: Option<String>,
    #[serde(default)]
    pub(super) sha256: Option<String>,
    #[serde(default)]
    pub(super) unpack: bool,
    #[serde(default)]
    pub(super) splits: Vec<String>,
}

#[cfg(test)]
mod tests;
