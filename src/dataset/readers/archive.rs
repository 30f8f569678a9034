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
mod tests {
    use std::io::{Cursor, Write};

    use proptest::prelude::*;

    use super::*;

    fn tar_of(name: &str, bytes: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
        builder.into_inner().unwrap()
    }

    fn zip_of(name: &str, bytes: &[u8]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap().into_inner()
    }

    fn open_bytes(name: &str, bytes: &[u8]) -> anyhow::Result<Archive> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        // Indexed and read while the folder exists.
        let archive = Archive::open(&path)?;
        for name in archive.names() {
            let _ = archive.read(&name);
        }
        Ok(archive)
    }

    #[test]
    fn zip_and_tar_give_back_what_was_put_in() {
        for (file, bytes) in [("a.zip", zip_of("cat/1.png", b"meow")), ("a.tar", tar_of("./cat/1.png", b"meow"))] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(file);
            std::fs::write(&path, bytes).unwrap();
            let archive = Archive::open(&path).unwrap();
            assert_eq!(archive.names(), ["cat/1.png"]);
            assert_eq!(archive.read("cat/1.png").unwrap(), b"meow");
            assert!(archive.read("dog/1.png").is_err());
        }
    }

    #[test]
    fn a_tar_whose_entry_reaches_beyond_its_end_is_refused() {
        let bytes = tar_of("cat/1.png", &[7; 600]);
        assert!(index_tar(Cursor::new(&bytes[..700]), 700).is_err());
    }

    #[test]
    fn an_entry_that_leads_out_of_the_archive_is_refused() {
        for name in ["../cat/1.png", "cat/../../1.png", "/cat/1.png", "..\\cat\\1.png"] {
            let error = format!("{:#}", open_bytes("a.zip", &zip_of(name, b"meow")).err().expect(name));
            assert!(error.contains("a.zip") && error.contains("points outside of it"), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn broken_archives_never_panic(
            cut in 0usize..1200, place in 0usize..1200, value: u8, noise in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            for (name, whole) in [("a.zip", zip_of("cat/1.png", &noise)), ("a.tar", tar_of("cat/1.png", &noise))] {
                let mut bytes = whole;
                bytes.truncate(cut.max(1));
                let place = place % bytes.len();
                bytes[place] = value;
                let _ = open_bytes(name, &bytes);
                let _ = open_bytes(name, &noise);
            }
        }
    }
}
