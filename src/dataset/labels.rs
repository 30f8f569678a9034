//! Label names: from the catalog, folder names, WordNet ids, or a sheet.
#![expect(clippy::disallowed_methods, reason = "reads a label sheet that a person named")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, bail, ensure};

use super::catalog::{WireDataset, WordnetIds};
use crate::assets::catalog::IMAGENET_NAMES;
use crate::domain::{AnswerType, Label, LabelSet, text};
use crate::taxonomy::{self, SharedName};

/// Returns the label set of a dataset of the catalog.
pub(super) fn from_catalog(wire: &WireDataset) -> anyhow::Result<LabelSet> {
    let mut labels = match (&wire.wordnet_ids, wire.labels.is_empty()) {
        (None, _) => wire.labels.iter().map(Label::named).collect::<Vec<_>>(),
        (Some(_), false) => bail!("it has both `labels` and `wordnet_ids`; hint: keep one of them"),
        (Some(WordnetIds::Word(word)), true) if word == "all" => {
            imagenet().keys().map(|id| wordnet_label(id)).collect::<Option<Vec<_>>>().unwrap_or_default()
        }
        (Some(WordnetIds::Word(word)), true) => bail!("wordnet_ids = \"{word}\" is neither a list nor \"all\""),
        (Some(WordnetIds::List(ids)), true) => ids
            .iter()
            .map(|id| wordnet_label(id).with_context(|| format!("`{id}` is not a WordNet id of ImageNet-1k")))
            .collect::<anyhow::Result<Vec<_>>>()?,
    };
    for (name, aliases) in &wire.aliases {
        let label = labels
            .iter_mut()
            .find(|label| &label.name == name)
            .with_context(|| format!("`aliases` names `{name}`, which is not a label"))?;
        label.aliases.extend(aliases.iter().cloned());
    }
    label_set(labels, wire.answer_type)
}

/// Returns the label set of class folders (or of a sheet's labels): underscores become spaces, WordNet ids become
/// names.
pub(super) fn from_keys(keys: &[String]) -> anyhow::Result<LabelSet> {
    let of_key = |key: &String| Label { name: key.replace('_', " "), ..synonyms_of(key) };
    let labels = keys.iter().map(|key| wordnet_label(key).unwrap_or_else(|| of_key(key)));
    label_set(labels.collect(), AnswerType::Object)
}

/// Drops aliases that two classes share, because an answer must not mean both.
fn label_set(mut labels: Vec<Label>, answer_type: AnswerType) -> anyhow::Result<LabelSet> {
    let mut n_owners: HashMap<String, usize> = HashMap::new();
    for label in &labels {
        let words: HashSet<String> =
            std::iter::once(&label.name).chain(&label.aliases).map(|word| word.to_lowercase()).collect();
        #[expect(clippy::iter_over_hash_type, reason = "counting does not depend on the order")]
        for word in words {
            *n_owners.entry(word).or_default() += 1;
        }
    }
    for label in &mut labels {
        label.aliases.retain(|alias| n_owners.get(&alias.to_lowercase()) == Some(&1));
    }
    Ok(LabelSet::new(labels, answer_type)?)
}

/// The most shared names that are listed individually.
const N_SHARED_TOLD_MAX: usize = 5;

/// Returns warnings about names that several classes share.
pub(super) fn shared_name_warnings(labels: &LabelSet) -> Vec<String> {
    let shared = taxonomy::shared_names(labels);
    let name = |&label: &usize| format!("`{}` (class {label})", labels.labels()[label].name);
    let told = |shared: &SharedName| {
        format!(
            "{} share the name `{}`: it counts for each of them; hint: give them different names with --labels",
            shared.labels.iter().map(name).collect::<Vec<_>>().join(" and "),
            shared.name
        )
    };
    let mut warnings: Vec<String> = shared.iter().take(N_SHARED_TOLD_MAX).map(told).collect();
    if let Some(n_more @ 1..) = shared.len().checked_sub(N_SHARED_TOLD_MAX) {
        warnings.push(format!("{n_more} more names belong to several classes"));
    }
    warnings
}

