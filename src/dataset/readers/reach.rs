//! The files that a table may name as its images.
//!
//! The rules follow Python's `datasets`. A table that the user gives may name any image: relative to the table, with
//! `..`, or absolute. A sheet called metadata, and any table from the hub, may only name files of its own folder. Such
//! a table was written by someone else, and must not read other files of this machine.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};

/// A table's place, and the files that it may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::dataset) struct Reach {
    /// The folder to which relative paths refer.
    folder: PathBuf,
    /// The folder that no path may leave, and the reason.
    fence: Option<(PathBuf, &'static str)>,
}

impl Reach {
    /// Returns what the table in `file` may name.
    pub(in crate::dataset) fn of_table(file: &Path) -> Reach {
        let file = plain(&std::path::absolute(file).unwrap_or_else(|_| file.to_owned()));
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        let is_metadata = file.file_stem().is_some_and(|stem| stem == "metadata");
        let fence = match hub_snapshot(&file) {
            Some(snapshot) => Some((snapshot.to_owned(), "a dataset of the hub may only name its own files")),
            None if is_metadata => {
                let why = "a sheet called metadata may only name files of its own folder, as in `datasets`; give the sheet \
                           another name to read images from elsewhere";
                Some((folder.clone(), why))
            }
            None => None,
        };
        Reach { folder, fence }
    }

    /// Allows only files below `folder`.
    pub(in crate::dataset) fn within(folder: &Path) -> Reach {
        let folder = plain(&std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()));
        Reach { fence: Some((folder.clone(), "this sheet may only name files of its own folder")), folder }
    }

    /// Returns the absolute path of the file that the table names by `path`, without `.` and `..`.
    pub(in crate::dataset) fn resolve(&self, path: &str) -> anyhow::Result<PathBuf> {
        ensure!(!path.is_empty(), "it names no image");
        if path.contains("://") {
            bail!("the path `{path}` is an address, which is not read; hint: download the images, and name the files");
        }
        let is_drive = path.as_bytes().get(1) == Some(&b':');
        ensure!(
            !is_drive || cfg!(windows),
            "the path `{path}` begins with a drive of Windows; hint: write paths relative to the table"
        );
        let found = plain(&self.folder.join(path));
        if let Some((root, why)) = &self.fence
            && !found.starts_with(root)
        {
            bail!("the path `{path}` points outside of `{}`, and {why}", root.display());
        }
        Ok(found)
    }

    /// Returns the path for a sample's id: with `/`, relative to the table's folder if it is below it, otherwise
    /// absolute.
    pub(super) fn name(&self, path: &str) -> anyhow::Result<String> {
        let found = self.resolve(path)?;
        let shown = found.strip_prefix(&self.folder).unwrap_or(&found);
        let text = shown.to_str().with_context(|| format!("the path `{path}` is not text"))?;
        Ok(if cfg!(windows) { text.replace('\\', "/") } else { text.to_owned() })
    }
}

/// Returns the snapshot of a dataset in the hub's cache (`datasets--org--name/snapshots/<commit>`) that contains a
/// file.
fn hub_snapshot(file: &Path) -> Option<&Path> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    file.ancestors().find(|folder| {
        let above = folder.parent();
        let repository = above.and_then(Path::parent);
        above.and_then(name).is_some_and(|name| name == "snapshots")
            && repository.and_then(name).is_some_and(|name| name.starts_with("datasets--"))
    })
}

/// Returns the path without `.` and `..`, as text: links are not followed.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

/// Returns shorter names for files outside a table's folder: each path without the folders that all share, which makes
/// names equal on other machines. `None` if two files would share a name, including those `inside` the folder.
pub(super) fn portable_names<'p>(outside: &[&'p str], inside: &[&str]) -> Option<Vec<&'p str>> {
    let folder = |path: &'p str| path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let shared = outside.iter().map(|path| folder(path)).reduce(|a, b| {
        let n_parts = a.split('/').zip(b.split('/')).take_while(|(a, b)| a == b).count();
        let n_bytes: usize = a.split('/').take(n_parts).map(|part| part.len() + 1).sum();
        &a[..n_bytes.saturating_sub(1)]
    })?;
    let names: Vec<&str> =
        outside.iter().map(|path| path.strip_prefix(shared).unwrap_or(path).trim_start_matches('/')).collect();
    names.iter().all(|name| !inside.contains(name)).then_some(names)
}

/// Returns the folder that all of `paths` share, for a message.
pub(super) fn shared_folder<'p>(paths: &[&'p str]) -> Option<&'p str> {
    let name = portable_names(paths, &[])?.into_iter().next()?;
    paths.first()?.strip_suffix(name).map(|folder| folder.trim_end_matches('/'))
}

#[cfg(test)]
mod tests;
