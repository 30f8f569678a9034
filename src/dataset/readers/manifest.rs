//! Sheets that say which image has which label: CSV, JSON lines, and Tiny ImageNet's annotations.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::files::{self, Source};
use super::{Opened, read_data_file};
use crate::dataset::labels::ClassFinder;
use crate::domain::{LabelSet, text};

/// Reads `(path, label)` from the columns of a CSV with a header; paths are relative to the CSV's folder.
pub(in crate::dataset) fn read_csv(
    csv: &Path,
    path_column: &str,
    label_column: &str,
) -> anyhow::Result<Vec<(String, String)>> {
    parse_csv(&read_data_file(csv)?, path_column, label_column)
        .with_context(|| format!("failed to read the sheet `{}`", csv.display()))
}

fn parse_csv(bytes: &[u8], path_column: &str, label_column: &str) -> anyhow::Result<Vec<(String, String)>> {
    let text = text::decode(bytes)?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers()?.clone();
    let column = |name: &str| {
        header.iter().position(|cell| cell == name).with_context(|| {
            format!("it lacks the column `{name}`; it has {}", header.iter().collect::<Vec<_>>().join(", "))
        })
    };
    let (path_index, label_index) = (column(path_column)?, column(label_column)?);
    let mut rows = Vec::new();
    for (number, row) in reader.records().enumerate() {
        let row = row?;
        let path = row.get(path_index).unwrap_or("").replace('\\', "/");
        let label = row.get(label_index).unwrap_or("").to_owned();
        ensure!(!label.is_empty(), "row {} has no label", number + 1);
        check_inside(&path).with_context(|| format!("row {}", number + 1))?;
        rows.push((path, label));
    }
    ensure!(!rows.is_empty(), "it has no row");
    Ok(rows)
}

/// What JSON lines call an image's path; `file_name` is the name in the hub's `metadata.jsonl`.
const PATH_KEYS: [&str; 3] = ["path", "file_name", "image"];

/// Reads `(path, label)` from JSON lines, `{"path": "a/1.png", "label": "cat"}`; paths are relative to the sheet's folder.
pub(in crate::dataset) fn read_json_lines(sheet: &Path) -> anyhow::Result<Vec<(String, String)>> {
    parse_json_lines(&read_data_file(sheet)?).with_context(|| format!("failed to read the sheet `{}`", sheet.display()))
}

fn parse_json_lines(bytes: &[u8]) -> anyhow::Result<Vec<(String, String)>> {
    let text = text::decode(bytes)?;
    let mut rows = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        rows.push(parse_json_line(line).with_context(|| format!("line {number}"))?);
    }
    ensure!(!rows.is_empty(), "it has no line");
    Ok(rows)
}

fn parse_json_line(line: &str) -> anyhow::Result<(String, String)> {
    let row: Value = serde_json::from_str(line).context("it is no JSON")?;
    let path = PATH_KEYS.iter().find_map(|&key| row[key].as_str());
    let path = path.context("it has no `path`, the path of the image below the sheet's folder")?.replace('\\', "/");
    check_inside(&path)?;
    let label = match &row["label"] {
        Value::String(label) => label.trim().to_owned(),
        // As a CSV has it: a number is the name of its class, such as a digit.
        Value::Number(number) if number.is_i64() => number.to_string(),
        Value::Null => bail!("it has no `label`"),
        other => bail!("the label `{other}` is neither a text nor a whole number"),
    };
    ensure!(!label.is_empty(), "its label is empty");
    Ok((path, label))
}

/// Tiny ImageNet's `val_annotations.txt`: file, WordNet id and a box, tab-separated.
pub(in crate::dataset) fn read_tiny_imagenet(sheet: &Path, images: &str) -> anyhow::Result<Vec<(String, String)>> {
    parse_annotations(&read_data_file(sheet)?, images)
        .with_context(|| format!("failed to read the sheet `{}`", sheet.display()))
}

fn parse_annotations(bytes: &[u8], images: &str) -> anyhow::Result<Vec<(String, String)>> {
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
    Ok(rows)
}

/// A path of a sheet stays below the sheet's folder, so that ids are portable and a sheet cannot name other files.
fn check_inside(path: &str) -> anyhow::Result<()> {
    let is_drive = path.as_bytes().get(1) == Some(&b':');
    ensure!(
        !path.is_empty() && !is_drive && !path.split('/').any(|part| matches!(part, "" | "." | "..")),
        "the path `{path}` is no plain path below the sheet's folder"
    );
    Ok(())
}

/// Samples of the rows, in the sheet's order; every row's label must be a class.
pub(in crate::dataset) fn samples(
    folder: &Path,
    rows: Vec<(String, String)>,
    finder: &ClassFinder,
    labels: &LabelSet,
) -> anyhow::Result<Opened> {
    let mut seen = std::collections::HashSet::new();
    let rows = rows.into_iter().map(|(path, label)| {
        ensure!(seen.insert(path.clone()), "the sheet names `{path}` twice");
        let class =
            finder.find(&label).with_context(|| format!("`{path}` has the label `{label}`, which is no class"))?;
        Ok((path, class))
    });
    let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
    files::from_rows(Source::Folder(folder.to_owned()), rows, labels)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn columns_are_found_by_name_and_quotes_are_understood() {
        let rows = parse_csv(b"label,words,path\ncat,\"a, b\",x/1.png\n", "path", "label").unwrap();
        assert_eq!(rows, [("x/1.png".to_owned(), "cat".to_owned())]);
        let error = parse_csv(b"file,label\n", "path", "label").unwrap_err().to_string();
        assert!(error.contains("lacks the column `path`") && error.contains("file, label"), "{error}");
    }

    #[test]
    fn a_sheet_cannot_name_files_outside_its_folder() {
        for path in ["../x.png", "/etc/x.png", "a/../../x.png", "C:\\x.png", ""] {
            let sheet = format!("path,label\n{path},cat\n");
            assert!(parse_csv(sheet.as_bytes(), "path", "label").is_err(), "{path}");
        }
    }

    #[test]
    fn json_lines_name_image_and_label_and_faults_name_their_line() {
        let text = "{\"path\":\"x/1.png\",\"label\":\"cat\"}\r\n\n{\"file_name\":\"2.png\",\"label\":7}";
        let rows = parse_json_lines(text.as_bytes()).unwrap();
        assert_eq!(rows, [("x/1.png".to_owned(), "cat".to_owned()), ("2.png".to_owned(), "7".to_owned())]);
        for (line, part) in [
            ("{", "no JSON"),
            ("{\"label\":\"cat\"}", "`path`"),
            ("{\"path\":\"1.png\"}", "`label`"),
            ("{\"path\":\"1.png\",\"label\":1.5}", "neither"),
            ("{\"path\":\"../1.png\",\"label\":\"cat\"}", "no plain path"),
        ] {
            let error = format!("{:#}", parse_json_lines(format!("{text}\n{line}").as_bytes()).unwrap_err());
            assert!(error.contains("line 4") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn tiny_imagenets_annotations_are_tab_separated() {
        let rows = parse_annotations(b"val_0.JPEG\tn03444034\t0\t32\t44\t62\n", "images").unwrap();
        assert_eq!(rows, [("images/val_0.JPEG".to_owned(), "n03444034".to_owned())]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_sheet_or_an_error(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_csv(&noise, "path", "label");
            let _ = parse_json_lines(&noise);
            let _ = parse_annotations(&noise, "images");
            let _ = parse_csv(&[b"path,label\n".as_slice(), &noise].concat(), "path", "label");
        }
    }
}