/// Returns the label of an ImageNet-1k class: CLIP's name with WordNet's synonyms.
pub(super) fn wordnet_label(id: &str) -> Option<Label> {
    let (name, synonyms) = imagenet().get(id)?;
    let aliases = synonyms.split(';').filter(|synonym| !synonym.is_empty()).map(str::to_owned).collect();
    Some(Label { name: (*name).to_owned(), aliases, wordnet_id: Some(id.to_owned()) })
}

/// Returns the aliases of a class whose key lists several names of an ImageNet class, as the hub's ImageNet has them
/// (`tench, Tinca tinca`). The name is left to the caller.
fn synonyms_of(key: &str) -> Label {
    let words: Vec<&str> = key.split(", ").collect();
    // WordNet's list may be longer than the one stored here.
    let is_of = |(name, synonyms): &(&str, &str)| {
        let is_known = |word: &&&str| **word == *name || synonyms.split(';').any(|synonym| synonym == **word);
        2 * words.iter().filter(is_known).count() >= words.len()
    };
    let id = imagenet().iter().find(|(_, names)| words.len() > 1 && is_of(names)).map(|(id, _)| (*id).to_owned());
    let aliases = words.iter().filter(|_| id.is_some()).map(|&word| word.to_owned()).collect();
    Label { name: String::new(), aliases, wordnet_id: id }
}

fn imagenet() -> &'static BTreeMap<&'static str, (&'static str, &'static str)> {
    static TABLE: OnceLock<BTreeMap<&'static str, (&'static str, &'static str)>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let lines = IMAGENET_NAMES.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| {
                let mut cells = line.split('\t');
                Some((cells.next()?, (cells.next()?, cells.next().unwrap_or(""))))
            })
            .collect()
    })
}

/// Finds the class for a folder name or a sheet's cell.
pub(super) struct ClassFinder {
    index_by_key: HashMap<String, usize>,
}

impl ClassFinder {
    /// Finds a class by its name, with spaces or underscores, and by its WordNet id.
    pub(super) fn new(labels: &LabelSet) -> Self {
        let mut index_by_key = HashMap::new();
        for (index, label) in labels.labels().iter().enumerate() {
            index_by_key.insert(label.name.clone(), index);
            index_by_key.insert(label.name.replace(' ', "_"), index);
            index_by_key.extend(label.wordnet_id.iter().map(|id| (id.clone(), index)));
        }
        Self { index_by_key }
    }

    /// Finds classes by exactly `keys`, in this order.
    pub(super) fn of_keys(keys: &[String]) -> Self {
        Self { index_by_key: keys.iter().enumerate().map(|(index, key)| (key.clone(), index)).collect() }
    }

    pub(super) fn find(&self, key: &str) -> Option<usize> {
        self.index_by_key.get(key).copied()
    }
}

/// Reads `--labels FILE`: names (and aliases) for the classes `keys`, which are folder names or the catalog's names.
///
/// A `.csv` has the columns `class`, `name` and optionally `aliases` (separated by `;`), one row per class, in any
/// order. Any other file has one line per class, in the order of the classes: `name` or `name;alias;alias`.
pub(super) fn from_sheet(path: &Path, keys: &[String], answer_type: AnswerType) -> anyhow::Result<LabelSet> {
    let text = read_sheet(path)?;
    let is_csv = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let parsed = if is_csv { parse_csv_sheet(&text, keys) } else { parse_line_sheet(&text, keys) };
    parsed
        .and_then(|labels| label_set(labels, answer_type))
        .with_context(|| format!("the label sheet `{}` does not fit", path.display()))
}

fn read_sheet(path: &Path) -> anyhow::Result<String> {
    let place = || format!("failed to read the label sheet `{}`", path.display());
    let bytes = std::fs::read(path).with_context(place)?;
    Ok(text::decode(&bytes).with_context(place)?.to_owned())
}

