//! Samples that a person names: a list of ids, or a table with a column `sample`, such as `lost.csv`.

use std::collections::{BTreeMap, BTreeSet};

/// Cell separators. Spreadsheets write semicolons in some locales.
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// What stands before a cell that a spreadsheet would read as a formula.
const MARK: char = '\'';

/// The samples that a file names, before it is known whether there are such samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleNames {
    file: String,
    names: Vec<SampleName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SampleName {
    /// From 1.
    line: usize,
    /// Where a table names it.
    dataset: Option<String>,
    id: String,
}

/// By dataset, samples by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleSet {
    by_dataset: BTreeMap<String, BTreeSet<String>>,
}

/// Why samples cannot be chosen by a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleNamesError {
    /// It has no line, or no row.
    #[error("`{file}` names no sample; hint: one id per line, or a table with a column `sample`")]
    Empty {
        /// The file.
        file: String,
    },
    /// A row without an id.
    #[error("in `{file}`, line {line}: the cell `sample` is empty; hint: fill it in, or leave the row out")]
    NoId {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
    },
    /// No dataset has the sample.
    #[error(
        "in `{file}`, line {line}: no dataset has the sample `{id}`; hint: one id per line, such as `{example}`, or a table \
         with a column `sample`"
    )]
    UnknownSample {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// What was named.
        id: String,
        /// An id that would be known.
        example: String,
    },
    /// The sample is of a dataset that is not at hand.
    #[error(
        "in `{file}`, line {line}: no dataset has the sample `{id}`, since `{dataset}` is not among {known}; hint: add it to \
         --datasets, or leave its lines out"
    )]
    UnknownDataset {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// What was named.
        id: String,
        /// Its dataset.
        dataset: String,
        /// The datasets at hand.
        known: String,
    },
    /// A dataset of which nothing is named.
    #[error("`{file}` names no sample of `{dataset}`; hint: leave it out with --datasets {others}")]
    NoneOf {
        /// The file.
        file: String,
        /// The dataset.
        dataset: String,
        /// Those of which samples are named.
        others: String,
    },
}

impl SampleNames {
    /// Reads the `text` of `file`. If its first row has a cell `sample` it is a table, whose cell `dataset` says where the
    /// sample is looked for. Otherwise each line is an id. Blank lines and lines that begin with `#` are passed over.
    ///
    /// # Errors
    /// It names no sample, or a row of a table has none.
    pub fn parse(file: &str, text: &str) -> Result<Self, SampleNamesError> {
        let names = match table(text) {
            Some(table) => named_in_rows(file, text, table)?,
            None => named_in_lines(text),
        };
        match names.is_empty() {
            true => Err(SampleNamesError::Empty { file: file.to_owned() }),
            false => Ok(Self { file: file.to_owned(), names }),
        }
    }

    /// Finds the named samples among `datasets`, each with the ids of its samples.
    ///
    /// # Errors
    /// No dataset has a named sample, or nothing of a dataset is named.
    pub fn among(&self, datasets: &[(&str, Vec<&str>)]) -> Result<SampleSet, SampleNamesError> {
        let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, name) in self.names.iter().enumerate() {
            places.entry(&name.id).or_default().push(place);
        }
        let mut is_found = vec![false; self.names.len()];
        let mut set = SampleSet::default();
        for (dataset, ids) in datasets {
            let named = set.by_dataset.entry((*dataset).to_owned()).or_default();
            for id in ids {
                for &place in places.get(id).into_iter().flatten() {
                    if self.names[place].dataset.as_deref().is_none_or(|name| name == *dataset) {
                        is_found[place] = true;
                        named.insert((*id).to_owned());
                    }
                }
            }
        }
        if let Some((name, _)) = self.names.iter().zip(is_found).find(|(_, is_found)| !is_found) {
            return Err(self.unknown(name, datasets));
        }
        if let Some((dataset, _)) = datasets.iter().find(|(dataset, _)| set.n_of(dataset) == 0) {
            let others = datasets.iter().map(|(name, _)| *name).filter(|name| set.n_of(name) > 0);
            return Err(SampleNamesError::NoneOf {
                file: self.file.clone(),
                dataset: (*dataset).to_owned(),
                others: others.collect::<Vec<_>>().join(","),
            });
        }
        Ok(set)
    }

    fn unknown(&self, name: &SampleName, datasets: &[(&str, Vec<&str>)]) -> SampleNamesError {
        let (file, line, id) = (self.file.clone(), name.line, name.id.clone());
        if let Some(dataset) = name.dataset.as_ref().filter(|name| datasets.iter().all(|(known, _)| known != name)) {
            let known: Vec<String> = datasets.iter().map(|(known, _)| format!("`{known}`")).collect();
            let (dataset, known) = (dataset.clone(), known.join(", "));
            return SampleNamesError::UnknownDataset { file, line, id, dataset, known };
        }
        let is_meant = |dataset: &str| id.strip_prefix(dataset).is_some_and(|rest| rest.starts_with('/'));
        let like = datasets.iter().find(|(dataset, _)| is_meant(dataset)).or(datasets.first());
        let example = like.and_then(|(_, ids)| ids.first()).copied().unwrap_or("mnist/test/00000").to_owned();
        SampleNamesError::UnknownSample { file, line, id, example }
    }
}

