//! Datasets given by path: folders, archives, sheets, shards, and those saved by Python's `datasets`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::catalog::Catalog;
use super::labels::{self, ClassFinder};
use super::open::{OpenRequest, finish, is_training, last_part, last_split, last_two_parts, recorded};
use super::readers::archive::Archive;
use super::readers::class_names::note_of_numbers;
use super::readers::files::{self, Source};
use super::readers::manifest::{self, Rows};
use super::readers::reach::Reach;
use super::readers::shards::{SPLITS, ShardFormat, Shards, TakenSplit, take_split};
use super::readers::{Opened, arrow, labelled, parquet, webdataset};
use super::{Dataset, DatasetDescription};
use crate::domain::{AnswerType, LabelSet};

/// The names in `datasets` of the sheet in an image folder; `metadata.parquet` is also one, and is read as Parquet.
const METADATA: [&str; 2] = ["metadata.csv", "metadata.jsonl"];

/// Opens the dataset at `path` as `name`, or under a name derived from the path.
pub(super) fn open_path(
    catalog: &Catalog,
    name: Option<&str>,
    path: &Path,
    request: &OpenRequest,
) -> anyhow::Result<Dataset> {
    let named = || format!("failed to open the dataset `{}`", request.text);
    let mut path = std::path::absolute(path).with_context(named)?;
    if last_split(&path).is_none()
        && let Some(split) = request.split
        && path.join(split).is_dir()
        && metadata_of(&path).with_context(named)?.is_none()
    {
        path = path.join(split);
    }
    let found = read_path(&path, request).with_context(named)?;
    let split = last_split(&found.place).or(found.inner_split).unwrap_or_else(|| "all".to_owned());
    if let Some(asked) = request.split
        && split != "all"
        && asked != split
    {
        bail!(
            "the dataset `{}` is the split {split}, but {asked} was requested; hint: name its folder {asked}",
            request.text
        );
    }
    // A path already contains its split; rows and keys of a named dataset would be equal in every split.
    let id_prefix = name.filter(|_| found.is_sharded && split != "all").map(|name| format!("{name}/{split}"));
    let by_path = || {
        // A file has its own name, unless that is the split's; a folder is named with its parent.
        let is_own = found.is_named_file && last_split(&found.place).is_none();
        if is_own { last_part(&found.place) } else { last_two_parts(&found.place) }
    };
    let name = name.map_or_else(by_path, str::to_owned);
    let description = DatasetDescription {
        is_training_split: is_training(&split),
        split,
        labels: found.labels,
        noun: "object".to_owned(),
        caption_template: "a photo of a {}.".to_owned(),
        caption_ensemble: Vec::new(),
        // The images are the user's own, and so are the reports.
        may_redistribute: true,
        licence: "unknown".to_owned(),
        sample_seed: catalog.sample_seed(),
        name: name.clone(),
    };
    let mut dataset = finish(description, &id_prefix.unwrap_or(name), found.opened)?;
    dataset.exif = recorded(request.exif, found.is_of_datasets);
    (dataset.chosen_of, dataset.is_table) = (found.chosen_of, found.is_table);
    Ok(dataset)
}

/// The dataset at a path.
struct Found {
    labels: LabelSet,
    opened: Opened,
    /// The path that names the dataset.
    place: PathBuf,
    /// The split that was entered in an archive, or that names the shards.
    inner_split: Option<String>,
    is_sharded: bool,
    /// Whether the user named one file, such as a sheet.
    is_named_file: bool,
    /// Whether the library `datasets` is the reference for its images.
    is_of_datasets: bool,
    /// All available splits, if the user did not choose among several.
    chosen_of: Vec<String>,
    /// Whether it has columns.
    is_table: bool,
}

/// Whether a folder is in the hub's cache of datasets.
fn is_in_hub_cache(path: &Path) -> bool {
    path.iter().any(|part| part.to_str().is_some_and(|part| part.starts_with("datasets--")))
}

/// Reads the labels and samples of a folder, an archive, a sheet or shards.
fn read_path(path: &Path, request: &OpenRequest) -> anyhow::Result<Found> {
    if arrow::is_saved(path) {
        return read_saved(path, request);
    }
    if let Some(metadata) = metadata_of(path)?
        && let Some(found) = read_metadata(path, &metadata, request)?
    {
        return Ok(found);
    }
    if let Some(shards) = Shards::find(path, request.split)? {
        return read_shards(shards, path, request);
    }
    if path.is_file() && !Archive::is_archive(path) {
        return read_sheet(path, request);
    }
    read_folder(path, request)
}

