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
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_embedded_catalog_knows_the_papers_datasets_first() {
        let catalog = Catalog::embedded();
        let names: Vec<&str> = catalog.names().collect();
        assert_eq!(names[..4], ["mnist", "cifar10", "cifar100", "miniimagenet"]);
        let n_classes: Vec<usize> = catalog.entries.iter().map(|entry| entry.labels.len()).collect();
        assert_eq!(n_classes, [10, 10, 100, 100, 200, 1000, 10, 10, 100, 10, 10, 100]);
    }

    #[test]
    fn every_default_split_is_held_out() {
        for entry in Catalog::embedded().entries {
            assert_ne!(entry.wire.default_split, "train", "{}", entry.name);
        }
    }

    #[test]
    fn an_unknown_dataset_is_answered_with_the_known_names() {
        let error = Catalog::embedded().labels_of("cifar11").unwrap_err().to_string();
        assert!(error.contains("unknown dataset `cifar11`") && error.contains("cifar100"), "{error}");
        assert!(error.contains("did you mean `cifar10`?"), "{error}");
        let error = Catalog::embedded().labels_of("photos").unwrap_err().to_string();
        assert!(!error.contains("did you mean") && error.contains("./photos"), "{error}");
    }

    #[test]
    fn a_subset_has_the_labels_and_words_of_its_dataset() {
        let catalog = Catalog::embedded();
        for name in ["mnist", "cifar10", "cifar100"] {
            let (whole, part) = (catalog.entry(name).unwrap(), catalog.entry(&format!("embedded/{name}")).unwrap());
            assert_eq!(whole.labels, part.labels);
            assert_eq!((&whole.wire.noun, &whole.wire.licence), (&part.wire.noun, &part.wire.licence));
            assert_eq!(whole.wire.caption_ensemble, part.wire.caption_ensemble);
            assert!(part.is_embedded("test") && part.is_embedded("train") && !whole.is_embedded("test"));
            assert!(!part.wire.evaluated_by_default);
        }
    }

    #[test]
    fn a_subset_of_nothing_is_refused() {
        let text = format!("{DATASETS_TOML}\n[[subset]]\nname = \"x\"\nof = \"cifar11\"\nsplits = {{}}\n");
        let error = format!("{:#}", Catalog::parse(&text, "mine").unwrap_err());
        assert!(error.contains("cifar11") && error.contains("mine"), "{error}");
    }

    #[test]
    fn no_alias_means_two_classes() {
        for entry in Catalog::embedded().entries {
            let mut owner: BTreeMap<String, &str> = BTreeMap::new();
            for label in entry.labels.labels() {
                for word in std::iter::once(&label.name).chain(&label.aliases) {
                    if let Some(other) = owner.insert(word.to_lowercase(), &label.name) {
                        panic!("{}: `{word}` means `{other}` and `{}`", entry.name, label.name);
                    }
                }
            }
        }
    }

    #[test]
    fn a_misspelt_key_is_named() {
        let error = format!("{:#}", Catalog::parse(&DATASETS_TOML.replace("noun =", "nuon ="), "mine").unwrap_err());
        assert!(error.contains("nuon") && error.contains("mine"), "{error}");
    }
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_damaged_catalog_is_a_catalog_or_an_error(
            place in 0..DATASETS_TOML.len(), len in 0..200usize, noise in "[-a-z0-9\"'{}=.,/\\[\\] \n]{0,12}",
        ) {
            let (mut start, mut end) = (place, (place + len).min(DATASETS_TOML.len()));
            while !DATASETS_TOML.is_char_boundary(start) { start -= 1; }
            while !DATASETS_TOML.is_char_boundary(end) { end += 1; }
            let text = format!("{}{noise}{}", &DATASETS_TOML[..start], &DATASETS_TOML[end..]);
            if let Ok(catalog) = Catalog::parse(&text, "mine") {
                for entry in catalog.entries {
                    prop_assert!(entry.split(None).is_ok());
                }
            }
            let _ = Catalog::parse(&noise, "mine");
        }
    }
}
