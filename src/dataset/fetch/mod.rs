//! Fetching of published datasets: download, check, unpack.

mod unpack;

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::catalog::{Catalog, Entry, WireFile};
use super::checksum::md5_of_file;
use super::open::{DataRoots, is_located};
use crate::api::{Checksum, Download, download};

/// A dataset to fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchRequest<'a> {
    /// The dataset's name in the catalog.
    pub name: &'a str,
    /// Fetch only the files of this split, if they are separate.
    pub split: Option<&'a str>,
    /// Another server or mirror that has the files under the same names.
    pub base_url: Option<&'a str>,
    /// The folder below which datasets are stored.
    pub root: &'a Path,
}

/// An event during fetching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchEvent<'a> {
    /// The file already exists and is correct.
    AlreadyThere {
        /// The file.
        path: &'a Path,
    },
    /// Bytes arrived.
    Downloading {
        /// The address.
        url: &'a str,
        /// Bytes so far.
        n_done: u64,
        /// Total bytes, if the server reports them.
        n_total: Option<u64>,
    },
    /// The catalog has no checksum for this file.
    Unchecked {
        /// The address.
        url: &'a str,
    },
    /// The archive is being unpacked.
    Unpacking {
        /// The archive.
        path: &'a Path,
    },
}

/// Downloads and unpacks a dataset below `root`; existing files are left alone. Returns the folders that were filled.
pub fn fetch(
    catalog: &Catalog,
    request: &FetchRequest,
    on_event: &mut dyn FnMut(FetchEvent),
) -> anyhow::Result<Vec<PathBuf>> {
    let entry = catalog.entry(request.name)?;
    if let Some(split) = request.split {
        entry.split(Some(split))?;
    }
    ensure!(
        !entry.is_embedded(&entry.wire.default_split),
        "the dataset `{}` is a part of the program: there is nothing to fetch",
        entry.name
    );
    ensure!(
        !entry.wire.files.is_empty(),
        "the dataset `{}` cannot be fetched without its owner's permission ({}); hint: get it from {} and put it below \
         {}",
        entry.name,
        entry.wire.licence,
        entry.wire.source,
        request.root.display()
    );
    let is_wanted = |file: &&WireFile| {
        file.splits.is_empty() || request.split.is_none_or(|split| file.splits.iter().any(|name| name == split))
    };
    let mut folders = Vec::new();
    for file in entry.wire.files.iter().filter(is_wanted) {
        let folder = request.root.join(&file.folder);
        fetch_file(entry, file, request, &folder, on_event)
            .with_context(|| format!("failed to fetch the dataset `{}`", entry.name))?;
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    Ok(folders)
}

fn fetch_file(
    entry: &Entry,
    file: &WireFile,
    request: &FetchRequest,
    folder: &Path,
    on_event: &mut dyn FnMut(FetchEvent),
) -> anyhow::Result<()> {
    let name = file_name(&file.url);
    let path = folder.join(name);
    if file.unpack && is_unpacked(entry, request) {
        on_event(FetchEvent::AlreadyThere { path: folder });
        return Ok(());
    }
    let url = match request.base_url {
        Some(base) => format!("{}/{name}", base.trim_end_matches('/')),
        None => file.url.clone(),
    };
    fs::create_dir_all(folder).with_context(|| format!("failed to create the folder `{}`", folder.display()))?;
    if is_complete(&path, file)? {
        on_event(FetchEvent::AlreadyThere { path: &path });
    } else {
        let md5 = file.md5.clone().map(Checksum::Md5);
        let checksum = file.sha256.clone().map(Checksum::Sha256).or(md5);
        if checksum.is_none() {
            on_event(FetchEvent::Unchecked { url: &url });
        }
        let download_request = Download { url: &url, destination: &path, checksum, n_bytes: None, bearer_token: None };
        download(&download_request, &mut |n_done, n_total| {
            on_event(FetchEvent::Downloading { url: &url, n_done, n_total });
        })?;
    }
    if file.unpack {
        on_event(FetchEvent::Unpacking { path: &path });
        unpack::unpack(&path, folder)?;
        // Its contents are now next to it, and a second copy would only take space.
        fs::remove_file(&path).with_context(|| format!("failed to remove `{}`", path.display()))?;
    }
    Ok(())
}

/// Whether the requested splits are already below the root.
fn is_unpacked(entry: &Entry, request: &FetchRequest) -> bool {
    let roots = DataRoots { data: Some(request.root.to_owned()), ..DataRoots::default() };
    match request.split {
        Some(split) => is_located(entry, split, &roots),
        None => entry.wire.splits.keys().all(|split| is_located(entry, split, &roots)),
    }
}

/// Whether an earlier download exists and is correct; one without a published checksum is trusted.
fn is_complete(path: &Path, file: &WireFile) -> anyhow::Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    match &file.md5 {
        Some(expected) => Ok(md5_of_file(path)?.eq_ignore_ascii_case(expected)),
        None => Ok(file.sha256.is_none()),
    }
}

/// Checks a catalog's entry for a file to download.
pub(super) fn check_file(file: &WireFile) -> anyhow::Result<()> {
    ensure!(
        file.folder.components().all(|part| matches!(part, Component::Normal(_))),
        "the folder `{}` of a file is not a plain path below the data root",
        file.folder.display()
    );
    let name = file_name(&file.url);
    ensure!(!name.is_empty(), "the address `{}` ends without a file name", file.url);
    if file.unpack && unpack::Kind::of(name).is_none() {
        bail!("`{name}` cannot be unpacked; hint: .tar, .tar.gz, .tgz or .zip");
    }
    let is_hex = |digest: &Option<String>, len: usize| {
        digest.as_ref().is_none_or(|digest| digest.len() == len && digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    ensure!(is_hex(&file.md5, 32) && is_hex(&file.sha256, 64), "a checksum of `{}` is malformed", file.url);
    Ok(())
}

/// Returns the last part of an address, without a query; empty if it is not a plain file name.
fn file_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or("");
    let name = path.rsplit_once('/').map_or("", |(_, name)| name);
    if name.starts_with('.') || name.contains(['\\', ':']) { "" } else { name }
}

#[cfg(test)]
mod tests;