/// Reads a folder or an archive of `<class>/…/<image>`, or of such folders by split.
fn read_folder(path: &Path, request: &OpenRequest) -> anyhow::Result<Found> {
    let is_of_datasets = is_in_hub_cache(path);
    let orientation = request.exif.orientation(is_of_datasets);
    let (mut place, mut chosen_of) = (path.to_owned(), Vec::new());
    let mut source = Source::open(path, None)?;
    source.enter(request.split);
    let mut listing = source.list()?;
    let mut keys = files::class_folders(&listing.paths);
    if !keys.is_empty() && keys.iter().all(|key| SPLITS.contains(&key.as_str())) {
        let splits: Vec<&str> = keys.iter().map(String::as_str).collect();
        let taken = take_split(&splits, request.split)?;
        if matches!(source, Source::Archive { .. }) {
            source.enter(Some(taken.split));
        } else {
            place = path.join(taken.split);
            source = Source::open(&place, None)?;
        }
        (chosen_of, listing) = (taken.chosen_of, source.list()?);
        keys = files::class_folders(&listing.paths);
    }
    let inner_split = match &source {
        Source::Archive { prefix, .. } => last_split(Path::new(prefix)),
        Source::Folder { .. } => None,
    };
    let labels = path_labels(&keys, request.labels_file)?;
    let empty = source.folders_without(&keys);
    let mut opened = files::samples(source, listing, &ClassFinder::of_keys(&keys), &labels, orientation)?;
    if !empty.is_empty() {
        opened.warnings.push(format!("folders without images, which are not classes: {}", labels::shorten(&empty)));
    }
    Ok(Found {
        labels,
        opened,
        place,
        inner_split,
        is_sharded: false,
        is_named_file: false,
        is_of_datasets,
        chosen_of,
        is_table: false,
    })
}

/// Returns the sheet that `datasets` would read for an image folder.
fn metadata_of(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let found: Vec<PathBuf> = METADATA.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect();
    ensure!(
        found.len() < 2,
        "`{}` holds metadata.csv and metadata.jsonl, which `datasets` refuses, too; hint: name one of them, or remove one",
        folder.display()
    );
    Ok(found.into_iter().next())
}

/// Reads an image folder with a sheet as `datasets` does; `None` if the sheet has no labels and folders may be classes.
fn read_metadata(folder: &Path, sheet: &Path, request: &OpenRequest) -> anyhow::Result<Option<Found>> {
    let rows = match read_rows(sheet, request) {
        Ok(rows) => rows,
        // The sheet has captions, boxes or similar: the folders are the classes.
        Err(error)
            if request.columns().label.is_none() && format!("{error:#}").contains("lacks the column `label`") =>
        {
            let folders = files::class_folders(&Source::folder(folder).list()?.paths);
            return if folders.is_empty() { Err(error) } else { Ok(None) };
        }
        Err(error) => return Err(error),
    };
    let (split, rows, chosen_of) = rows_of_split(rows, request)?;
    let place = split.as_ref().map_or_else(|| folder.to_owned(), |split| folder.join(split));
    let (labels, opened) = of_rows(&place, rows, request, true)?;
    Ok(Some(Found {
        labels,
        opened,
        place,
        inner_split: split,
        is_sharded: false,
        is_named_file: false,
        is_of_datasets: true,
        chosen_of,
        is_table: true,
    }))
}

/// If the paths of a sheet begin with splits, returns one split and its rows without that prefix, and all splits if the
/// user named none.
fn rows_of_split(sheet: Rows, request: &OpenRequest) -> anyhow::Result<(Option<String>, Rows, Vec<String>)> {
    let tops: BTreeSet<&str> =
        sheet.rows.iter().map(|(path, _)| path.split_once('/').map_or("", |(top, _)| top)).collect();
    if !tops.iter().all(|top| SPLITS.contains(top)) {
        return Ok((None, sheet, Vec::new()));
    }
    let TakenSplit { split, chosen_of } = take_split(&Vec::from_iter(tops.iter().copied()), request.split)?;
    let split = split.to_owned();
    let start = format!("{split}/");
    let rows = sheet.rows.into_iter().filter_map(|(path, label)| Some((path.strip_prefix(&start)?.to_owned(), label)));
    Ok((Some(split), Rows { rows: rows.collect(), n_without_label: sheet.n_without_label }, chosen_of))
}

/// Reads a sheet of images and labels that the user named, CSV or JSON lines.
fn read_sheet(path: &Path, request: &OpenRequest) -> anyhow::Result<Found> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let is_metadata = METADATA.iter().any(|name| path.ends_with(name));
    let rows = read_rows(path, request)?;
    let (labels, opened) = of_rows(folder, rows, request, is_metadata)?;
    // The hub's sheet takes its folder's name.
    let place = if is_metadata { folder } else { path }.to_owned();
    Ok(Found {
        labels,
        opened,
        place,
        inner_split: None,
        is_sharded: false,
        is_named_file: !is_metadata,
        is_of_datasets: is_metadata,
        chosen_of: Vec::new(),
        is_table: true,
    })
}

fn read_rows(path: &Path, request: &OpenRequest) -> anyhow::Result<Rows> {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let reach = Reach::of_table(path);
    match extension.as_str() {
        "csv" | "tsv" => manifest::read_csv(path, request.columns(), &reach),
        "jsonl" | "ndjson" => manifest::read_json_lines(path, request.columns(), &reach),
        _ => {
            bail!("it is not a folder, .zip, .tar, .csv, .jsonl, .parquet or .arrow; hint: unpack other archives first")
        }
    }
}

