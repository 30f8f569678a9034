//! Opens a dataset from the user's text.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::catalog::{Alternative, Catalog, Entry};
use super::labels;
use super::missing::{FILE_EXTENSIONS, has_file_extension, missing};
use super::readers::files::{self, Listing};
use super::readers::manifest::Columns;
use super::readers::shards::{SPLITS, may_mean_shards};
use super::readers::{Opened, Wanted, embedded};
use super::{Dataset, DatasetDescription, Orientation, path};
use crate::api::RepositoryId;
use crate::assets::embedded::WITHOUT_MINIATURE;
use crate::domain::{LabelSet, Sample, nearest};

/// The folders in which datasets are searched, in this order.
#[derive(Clone, Debug, Default)]
pub struct DataRoots {
    /// `--data DIR`.
    pub data: Option<PathBuf>,
    /// `EMT_DATA`.
    pub env: Option<PathBuf>,
    /// The platform's cache folder for `emt`.
    pub cache: Option<PathBuf>,
}

impl DataRoots {
    /// Returns the folders that are searched.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        [&self.data, &self.env, &self.cache].into_iter().filter_map(|root| root.as_deref())
    }

    /// Returns the destination of `emt data fetch`: the first folder.
    pub fn destination(&self) -> Option<&Path> {
        self.folders().next()
    }
}

/// How to treat the orientation stored in images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exif {
    /// Like the source's reference loader. The library `datasets` turns images upright (tables from the hub, folders
    /// with `metadata.csv`, datasets that it saved). Pillow and torchvision turn only TIFF (everything else).
    #[default]
    Auto,
    /// Turns every image upright.
    Apply,
    /// Turns no image.
    Ignore,
}

impl Exif {
    /// Returns the option for a run record's value.
    pub fn of_recorded(exif: Option<&str>) -> Self {
        match exif {
            Some("apply") => Exif::Apply,
            Some("ignore") => Exif::Ignore,
            _ => Exif::Auto,
        }
    }

    /// Returns the orientation for a reader; its reference turns images upright if `is_of_datasets`.
    pub(super) fn orientation(self, is_of_datasets: bool) -> Orientation {
        match self {
            Exif::Auto if is_of_datasets => Orientation::Applied,
            Exif::Auto => Orientation::AsPillow,
            Exif::Apply => Orientation::Applied,
            Exif::Ignore => Orientation::Ignored,
        }
    }
}

/// A dataset to open.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenRequest<'a> {
    /// A name in the catalog (`cifar10`), a path (`photos/val`, `photos.zip`, `sheet.csv`, `test.parquet`), or
    /// `NAME=PATH`.
    pub text: &'a str,
    /// A split other than the default.
    pub split: Option<&'a str>,
    /// A sheet with other names for the classes.
    pub labels_file: Option<&'a Path>,
    /// How to treat the orientation stored in images.
    pub exif: Exif,
    /// The column of images of a table (CSV, JSON lines, Parquet, Arrow), if its name does not identify it. Other
    /// datasets have no columns and ignore it, see [`Dataset::is_table`].
    pub image_column: Option<&'a str>,
    /// The column of labels of a table.
    pub label_column: Option<&'a str>,
}

impl<'a> OpenRequest<'a> {
    pub(super) fn columns(&self) -> Columns<'a> {
        Columns { image: self.image_column, label: self.label_column }
    }
}

/// A split of the catalog, and its location if it is found.
#[derive(Clone, Debug)]
pub struct Available {
    /// The dataset's name.
    pub name: String,
    /// The split.
    pub split: String,
    /// Whether it is the default split for evaluation.
    pub is_default_split: bool,
    /// Whether it is a training split.
    pub is_training_split: bool,
    /// Whether `emt eval` without `--datasets` takes the dataset.
    pub is_evaluated_by_default: bool,
    /// The number of classes.
    pub n_classes: usize,
    /// The number of published samples, if known.
    pub n_samples_published: Option<usize>,
    /// Whether its images are available.
    pub is_found: bool,
    /// Whether its images are compiled into the program, or would be with the feature `demo-assets`.
    pub is_embedded: bool,
    /// The file or folder that was found; `None` if the images are compiled into the program.
    pub found_at: Option<PathBuf>,
    /// The licence, as text.
    pub licence: String,
    /// Whether images may be shown in published reports.
    pub may_redistribute: bool,
    /// Whether `emt data fetch` can download it.
    pub can_be_fetched: bool,
}