/// Returns numeric classes in the order of a `--labels` sheet with one line per class, which is numeric from 0 on. A
/// sheet that names its classes may have any order and leaves `keys` unchanged.
pub(super) fn numbers_in_order(mut keys: Vec<String>, sheet: &Path) -> anyhow::Result<Vec<String>> {
    if sheet.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
        return Ok(keys);
    }
    keys.sort_by_key(|key| (key.len(), key.clone()));
    let n_classes = count_in_sheet(sheet)?;
    let is_below = |key: &String| key.parse::<usize>().is_ok_and(|number| number < n_classes);
    // A split may lack some of the classes.
    Ok(if keys.iter().all(is_below) { (0..n_classes).map(|number| number.to_string()).collect() } else { keys })
}

/// Returns the number of classes in a `--labels` sheet, if nothing else determines it.
pub(super) fn count_in_sheet(path: &Path) -> anyhow::Result<usize> {
    let text = read_sheet(path)?;
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
        return Ok(csv::Reader::from_reader(text.as_bytes()).records().count());
    }
    Ok(text.lines().filter(|line| !line.trim().is_empty()).count())
}

fn parse_line_sheet(text: &str, keys: &[String]) -> anyhow::Result<Vec<Label>> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    ensure!(
        lines.len() == keys.len(),
        "it has {} lines and the dataset has {} classes; hint: one line per class, in this order: {}",
        lines.len(),
        keys.len(),
        shorten(keys)
    );
    Ok(lines.iter().zip(keys).map(|(line, key)| sheet_label(key, line)).collect())
}

fn parse_csv_sheet(text: &str, keys: &[String]) -> anyhow::Result<Vec<Label>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers()?.clone();
    let column = |name: &str| header.iter().position(|cell| cell == name);
    let class_column = column("class").context("it lacks the column `class`")?;
    let name_column = column("name").context("it lacks the column `name`")?;
    let mut labels: HashMap<String, Label> = HashMap::new();
    for row in reader.records() {
        let row = row?;
        let class = row.get(class_column).unwrap_or("");
        ensure!(keys.iter().any(|key| key == class), "it names the class `{class}`, which the dataset lacks");
        let aliases = column("aliases").and_then(|index| row.get(index)).unwrap_or("");
        let line = format!("{};{aliases}", row.get(name_column).unwrap_or(""));
        ensure!(
            labels.insert(class.to_owned(), sheet_label(class, &line)).is_none(),
            "it names the class `{class}` twice"
        );
    }
    keys.iter().map(|key| labels.remove(key).with_context(|| format!("it lacks the class `{key}`"))).collect()
}

fn sheet_label(key: &str, line: &str) -> Label {
    let mut words = line.split(';').map(str::trim);
    let name = words.next().unwrap_or("").to_owned();
    let aliases = words.filter(|alias| !alias.is_empty() && *alias != name).map(str::to_owned).collect();
    Label { name, aliases, wordnet_id: imagenet().contains_key(key).then(|| key.to_owned()) }
}

