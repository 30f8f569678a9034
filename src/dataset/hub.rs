//! Datasets by the name that they have on the model hub: in its cache, and fetched where that is asked for.
#![expect(clippy::disallowed_methods, reason = "looks into the hub's cache")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::readers::shards::{SPLITS, split_in_name};
use super::readers::{is_image_name, is_of_the_system};
use crate::api::{HubClient, HubError, HubEvent, HubFetch, RepositoryId, cached_commit};

/// Files at the top that name classes.
const COMPANIONS: [&str; 3] = ["README.md", "dataset_infos.json", "classnames.txt"];

/// What `datasets` calls a sheet beside images.
const METADATA: [&str; 3] = ["metadata.csv", "metadata.jsonl", "metadata.parquet"];

/// The hub's datasets as this machine sees them: its cache, and a client where something may be fetched.
pub struct DatasetHub<'a> {
    cache: Option<PathBuf>,
    client: Option<HubClient>,
    on_event: Box<dyn Fn(HubEvent<'_>) + 'a>,
    found: RefCell<BTreeMap<String, (String, String)>>,
}

impl<'a> DatasetHub<'a> {
    /// `cache` is the folder that holds `datasets--…`. Without a `client` nothing is ever asked of the network.
    pub fn new(cache: Option<PathBuf>, client: Option<HubClient>, on_event: impl Fn(HubEvent<'_>) + 'a) -> Self {
        let client = client.map(HubClient::of_datasets);
        Self { cache, client, on_event: Box::new(on_event), found: RefCell::default() }
    }

    /// What was found, by `org/name`: the revision, and the commit that it was.
    pub fn found(&self) -> BTreeMap<String, (String, String)> {
        self.found.borrow().clone()
    }

    /// What to open for `org/name[/config][@revision]`, as `NAME=PATH`; `None` where `text` is something else, or nothing of
    /// this name is in the cache and nothing may be fetched. Of a repository only the files of `split` are fetched.
    ///
    /// # Errors
    /// The repository has several splits or configurations and none is named; it holds no images; it cannot be fetched.
    pub fn find(&self, text: &str, split: Option<&str>) -> Result<Option<String>> {
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
        self.found.borrow_mut().insert(id.repository().to_owned(), (id.revision().to_owned(), commit));
        let own_name = match &config {
            Some(config) => format!("{}/{config}", id.repository()),
            None => id.repository().to_owned(),
        };
        Ok(Some(format!("{}={}", name.unwrap_or(&own_name), path.display())))
    }

    /// Fetches what is missing of a split; returns the commit.
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
        let into = HubFetch { client, cache, id, on_event: &*self.on_event };
        for name in &choice.files {
            into.file(&listing.commit, name)?;
        }
        into.name_commit(&listing.commit)?;
        Ok(listing.commit)
    }

    /// What the cache has, where the hub cannot be reached.
    fn without_hub(&self, error: HubError, cache: &Path, id: &RepositoryId) -> Result<String> {
        match cached_commit(cache, id) {
            Some(commit) if error.is_unreachable() => {
                (self.on_event)(HubEvent::Warning(&format!("{error:#}; what the cache has is used")));
                Ok(commit)
            }
            _ => Err(error.into()),
        }
    }
}

/// `org/name`, perhaps with a configuration and a revision.
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

/// The paths of all files below a folder, with `/`.
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

/// What is needed of a repository, and what is opened of it.
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    /// A folder or a file of the repository; empty where it is all of it.
    place: String,
    files: Vec<String>,
}

/// A file with what its place says of it.
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
    let mut choice = choose_data(&visible, config, split)?;
    choice.files.splice(0..0, companions);
    Ok(choice)
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
        let is_of_split = |file: &&&str| {
            let top = file.split_once('/').map(|(top, _)| top);
            top.is_none() || split.is_none_or(|split| top == Some(split))
        };
        let files = visible.iter().filter(is_of_split).map(|file| (*file).to_owned()).collect();
        return Ok(Choice { place: String::new(), files });
    }
    let images: Vec<&str> = visible.iter().copied().filter(|file| is_image_name(file)).collect();
    ensure!(!images.is_empty(), "it has neither Parquet files nor archives nor images");
    of_images(visible, &images, split, &is_metadata)
}

/// Parquet files, webdatasets or archives of one split of one configuration.
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
    let held = splits.iter().copied().collect::<Vec<_>>().join(", ");
    match split {
        Some(split) if !splits.is_empty() => {
            ensure!(splits.contains(split), "it has no split {split}; hint: it has {held}");
            of_config.retain(|file| file.split.as_deref() == Some(split));
        }
        None if splits.len() > 1 => {
            bail!("it holds the splits {held}; hint: name one, as in --split {}", splits.first().unwrap_or(&"test"))
        }
        _ => {}
    }
    let first = of_config.first().context("it has no file of the split")?;
    ensure!(!is_single || of_config.len() == 1, "its split lies in several archives, which are not read together");
    let place = if is_single { first.file } else { first.folder };
    let of_place = of_config.iter().filter(|file| file.folder == first.folder);
    Ok(Choice { place: place.to_owned(), files: of_place.map(|file| file.file.to_owned()).collect() })
}

