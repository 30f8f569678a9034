//! Datasets by their name on the model hub: from its cache, or fetched on request.
#![expect(clippy::disallowed_methods, reason = "looks into the hub's cache")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::readers::shards::{SPLITS, TakenSplit, split_in_name, take_split};
use super::readers::{is_image_name, is_of_the_system};
use crate::api::{HubClient, HubError, HubEvent, HubFetch, RepositoryId, cached_commit};

/// Top-level files that name classes.
const COMPANIONS: [&str; 3] = ["README.md", "dataset_infos.json", "classnames.txt"];

/// The names in `datasets` of a sheet next to images.
const METADATA: [&str; 3] = ["metadata.csv", "metadata.jsonl", "metadata.parquet"];

/// A dataset of the hub that is in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundOnHub {
    /// What to open, as `NAME=PATH`.
    pub text: String,
    /// The split to open, if the repository names splits.
    pub split: Option<String>,
    /// All splits of the repository, if the user did not choose among several.
    pub chosen_of: Vec<String>,
}

/// The hub's datasets on this machine: its cache, and a client if fetching is allowed.
pub struct DatasetHub<'a> {
    cache: Option<PathBuf>,
    client: Option<HubClient>,
    on_event: Box<dyn Fn(HubEvent<'_>) + 'a>,
    found: RefCell<BTreeMap<String, (String, String)>>,
    /// By commit, the splits that the hub lists, if one of several was taken by default.
    splits_of: RefCell<BTreeMap<String, Vec<String>>>,
}

impl<'a> DatasetHub<'a> {
    /// `cache` is the folder that contains `datasets--…`. Without a `client` the network is never used.
    pub fn new(cache: Option<PathBuf>, client: Option<HubClient>, on_event: impl Fn(HubEvent<'_>) + 'a) -> Self {
        let client = client.map(HubClient::of_datasets);
        Self { cache, client, on_event: Box::new(on_event), found: RefCell::default(), splits_of: RefCell::default() }
    }

    /// Returns what was found, by `org/name`: the revision, and its commit.
    pub fn found(&self) -> BTreeMap<String, (String, String)> {
        self.found.borrow().clone()
    }

    /// Returns what to open for `org/name[/config][@revision]`. `None` if `text` is something else, or if the cache has
    /// nothing of this name and fetching is not allowed. Only the files of `split`, or of the held-out split, are
    /// fetched. A split may take the place of a configuration, as in `org/name/test`.
    ///
    /// # Errors
    /// The repository has several configurations, or several splits of which none is known to be held out, and none is
    /// named; it contains no images; or it cannot be fetched.
    pub fn find(&self, text: &str, split: Option<&str>) -> Result<Option<FoundOnHub>> {
        let (name, wanted) = match text.split_once('=') {
            Some((name, wanted)) => (Some(name), wanted),
            None => (None, text),
        };
        let Some((id, config)) = parse(wanted).filter(|_| !super::open::is_there(Path::new(wanted))) else {
            return Ok(None);
        };
        let Some(cache) = &self.cache else { return Ok(None) };
        let failed = || match self.client {
            Some(_) => format!("failed to find the dataset `{wanted}` on the hub"),
            None => {
                format!("failed to find the dataset `{wanted}` in the hub's cache (--download fetches what it lacks)")
            }
        };
        let commit = match &self.client {
            Some(client) => self.fetch(client, cache, &id, config.as_deref(), split).with_context(failed)?,
            None => match cached_commit(cache, &id) {
                Some(commit) => commit,
                None => return Ok(None),
            },
        };
        let snapshot = cache.join(id.folder_name()).join("snapshots").join(&commit);
        let mut files = Vec::new();
        list(&snapshot, "", &mut files).with_context(failed)?;
        let choice = choose(&files, config.as_deref(), split).with_context(failed)?;
        let path = if choice.place.is_empty() { snapshot } else { snapshot.join(&choice.place) };
        self.found.borrow_mut().insert(id.repository().to_owned(), (id.revision().to_owned(), commit.clone()));
        let own_name = match config.as_deref().filter(|_| !choice.is_split_of_name) {
            Some(config) => format!("{}/{config}", id.repository()),
            None => id.repository().to_owned(),
        };
        // Only one split was fetched; the repository may have others.
        let listed = self.splits_of.borrow().get(&commit).cloned().unwrap_or(choice.chosen_of);
        let text = format!("{}={}", name.unwrap_or(&own_name), path.display());
        Ok(Some(FoundOnHub { text, split: choice.split, chosen_of: listed }))
    }

    /// Fetches the missing files of a split; returns the commit.
    fn fetch(
        &self,
        client: &HubClient,
        cache: &Path,
        id: &RepositoryId,
        config: Option<&str>,
        split: Option<&str>,
    ) -> Result<String> {
        let listing = match client.revision(id.repository(), id.revision()) {
            Ok(listing) => listing,
            Err(error) => return self.without_hub(error, cache, id),
        };
        let choice = choose(&listing.files, config, split)?;
        self.splits_of.borrow_mut().insert(listing.commit.clone(), choice.chosen_of);
        let into = HubFetch { client, cache, id, on_event: &*self.on_event };
        for name in &choice.files {
            into.file(&listing.commit, name)?;
        }
        into.name_commit(&listing.commit)?;
        Ok(listing.commit)
    }

    /// Returns the cached commit if the hub cannot be reached.
    fn without_hub(&self, error: HubError, cache: &Path, id: &RepositoryId) -> Result<String> {
        match cached_commit(cache, id) {
            Some(commit) if error.is_unreachable() => {
                (self.on_event)(HubEvent::Warning(&format!("{error:#}; the cached files are used")));
                Ok(commit)
            }
            _ => Err(error.into()),
        }
    }
}

/// Parses `org/name`, optionally with a configuration and a revision.
fn parse(text: &str) -> Option<(RepositoryId, Option<String>)> {
    let (name, revision) = text.split_once('@').map_or((text, None), |(name, revision)| (name, Some(revision)));
    let parts: Vec<&str> = name.split('/').collect();
    let (repository, config) = match parts.as_slice() {
        [owner, name] => (format!("{owner}/{name}"), None),
        [owner, name, config] if !config.is_empty() && !config.starts_with('.') => {
            (format!("{owner}/{name}"), Some((*config).to_owned()))
        }
        _ => return None,
    };
    let text = revision.map_or_else(|| repository.clone(), |revision| format!("{repository}@{revision}"));
    Some((RepositoryId::parse(&text)?.of_dataset(), config))
}

/// Lists the paths of all files below a folder, with `/`.
fn list(folder: &Path, prefix: &str, found: &mut Vec<String>) -> Result<()> {
    let named = || format!("failed to list the folder `{}`", folder.display());
    let mut entries =
        std::fs::read_dir(folder).with_context(named)?.collect::<Result<Vec<_>, _>>().with_context(named)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            list(&entry.path(), &format!("{name}/"), found)?;
        } else if entry.path().is_file() {
            found.push(name);
        }
    }
    Ok(())
}