/// Returns all splits of the catalog in its order. Reads nothing; only checks what exists.
pub fn available(catalog: &Catalog, roots: &DataRoots) -> Vec<Available> {
    let mut rows = Vec::new();
    for entry in &catalog.entries {
        for (name, split) in &entry.wire.splits {
            let located = locate(entry, name, roots).ok();
            rows.push(Available {
                name: entry.name.clone(),
                split: name.clone(),
                is_default_split: *name == entry.wire.default_split,
                is_training_split: is_training(name),
                is_evaluated_by_default: entry.wire.evaluated_by_default,
                n_classes: entry.labels.len(),
                n_samples_published: split.n_samples,
                is_found: located.is_some(),
                is_embedded: entry.is_embedded(name),
                found_at: located.filter(|_| !entry.is_embedded(name)).and_then(|it| it.paths.into_iter().next()),
                licence: entry.wire.licence.clone(),
                may_redistribute: entry.wire.may_redistribute,
                can_be_fetched: !entry.wire.files.is_empty(),
            });
        }
    }
    rows
}

/// Opens a dataset: lists its samples and decodes none.
pub fn open(catalog: &Catalog, roots: &DataRoots, request: &OpenRequest) -> anyhow::Result<Dataset> {
    if catalog.names().any(|name| name == request.text) {
        return open_from_catalog(catalog, roots, request);
    }
    if is_there(Path::new(request.text)) {
        return path::open_path(catalog, None, Path::new(request.text), request);
    }
    if let Some((name, path)) = request.text.split_once('=') {
        ensure!(
            !name.is_empty() && !name.contains('\\') && !name.split('/').any(|part| matches!(part, "" | "." | "..")),
            "`{name}` cannot be the name of a dataset; hint: NAME=PATH, as in photos=./photos/val"
        );
        ensure!(is_there(Path::new(path)), "failed to open the dataset `{name}`: {}", missing(Path::new(path)));
        return path::open_path(catalog, Some(name), Path::new(path), request);
    }
    if request.text.contains(['/', '\\', '.']) {
        bail!("{}", nowhere(catalog, request.text));
    }
    catalog.entry(request.text).map(|_| ())?;
    bail!("failed to open the dataset `{}`", request.text)
}

/// Returns the name that the user gave the dataset or that its path gives it, as far as it is known before opening.
pub fn said_name(text: &str) -> String {
    match text.split_once('=') {
        Some((name, _)) if !is_there(Path::new(text)) => name.to_owned(),
        _ if has_file_extension(Path::new(text)) && last_split(Path::new(text)).is_none() => last_part(Path::new(text)),
        _ => text.to_owned(),
    }
}

/// Returns the message for a path at which nothing exists.
fn nowhere(catalog: &Catalog, text: &str) -> String {
    let path = Path::new(text);
    if has_file_extension(path) || path.is_absolute() || text.starts_with(['.', '~']) {
        return format!("failed to open the dataset `{text}`: {}", missing(path));
    }
    let names: Vec<&str> = catalog.names().collect();
    // ORG/NAME, optionally with a configuration or a split.
    let repository = text.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
    let is_of_hub = text.split('/').count() < 4 && RepositoryId::parse(&repository).is_some();
    let mut said = format!("failed to open the dataset `{text}`: there is no such folder, archive or table");
    if is_of_hub {
        said.push_str(&format!(", and no `{repository}` in the hub's cache"));
    }
    said.push_str("; hint: ");
    if let Some(meant) = nearest(text, &names) {
        said.push_str(&format!("did you mean `{meant}`? "));
    }
    said.push_str(&format!("{} knows {}", catalog.origin, names.join(", ")));
    if is_of_hub {
        said.push_str("; --download looks for it on the hub");
    }
    said
}

/// Whether a path exists or may be a pattern of shards.
pub(super) fn is_there(path: &Path) -> bool {
    path.exists() || may_mean_shards(path)
}

/// Whether a split of this name is a training split.
pub(super) fn is_training(split: &str) -> bool {
    split == "train" || split.starts_with("train_") || split.starts_with("train-")
}

/// Whether a split is below one of the roots.
pub(super) fn is_located(entry: &Entry, split: &str, roots: &DataRoots) -> bool {
    locate(entry, split, roots).is_ok()
}

