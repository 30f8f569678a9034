//! Datasets that Python's `datasets` saved with `save_to_disk`: Arrow streams next to `state.json` and
//! `dataset_info.json`.
//!
//! Opening reads the metadata of each record batch and the labels. Reading an image reads only its own bytes.
#![expect(clippy::disallowed_methods, reason = "a reader opens its files")]

mod flat;
mod values;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;

use self::flat::{Column, Field, Kind, Table};
use self::values::{Body, Dictionaries, Value};
use super::class_names::{self, Classified, RawLabels};
use super::manifest::{Columns, IMAGE_COLUMNS, LABEL_COLUMNS, PATH_COLUMNS, spelled};
use super::shards::{TakenSplit, take_split};
use super::{N_SAMPLES_MAX, ReadImage, decode_named, read_beside, read_data_file, unreadable};
use crate::dataset::{Orientation, UnreadableImage};
use crate::domain::RgbImage;

/// Larger metadata of a message is damaged.
const METADATA_BYTES_MAX: u64 = 64 << 20;

/// The names that `datasets` gives the files of a saved dataset.
const STATE: &str = "state.json";
const INFO: &str = "dataset_info.json";
const SPLITS_FILE: &str = "dataset_dict.json";

/// The files of one saved split.
pub(in crate::dataset) struct Saved {
    files: Vec<PathBuf>,
    /// Files of row numbers, if only those rows belong to the dataset.
    indices: Vec<PathBuf>,
    /// The features of `dataset_info.json`.
    features: Option<Json>,
    /// The path that names the dataset.
    pub(in crate::dataset) place: PathBuf,
    pub(in crate::dataset) split: Option<String>,
    pub(in crate::dataset) is_named_file: bool,
    /// All available splits, if the user did not choose among several.
    pub(in crate::dataset) chosen_of: Vec<String>,
}

/// Whether `path` is an Arrow file or was saved by `datasets`.
pub(in crate::dataset) fn is_saved(path: &Path) -> bool {
    let is_arrow = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("arrow"));
    let has = |name: &str| path.join(name).is_file();
    // Many other files are called `state.json`.
    (is_arrow && path.is_file()) || (has(STATE) && has(INFO)) || has(SPLITS_FILE)
}

