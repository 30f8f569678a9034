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
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(usize, Option<String>, String)> {
        let names = SampleNames::parse("x", text).unwrap().names;
        names.into_iter().map(|name| (name.line, name.dataset, name.id)).collect()
    }

    fn named(line: usize, dataset: Option<&str>, id: &str) -> (usize, Option<String>, String) {
        (line, dataset.map(str::to_owned), id.to_owned())
    }

    fn datasets() -> [(&'static str, Vec<&'static str>); 2] {
        [("mnist", vec!["mnist/test/00000", "mnist/test/00001"]), ("photos", vec!["photos/all/a b.jpg"])]
    }

    #[test]
    fn a_list_has_one_id_per_line_beside_blank_lines_and_remarks() {
        let text = "# the hard ones\r\nmnist/test/00001\r\n\r\n  photos/all/a b.jpg  \n#mnist/test/00000";
        assert_eq!(parsed(text), [named(2, None, "mnist/test/00001"), named(4, None, "photos/all/a b.jpg")]);
    }

    #[test]
    fn a_table_is_read_by_its_header_whatever_separates_its_cells() {
        for separator in [",", ";", "\t", "|"] {
            let text =
                "run,dataset,sample,label\n\nlora,mnist,mnist/test/00001,3\n# no row\n,,,\nlora,,photos/all/a,5\n";
            let expected = [named(3, Some("mnist"), "mnist/test/00001"), named(6, None, "photos/all/a")];
            assert_eq!(parsed(&text.replace(',', separator)), expected, "{separator:?}");
            assert_eq!(parsed(&text.replace(',', separator).replace('\n', "\r\n")), expected, "{separator:?}");
        }
        assert_eq!(parsed("Sample\na/b\n"), [named(2, None, "a/b")]);
    }

    #[test]
    fn a_cell_of_several_lines_does_not_shift_the_lines_that_follow() {
        let text = "answer,sample\n\"one\ntwo\n# three\",a/1\nshort,a/2\n";
        assert_eq!(parsed(text), [named(2, None, "a/1"), named(5, None, "a/2")]);
    }

    #[test]
    fn the_mark_before_what_looks_like_a_formula_is_no_part_of_an_id() {
        assert_eq!(parsed("dataset,sample\n'=d,'=d/1\n"), [named(2, Some("=d"), "=d/1")]);
        assert_eq!(parsed("sample\n'd/1\n"), [named(2, None, "'d/1")]);
    }

    #[test]
    fn a_file_without_ids_and_a_row_without_one_are_refused() {
        for text in ["", "# nothing\n\n", "run,sample\n", "run,sample\n,\n"] {
            let error = SampleNames::parse("lost.csv", text).unwrap_err();
            assert_eq!(error, SampleNamesError::Empty { file: "lost.csv".to_owned() }, "{text:?}");
        }
        let error = SampleNames::parse("lost.csv", "run,sample\nlora,a\nlora,\n").unwrap_err();
        assert_eq!(error, SampleNamesError::NoId { file: "lost.csv".to_owned(), line: 3 });
    }

    #[test]
    fn named_samples_are_found_in_their_datasets() {
        let names = SampleNames::parse("x", "photos/all/a b.jpg\nmnist/test/00001\nmnist/test/00001\n").unwrap();
        let set = names.among(&datasets()).unwrap();
        assert_eq!((set.n_of("mnist"), set.n_of("photos"), set.n_samples()), (1, 1, 2));
        assert!(set.contains("mnist", "mnist/test/00001") && !set.contains("photos", "mnist/test/00001"));
    }

    #[test]
    fn what_no_dataset_has_is_refused_with_file_line_and_id() {
        let told = |text: &str| SampleNames::parse("x", text).unwrap().among(&datasets()).unwrap_err().to_string();
        let unknown = told("# mine\nmnist/test/00001\nphotos/test/00007\n");
        for part in ["in `x`, line 3", "`photos/test/00007`", "; hint: ", "such as `photos/all/a b.jpg`"] {
            assert!(unknown.contains(part), "{part}: {unknown}");
        }
        let elsewhere = told("dataset,sample\nphotos,mnist/test/00001\n");
        assert!(elsewhere.contains("line 2") && elsewhere.contains("no dataset has"), "{elsewhere}");
        let absent = told("dataset,sample\ncifar10,cifar10/test/00001\n");
        assert!(absent.contains("`cifar10` is not among `mnist`, `photos`; hint: add it to --datasets"), "{absent}");
        let nothing = told("mnist/test/00001\n");
        assert_eq!(nothing, "`x` names no sample of `photos`; hint: leave it out with --datasets mnist");
    }
}
