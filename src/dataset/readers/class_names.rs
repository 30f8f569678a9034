//! The names of classes whose samples carry only numbers, as published next to the data.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{front_matter, read_data_file};
use crate::dataset::labels;
use crate::domain::text;

/// The number of folders above the data in which a dataset card may be: `card/config/split/shard`.
const N_FOLDERS_UP: usize = 3;

/// The labels of all samples, as stored; `None` if a sample has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RawLabels {
    /// Class numbers.
    Numbers(Vec<Option<i64>>),
    /// Class names.
    Texts(Vec<Option<String>>),
}

/// The classes, and the class of each sample; `None` if a sample has no label.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::dataset) struct Classified {
    pub(in crate::dataset) keys: Vec<String>,
    pub(in crate::dataset) classes: Vec<Option<usize>>,
    /// Whether the classes are numbers without names.
    pub(in crate::dataset) has_numbers_for_names: bool,
}

impl RawLabels {
    /// Texts that differ only in surrounding spaces are equal.
    pub(super) fn of_texts(texts: impl Iterator<Item = Option<String>>) -> Self {
        let trimmed = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        Self::Texts(texts.map(|text| text.and_then(trimmed)).collect())
    }

    /// The number of samples.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Texts(texts) => texts.len(),
        }
    }

    /// Adds the labels of the next file.
    pub(super) fn extend(&mut self, more: Self) -> anyhow::Result<()> {
        match (self, more) {
            (Self::Numbers(all), Self::Numbers(more)) => all.extend(more),
            (Self::Texts(all), Self::Texts(more)) => all.extend(more),
            _ => bail!("its labels have a different type than the first file's"),
        }
        Ok(())
    }

    /// Finds the class of each sample.
    ///
    /// `names` are the classes in order, if known; otherwise the sheet of `--labels` names numbers. Texts, and numbers
    /// without names, are their own names, in byte order. `describe` names a sample.
    pub(super) fn classify(
        self,
        names: Option<Vec<String>>,
        sheet: Option<&Path>,
        describe: &dyn Fn(usize) -> String,
    ) -> anyhow::Result<Classified> {
        match (self, names, sheet) {
            (RawLabels::Numbers(numbers), Some(keys), _) => number_classes(&numbers, keys, describe),
            (RawLabels::Numbers(numbers), None, Some(sheet)) => {
                let n_classes = labels::count_in_sheet(sheet)?;
                number_classes(&numbers, (0..n_classes).map(|number| number.to_string()).collect(), describe)
            }
            (RawLabels::Numbers(numbers), None, None) => {
                if let Some(row) = numbers.iter().position(|number| number.is_some_and(|number| number < 0)) {
                    let number = numbers[row].unwrap_or_default();
                    bail!("{} has the label {number}, which is not a class{}", describe(row), mend_of(number));
                }
                // As a CSV sheet has them.
                let texts = numbers.iter().map(|number| number.map(|number| number.to_string()));
                let classified = RawLabels::of_texts(texts).classify(None, None, describe)?;
                Ok(Classified { has_numbers_for_names: true, ..classified })
            }
            (RawLabels::Texts(texts), names, _) => {
                let distinct: BTreeSet<&String> = texts.iter().flatten().collect();
                let known = names.filter(|names| distinct.iter().all(|text| names.contains(text)));
                let keys = known.unwrap_or_else(|| distinct.into_iter().cloned().collect());
                let finder = labels::ClassFinder::of_keys(&keys);
                let class = |text: &Option<String>| {
                    text.as_ref().map(|text| finder.find(text).context("a label is not a class")).transpose()
                };
                let classes = texts.iter().map(class).collect::<anyhow::Result<_>>()?;
                Ok(Classified { keys, classes, has_numbers_for_names: false })
            }
        }
    }
}

/// Returns the hint for a number that is not a class.
fn mend_of(number: i64) -> &'static str {
    if number == -1 { "; hint: -1 marks a split without labels, choose another one with --split" } else { "" }
}