/// Returns the files of a split that have a published MD5, with it; empty for a dataset given by path.
pub(super) fn located_files(
    catalog: &Catalog,
    roots: &DataRoots,
    request: &OpenRequest,
) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let Some(entry) = catalog.entries.iter().find(|entry| entry.name == request.text) else { return Ok(Vec::new()) };
    let (split, _) = entry.split(request.split)?;
    let checksum = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?;
        entry.wire.checksums.get(name).filter(|_| path.is_file()).cloned()
    };
    let paths = locate(entry, split, roots)?.paths;
    Ok(paths.into_iter().filter_map(|path| checksum(&path).map(|expected| (path, expected))).collect())
}

// ---- datasets of the catalog ----

struct Located<'a> {
    alternative: &'a Alternative,
    folder: PathBuf,
    /// One path for each of the alternative's `files`.
    paths: Vec<PathBuf>,
}

fn open_from_catalog(catalog: &Catalog, roots: &DataRoots, request: &OpenRequest) -> anyhow::Result<Dataset> {
    let entry = catalog.entry(request.text)?;
    let (split_name, split) = entry.split(request.split)?;
    let located = locate(entry, split_name, roots)?;
    let wanted = Wanted {
        alternative: located.alternative,
        folder: &located.folder,
        paths: &located.paths,
        n_samples: split.n_samples,
        labels: &entry.labels,
        orientation: request.exif.orientation(false),
    };
    let opened = (located.alternative.reader.open)(&wanted)
        .with_context(|| format!("failed to open the dataset `{}` (split {split_name})", entry.name))?;
    let labels = match request.labels_file {
        None => entry.labels.clone(),
        Some(sheet) => {
            let keys: Vec<String> = entry.labels.names().map(str::to_owned).collect();
            labels::from_sheet(sheet, &keys, entry.wire.answer_type)?
        }
    };
    let description = DatasetDescription {
        name: entry.name.clone(),
        split: split_name.to_owned(),
        is_training_split: is_training(split_name),
        labels,
        noun: entry.wire.noun.clone(),
        caption_template: entry.wire.caption_template.clone(),
        caption_ensemble: entry.wire.caption_ensemble.clone(),
        may_redistribute: entry.wire.may_redistribute,
        licence: entry.wire.licence.clone(),
        sample_seed: catalog.sample_seed,
    };
    let mut dataset = finish(description, &format!("{}/{split_name}", entry.name), opened)?;
    // Raw pixels have no orientation.
    dataset.exif = recorded(request.exif, false).filter(|_| located.alternative.reader.is_of_encoded_images);
    if let Some(n_samples) = split.n_samples
        && n_samples != dataset.samples.len()
    {
        let n_found = dataset.samples.len();
        dataset.warnings.push(format!("{n_found} of the {n_samples} published samples were found"));
    }
    Ok(dataset)
}

/// Returns the first alternative that is in the program or below one of the roots, or an error that names every tried
/// path.
fn locate<'a>(entry: &'a Entry, split_name: &'a str, roots: &DataRoots) -> anyhow::Result<Located<'a>> {
    let (_, split) = entry.split(Some(split_name))?;
    let (embedded, on_disk): (Vec<&Alternative>, Vec<&Alternative>) =
        split.alternatives.iter().partition(|alternative| alternative.reader.is_built_in);
    if let Some(alternative) = embedded.into_iter().find(|a| a.files.iter().all(|sheet| embedded::is_there(sheet))) {
        let paths = alternative.files.iter().map(PathBuf::from).collect();
        return Ok(Located { alternative, folder: PathBuf::new(), paths });
    }
    if on_disk.is_empty() {
        bail!("the dataset `{}` (split {split_name}) was not found: {WITHOUT_MINIATURE}", entry.name);
    }
    let mut tried: Vec<String> = Vec::new();
    for root in roots.folders() {
        for &alternative in &on_disk {
            for folder in expand(&alternative.folder) {
                let folder = if folder.is_empty() || folder == "." { root.to_owned() } else { root.join(folder) };
                let candidates: Vec<Vec<String>> = alternative.files.iter().map(|file| expand(file)).collect();
                let paths: Option<Vec<PathBuf>> = candidates
                    .iter()
                    .map(|names| names.iter().map(|name| folder.join(name)).find(|path| path.exists()))
                    .collect();
                match paths {
                    Some(paths) if fits(alternative, &paths, &entry.labels) => {
                        return Ok(Located { alternative, folder, paths });
                    }
                    Some(paths) => {
                        let shown = paths.first().unwrap_or(&folder).display();
                        tried.push(format!("  {shown} (exists, but has no folder for each class)"));
                    }
                    None => tried.extend(missing_paths(&folder, &candidates)),
                }
            }
        }
    }
    bail!("{}", not_found(entry, split_name, roots, &tried))
}

