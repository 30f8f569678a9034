//! Sheets of images and their labels: CSV, JSON lines, and Tiny ImageNet's annotations.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::files::{self, Source};
use super::reach::{Reach, portable_names, shared_folder};
use super::{Opened, Reader, read_data_file};
use crate::dataset::Orientation;
use crate::dataset::labels::ClassFinder;
use crate::domain::{LabelSet, text};

/// A CSV with a column of paths and one of labels.
pub(super) const READER: Reader = Reader {
    name: "manifest",
    is_of_encoded_images: true,
    is_built_in: false,
    open: |wanted| {
        let columns = Columns {
            image: Some(wanted.alternative.path_column.as_deref().unwrap_or("path")),
            label: Some(wanted.alternative.label_column.as_deref().unwrap_or("label")),
        };
        let rows = read_csv(wanted.path()?, columns, &Reach::within(wanted.folder))?;
        samples(wanted.folder, rows, &ClassFinder::new(wanted.labels), wanted.labels, wanted.orientation)
    },
};

/// Tiny ImageNet's annotations, with the images in a folder next to them.
pub(super) const TINY_IMAGENET: Reader = Reader {
    name: "tiny-imagenet",
    is_of_encoded_images: true,
    is_built_in: false,
    open: |wanted| {
        let images = wanted.alternative.images.as_deref().unwrap_or("images");
        let rows = read_tiny_imagenet(wanted.path()?, images)?;
        samples(wanted.folder, rows, &ClassFinder::new(wanted.labels), wanted.labels, wanted.orientation)
    },
};

/// The columns of a table's images and labels, if the user named them.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::dataset) struct Columns<'a> {
    /// `--image-column`.
    pub(in crate::dataset) image: Option<&'a str>,
    /// `--label-column`.
    pub(in crate::dataset) label: Option<&'a str>,
}

/// The rows of a sheet.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::dataset) struct Rows {
    /// Path and label, in the sheet's order; paths are relative to the sheet's folder, or absolute if they are outside.
    pub(in crate::dataset) rows: Vec<(String, String)>,
    /// Rows left out because they have no label.
    pub(in crate::dataset) n_without_label: usize,
}

/// Names of the path column; `file_name` is the name in the hub's `metadata.csv`.
pub(super) const PATH_COLUMNS: [&str; 5] = ["path", "file_name", "image", "filename", "image_path"];

/// Names of the image column on the hub.
pub(super) const IMAGE_COLUMNS: [&str; 3] = ["image", "img", "images"];

/// Names of the label column; of CIFAR-100's two the fine one.
pub(super) const LABEL_COLUMNS: [&str; 4] = ["label", "fine_label", "labels", "class"];

impl Columns<'_> {
    /// Finds the columns of paths and labels in `header`.
    fn find<'h>(&self, header: &[&'h str]) -> anyhow::Result<(&'h str, &'h str)> {
        let find = |asked: Option<&str>, known: &[&str], flag: &str| {
            let wanted: Vec<&str> = asked.map_or_else(|| known.to_vec(), |asked| vec![asked]);
            let found = wanted.iter().find_map(|name| header.iter().copied().find(|cell| cell == name));
            found.or_else(|| wanted.iter().find_map(|name| spelled(header, name))).with_context(|| {
                format!(
                    "it lacks the column `{}`; it has {}; hint: {flag} NAME names another one",
                    wanted[0],
                    header.join(", ")
                )
            })
        };
        Ok((find(self.image, &PATH_COLUMNS, "--image-column")?, find(self.label, &LABEL_COLUMNS, "--label-column")?))
    }
}

/// Finds the column of this name in `header`, otherwise the only one that differs just in case.
pub(super) fn spelled<'h>(header: &[&'h str], name: &str) -> Option<&'h str> {
    let exact = header.iter().copied().find(|cell| *cell == name);
    exact.or_else(|| {
        let mut alike = header.iter().copied().filter(|cell| cell.to_lowercase() == name.to_lowercase());
        let first = alike.next()?;
        alike.all(|other| other == first).then_some(first)
    })
}

/// Cell separators. If a comma does not separate the wanted columns, one of the others is tried.
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// Reads path and label from the columns of a CSV with a header.
pub(in crate::dataset) fn read_csv(csv: &Path, columns: Columns, reach: &Reach) -> anyhow::Result<Rows> {
    parse_csv(&read_data_file(csv)?, columns, reach)
        .with_context(|| format!("failed to read the sheet `{}`", csv.display()))
}