/// Returns a note on classes that are called by their numbers.
pub(in crate::dataset) fn note_of_numbers(keys: &[String]) -> String {
    format!(
        "its labels are numbers without names, so its classes are named by number: {}; hint: --labels FILE with one \
         name per line, in the order of the numbers, or README.md with dataset_info, dataset_infos.json or \
         classnames.txt next to it",
        labels::shorten(keys)
    )
}

fn number_classes(
    numbers: &[Option<i64>],
    keys: Vec<String>,
    describe: &dyn Fn(usize) -> String,
) -> anyhow::Result<Classified> {
    let class = |(index, number): (usize, &Option<i64>)| {
        let Some(number) = *number else { return Ok(None) };
        let class = usize::try_from(number).ok().filter(|&class| class < keys.len());
        class.map(Some).with_context(|| {
            let (of, n, mend) = (describe(index), keys.len(), mend_of(number));
            format!("{of} has the label {number}, and there are {n} classes, from 0{mend}")
        })
    };
    let classes = numbers.iter().enumerate().map(class).collect::<anyhow::Result<Vec<Option<usize>>>>()?;
    Ok(Classified { keys, classes, has_numbers_for_names: false })
}

/// Returns the class number that was written as a floating-point number.
pub(super) fn whole(number: f64) -> anyhow::Result<i64> {
    ensure!(
        number.fract() == 0.0 && number.abs() < 9e15,
        "the label {number} is not a whole number; hint: --label-column NAME names another column"
    );
    // A whole number below 2^53, as checked above.
    Ok(number as i64)
}

/// Returns the class names of a tabular split, whose files agree on `names` of `column`: the files' own, otherwise
/// those of the card next to them, otherwise those of `sheet`.
pub(super) fn classify_table(
    all: RawLabels,
    names: Option<Vec<String>>,
    column: &str,
    first: &Path,
    sheet: Option<&Path>,
    describe: &dyn Fn(usize) -> String,
) -> anyhow::Result<Classified> {
    let names = match (names, &all) {
        (None, RawLabels::Numbers(_)) => {
            match beside(first.parent().unwrap_or(Path::new(".")), column) {
                // The user's sheet replaces an unreadable card.
                Err(_) if sheet.is_some() => None,
                found => found?,
            }
        }
        (names, _) => names,
    };
    ensure!(all.len() > 0, "`{}` has no row", first.display());
    let classified = all.classify(names, sheet, describe)?;
    ensure!(
        classified.classes.iter().any(Option::is_some),
        "no row has a `{column}`; hint: --label-column NAME names another column"
    );
    Ok(classified)
}

/// Returns the names of a ClassLabel `column` in `datasets`' features in a file's metadata (`{"info": {"features":
/// …}}`).
pub(super) fn in_metadata(text: &str, column: &str) -> Option<Vec<String>> {
    let metadata: Value = serde_json::from_str(text).ok()?;
    in_features(&metadata["info"]["features"], column)
}

/// Returns the only ClassLabel column of the features in a file's metadata.
pub(super) fn only_class_label(text: &str) -> Option<String> {
    let metadata: Value = serde_json::from_str(text).ok()?;
    only_class_label_of(&metadata["info"]["features"])
}

/// Returns the only ClassLabel column of some features.
pub(super) fn only_class_label_of(features: &Value) -> Option<String> {
    let features = features.as_object()?;
    let is_class_label = |feature: &Value| element_of(feature)["_type"] == "ClassLabel";
    let mut columns = features.iter().filter(|(_, feature)| is_class_label(feature)).map(|(name, _)| name);
    let only = columns.next().cloned();
    only.filter(|_| columns.next().is_none())
}

/// Returns the names of a ClassLabel `column` in some features.
pub(super) fn in_features(features: &Value, column: &str) -> Option<Vec<String>> {
    texts(element_of(&features[column])["names"].as_array()?)
}

/// Returns the feature of a list's elements, which `datasets` has written in two forms; any other feature is returned
/// itself.
fn element_of(feature: &Value) -> &Value {
    match feature {
        Value::Array(elements) if elements.len() == 1 => &elements[0],
        _ if feature["feature"].is_object() => &feature["feature"],
        _ => feature,
    }
}

fn texts(values: &[Value]) -> Option<Vec<String>> {
    values.iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>().filter(|it| !it.is_empty())
}