impl SampleSet {
    /// Whether `id` is one of the samples of `dataset`.
    pub fn contains(&self, dataset: &str, id: &str) -> bool {
        self.by_dataset.get(dataset).is_some_and(|ids| ids.contains(id))
    }

    /// The number of samples of `dataset`.
    pub fn n_of(&self, dataset: &str) -> usize {
        self.by_dataset.get(dataset).map_or(0, BTreeSet::len)
    }

    /// The number of samples of all datasets.
    pub fn n_samples(&self) -> usize {
        self.by_dataset.values().map(BTreeSet::len).sum()
    }
}

impl FromIterator<(String, BTreeSet<String>)> for SampleSet {
    fn from_iter<I: IntoIterator<Item = (String, BTreeSet<String>)>>(datasets: I) -> Self {
        Self { by_dataset: datasets.into_iter().collect() }
    }
}

fn named_in_lines(text: &str) -> Vec<SampleName> {
    let lines = (1..).zip(text.lines()).map(|(line, text)| (line, text.trim()));
    let ids = lines.filter(|(_, id)| !id.is_empty() && !id.starts_with('#'));
    ids.map(|(line, id)| SampleName { line, dataset: None, id: id.to_owned() }).collect()
}

/// A table whose header was read.
struct Table<'t> {
    reader: csv::Reader<&'t [u8]>,
    sample: usize,
    dataset: Option<usize>,
}

/// The table that `text` is; `None` where no separator makes its first row one with a cell `sample`.
fn table(text: &str) -> Option<Table<'_>> {
    SEPARATORS.into_iter().find_map(|separator| {
        let mut builder = csv::ReaderBuilder::new();
        // Rows that a spreadsheet left short or empty are told by what they lack.
        let builder = builder.delimiter(separator).comment(Some(b'#')).flexible(true);
        let mut reader = builder.from_reader(text.as_bytes());
        let header = reader.headers().ok()?;
        let column = |name: &str| header.iter().position(|cell| cell.trim().eq_ignore_ascii_case(name));
        let (sample, dataset) = (column("sample"), column("dataset"));
        Some(Table { reader, sample: sample?, dataset })
    })
}

fn named_in_rows(file: &str, text: &str, table: Table<'_>) -> Result<Vec<SampleName>, SampleNamesError> {
    let Table { mut reader, sample, dataset } = table;
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let mut names = Vec::new();
    // Of text, every row is readable.
    for row in reader.records().flatten() {
        let at = row.position().and_then(|position| usize::try_from(position.byte()).ok()).unwrap_or(0);
        let start = start_of_row(text, at);
        let line = 1 + ends.partition_point(|&end| end < start);
        let cell = |column: usize| row.get(column).map(unmarked).filter(|text| !text.trim().is_empty());
        match cell(sample) {
            Some(id) => names.push(SampleName {
                line,
                dataset: dataset.and_then(cell).map(|name| name.trim().to_owned()),
                id: id.to_owned(),
            }),
            // Spreadsheets leave rows of empty cells.
            None if row.iter().all(|cell| cell.trim().is_empty()) => {}
            None => return Err(SampleNamesError::NoId { file: file.to_owned(), line }),
        }
    }
    Ok(names)
}

/// Where the row begins that the reader found behind `at`, the end of the row before: it passes over blank lines and lines that
/// begin with `#`.
fn start_of_row(text: &str, mut at: usize) -> usize {
    while let Some(rest) = text.get(at..) {
        at += match rest.as_bytes().first() {
            Some(b'\n' | b'\r') => 1,
            Some(b'#') => rest.find('\n').unwrap_or(rest.len()),
            _ => break,
        };
    }
    at
}

/// The text of a cell, without the mark that our tables put before what begins like a formula.
fn unmarked(cell: &str) -> &str {
    let begins_like_a_formula = |text: &&str| text.trim_start().starts_with(['=', '+', '-', '@']);
    cell.strip_prefix(MARK).filter(begins_like_a_formula).unwrap_or(cell)
}

#[cfg(test)]
mod tests;