/// Returns the first few of many keys, for a message.
pub(super) fn shorten(keys: &[String]) -> String {
    let shown = keys.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
    if keys.len() > 10 { format!("{shown}, … ({} in all)", keys.len()) } else { shown }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn wordnet_ids_become_clips_names_and_underscores_become_spaces() {
        let labels = from_keys(&keys(&["n01558993", "sports_car"])).unwrap();
        assert_eq!(labels.names().collect::<Vec<_>>(), ["American robin", "sports car"]);
        assert_eq!(labels.labels()[0].wordnet_id.as_deref(), Some("n01558993"));
    }

    #[test]
    fn a_class_that_is_called_by_all_its_synonyms_is_known_by_each() {
        let labels = from_keys(&keys(&["tench, Tinca tinca", "shirt, red", "maillot, tank suit", "maillot"])).unwrap();
        let aliases: Vec<Vec<&str>> =
            labels.labels().iter().map(|label| label.aliases.iter().map(String::as_str).collect()).collect();
        assert_eq!(labels.labels()[0].name, "tench, Tinca tinca");
        assert_eq!(aliases[..2], [vec!["tench", "Tinca tinca"], vec![]]);
        // `maillot` is the other class's name.
        assert_eq!(aliases[2..], [vec!["tank suit"], vec![]]);
    }

    #[test]
    fn all_thousand_names_differ() {
        assert_eq!(imagenet().len(), 1000);
        let all = imagenet().keys().map(|&id| id.to_owned()).collect::<Vec<_>>();
        assert_eq!(from_keys(&all).unwrap().len(), 1000);
    }

    #[test]
    fn a_sheet_may_list_the_classes_in_any_order() {
        let labels = parse_csv_sheet("class,name,aliases\nb,bee,honey bee;bumblebee\na,ant,\n", &keys(&["a", "b"]));
        let labels = labels.unwrap();
        assert_eq!((labels[0].name.as_str(), labels[1].name.as_str()), ("ant", "bee"));
        assert_eq!(labels[1].aliases, ["honey bee", "bumblebee"]);
    }

    #[test]
    fn a_sheet_that_lacks_a_class_is_refused() {
        let error = parse_csv_sheet("class,name\na,ant\n", &keys(&["a", "b"])).unwrap_err().to_string();
        assert!(error.contains("`b`"), "{error}");
        let error = parse_line_sheet("ant\n", &keys(&["a", "b"])).unwrap_err().to_string();
        assert!(error.contains("1 lines") && error.contains("a, b"), "{error}");
    }

    #[test]
    fn imagenets_names_of_the_hub_work_and_the_shared_ones_are_told() {
        let sheet = "crane\nmaillot\ncrane\nmaillot, tank suit\nCat\ncat \n";
        let labels = parse_line_sheet(sheet, &keys(&["a", "b", "c", "d", "e", "f"])).unwrap();
        let warnings = shared_name_warnings(&label_set(labels, AnswerType::Object).unwrap());
        let parts = [
            ["`crane` (class 0) and `crane` (class 2)", "`crane`"],
            ["`maillot` (class 1) and `maillot, tank suit` (class 3)", "`maillot`"],
            ["`Cat` (class 4) and `cat` (class 5)", "`cat`"],
        ];
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        for (warning, parts) in warnings.iter().zip(parts) {
            assert!(parts.iter().all(|part| warning.contains(part)), "{warning}");
        }
        let all = imagenet().keys().map(|&id| id.to_owned()).collect::<Vec<_>>();
        let warnings = shared_name_warnings(&from_keys(&all).unwrap());
        assert!(
            warnings.len() == 1 && warnings[0].contains("`sunglass` (class 836) and `sunglasses` (class 837)"),
            "{warnings:?}"
        );
    }

    #[test]
    fn an_alias_that_two_classes_share_belongs_to_neither() {
        let labels = parse_line_sheet("car;vehicle\ntruck;vehicle;lorry\n", &keys(&["a", "b"])).unwrap();
        let labels = label_set(labels, AnswerType::Object).unwrap();
        assert!(labels.labels()[0].aliases.is_empty());
        assert_eq!(labels.labels()[1].aliases, ["lorry"]);
    }

    proptest! {
        #[test]
        fn any_text_is_a_sheet_or_an_error(text in "[a-c,;\\n\" ]{0,60}", header: bool) {
            let keys = keys(&["a", "b"]);
            let text = if header { format!("class,name,aliases\n{text}") } else { text };
            for parsed in [parse_line_sheet(&text, &keys), parse_csv_sheet(&text, &keys)].into_iter().flatten() {
                prop_assert_eq!(parsed.len(), 2);
                let _ = label_set(parsed, AnswerType::Object);
            }
        }
    }
}