fn of_rows(
    folder: &Path,
    rows: Rows,
    request: &OpenRequest,
    is_of_datasets: bool,
) -> anyhow::Result<(LabelSet, Opened)> {
    let keys: BTreeSet<String> = rows.rows.iter().map(|(_, label)| label.clone()).collect();
    let keys: Vec<String> = keys.into_iter().collect();
    let are_numbers = keys.iter().all(|key| key.parse::<u64>().is_ok_and(|number| number.to_string() == *key));
    let keys = match request.labels_file {
        Some(sheet) if are_numbers => labels::numbers_in_order(keys, sheet)?,
        _ => keys,
    };
    let labels = path_labels(&keys, request.labels_file)?;
    let orientation = request.exif.orientation(is_of_datasets);
    let mut opened = manifest::samples(folder, rows, &ClassFinder::of_keys(&keys), &labels, orientation)?;
    opened.notes.extend((are_numbers && request.labels_file.is_none()).then(|| note_of_numbers(&keys)));
    Ok((labels, opened))
}

fn read_shards(shards: Shards, path: &Path, request: &OpenRequest) -> anyhow::Result<Found> {
    let is_of_datasets = shards.format == ShardFormat::Parquet || is_in_hub_cache(path);
    let orientation = request.exif.orientation(is_of_datasets);
    let sheet = request.labels_file;
    let (keys, mut opened) = match shards.format {
        ShardFormat::Parquet => {
            let (classified, reader) = parquet::open(&shards.files, sheet, request.columns(), orientation)?;
            let ends = (0..classified.classes.len()).map(|row| format!("{row:05}")).collect();
            let note = classified.has_numbers_for_names.then(|| note_of_numbers(&classified.keys));
            let mut opened = labelled(ends, classified.classes, reader);
            opened.notes.extend(note);
            (classified.keys, opened)
        }
        ShardFormat::Webdataset => {
            let found = webdataset::open(&shards.files, sheet, orientation)?;
            let mut opened = labelled(found.ends, found.classified.classes, found.reader);
            opened.warnings.extend(found.warnings);
            opened.notes.extend(found.notes);
            opened
                .notes
                .extend(found.classified.has_numbers_for_names.then(|| note_of_numbers(&found.classified.keys)));
            (found.classified.keys, opened)
        }
    };
    let labels = table_labels(&keys, sheet)?;
    opened.warnings.splice(0..0, shards.warnings);
    opened.warnings.extend(no_image_of(&labels, &opened));
    Ok(Found {
        labels,
        opened,
        place: shards.place,
        inner_split: shards.split,
        is_sharded: true,
        is_named_file: shards.is_named_file,
        is_of_datasets,
        chosen_of: shards.chosen_of,
        is_table: shards.format == ShardFormat::Parquet,
    })
}

/// Reads what `datasets` saved with `save_to_disk`, or an Arrow file.
fn read_saved(path: &Path, request: &OpenRequest) -> anyhow::Result<Found> {
    let saved = arrow::find(path, request.split)?;
    let orientation = request.exif.orientation(true);
    let (classified, reader) = arrow::open(&saved, request.labels_file, request.columns(), orientation)?;
    let ends = (0..classified.classes.len()).map(|row| format!("{row:05}")).collect();
    let mut opened = labelled(ends, classified.classes, reader);
    opened.notes.extend(classified.has_numbers_for_names.then(|| note_of_numbers(&classified.keys)));
    let labels = table_labels(&classified.keys, request.labels_file)?;
    opened.warnings.extend(no_image_of(&labels, &opened));
    Ok(Found {
        labels,
        opened,
        place: saved.place,
        inner_split: saved.split,
        is_sharded: true,
        is_named_file: saved.is_named_file,
        is_of_datasets: true,
        chosen_of: saved.chosen_of,
        is_table: true,
    })
}

fn no_image_of(labels: &LabelSet, opened: &Opened) -> Option<String> {
    files::warning_of(&files::without_image(labels, opened.samples.iter().map(|(_, class)| *class)))
}

/// Returns the labels of classes that a table or its card names.
fn table_labels(keys: &[String], sheet: Option<&Path>) -> anyhow::Result<LabelSet> {
    match sheet {
        Some(sheet) => labels::from_sheet(sheet, keys, AnswerType::Object),
        None => labels::from_keys(keys).with_context(|| {
            let keys = labels::shorten(keys);
            format!("its classes are: {keys}; hint: --labels FILE with one name per line gives them other names")
        }),
    }
}

/// Returns the labels of classes that are folders or sheet entries; `labels_file` renames them.
fn path_labels(keys: &[String], labels_file: Option<&Path>) -> anyhow::Result<LabelSet> {
    let labels = labels::from_keys(keys).with_context(|| {
        format!(
            "its classes are: {}; hint: one folder per class with images in it (<class>/<image>), or a .csv with the columns path, label",
            if keys.is_empty() { "none".to_owned() } else { labels::shorten(keys) }
        )
    })?;
    labels_file.map_or(Ok(labels), |sheet| labels::from_sheet(sheet, keys, AnswerType::Object))
}
