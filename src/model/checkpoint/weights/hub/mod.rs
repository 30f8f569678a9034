//! Checkpoints and adapters by their name on the model hub.
//!
//! The cache is that of Python's `huggingface_hub`: `models--org--name` holds `refs` (from a revision's name to its
//! commit), `snapshots` (one folder of links per commit) and `blobs` (the files by content). It is read without network
//! access; only a [`Hub`] with a client downloads missing files.
#![expect(clippy::disallowed_methods, reason = "model/checkpoint owns the files of a checkpoint")]

mod fetch;
mod plan;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use self::fetch::Fetch;
use self::plan::Plan;
use super::checkpoint::{Checkpoint, choose_layout, read_index};
use super::embedded::{Miniature, open_checkpoint};
use crate::api::{HubClient, HubError, cached_commit};

pub use crate::api::{HubEvent, RepositoryId};

/// The kind of repository, which decides the files that it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A model or an encoder, with its tokenizer.
    Model,
    /// A vision tower, which needs no tokenizer.
    Tower,
    /// An adapter.
    Adapter,
}

/// The location of something that the user named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Its folder (or an adapter's file), or `embedded` for the miniature.
    pub path: PathBuf,
    /// The name on the hub, `org/name`.
    pub repository: Option<String>,
}

impl Located {
    /// A folder outside the hub's cache, or `embedded`.
    pub fn folder(path: &Path) -> Self {
        Self { path: path.to_owned(), repository: None }
    }

    /// Opens the checkpoint at this location. `miniature` chooses among the miniature's checkpoints.
    ///
    /// # Errors
    /// Those of [`open_checkpoint`].
    pub fn open(&self, miniature: Miniature) -> Result<Checkpoint> {
        let mut checkpoint = open_checkpoint(&self.path, miniature)?;
        checkpoint.repository.clone_from(&self.repository);
        Ok(checkpoint)
    }

    /// The last part of the repository's name.
    pub fn short_name(&self) -> Option<&str> {
        self.repository.as_deref().and_then(|repository| repository.rsplit('/').next())
    }
}

/// A commit that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRevision {
    /// The requested revision.
    pub revision: String,
    /// The commit of the revision.
    pub commit: String,
}

/// The hub's cache on this machine, and a client if downloads are allowed.
pub struct Hub<'a> {
    cache: Option<PathBuf>,
    client: Option<HubClient>,
    command: String,
    on_event: Box<dyn Fn(HubEvent<'_>) + 'a>,
    found: RefCell<BTreeMap<String, FoundRevision>>,
}

impl fmt::Debug for Hub<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("cache", &self.cache).field("client", &self.client).finish_non_exhaustive()
    }
}