/// Finds the files of a split.
///
/// # Errors
/// There are several splits, none is named, and none is known to be held out; or a file that the folder's `state.json`
/// names is missing.
pub(in crate::dataset) fn find(path: &Path, split: Option<&str>) -> Result<Saved> {
    if path.is_file() {
        let (files, indices) = (vec![path.to_owned()], Vec::new());
        let place = path.to_owned();
        let chosen_of = Vec::new();
        return Ok(Saved { files, indices, features: None, place, split: None, is_named_file: true, chosen_of });
    }
    if path.join(STATE).is_file() {
        return find_split(path);
    }
    let json = read_json(&path.join(SPLITS_FILE))?;
    let splits: Vec<&str> = json["splits"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    ensure!(!splits.is_empty(), "its {SPLITS_FILE} names no split");
    let TakenSplit { split, chosen_of } = take_split(&splits, split)?;
    ensure!(is_plain(split), "its {SPLITS_FILE} names the split `{split}`, which is not a folder name");
    let mut saved = find_split(&path.join(split))?;
    (saved.split, saved.chosen_of) = (Some(split.to_owned()), chosen_of);
    Ok(saved)
}

fn find_split(folder: &Path) -> Result<Saved> {
    let state = read_json(&folder.join(STATE))?;
    let named = |key: &str| -> Result<Vec<PathBuf>> {
        let files = state[key].as_array().into_iter().flatten();
        files
            .map(|file| {
                let name = file["filename"].as_str().filter(|name| is_plain(name));
                Ok(folder.join(
                    name.with_context(|| format!("its {STATE} has an entry under `{key}` that is not a file name"))?,
                ))
            })
            .collect()
    };
    let (files, indices) = (named("_data_files")?, named("_indices_data_files")?);
    ensure!(!files.is_empty(), "its {STATE} names no data file");
    let missing = files.iter().chain(&indices).find(|file| !file.is_file());
    if let Some(missing) = missing {
        bail!("there is no `{}`, which its {STATE} names; hint: copy the whole folder", missing.display());
    }
    let info = folder.join(INFO);
    let features = if info.is_file() { Some(read_json(&info)?["features"].take()) } else { None };
    let split = state["_split"].as_str().map(str::to_owned);
    let (place, chosen_of) = (folder.to_owned(), Vec::new());
    Ok(Saved { files, indices, features, place, split, is_named_file: false, chosen_of })
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\']) && name != ".."
}

fn read_json(path: &Path) -> Result<Json> {
    let bytes = read_data_file(path)?;
    serde_json::from_slice(&bytes).with_context(|| format!("`{}` is not JSON", path.display()))
}

/// Opens the files of a split; `sheet` names numbered classes if nothing else does.
pub(in crate::dataset) fn open(
    saved: &Saved,
    sheet: Option<&Path>,
    asked: Columns,
    orientation: Orientation,
) -> Result<(Classified, Arc<dyn ReadImage>)> {
    let mut first: Option<(String, Option<Vec<String>>, RawLabels)> = None;
    let mut images = Images { files: saved.files.clone(), batches: Vec::new(), rows: None, orientation };
    let mut n_rows = 0;
    for (number, path) in saved.files.iter().enumerate() {
        let named = || format!("failed to read `{}`", path.display());
        let part = read_file(path, saved.features.as_ref(), asked).with_context(named)?;
        for mut batch in part.batches {
            (batch.file, batch.first_row) = (number, n_rows);
            n_rows += batch.n_rows;
            images.batches.push(batch);
        }
        match &mut first {
            None => first = Some((part.label_column, part.names, part.labels)),
            Some((_, _, all)) => all.extend(part.labels).with_context(named)?,
        }
    }
    let (column, names, mut labels) = first.context("no file is named")?;
    if !saved.indices.is_empty() {
        let rows = read_indices(&saved.indices)?;
        labels = chosen(labels, &rows)?;
        images.rows = Some(rows);
    }
    let describe = |row| images.describe(row);
    let classified = class_names::classify_table(labels, names, &column, &saved.files[0], sheet, &describe)?;
    Ok((classified, Arc::new(images)))
}

fn chosen(labels: RawLabels, rows: &[u64]) -> Result<RawLabels> {
    fn of<T: Clone>(values: &[T], rows: &[u64]) -> Result<Vec<T>> {
        let value = |&row: &u64| usize::try_from(row).ok().and_then(|row| values.get(row).cloned());
        let values = rows.iter().map(value).collect::<Option<Vec<T>>>();
        values.context("its indices name a row that is not there; hint: copy the whole folder")
    }
    Ok(match labels {
        RawLabels::Numbers(values) => RawLabels::Numbers(of(&values, rows)?),
        RawLabels::Texts(values) => RawLabels::Texts(of(&values, rows)?),
    })
}

/// Returns the rows that belong to the dataset, in its order.
fn read_indices(files: &[PathBuf]) -> Result<Vec<u64>> {
    let mut rows = Vec::new();
    for path in files {
        let named = || format!("failed to read the indices `{}`", path.display());
        let columns = Columns { image: None, label: Some("indices") };
        let mut stream = Stream::open(path).with_context(named)?;
        let found = stream.labels(columns, None).with_context(named)?;
        for value in found.values {
            match value {
                Some(Value::Number(row)) => rows.push(u64::try_from(row).with_context(named)?),
                _ => bail!("{}: an index is not a row number", named()),
            }
        }
    }
    Ok(rows)
}

/// What is known of one file after opening it.
struct Part {
    batches: Vec<Batch>,
    label_column: String,
    labels: RawLabels,
    names: Option<Vec<String>>,
}

fn read_file(path: &Path, features: Option<&Json>, asked: Columns) -> Result<Part> {
    let mut stream = Stream::open(path)?;
    let of_file = stream.features.as_deref().and_then(|text| serde_json::from_str::<Json>(text).ok());
    let features = features.cloned().or_else(|| of_file.map(|mut metadata| metadata["info"]["features"].take()));
    let image = image_column(&stream.fields, asked.image)?;
    let mut found = stream.labels(asked, features.as_ref())?;
    for batch in &mut found.batches {
        // Only the image column is needed later.
        batch.image.retain_column(image)?;
    }
    let names = features.and_then(|features| class_names::in_features(&features, &found.column));
    Ok(Part { batches: found.batches, label_column: found.column, labels: values::raw_labels(found.values)?, names })
}

fn names_of(fields: &[Field]) -> String {
    fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Returns the field within lists.
fn within(field: &Field) -> &Field {
    match (field.kind, field.children.first()) {
        (Kind::List { .. } | Kind::FixedList { .. }, Some(element)) => within(element),
        _ => field,
    }
}

fn image_column(fields: &[Field], asked: Option<&str>) -> Result<usize> {
    let is_image = |field: &Field| {
        let has = |name: &str| field.children.iter().any(|child| child.name == name);
        match field.kind {
            Kind::Struct => has("bytes") || has("path"),
            Kind::Bytes { .. } | Kind::View { .. } => true,
            _ => false,
        }
    };
    let place = |name: &str| fields.iter().position(|field| field.name == name && is_image(within(field)));
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    let in_any_case = |name: &&str| place(spelled(&names, name)?);
    if let Some(asked) = asked {
        return in_any_case(&asked)
            .with_context(|| format!("it has no column `{asked}` of images; it has {}", names_of(fields)));
    }
    let is_struct = |field: &&Field| within(field).kind == Kind::Struct && is_image(within(field));
    let mut structs = fields.iter().filter(is_struct).map(|field| field.name.as_str());
    let only = structs.next().filter(|_| structs.next().is_none());
    let by_name = IMAGE_COLUMNS.iter().find_map(|name| place(name));
    let found = by_name.or_else(|| place(only?)).or_else(|| PATH_COLUMNS.iter().find_map(|name| place(name)));
    let found = found.or_else(|| IMAGE_COLUMNS.iter().chain(&PATH_COLUMNS).find_map(in_any_case));
    found.with_context(|| format!("it has no column of images; hint: --image-column NAME; it has {}", names_of(fields)))
}

fn label_column(fields: &[Field], features: Option<&Json>, asked: Option<&str>) -> Result<usize> {
    let place = |name: &str| fields.iter().position(|field| field.name == name);
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    let in_any_case = |name: &&str| place(spelled(&names, name)?);
    if let Some(asked) = asked {
        return in_any_case(&asked)
            .with_context(|| format!("it has no column `{asked}` of labels; it has {}", names_of(fields)));
    }
    let by_features = || class_names::only_class_label_of(features?);
    let by_name = LABEL_COLUMNS.iter().find_map(|name| place(name));
    let found = by_name.or_else(|| place(&by_features()?)).or_else(|| LABEL_COLUMNS.iter().find_map(in_any_case));
    found.with_context(|| format!("it has no column of labels; hint: --label-column NAME; it has {}", names_of(fields)))
}

/// One record batch.
struct Batch {
    file: usize,
    first_row: u64,
    n_rows: u64,
    /// The place of its body in the file.
    start: u64,
    image: BatchColumns,
}

/// The columns of a batch, of which one is kept.
struct BatchColumns(Vec<Column>);

impl BatchColumns {
    fn retain_column(&mut self, place: usize) -> Result<()> {
        ensure!(place < self.0.len(), "a record batch lacks a column");
        self.0 = vec![self.0.swap_remove(place)];
        Ok(())
    }
}

/// A file of messages: a schema, then dictionaries and record batches.
struct Stream {
    file: File,
    n_bytes: u64,
    at: u64,
    fields: Vec<Field>,
    /// The value of `huggingface` in the schema's metadata.
    features: Option<String>,
}

/// The labels of a stream, and its batches.
struct Labels {
    column: String,
    values: Vec<Option<Value>>,
    batches: Vec<Batch>,
}

impl Stream {
    fn open(path: &Path) -> Result<Stream> {
        let mut file = File::open(path)?;
        let n_bytes = file.metadata()?.len();
        let mut start = Vec::new();
        (&mut file).take(8).read_to_end(&mut start)?;
        // A file with a footer contains a stream after its first bytes.
        let at = if start.starts_with(b"ARROW1") { 8 } else { 0 };
        let mut stream = Stream { file, n_bytes, at, fields: Vec::new(), features: None };
        let (metadata, _) = stream.next()?.context("it is empty")?;
        let message = Table::root(&metadata)?;
        ensure!(message.value(1, 1, 0)? == 1, "it does not begin with a schema; hint: is it an Arrow file?");
        let schema = message.table(2)?.context("its schema is missing")?;
        (stream.fields, stream.features) = flat::schema(schema, "huggingface")?;
        Ok(stream)
    }

    /// Returns the metadata of the next message, and the place of its body; `None` at the end.
    fn next(&mut self) -> Result<Option<(Vec<u8>, u64)>> {
        let Some(mut len) = self.number()? else { return Ok(None) };
        // Older streams lack the marker before the length.
        if len == u64::from(u32::MAX) {
            len = self.number()?.unwrap_or(0);
        }
        if len == 0 {
            return Ok(None);
        }
        let damaged = "it is not a complete Arrow stream; hint: check that it is an Arrow file, and complete";
        ensure!(len <= METADATA_BYTES_MAX && self.at + len <= self.n_bytes, damaged);
        let mut metadata = vec![0; usize::try_from(len)?];
        self.file.seek(SeekFrom::Start(self.at))?;
        self.file.read_exact(&mut metadata)?;
        let start = self.at + len;
        let n_body = Table::root(&metadata)?.value(3, 8, 0)?;
        let end = start.checked_add(n_body).filter(|&end| end <= self.n_bytes);
        self.at = end.context(damaged)?;
        Ok(Some((metadata, start)))
    }

    /// Returns the next 32 bits; `None` at the end of the file.
    fn number(&mut self) -> Result<Option<u64>> {
        if self.at + 4 > self.n_bytes {
            return Ok(None);
        }
        self.file.seek(SeekFrom::Start(self.at))?;
        let mut raw = [0; 4];
        self.file.read_exact(&mut raw)?;
        self.at += 4;
        Ok(Some(u64::from(u32::from_le_bytes(raw))))
    }

    /// Reads the places of all record batches, and the labels of all rows.
    fn labels(&mut self, asked: Columns, features: Option<&Json>) -> Result<Labels> {
        let place = label_column(&self.fields, features, asked.label)?;
        let column = self.fields[place].name.clone();
        let mut found = Labels { column, values: Vec::new(), batches: Vec::new() };
        let mut dictionaries = Dictionaries::new();
        while let Some((metadata, start)) = self.next()? {
            let message = Table::root(&metadata)?;
            let header = message.table(2)?.context("a message is empty")?;
            match message.value(1, 1, 0)? {
                2 => self.dictionary(header, start, &mut dictionaries)?,
                3 => {
                    let columns = flat::columns(header, &self.fields)?;
                    let n_rows = header.value(0, 8, 0)?;
                    ensure!(
                        columns.iter().all(|column| column.n_rows == n_rows)
                            && n_rows <= (N_SAMPLES_MAX as u64).saturating_sub(found.values.len() as u64),
                        "a record batch claims {n_rows} rows"
                    );
                    let mut body = Body { file: &mut self.file, start, n_bytes: self.n_bytes };
                    for row in 0..n_rows {
                        let label = body.label(&columns[place], row, &dictionaries);
                        let read =
                            || format!("failed to read its column `{}`, row {}", found.column, found.values.len());
                        found.values.push(label.with_context(read)?);
                    }
                    let image = BatchColumns(columns);
                    found.batches.push(Batch { file: 0, first_row: 0, n_rows, start, image });
                }
                other => bail!("it holds a message of the kind {other}, which tables do not have"),
            }
        }
        Ok(found)
    }

    fn dictionary(&mut self, header: Table, start: u64, dictionaries: &mut Dictionaries) -> Result<()> {
        let number = header.value(0, 8, 0)?;
        let batch = header.table(1)?.context("a dictionary is empty")?;
        let is_addition = header.value(2, 1, 0)? != 0;
        let Some(field) = find_dictionary(&self.fields, number) else { return Ok(()) };
        let values = Field { dictionary: None, ..field.clone() };
        let columns = flat::columns(batch, std::slice::from_ref(&values))?;
        let column = columns.first().context("a dictionary is empty")?;
        ensure!(column.n_rows <= N_SAMPLES_MAX as u64, "a dictionary claims {} values", column.n_rows);
        let mut body = Body { file: &mut self.file, start, n_bytes: self.n_bytes };
        let none = Dictionaries::new();
        let read = (0..column.n_rows).map(|row| body.label(column, row, &none)).collect::<Result<Vec<_>>>();
        // Dictionaries that do not hold labels are ignored.
        let Ok(read) = read else { return Ok(()) };
        let all = dictionaries.entry(number).or_default();
        if !is_addition {
            all.clear();
        }
        all.extend(read);
        Ok(())
    }
}

fn find_dictionary(fields: &[Field], number: u64) -> Option<&Field> {
    fields.iter().find_map(|field| match field.dictionary {
        Some((found, _)) if found == number => Some(field),
        _ => find_dictionary(&field.children, number),
    })
}

/// The images of all files.
struct Images {
    files: Vec<PathBuf>,
    batches: Vec<Batch>,
    /// The rows that belong to the dataset, if not all do.
    rows: Option<Vec<u64>>,
    orientation: Orientation,
}

/// An image as stored in a table: its bytes, and its path.
type Cell = (Option<Vec<u8>>, Option<Vec<u8>>);

impl Images {
    /// Returns the batch of a sample, and the row in it.
    fn find(&self, position: usize) -> Option<(&Batch, u64)> {
        let row = match &self.rows {
            Some(rows) => *rows.get(position)?,
            None => u64::try_from(position).ok()?,
        };
        let batch = self.batches.partition_point(|batch| batch.first_row <= row).checked_sub(1)?;
        let batch = &self.batches[batch];
        (row - batch.first_row < batch.n_rows).then_some((batch, row - batch.first_row))
    }

    /// Returns the image's place for users: the file, and the row among all files.
    fn describe(&self, position: usize) -> String {
        match self.find(position) {
            Some((batch, row)) => format!("{} (row {})", self.files[batch.file].display(), batch.first_row + row),
            None => format!("row {position}"),
        }
    }

    /// Returns an image's cell.
    fn cell(&self, batch: &Batch, row: u64) -> Result<Cell> {
        let mut file = File::open(&self.files[batch.file])?;
        let n_bytes = file.metadata()?.len();
        let mut body = Body { file: &mut file, start: batch.start, n_bytes };
        let column = batch.image.0.first().context("a record batch lacks its images")?;
        let Some((column, row)) = body.below(column, row)? else { return Ok((None, None)) };
        match column.kind {
            Kind::Bytes { is_text: true, .. } | Kind::View { is_text: true } => Ok((None, body.value(column, row)?)),
            Kind::Struct => {
                let mut cell = (None, None);
                for child in &column.children {
                    match child.kind {
                        Kind::Bytes { is_text: false, .. } | Kind::View { is_text: false } => {
                            cell.0 = body.value(child, row)?;
                        }
                        Kind::Bytes { .. } | Kind::View { .. } => cell.1 = body.value(child, row)?,
                        _ => {}
                    }
                }
                Ok(cell)
            }
            _ => Ok((body.value(column, row)?, None)),
        }
    }
}

impl ReadImage for Images {
    fn read(&self, position: usize) -> Result<RgbImage, UnreadableImage> {
        let place = self.describe(position);
        let Some((batch, row)) = self.find(position) else {
            return Err(unreadable(&place, "there is no such row", &[]));
        };
        match self.cell(batch, row) {
            Ok((Some(bytes), _)) => decode_named(&place, &bytes, self.orientation),
            Ok((None, Some(path))) => {
                read_beside(&self.files[batch.file], &place, &String::from_utf8_lossy(&path), self.orientation)
            }
            Ok((None, None)) => Err(unreadable(&place, "its bytes are absent", &[])),
            Err(error) => Err(unreadable(&place, &format!("{error:#}"), &[])),
        }
    }
}

#[cfg(test)]
mod tests;