/// An image folder: of splits one, with the sheets of file names.
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
    let held = splits.iter().cloned().collect::<Vec<_>>().join(", ");
    let split = match split {
        Some(split) if !splits.is_empty() => {
            ensure!(splits.contains(split), "it has no split {split}; hint: it has {held}");
            Some(split.to_owned())
        }
        None if splits.len() > 1 => {
            bail!(
                "it holds the splits {held}; hint: name one, as in --split {}",
                splits.first().map_or("test", String::as_str)
            )
        }
        _ => splits.first().cloned(),
    };
    let start = split.map_or_else(|| root.to_owned(), |split| format!("{root}{split}/"));
    let is_at_root = |file: &str| is_metadata(file) && file.strip_prefix(root).is_some_and(|rest| !rest.contains('/'));
    let has_sheet_at_root = visible.iter().any(|file| is_at_root(file));
    let is_wanted =
        |file: &&&str| is_at_root(file) || (file.starts_with(&start) && (is_metadata(file) || images.contains(*file)));
    let files = visible.iter().filter(is_wanted).map(|file| (*file).to_owned()).collect();
    let place = if has_sheet_at_root { root } else { start.as_str() };
    Ok(Choice { place: place.trim_end_matches('/').to_owned(), files })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(files: &[&str], config: Option<&str>, split: Option<&str>) -> Result<(String, Vec<String>), String> {
        let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        choose(&files, config, split).map(|choice| (choice.place, choice.files)).map_err(|error| error.to_string())
    }

    fn choice(place: &str, files: &[&str]) -> Result<(String, Vec<String>), String> {
        Ok((place.to_owned(), files.iter().map(|&file| file.to_owned()).collect()))
    }

    #[test]
    fn only_the_files_of_the_split_are_wanted() {
        let files = [
            "README.md",
            "data/test-00000-of-00002.parquet",
            "data/test-00001-of-00002.parquet",
            "data/train-00000-of-00001.parquet",
            ".gitattributes",
        ];
        let test = choice("data", &["README.md", files[1], files[2]]);
        assert_eq!(chosen(&files, None, Some("test")), test);
        assert!(
            chosen(&files, None, None)
                .unwrap_err()
                .contains("the splits test, train; hint: name one, as in --split test")
        );
        assert!(chosen(&files, None, Some("val")).unwrap_err().contains("it has test, train"));
        assert_eq!(chosen(&files[..3], None, None), test);
    }

    #[test]
    fn of_several_configurations_one_is_named() {
        let files = ["a/test-00000-of-00001.parquet", "b/test/0000.parquet", "b/train/0000.parquet"];
        assert!(chosen(&files, None, Some("test")).unwrap_err().contains("the configurations a, b"));
        assert_eq!(chosen(&files, Some("a"), None), choice("a", &files[..1]));
        assert_eq!(chosen(&files, Some("b"), Some("test")), choice("b/test", &files[1..2]));
        assert!(chosen(&files, Some("c"), None).unwrap_err().contains("no configuration c"));
    }

    #[test]
    fn image_folders_archives_and_saved_datasets_are_chosen_too() {
        let folder =
            ["test/cat/0.png", "test/dog/1.jpg", "train/cat/2.png", "train/metadata.csv", "@eaDir/x.png", "a.txt"];
        assert_eq!(chosen(&folder, None, Some("test")), choice("test", &folder[..2]));
        assert_eq!(chosen(&folder, None, Some("train")), choice("train", &folder[2..4]));
        let sheet = ["data/metadata.jsonl", "data/test/0.png", "data/train/1.png"];
        assert_eq!(chosen(&sheet, None, Some("test")), choice("data", &sheet[..2]));
        assert_eq!(chosen(&["test.zip", "train.zip"], None, Some("test")), choice("test.zip", &["test.zip"]));
        let saved = ["dataset_dict.json", "test/state.json", "test/data-00000-of-00001.arrow", "train/state.json"];
        assert_eq!(chosen(&saved, None, Some("test")), choice("", &saved[..3]));
        assert!(chosen(&["a.txt"], None, None).unwrap_err().contains("neither Parquet"));
    }

    #[test]
    fn names_may_have_a_configuration_and_a_revision() {
        let (id, config) = parse("me/photos/small@refs/convert/parquet").unwrap();
        assert_eq!(
            (id.repository(), id.revision(), config.as_deref()),
            ("me/photos", "refs/convert/parquet", Some("small"))
        );
        assert_eq!(id.folder_name(), "datasets--me--photos");
        for text in ["photos", "a/b/c/d", "./photos", "../photos", "a//b"] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