/// Returns a reader of the rows with the separator that the header uses, and the header.
fn csv_reader<'t>(text: &'t str, columns: Columns) -> anyhow::Result<(csv::Reader<&'t [u8]>, csv::StringRecord)> {
    let open = |separator: u8| {
        let mut builder = csv::ReaderBuilder::new();
        let mut reader = builder.delimiter(separator).trim(csv::Trim::All).from_reader(text.as_bytes());
        let header = reader.headers()?.clone();
        anyhow::Ok((reader, header))
    };
    let is_found = |header: &csv::StringRecord| columns.find(&header.iter().collect::<Vec<_>>()).is_ok();
    let mut first = None;
    for separator in SEPARATORS {
        let (reader, header) = open(separator)?;
        if is_found(&header) {
            return Ok((reader, header));
        }
        // The message names the columns of the first separator that splits the header.
        if first.as_ref().is_none_or(|(_, first): &(_, csv::StringRecord)| first.len() < 2 && header.len() > 1) {
            first = Some((reader, header));
        }
    }
    first.context("it has no header")
}

fn parse_csv(bytes: &[u8], columns: Columns, reach: &Reach) -> anyhow::Result<Rows> {
    let text = text::decode(bytes)?;
    ensure!(
        !text.trim().is_empty(),
        "it is empty; hint: a first row with the names of the columns, such as path,label"
    );
    let (mut reader, header) = csv_reader(text, columns)?;
    let cells: Vec<&str> = header.iter().collect();
    let (path, label) = columns.find(&cells)?;
    let index = |name: &str| cells.iter().position(|cell| *cell == name).unwrap_or(cells.len());
    let (path_index, label_index) = (index(path), index(label));
    let mut rows = Vec::new();
    for (number, row) in reader.records().enumerate() {
        let row = row?;
        let path =
            plain_path(row.get(path_index).unwrap_or(""), reach).with_context(|| format!("row {}", number + 1))?;
        rows.push((path, row.get(label_index).filter(|label| !label.is_empty()).map(str::to_owned)));
    }
    ensure!(!rows.is_empty(), "it has a header and no row");
    with_label(rows, label)
}

/// Reads path and label from JSON lines, `{"path": "a/1.png", "label": "cat"}`.
pub(in crate::dataset) fn read_json_lines(sheet: &Path, columns: Columns, reach: &Reach) -> anyhow::Result<Rows> {
    parse_json_lines(&read_data_file(sheet)?, columns, reach)
        .with_context(|| format!("failed to read the sheet `{}`", sheet.display()))
}

fn parse_json_lines(bytes: &[u8], columns: Columns, reach: &Reach) -> anyhow::Result<Rows> {
    let text = text::decode(bytes)?;
    let mut lines: Vec<(usize, Value)> = Vec::new();
    // The columns of all lines: a line may omit a null value.
    let mut header: Vec<String> = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let row: Value = serde_json::from_str(line).with_context(|| format!("line {number}: it is not JSON"))?;
        for name in row.as_object().with_context(|| format!("line {number}: it is not a JSON object"))?.keys() {
            if !header.contains(name) {
                header.push(name.clone());
            }
        }
        lines.push((number, row));
    }
    ensure!(!lines.is_empty(), "it has no line");
    let (path, label) = columns.find(&header.iter().map(String::as_str).collect::<Vec<_>>())?;
    let rows = lines.iter().map(|(number, row)| {
        let parsed = || {
            // Lines of different origins may use different names.
            let by_name =
                || PATH_COLUMNS.iter().filter(|_| columns.image.is_none()).find_map(|&name| row[name].as_str());
            let found = row[path].as_str().or_else(by_name);
            let path = found.with_context(|| format!("it has no text `{path}`, the path of the image"))?;
            anyhow::Ok((plain_path(path, reach)?, json_label(&row[label])?))
        };
        parsed().with_context(|| format!("line {number}"))
    });
    let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
    with_label(rows, label)
}

/// Returns `None` for null; a list of one label is that label.
fn json_label(value: &Value) -> anyhow::Result<Option<String>> {
    Ok(match value {
        Value::String(label) => Some(label.trim().to_owned()).filter(|label| !label.is_empty()),
        // As in a CSV: a number is the name of its class, such as a digit.
        Value::Number(number) if number.is_i64() => Some(number.to_string()),
        Value::Number(number) => {
            let whole = number.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 9e15);
            Some(whole.with_context(|| format!("the label `{number}` is neither text nor a whole number"))?.to_string())
        }
        Value::Bool(label) => Some(label.to_string()),
        Value::Null => None,
        Value::Array(labels) if labels.len() <= 1 => labels.first().map_or(Ok(None), json_label)?,
        Value::Array(labels) => bail!("it has {} labels, and a sample has one", labels.len()),
        other => bail!("the label `{other}` is neither text nor a whole number"),
    })
}

