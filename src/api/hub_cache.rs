//! The hub's cache on this machine, in the layout that Python's `huggingface_hub` reads and writes.
#![expect(clippy::disallowed_methods, reason = "the hub's client keeps what it fetches")]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::HubClient;

/// The default revision.
const MAIN: &str = "main";

/// The kind of a repository, with which its cache folder and its addresses begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HubKind {
    /// A model, an encoder or an adapter.
    #[default]
    Model,
    /// A dataset.
    Dataset,
}

impl HubKind {
    /// Returns `models` or `datasets`, for addresses and the names of cache folders.
    pub fn plural(self) -> &'static str {
        match self {
            HubKind::Model => "models",
            HubKind::Dataset => "datasets",
        }
    }
}

/// A repository's name, optionally with a revision: `org/name[@revision]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryId {
    repository: String,
    revision: Option<String>,
    kind: HubKind,
}

impl RepositoryId {
    /// Parses `org/name` or `org/name@revision`; `None` for anything else, such as a path with other slashes.
    pub fn parse(text: &str) -> Option<Self> {
        let (repository, revision) = match text.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (text, None),
        };
        let (owner, name) = repository.split_once('/')?;
        let is_plain = |part: &str| {
            let is_inner = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            (1..=96).contains(&part.len())
                && part.chars().all(is_inner)
                && !part.starts_with(['.', '-'])
                && !part.ends_with(['.', '-'])
                && !part.contains("--")
                && !part.contains("..")
        };
        // A revision names a file of the cache.
        let is_revision = |text: &str| {
            text.split('/').all(|part| {
                !part.is_empty()
                    && !part.starts_with('.')
                    && part.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c))
            })
        };
        let is_valid = is_plain(owner) && is_plain(name) && revision.is_none_or(is_revision);
        let (repository, revision) = (repository.to_owned(), revision.map(str::to_owned));
        is_valid.then_some(Self { repository, revision, kind: HubKind::Model })
    }

    /// Returns the same name for a dataset.
    #[must_use]
    pub fn of_dataset(self) -> Self {
        Self { kind: HubKind::Dataset, ..self }
    }

    /// `org/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the branch, tag or commit; `main` by default.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// Returns the revision, if one is given.
    pub fn named_revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// Returns the name of the repository's cache folder.
    pub fn folder_name(&self) -> String {
        format!("{}--{}", self.kind.plural(), self.repository.replace('/', "--"))
    }
}

/// A report to the user during a download.
#[derive(Clone, Copy, Debug)]
pub enum HubEvent<'e> {
    /// Bytes arrived.
    Downloading {
        /// `org/name`.
        repository: &'e str,
        /// The file.
        file: &'e str,
        /// Bytes so far.
        n_done: u64,
        /// Total bytes, if the server reports them.
        n_total: Option<u64>,
    },
    /// A warning.
    Warning(&'e str),
}

/// Returns the commit that the cache in the folder `cache` has for a repository's revision.
pub fn cached_commit(cache: &Path, id: &RepositoryId) -> Option<String> {
    let folder = cache.join(id.folder_name());
    let named = fs::read_to_string(folder.join("refs").join(id.revision())).ok();
    let is_commit = || folder.join("snapshots").join(id.revision()).is_dir();
    let commit = named.map(|commit| commit.trim().to_owned()).or_else(|| is_commit().then(|| id.revision().to_owned()));
    // A commit names a folder of the cache.
    commit.filter(|commit| commit.chars().all(|c| c.is_ascii_alphanumeric()))
}

/// A download of a repository into the cache.
pub struct HubFetch<'a> {
    /// The hub.
    pub client: &'a HubClient,
    /// The cache folder.
    pub cache: &'a Path,
    /// The repository.
    pub id: &'a RepositoryId,
    /// Receives the download's progress.
    pub on_event: &'a dyn Fn(HubEvent<'_>),
}

impl HubFetch<'_> {
    fn folder(&self) -> PathBuf {
        self.cache.join(self.id.folder_name())
    }

    /// Returns the folder with the files of a commit under their names.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    fn locks(&self) -> PathBuf {
        self.cache.join(".locks").join(self.id.folder_name())
    }

    /// Fetches one file. Its bytes are stored in `blobs` under their hash, and the snapshot links there.
    ///
    /// # Errors
    /// The hub does not return it, or it cannot be written.
    pub fn file(&self, commit: &str, name: &str) -> Result<()> {
        let link = self.snapshot(commit).join(name);
        if link.is_file() {
            return Ok(());
        }
        let repository = self.id.repository();
        let place = || format!("failed to fetch `{name}` of `{repository}`");
        let file = self.client.file(repository, commit, name).with_context(place)?;
        let blob = self.folder().join("blobs").join(&file.etag);
        let _lock = self.lock(&file.etag, name)?;
        let is_there = fs::metadata(&blob)
            .is_ok_and(|found| found.is_file() && file.n_bytes.is_none_or(|n_bytes| n_bytes == found.len()));
        if !is_there {
            let fetched = self.client.fetch((repository, commit, name), &file, &blob, &mut |n_done, n_total| {
                (self.on_event)(HubEvent::Downloading { repository, file: name, n_done, n_total });
            });
            fetched.with_context(place)?;
        }
        link_to_blob(&blob, &link, name)
    }

    /// Waits until no other process, including Python, is fetching the same file.
    fn lock(&self, etag: &str, name: &str) -> Result<File> {
        let path = self.locks().join(format!("{etag}.lock"));
        create_folder_of(&path)?;
        let place = || format!("failed to lock `{}`", path.display());
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).with_context(place)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text =
                    format!("waiting for another process that is fetching `{name}` of `{}`", self.id.repository());
                (self.on_event)(HubEvent::Warning(&text));
                file.lock().with_context(place)?;
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(place),
        }
        Ok(file)
    }

    /// Points the revision's name to `commit`.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub fn name_commit(&self, commit: &str) -> Result<()> {
        let revision = self.id.revision();
        if revision == commit {
            return Ok(());
        }
        let path = self.folder().join("refs").join(revision);
        let place = || format!("failed to write `{}`", path.display());
        create_folder_of(&path)?;
        // Written outside `refs`, where every file is a revision.
        let beside = self.locks().join(format!("{}.ref", std::process::id()));
        create_folder_of(&beside)?;
        fs::write(&beside, commit).with_context(place)?;
        fs::rename(&beside, &path).with_context(place)
    }
}

/// Creates a relative symbolic link, as Python does; without symbolic links a hard link, otherwise a copy.
fn link_to_blob(blob: &Path, link: &Path, name: &str) -> Result<()> {
    create_folder_of(link)?;
    let place = || format!("failed to put `{}` in its place", link.display());
    // A dangling link would be in the way.
    if link.symlink_metadata().is_ok() {
        fs::remove_file(link).with_context(place)?;
    }
    let blob_name = blob.file_name().context("a blob has a name")?;
    // A file in a subfolder of the repository needs as many more steps up.
    let up = PathBuf::from_iter(std::iter::repeat_n("..", 2 + name.matches('/').count()));
    let target = up.join("blobs").join(blob_name);
    if symlink(&target, link).is_ok() || fs::hard_link(blob, link).is_ok() {
        return Ok(());
    }
    // An existing file is trusted, so it must appear complete.
    let copy = blob.with_extension("copy");
    fs::copy(blob, &copy).and_then(|_| fs::rename(&copy, link)).with_context(place)
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

fn create_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().context("a file of the cache lies in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("failed to create the folder `{}`", folder.display()))
}