impl<'a> Hub<'a> {
    /// `cache` is the folder that holds `models--…`. With a `client`, missing files are downloaded. Without one, the
    /// network is never used, and messages suggest `command`, which downloads them.
    pub fn new(
        cache: Option<PathBuf>,
        client: Option<HubClient>,
        command: String,
        on_event: impl Fn(HubEvent<'_>) + 'a,
    ) -> Self {
        Self { cache, client, command, on_event: Box::new(on_event), found: RefCell::default() }
    }

    /// The revisions that were found on the hub, by `org/name`.
    pub fn found(&self) -> BTreeMap<String, FoundRevision> {
        self.found.borrow().clone()
    }

    /// Locates `text`. An existing path is used first; otherwise `org/name[@revision]` is searched on the hub. A text
    /// that cannot be such a name is treated as a path.
    ///
    /// # Errors
    /// The hub's cache lacks it, or a file of it, and it may not or cannot be downloaded.
    pub fn find(&self, text: &Path, role: Role) -> Result<Located> {
        let id = if text.exists() { None } else { text.to_str().and_then(RepositoryId::parse) };
        match id {
            Some(id) => self.locate(&id, role),
            None => Ok(Located::folder(text)),
        }
    }

    /// Finds the checkpoint of a tower that another one names, as the original LLaVA does: a folder in or next to
    /// `beside`, a path, or a repository on the hub. `None` if it is not found. It is downloaded only if `may_fetch` is
    /// also set.
    ///
    /// # Errors
    /// It is incomplete in the hub's cache, or cannot be downloaded.
    pub fn find_tower(&self, name: &str, beside: &Path, role: Role, may_fetch: bool) -> Result<Option<Located>> {
        let last_part = name.rsplit('/').next().unwrap_or(name);
        let near = [Some(beside.join(name)), beside.parent().map(|parent| parent.join(last_part))];
        let is_checkpoint = |dir: &PathBuf| choose_layout(|file| dir.join(file).is_file()).is_some();
        if let Some(dir) = near.into_iter().flatten().chain([PathBuf::from(name)]).find(is_checkpoint) {
            return Ok(Some(Located::folder(&dir)));
        }
        let Some(id) = RepositoryId::parse(name) else { return Ok(None) };
        if self.client.is_some() && may_fetch {
            return self.locate(&id, role).map(Some);
        }
        match self.cached_commit(&id) {
            Ok(commit) => self.in_cache(&id, commit, role).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Returns a hint on how to get `org/name`.
    pub fn how_to_fetch(&self, name: &str) -> Option<String> {
        RepositoryId::parse(name).map(|id| self.hint(&id, &[]))
    }

    fn tell(&self, event: HubEvent<'_>) {
        (self.on_event)(event);
    }

    fn locate(&self, id: &RepositoryId, role: Role) -> Result<Located> {
        let (Some(client), Some(cache)) = (&self.client, &self.cache) else {
            return self.in_cache(id, self.cached_commit(id)?, role);
        };
        match (Fetch { hub: self, client, cache, id }).run(role) {
            Ok(commit) => self.in_cache(id, commit, role),
            Err(error) => {
                let is_unreachable = error.downcast_ref::<HubError>().is_some_and(HubError::is_unreachable);
                let cached = self.cached_commit(id).and_then(|commit| self.in_cache(id, commit, role));
                match cached {
                    Ok(located) if is_unreachable => {
                        self.tell(HubEvent::Warning(&format!("{error:#}; the cached files are used")));
                        Ok(located)
                    }
                    _ => Err(error),
                }
            }
        }
    }

    /// Returns the snapshot of `commit`, which must hold all files that `role` needs.
    fn in_cache(&self, id: &RepositoryId, commit: String, role: Role) -> Result<Located> {
        let dir = self.folder(id)?.join("snapshots").join(&commit);
        let missing = missing_files(&dir, role)?;
        if let Some(first) = missing.first() {
            let more = if missing.len() > 1 { format!(" and {} more files", missing.len() - 1) } else { String::new() };
            let begun = if self.has_unfinished(id) { "; a download of it was not finished" } else { "" };
            bail!(
                "`{}` is incomplete in the hub's cache: `{first}`{more} of commit {commit} is missing{begun}; hint: {}",
                id.repository(),
                self.hint(id, &missing)
            );
        }
        let found = FoundRevision { revision: id.revision().to_owned(), commit };
        self.found.borrow_mut().insert(id.repository().to_owned(), found);
        Ok(Located { path: dir, repository: Some(id.repository().to_owned()) })
    }

    /// Returns the commit of the revision in the cache.
    fn cached_commit(&self, id: &RepositoryId) -> Result<String> {
        let folder = self.folder(id)?;
        let cache = self.cache.as_deref().unwrap_or(Path::new(""));
        if let Some(commit) = cached_commit(cache, id) {
            return Ok(commit);
        }
        let hint = self.hint(id, &[]);
        if !folder.is_dir() {
            bail!(
                "`{}` is neither a folder here nor in the hub's cache (`{}`); hint: {hint}",
                id.repository(),
                cache.display()
            );
        }
        if self.has_unfinished(id) {
            bail!(
                "the download of `{}` into the hub's cache (`{}`) was not finished; hint: {hint}",
                id.repository(),
                cache.display()
            );
        }
        bail!(
            "the revision `{}` of `{}` is not in the hub's cache (`{}`), which has {}; hint: {hint}",
            id.revision(),
            id.repository(),
            cache.display(),
            words_of(&cached_revisions(&folder))
        )
    }

    fn folder(&self, id: &RepositoryId) -> Result<PathBuf> {
        let cache = self.cache.as_ref().context(
            "the place of the hub's cache is unknown, because there is no home folder; hint: set HF_HOME, or give a \
             folder",
        )?;
        Ok(cache.join(id.folder_name()))
    }

    /// Returns whether a download, by this program or by Python, left a part of a file.
    fn has_unfinished(&self, id: &RepositoryId) -> bool {
        let Ok(entries) = self.folder(id).and_then(|folder| Ok(fs::read_dir(folder.join("blobs"))?)) else {
            return false;
        };
        let is_unfinished = |path: PathBuf| path.extension().is_some_and(|end| end == "incomplete" || end == "partial");
        entries.flatten().any(|entry| is_unfinished(entry.path()))
    }

    /// Returns the commands that download `files` of a repository, or all of it.
    fn hint(&self, id: &RepositoryId, files: &[String]) -> String {
        let mut other = format!("hf download {}", id.repository());
        for file in files {
            other.push(' ');
            other.push_str(file);
        }
        if let Some(revision) = id.named_revision() {
            other.push_str(&format!(" --revision {revision}"));
        }
        format!("`{}` fetches it, and so does `{other}`", self.command)
    }
}

/// Returns the names of revisions and the commits in the cache, sorted.
fn cached_revisions(folder: &Path) -> Vec<String> {
    let names = |part: &str| -> Vec<String> {
        let entries = fs::read_dir(folder.join(part)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut all = [names("refs"), names("snapshots")].concat();
    all.sort();
    all
}

fn words_of(revisions: &[String]) -> String {
    if revisions.is_empty() { "none".to_owned() } else { revisions.join(", ") }
}

/// Returns the files that a snapshot lacks. A link to a missing file counts as missing.
fn missing_files(dir: &Path, role: Role) -> Result<Vec<String>> {
    let has = |name: &str| dir.join(name).is_file();
    let plan = Plan::new(role, &has);
    let mut missing: Vec<String> = plan.missing.into_iter().map(str::to_owned).collect();
    if let Some(index) = plan.index {
        let mut shards: Vec<String> = read_index(&dir.join(index))?.into_values().collect();
        shards.sort();
        shards.dedup();
        missing.extend(shards.into_iter().filter(|shard| !has(shard)));
    }
    Ok(missing)
}
