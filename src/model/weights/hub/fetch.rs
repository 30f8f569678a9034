//! Downloading a repository into the hub's cache, in the layout that Python's `huggingface_hub` reads and writes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::super::checkpoint::{parse_json, read_index, read_optional};
use super::super::quantised::{self, GGUF};
use super::plan::Plan;
use super::{Hub, HubEvent, RepositoryId, Role};
use crate::api::HubClient;

/// A repository at one commit, on its way into the cache.
pub(super) struct Fetch<'a> {
    pub hub: &'a Hub<'a>,
    pub client: &'a HubClient,
    pub cache: &'a Path,
    pub id: &'a RepositoryId,
}

impl Fetch<'_> {
    /// Fetches what is missing of what `role` needs; returns the commit. The revision's name points to it at the end, so
    /// that until then it stands for what it stood for before.
    pub fn run(&self, role: Role) -> Result<String> {
        let (repository, revision) = (self.id.repository(), self.id.revision());
        let listing = self.client.revision(repository, revision)?;
        let commit = listing.commit.as_str();
        let has = |name: &str| listing.files.iter().any(|file| file == name);
        let plan = Plan::new(role, &has);
        if let Some(missing) = plan.missing.first() {
            bail!("`{repository}` has no `{missing}`{}", why_not(role, &listing.files));
        }
        for name in &plan.companions {
            self.file(commit, name)?;
        }
        let config = self.snapshot(commit).join("config.json");
        if role != Role::Adapter
            && let Some(bytes) = read_optional(&config)?
        {
            // Gigabytes that are not read need not arrive.
            quantised::refuse_config(&config, &parse_json(&config, &bytes)?)?;
        }
        for name in &plan.weights {
            self.file(commit, name)?;
        }
        if let Some(index) = plan.index {
            self.file(commit, index)?;
            let mut shards: Vec<String> = read_index(&self.snapshot(commit).join(index))?.into_values().collect();
            shards.sort();
            shards.dedup();
            for shard in &shards {
                ensure!(has(shard), "`{index}` of `{repository}` names `{shard}`, which is not there");
                self.file(commit, shard)?;
            }
        }
        self.name_commit(commit)?;
        Ok(listing.commit)
    }

    fn folder(&self) -> PathBuf {
        self.cache.join(self.id.folder_name())
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    fn locks(&self) -> PathBuf {
        self.cache.join(".locks").join(self.id.folder_name())
    }

    /// One file: its bytes lie in `blobs` under what they are, and the snapshot links there.
    fn file(&self, commit: &str, name: &str) -> Result<()> {
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
                self.hub.tell(HubEvent::Downloading { repository, file: name, n_done, n_total });
            });
            fetched.with_context(place)?;
        }
        link_to_blob(&blob, &link)
    }

    /// Waits until no other process, Python's among them, fetches the same file.
    fn lock(&self, etag: &str, name: &str) -> Result<File> {
        let path = self.locks().join(format!("{etag}.lock"));
        create_folder_of(&path)?;
        let place = || format!("failed to lock `{}`", path.display());
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).with_context(place)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("another process fetches `{name}` of `{}`: waiting for it", self.id.repository());
                self.hub.tell(HubEvent::Warning(&text));
                file.lock().with_context(place)?;
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(place),
        }
        Ok(file)
    }

    /// Lets the revision's name mean `commit`.
    fn name_commit(&self, commit: &str) -> Result<()> {
        let revision = self.id.revision();
        if revision == commit {
            return Ok(());
        }
        let path = self.folder().join("refs").join(revision);
        let place = || format!("failed to write `{}`", path.display());
        create_folder_of(&path)?;
        // Apart from `refs`, where every file is a revision.
        let beside = self.locks().join(format!("{}.ref", std::process::id()));
        create_folder_of(&beside)?;
        fs::write(&beside, commit).with_context(place)?;
        fs::rename(&beside, &path).with_context(place)
    }
}

fn why_not(role: Role, files: &[String]) -> String {
    if files.iter().any(|file| file.to_ascii_lowercase().ends_with(".gguf")) {
        return format!(": {GGUF}");
    }
    let is_adapter = files.iter().any(|file| file == "adapter_config.json");
    match role {
        Role::Adapter => "; hint: it holds no adapter in its top folder".to_owned(),
        _ if is_adapter => "; hint: it is an adapter, give its base as --model and it as --adapter".to_owned(),
        _ => "; hint: give a repository with a checkpoint of transformers or open_clip in its top folder".to_owned(),
    }
}

/// A relative symbolic link, as Python makes it; where the system has none a second name of the file, else a copy.
fn link_to_blob(blob: &Path, link: &Path) -> Result<()> {
    create_folder_of(link)?;
    let place = || format!("failed to put `{}` in its place", link.display());
    // A link that leads nowhere would stand in the way.
    if link.symlink_metadata().is_ok() {
        fs::remove_file(link).with_context(place)?;
    }
    let name = blob.file_name().context("a blob has a name")?;
    let target = Path::new("..").join("..").join("blobs").join(name);
    if symlink(&target, link).is_ok() || fs::hard_link(blob, link).is_ok() {
        return Ok(());
    }
    // What stands in its place is taken at its word, so it comes there as a whole.
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