/// Returns the names of `column` in the dataset card (`README.md`) or `dataset_infos.json` next to the data or above
/// it.
pub(super) fn beside(data: &Path, column: &str) -> anyhow::Result<Option<Vec<String>>> {
    for folder in data.ancestors().take(N_FOLDERS_UP) {
        for (file, find) in [("README.md", in_card as FindConfigs), ("dataset_infos.json", in_infos)] {
            let path = folder.join(file);
            if !path.is_file() {
                continue;
            }
            let bytes = read_data_file(&path)?;
            let configs = find(&String::from_utf8_lossy(text::without_mark(&bytes)), column)
                .with_context(|| format!("failed to read `{}`", path.display()))?;
            let chosen = choose(configs, data, &path, column)?;
            if chosen.is_some() {
                return Ok(chosen);
            }
        }
    }
    Ok(None)
}

/// Finds in a file's text the configurations with names for the column.
type FindConfigs = fn(&str, &str) -> anyhow::Result<Vec<(String, Vec<String>)>>;

/// Chooses, among several different configurations, the one named in the path of the data.
fn choose(
    configs: Vec<(String, Vec<String>)>,
    folder: &Path,
    file: &Path,
    column: &str,
) -> anyhow::Result<Option<Vec<String>>> {
    let Some((_, first)) = configs.first() else { return Ok(None) };
    if configs.iter().all(|(_, names)| names == first) {
        return Ok(Some(first.clone()));
    }
    let is_in_path = |config: &String| folder.iter().any(|part| part.to_str() == Some(config));
    let all: Vec<String> = configs.iter().map(|(config, _)| config.clone()).collect();
    let named = configs.into_iter().find(|(config, _)| is_in_path(config)).map(|(_, names)| names);
    named.map(Some).with_context(|| {
        format!(
            "`{}` has several configurations that name the classes of `{column}` differently: {}; hint: --labels \
             FILE with one name per line, in the order of the numbers",
            file.display(),
            labels::shorten(&all)
        )
    })
}

fn in_infos(text: &str, column: &str) -> anyhow::Result<Vec<(String, Vec<String>)>> {
    let infos: Value = serde_json::from_str(text)?;
    let configs = infos.as_object().into_iter().flatten();
    Ok(configs.filter_map(|(config, info)| Some((config.clone(), in_features(&info["features"], column)?))).collect())
}

fn in_card(text: &str, column: &str) -> anyhow::Result<Vec<(String, Vec<String>)>> {
    let Some(card) = front_matter::parse(text)? else { return Ok(Vec::new()) };
    let infos = match &card["dataset_info"] {
        Value::Array(infos) => infos.as_slice(),
        info => std::slice::from_ref(info),
    };
    let mut found = Vec::new();
    for info in infos {
        let features = info["features"].as_array().map_or(&[][..], Vec::as_slice);
        let Some(feature) = features.iter().find(|feature| feature["name"] == column) else { continue };
        let names = match &feature["dtype"]["class_label"]["names"] {
            Value::Array(names) => texts(names),
            Value::Object(names) => in_order(names),
            _ => None,
        };
        let config = info["config_name"].as_str().unwrap_or("default").to_owned();
        found.extend(names.map(|names| (config, names)));
    }
    Ok(found)
}

/// Returns the names of `{"0": "cat", "1": "dog"}` in numeric order, if no number is missing.
fn in_order(names: &serde_json::Map<String, Value>) -> Option<Vec<String>> {
    (0..names.len()).map(|number| names.get(&number.to_string())?.as_str().map(str::to_owned)).collect()
}

/// Reads CLIP benchmark's `classnames.txt`, one name per line in numeric order, next to the shards or one folder above.
pub(super) fn in_classnames(folder: &Path) -> anyhow::Result<Option<Vec<String>>> {
    for folder in folder.ancestors().take(2) {
        let path = folder.join("classnames.txt");
        if path.is_file() {
            let bytes = read_data_file(&path)?;
            let text = text::decode(&bytes).with_context(|| format!("failed to read `{}`", path.display()))?;
            let names: Vec<String> =
                text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
            ensure!(!names.is_empty(), "`{}` names no class", path.display());
            return Ok(Some(names));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