/// Drops rows without a label and counts them.
fn with_label(rows: Vec<(String, Option<String>)>, column: &str) -> anyhow::Result<Rows> {
    let n_rows = rows.len();
    let rows: Vec<(String, String)> = rows.into_iter().filter_map(|(path, label)| Some((path, label?))).collect();
    ensure!(!rows.is_empty(), "no row has a `{column}`; hint: --label-column NAME names another column");
    Ok(Rows { n_without_label: n_rows - rows.len(), rows })
}

/// Returns a warning about rows that were left out.
pub(in crate::dataset) fn warning_of_unlabelled(n_without_label: usize, n_rows: usize) -> Option<String> {
    (n_without_label > 0).then(|| format!("{n_without_label} of {n_rows} rows have no label and are left out"))
}

/// Reads Tiny ImageNet's `val_annotations.txt`: file, WordNet id and a box, tab-separated.
pub(in crate::dataset) fn read_tiny_imagenet(sheet: &Path, images: &str) -> anyhow::Result<Rows> {
    parse_annotations(&read_data_file(sheet)?, images)
        .with_context(|| format!("failed to read the sheet `{}`", sheet.display()))
}

fn parse_annotations(bytes: &[u8], images: &str) -> anyhow::Result<Rows> {
    let text = text::decode(bytes)?;
    let mut rows = Vec::new();
    for (number, line) in text.lines().filter(|line| !line.trim().is_empty()).enumerate() {
        let mut cells = line.split('\t');
        let (file, id) = (cells.next().unwrap_or(""), cells.next().unwrap_or("").trim());
        ensure!(!id.is_empty(), "line {} has no class", number + 1);
        check_inside(file).with_context(|| format!("line {}", number + 1))?;
        rows.push((format!("{images}/{file}"), id.to_owned()));
    }
    ensure!(!rows.is_empty(), "it has no line");
    Ok(Rows { rows, n_without_label: 0 })
}

/// Returns a path as a sheet has it, with `/`.
fn plain_path(path: &str, reach: &Reach) -> anyhow::Result<String> {
    reach.name(&path.replace('\\', "/"))
}

/// Checks that a path of the catalog's annotations is below the sheet's folder, so that ids are portable and a sheet
/// cannot name other files.
fn check_inside(path: &str) -> anyhow::Result<()> {
    let is_drive = path.as_bytes().get(1) == Some(&b':');
    ensure!(
        !path.is_empty() && !is_drive && !path.split('/').any(|part| matches!(part, "" | "." | "..")),
        "the path `{path}` is not a plain path below the sheet's folder"
    );
    Ok(())
}

/// Returns samples of the rows, in the sheet's order; every row's label must be a class.
pub(in crate::dataset) fn samples(
    folder: &Path,
    sheet: Rows,
    finder: &ClassFinder,
    labels: &LabelSet,
    orientation: Orientation,
) -> anyhow::Result<Opened> {
    let mut seen = std::collections::HashSet::new();
    let n_rows = sheet.rows.len() + sheet.n_without_label;
    let rows = sheet.rows.into_iter().map(|(path, label)| {
        ensure!(seen.insert(path.clone()), "the sheet names `{path}` twice");
        let class =
            finder.find(&label).with_context(|| format!("`{path}` has the label `{label}`, which is not a class"))?;
        Ok((path, class))
    });
    let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
    let mut opened = files::from_rows(Source::folder(folder), rows, labels, orientation)?;
    shorten_outside(&mut opened);
    opened.warnings.extend(warning_of_unlabelled(sheet.n_without_label, n_rows));
    Ok(opened)
}

