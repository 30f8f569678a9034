//! Images inside `.zip` and `.tar`: the index is read once, and each image on demand.
#![expect(clippy::disallowed_methods, reason = "a reader opens its archive")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, ensure};
use zip::ZipArchive;

use super::files::N_BYTES_SNIFFED;
use super::names::{self, UniqueNames};
use super::{IMAGE_BYTES_MAX, N_SAMPLES_MAX};

/// An open archive.
pub(in crate::dataset) enum Archive {
    Zip(ZipImages),
    Tar(TarImages),
}

impl Archive {
    /// Whether the name of `path` is that of an archive whose images can be read in place.
    pub(in crate::dataset) fn is_archive(path: &Path) -> bool {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
        extension.eq_ignore_ascii_case("zip") || extension.eq_ignore_ascii_case("tar")
    }

    /// Reads the index.
    pub(in crate::dataset) fn open(path: &Path) -> anyhow::Result<Archive> {
        let is_zip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zip"));
        let opened =
            if is_zip { ZipImages::open(path).map(Archive::Zip) } else { TarImages::open(path).map(Archive::Tar) };
        opened.with_context(|| format!("failed to read the archive `{}`", path.display()))
    }

    /// Returns the names of all files in it, with `/`, in byte order.
    pub(in crate::dataset) fn names(&self) -> Vec<String> {
        match self {
            Archive::Zip(zip) => zip.indices.keys().cloned().collect(),
            Archive::Tar(tar) => tar.ranges.keys().cloned().collect(),
        }
    }

    /// Returns the bytes of one file.
    pub(in crate::dataset) fn read(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        match self {
            Archive::Zip(zip) => zip.read(name, u64::MAX),
            Archive::Tar(tar) => tar.read(name, u64::MAX),
        }
    }

    /// Returns the first bytes of one file.
    pub(super) fn start_of(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        match self {
            Archive::Zip(zip) => zip.read(name, N_BYTES_SNIFFED),
            Archive::Tar(tar) => tar.read(name, N_BYTES_SNIFFED),
        }
    }

    /// Returns a note on its file names, if there is one.
    pub(super) fn note_of_names(&self) -> Option<String> {
        match self {
            Archive::Zip(zip) => zip.note.clone(),
            Archive::Tar(tar) => tar.note.clone(),
        }
    }
}

/// A zip with a pool of open handles, one per concurrent reader.
pub(in crate::dataset) struct ZipImages {
    path: PathBuf,
    indices: BTreeMap<String, usize>,
    note: Option<String>,
    handles: Mutex<Vec<ZipArchive<BufReader<File>>>>,
}

impl ZipImages {
    fn open(path: &Path) -> anyhow::Result<ZipImages> {
        let archive = ZipArchive::new(BufReader::new(File::open(path)?))?;
        ensure!(archive.len() <= N_SAMPLES_MAX, "its index says {} entries", archive.len());
        let (mut indices, mut names) = (BTreeMap::new(), UniqueNames::default());
        for (index, raw) in archive.file_names_raw().enumerate() {
            let name = match std::str::from_utf8(raw) {
                // Many programs write UTF-8 without declaring it.
                Ok(name) => name.to_owned(),
                Err(_) => {
                    let Some(Ok(name)) = archive.name_for_index(index) else { continue };
                    names.count(&name);
                    name.into_owned()
                }
            };
            if !name.ends_with(['/', '\\']) {
                indices.insert(names.add("", checked(&name)?.as_bytes()), index);
            }
        }
        let note = names.note("code page 437, the default of zip");
        Ok(ZipImages { path: path.to_owned(), indices, note, handles: Mutex::new(vec![archive]) })
    }