/// The files needed from a repository, and what to open.
#[derive(Debug, Default, PartialEq, Eq)]
struct Choice {
    /// A folder or a file of the repository; empty for the whole repository.
    place: String,
    files: Vec<String>,
    split: Option<String>,
    /// All splits, if the user did not choose among several.
    chosen_of: Vec<String>,
    /// Whether the word in the place of a configuration is a split.
    is_split_of_name: bool,
}

impl Choice {
    fn new(place: &str, files: Vec<String>, taken: Option<TakenSplit>) -> Self {
        let (split, chosen_of) =
            taken.map_or((None, Vec::new()), |taken| (Some(taken.split.to_owned()), taken.chosen_of));
        Self { place: place.to_owned(), files, split, chosen_of, is_split_of_name: false }
    }
}

/// A file, with the configuration and split in its path.
struct Placed<'f> {
    file: &'f str,
    folder: &'f str,
    config: String,
    split: Option<String>,
}

impl<'f> Placed<'f> {
    fn new(file: &'f str) -> Self {
        let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
        let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty() && *part != "data").collect();
        let of_name = split_in_name(Path::new(name));
        let of_folder = parts.last().filter(|part| SPLITS.contains(part)).map(|part| (*part).to_owned());
        if of_folder.is_some() {
            parts.pop();
        }
        Self { file, folder, config: parts.join("/"), split: of_name.or(of_folder) }
    }
}

fn choose(files: &[String], config: Option<&str>, split: Option<&str>) -> Result<Choice> {
    let visible: Vec<&str> =
        files.iter().map(String::as_str).filter(|file| !file.split('/').any(is_of_the_system)).collect();
    let companions = COMPANIONS.iter().filter(|name| visible.contains(*name)).map(|name| (*name).to_owned());
    let is_split_of_name = config.is_some_and(|config| is_split(&visible, config));
    let mut choice = match config.filter(|_| is_split_of_name) {
        Some(named) => {
            let is_asked = split.is_none_or(|split| split == named);
            ensure!(
                is_asked,
                "its name gives the split {named}, but --split gives {}; hint: leave one of them out",
                split.unwrap_or_default()
            );
            Choice { is_split_of_name, ..choose_data(&visible, None, Some(named))? }
        }
        None => choose_data(&visible, config, split)?,
    };
    choice.files.splice(0..0, companions);
    Ok(choice)
}

/// Whether a word after a repository's name is one of its splits and not a configuration.
fn is_split(visible: &[&str], word: &str) -> bool {
    let is_config = || visible.iter().any(|file| Placed::new(file).config == word);
    let has_split = || {
        let of_folder = |file: &&str| file.strip_prefix("data/").unwrap_or(file).starts_with(&format!("{word}/"));
        visible.iter().any(|file| Placed::new(file).split.as_deref() == Some(word))
            || (SPLITS.contains(&word) && visible.iter().any(of_folder))
    };
    has_split() && !is_config()
}