/// Gives images outside the sheet's folder ids that do not depend on its location, and notes where they are.
fn shorten_outside(opened: &mut Opened) {
    let is_outside = |path: &&str| Path::new(path).is_absolute();
    let (outside, inside): (Vec<&str>, Vec<&str>) =
        opened.samples.iter().map(|(path, _)| path.as_str()).partition(is_outside);
    let Some(folder) = shared_folder(&outside) else { return };
    let note = format!("{} of its images are outside the table's folder, below `{folder}`", outside.len());
    let names = portable_names(&outside, &inside).map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>());
    opened.notes.push(note);
    let mut names = names.into_iter().flatten();
    for (end, _) in opened.samples.iter_mut().filter(|(path, _)| is_outside(&path.as_str())) {
        // If another file already has the shorter name, the whole path is the name.
        *end = names.next().unwrap_or_else(|| end.trim_start_matches('/').to_owned());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reach() -> Reach {
        Reach::of_table(Path::new("/data/pets.csv"))
    }

    #[test]
    fn columns_are_found_by_name_and_quotes_are_understood() {
        let rows = parse_csv(b"label,words,path\ncat,\"a, b\",x/1.png\n", Columns::default(), &reach()).unwrap();
        assert_eq!(rows.rows, [("x/1.png".to_owned(), "cat".to_owned())]);
        let error = parse_csv(b"file,label\n", Columns::default(), &reach()).unwrap_err().to_string();
        assert!(error.contains("lacks the column `path`") && error.contains("file, label"), "{error}");
    }

    #[test]
    fn a_sheet_called_metadata_cannot_name_files_outside_its_folder() {
        let metadata = Reach::of_table(Path::new("/data/metadata.csv"));
        for path in ["../x.png", "/etc/x.png", "a/../../x.png", "C:\\x.png", ""] {
            let sheet = format!("path,label\n{path},cat\n");
            assert!(parse_csv(sheet.as_bytes(), Columns::default(), &metadata).is_err(), "{path}");
        }
    }

    #[test]
    fn other_separators_and_capital_letters_are_understood() {
        let expected = [("1.png".to_owned(), "a, b".to_owned())];
        for sheet in ["Path;Label\n1.png;\"a, b\"\n", "PATH\tlabel\n1.png\ta, b\n", "x|path|LABEL\n,|1.png|a, b\n"] {
            assert_eq!(parse_csv(sheet.as_bytes(), Columns::default(), &reach()).unwrap().rows, expected, "{sheet}");
        }
        let error = parse_csv(b"file;kind\n1.png;cat\n", Columns::default(), &reach()).unwrap_err().to_string();
        assert!(error.contains("it has file, kind"), "{error}");
        // Two columns that differ only in case are distinguished, or neither is chosen.
        assert_eq!(spelled(&["Path", "path"], "path"), Some("path"));
        assert_eq!(spelled(&["Path", "PATH"], "path"), None);
    }

    #[test]
    fn an_empty_sheet_says_so() {
        for (sheet, part) in [("", "it is empty"), ("path,label\n", "a header and no row")] {
            let error = parse_csv(sheet.as_bytes(), Columns::default(), &reach()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn json_lines_name_image_and_label_and_faults_name_their_line() {
        let text = "{\"path\":\"x/1.png\",\"label\":\"cat\"}\r\n\n{\"file_name\":\"2.png\",\"label\":7}";
        let rows = parse_json_lines(text.as_bytes(), Columns::default(), &reach()).unwrap();
        assert_eq!(rows.rows, [("x/1.png".to_owned(), "cat".to_owned()), ("2.png".to_owned(), "7".to_owned())]);
        for (line, part) in [
            ("{", "not JSON"),
            ("{\"label\":\"cat\"}", "`path`"),
            ("{\"path\":\"1.png\",\"label\":[1,2]}", "2 labels"),
            ("{\"path\":\"1.png\",\"label\":1.5}", "neither"),
            ("{\"path\":\"http://x/1.png\",\"label\":\"cat\"}", "an address"),
        ] {
            let error = format!(
                "{:#}",
                parse_json_lines(format!("{text}\n{line}").as_bytes(), Columns::default(), &reach()).unwrap_err()
            );
            assert!(error.contains("line 4") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_person_names_the_columns_and_rows_without_a_label_are_counted() {
        let columns = Columns { image: Some("file"), label: Some("kind") };
        let expected = Rows { rows: vec![("1.png".to_owned(), "cat".to_owned())], n_without_label: 1 };
        assert_eq!(parse_csv(b"file,kind,label\n./1.png,cat,x\n2.png,,y\n", columns, &reach()).unwrap(), expected);
        let lines = b"{\"file\":\"1.png\",\"kind\":[\"cat\"]}\n{\"file\":\"2.png\",\"kind\":null}\n";
        assert_eq!(parse_json_lines(lines, columns, &reach()).unwrap(), expected);
        let error = parse_csv(b"path,label\n1.png,cat\n", columns, &reach()).unwrap_err().to_string();
        assert!(error.contains("lacks the column `file`") && error.contains("--image-column"), "{error}");
        // The hub's name for the path of an image.
        let found = parse_csv(b"file_name,label\n1.png,cat\n2.png,\n", Columns::default(), &reach()).unwrap();
        assert_eq!(found, expected);
        let error = parse_csv(b"path,label\n1.png,\n", Columns::default(), &reach()).unwrap_err().to_string();
        assert!(error.contains("no row has a `label`"), "{error}");
    }

    #[test]
    fn tiny_imagenets_annotations_are_tab_separated() {
        let rows = parse_annotations(b"val_0.JPEG\tn03444034\t0\t32\t44\t62\n", "images").unwrap();
        assert_eq!(rows.rows, [("images/val_0.JPEG".to_owned(), "n03444034".to_owned())]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_sheet_or_an_error(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_csv(&noise, Columns::default(), &reach());
            let _ = parse_json_lines(&noise, Columns::default(), &reach());
            let _ = parse_annotations(&noise, "images");
            let _ = parse_csv(&[b"path,label\n".as_slice(), &noise].concat(), Columns::default(), &reach());
        }
    }
}