/// Returns the missing paths, one line for each required file.
fn missing_paths(folder: &Path, candidates: &[Vec<String>]) -> Vec<String> {
    let is_missing = |names: &&Vec<String>| !names.iter().any(|name| folder.join(name).exists());
    candidates
        .iter()
        .find(is_missing)
        .into_iter()
        .flatten()
        .map(|name| format!("  {}", folder.join(name).display()))
        .collect()
}

fn not_found(entry: &Entry, split_name: &str, roots: &DataRoots, tried: &[String]) -> String {
    let name = &entry.name;
    let head = format!("the dataset `{name}` (split {split_name}) was not found");
    let mend = match (roots.destination(), entry.wire.files.is_empty()) {
        (_, true) => format!("get it from {} and put it at one of these places", entry.wire.source),
        (Some(root), false) => format!("emt data fetch {name} --data {}", root.display()),
        (None, false) => format!("emt data fetch {name} --data DIR"),
    };
    if tried.is_empty() {
        return format!("{head}: no data folder is known; hint: --data DIR or EMT_DATA, then {mend}");
    }
    format!("{head}; tried:\n{}\nhint: {mend}", tried.join("\n"))
}

/// Whether an image folder has all classes, if the alternative requires it.
fn fits(alternative: &Alternative, paths: &[PathBuf], labels: &LabelSet) -> bool {
    let Some(folder) = paths.first().filter(|_| alternative.all_classes) else { return true };
    let keys = |label: &crate::domain::Label| {
        [label.wordnet_id.clone().unwrap_or_default(), label.name.clone(), label.name.replace(' ', "_")]
    };
    if folder.is_dir() {
        let has = |key: &String| !key.is_empty() && folder.join(key).is_dir();
        return labels.labels().iter().all(|label| keys(label).iter().any(has));
    }
    let listed = files::source_of(folder, alternative).and_then(|mut source| source.list());
    let Ok(Listing { paths, .. }) = listed else { return false };
    let classes = files::class_folders(&paths);
    labels.labels().iter().all(|label| keys(label).iter().any(|key| classes.contains(key)))
}

/// `a{b,c}{,d}` → `ab`, `abd`, `ac`, `acd`.
fn expand(pattern: &str) -> Vec<String> {
    let Some((head, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let Some((choices, tail)) = rest.split_once('}') else { return vec![pattern.to_owned()] };
    let tails = expand(tail);
    choices.split(',').flat_map(|choice| tails.iter().map(move |tail| format!("{head}{choice}{tail}"))).collect()
}

/// Returns the plain parts of a path, with `..` resolved as text and without the extension of an archive or sheet.
fn parts(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    if let Some(last) = parts.last_mut()
        && let Some((stem, extension)) = last.rsplit_once('.')
        && FILE_EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str())
        && !path.is_dir()
    {
        last.truncate(stem.len());
    }
    parts
}

/// Returns the split named by a path's last part, without its extension.
pub(super) fn last_split(path: &Path) -> Option<String> {
    parts(path).pop().filter(|part| SPLITS.contains(&part.as_str()))
}

pub(super) fn last_two_parts(path: &Path) -> String {
    let parts = parts(path);
    parts[parts.len().saturating_sub(2)..].join("/")
}

/// Returns the name of a file without its extension.
pub(super) fn last_part(path: &Path) -> String {
    parts(path).pop().unwrap_or_default()
}

/// Returns the run record's value for an orientation, if it differs from Pillow's.
pub(super) fn recorded(exif: Exif, is_of_datasets: bool) -> Option<String> {
    match exif.orientation(is_of_datasets) {
        Orientation::AsPillow => None,
        Orientation::Applied => Some("apply".to_owned()),
        Orientation::Ignored => Some("ignore".to_owned()),
    }
}

pub(super) fn finish(description: DatasetDescription, id_prefix: &str, opened: Opened) -> anyhow::Result<Dataset> {
    ensure!(!opened.samples.is_empty(), "the dataset `{}` has no sample", description.name);
    let Opened { samples, reader, mut warnings, notes } = opened;
    let samples = samples.into_iter().map(|(end, label)| Sample { id: format!("{id_prefix}/{end}"), label }).collect();
    warnings.extend(labels::shared_name_warnings(&description.labels));
    Ok(Dataset { description, warnings, notes, exif: None, chosen_of: Vec::new(), is_table: false, samples, reader })
}

#[cfg(test)]
mod tests;