    /// Reads at most `n_bytes_max` bytes of a file.
    fn read(&self, name: &str, n_bytes_max: u64) -> anyhow::Result<Vec<u8>> {
        let &index = self.indices.get(name).context("it has no such entry")?;
        let pooled = self.handles.lock().ok().and_then(|mut handles| handles.pop());
        let mut archive = match pooled {
            Some(archive) => archive,
            None => ZipArchive::new(BufReader::new(File::open(&self.path)?))?,
        };
        let bytes = archive
            .by_index(index)
            .map_err(anyhow::Error::from)
            .and_then(|entry| read_limited(entry.take(n_bytes_max)));
        if let Ok(mut handles) = self.handles.lock() {
            handles.push(archive);
        }
        bytes
    }
}

/// An uncompressed tar; each image is a range of its bytes.
pub(in crate::dataset) struct TarImages {
    path: PathBuf,
    ranges: Ranges,
    note: Option<String>,
}

impl TarImages {
    fn open(path: &Path) -> anyhow::Result<TarImages> {
        let file = File::open(path)?;
        let n_bytes = file.metadata()?.len();
        let (ranges, names) = index_tar(BufReader::new(file), n_bytes)?;
        Ok(TarImages { path: path.to_owned(), ranges, note: names.note("Latin-1") })
    }

    /// Reads at most `n_bytes_max` bytes of a file.
    fn read(&self, name: &str, n_bytes_max: u64) -> anyhow::Result<Vec<u8>> {
        let &(start, len) = self.ranges.get(name).context("it has no such entry")?;
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        read_limited(file.take(len.min(n_bytes_max)))
    }
}

/// The start and length of each file's bytes.
type Ranges = BTreeMap<String, (u64, u64)>;

/// Indexes the regular files of a tar of `n_bytes`; a later entry of the same name replaces an earlier one.
fn index_tar(reader: impl Read + Seek, n_bytes: u64) -> anyhow::Result<(Ranges, UniqueNames)> {
    let mut archive = tar::Archive::new(reader);
    let (mut ranges, mut names) = (BTreeMap::new(), UniqueNames::default());
    // The name assigned to each entry's bytes.
    let mut given: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let raw = checked_bytes(&entry.path_bytes())?;
        let name = given.entry(raw).or_insert_with_key(|raw| names.add("", raw)).clone();
        let start = entry.raw_file_position();
        let end = start.checked_add(entry.size()).filter(|&end| end <= n_bytes);
        ensure!(end.is_some(), "the entry `{name}` reaches beyond its end; hint: fetch it again");
        ranges.insert(name, (start, entry.size()));
        ensure!(ranges.len() <= N_SAMPLES_MAX, "it has more than {N_SAMPLES_MAX} entries");
    }
    Ok((ranges, names))
}

/// Like [`checked`], for a name that need not be UTF-8.
fn checked_bytes(name: &[u8]) -> anyhow::Result<Vec<u8>> {
    if let Ok(name) = std::str::from_utf8(name) {
        return checked(name).map(String::into_bytes);
    }
    // Parts that lead out of an archive are ASCII in any encoding.
    checked(&names::readable(name))?;
    Ok(name.strip_prefix(b"./").unwrap_or(name).to_owned())
}

/// Returns an entry's name with `/`. Reading in place cannot leave the archive, but a name that leads out of it is
/// malicious.
pub(super) fn checked(name: &str) -> anyhow::Result<String> {
    let name = name.replace('\\', "/").trim_start_matches("./").to_owned();
    ensure!(
        !name.starts_with('/') && !name.split('/').any(|part| part == ".."),
        "its entry `{}` points outside of it: refused; hint: fetch it from a source that you trust, or pack it again",
        name.escape_debug()
    );
    Ok(name)
}

/// Reads all of `reader`, unless it is larger than an image may be. The size in a header is not trusted.
pub(in crate::dataset) fn read_limited(reader: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(IMAGE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= IMAGE_BYTES_MAX, "it is larger than {IMAGE_BYTES_MAX} bytes");
    Ok(bytes)
}

#[cfg(test)]
mod tests;