fn choose_data(visible: &[&str], config: Option<&str>, split: Option<&str>) -> Result<Choice> {
    let is_metadata = |file: &str| METADATA.contains(&file.rsplit('/').next().unwrap_or(file));
    let of_end = |end: &str| -> Vec<&str> {
        visible.iter().copied().filter(|file| file.to_ascii_lowercase().ends_with(end) && !is_metadata(file)).collect()
    };
    for end in [".parquet", ".tar", ".zip"] {
        let found = of_end(end);
        if !found.is_empty() {
            return of_shards(&found, config, split, end == ".zip");
        }
    }
    if visible.iter().any(|file| *file == "dataset_dict.json" || *file == "state.json") {
        let top = |file: &&str| file.split_once('/').map(|(top, _)| top.to_owned());
        let is_state = |file: &&&str| file.ends_with("/state.json");
        let splits: BTreeSet<String> = visible.iter().filter(is_state).filter_map(top).collect();
        let splits: Vec<&str> = splits.iter().map(String::as_str).collect();
        let taken = if splits.is_empty() { None } else { Some(take_split(&splits, split)?) };
        let is_of_split = |file: &&&str| {
            let taken = taken.as_ref().map(|taken| taken.split);
            top(file).is_none_or(|top| taken.is_none_or(|taken| top == taken))
        };
        let files = visible.iter().filter(is_of_split).map(|file| (*file).to_owned()).collect();
        return Ok(Choice::new("", files, taken));
    }
    let images: Vec<&str> = visible.iter().copied().filter(|file| is_image_name(file)).collect();
    ensure!(!images.is_empty(), "it has neither Parquet files nor archives nor images");
    of_images(visible, &images, split, &is_metadata)
}

/// Chooses the Parquet files, webdatasets or archives of one split of one configuration.
fn of_shards(files: &[&str], config: Option<&str>, split: Option<&str>, is_single: bool) -> Result<Choice> {
    let placed: Vec<Placed> = files.iter().map(|file| Placed::new(file)).collect();
    let configs: BTreeSet<&str> = placed.iter().map(|file| file.config.as_str()).collect();
    let listed = || configs.iter().copied().collect::<Vec<_>>().join(", ");
    let config = match config {
        Some(config) => {
            ensure!(configs.contains(config), "it has no configuration {config}; hint: it has {}", listed());
            config
        }
        None if configs.contains("") => "",
        None if configs.contains("default") => "default",
        None if configs.len() == 1 => configs.first().copied().unwrap_or_default(),
        None => bail!(
            "it has the configurations {}; hint: name one, as in org/name/{}",
            listed(),
            configs.first().unwrap_or(&"")
        ),
    };
    let mut of_config: Vec<&Placed> = placed.iter().filter(|file| file.config == config).collect();
    let splits: BTreeSet<&str> = of_config.iter().filter_map(|file| file.split.as_deref()).collect();
    let splits = Vec::from_iter(splits);
    let taken = if splits.is_empty() { None } else { Some(take_split(&splits, split)?) };
    if let Some(taken) = &taken {
        // If the user names no split, files without one belong to the only split.
        let is_of_only = |file: &&Placed| split.is_none() && splits.len() == 1 && file.split.is_none();
        of_config.retain(|file| file.split.as_deref() == Some(taken.split) || is_of_only(file));
    }
    let first = of_config.first().context("it has no file of the split")?;
    ensure!(!is_single || of_config.len() == 1, "its split is in several archives, which are not read together");
    let place = if is_single { first.file } else { first.folder };
    let of_place = of_config.iter().filter(|file| file.folder == first.folder);
    Ok(Choice::new(place, of_place.map(|file| file.file.to_owned()).collect(), taken))
}

/// Chooses an image folder: one split if there are splits, with the sheets of file names.
fn of_images(
    visible: &[&str],
    images: &[&str],
    split: Option<&str>,
    is_metadata: &dyn Fn(&str) -> bool,
) -> Result<Choice> {
    let root = if images.iter().all(|file| file.starts_with("data/")) { "data/" } else { "" };
    let top = |file: &str| file.strip_prefix(root).and_then(|rest| rest.split_once('/')).map(|(top, _)| top.to_owned());
    let splits: BTreeSet<String> =
        images.iter().filter_map(|file| top(file)).filter(|top| SPLITS.contains(&top.as_str())).collect();
    let splits: Vec<&str> = splits.iter().map(String::as_str).collect();
    let taken = if splits.is_empty() { None } else { Some(take_split(&splits, split)?) };
    let start = taken.as_ref().map_or_else(|| root.to_owned(), |taken| format!("{root}{}/", taken.split));
    let is_at_root = |file: &str| is_metadata(file) && file.strip_prefix(root).is_some_and(|rest| !rest.contains('/'));
    let has_sheet_at_root = visible.iter().any(|file| is_at_root(file));
    let is_wanted =
        |file: &&&str| is_at_root(file) || (file.starts_with(&start) && (is_metadata(file) || images.contains(*file)));
    let files = visible.iter().filter(is_wanted).map(|file| (*file).to_owned()).collect();
    let place = if has_sheet_at_root { root } else { start.as_str() };
    Ok(Choice::new(place.trim_end_matches('/'), files, taken))
}

#[cfg(test)]
mod tests;
