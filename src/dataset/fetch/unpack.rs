//! Unpacking of untrusted archives.
//!
//! Only plain files and folders are written, only below a fresh folder of our own (so no link can be in the way), and
//! only up to a limit on the total size. The result is moved into place once it is complete.
#![expect(clippy::disallowed_methods, reason = "unpacking writes below the data root")]

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::dataset::readers::N_SAMPLES_MAX;

/// Images hardly compress, and raw pixels only a few times: an archive that grows more is a bomb.
const RATIO_MAX: u64 = 100;
/// Small archives may grow more: text and flat images.
const GROWTH_FREE_BYTES: u64 = 64 << 20;

/// The kinds of archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tar,
    TarGz,
    Zip,
}

impl Kind {
    /// Returns the kind by the end of the file's name.
    pub(super) fn of(name: &str) -> Option<Kind> {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            _ if name.ends_with(".tar.gz") || name.ends_with(".tgz") => Some(Kind::TarGz),
            _ if name.ends_with(".tar") => Some(Kind::Tar),
            _ if name.ends_with(".zip") => Some(Kind::Zip),
            _ => None,
        }
    }
}

/// Unpacks `archive` into `folder`; on an error nothing is left behind.
pub(super) fn unpack(archive: &Path, folder: &Path) -> anyhow::Result<()> {
    let name = archive.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let staging = folder.join(format!(".{name}.unpacking"));
    let remove_staging = || match fs::remove_dir_all(&staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    remove_staging().with_context(|| format!("failed to remove `{}`", staging.display()))?;
    let unpacked = unpack_into(archive, &name, &staging).and_then(|()| move_into(&staging, folder));
    let removed = remove_staging();
    unpacked.with_context(|| format!("failed to unpack `{}`", archive.display()))?;
    removed.with_context(|| format!("failed to remove `{}`", staging.display()))
}

fn unpack_into(archive: &Path, name: &str, staging: &Path) -> anyhow::Result<()> {
    fs::create_dir(staging)?;
    let file = File::open(archive)?;
    let n_bytes_max = file.metadata()?.len().saturating_mul(RATIO_MAX).saturating_add(GROWTH_FREE_BYTES);
    let mut sink = Sink { root: staging, n_bytes_left: n_bytes_max, n_entries: 0 };
    let reader = BufReader::new(file);
    match Kind::of(name) {
        Some(Kind::Tar) => unpack_tar(reader, &mut sink),
        Some(Kind::TarGz) => {
            // Also bounds what is decompressed and skipped. Twice the limit, so that a growing file reaches its own
            // limit first.
            let unzipped = flate2::read::MultiGzDecoder::new(reader).take(n_bytes_max.saturating_mul(2));
            unpack_tar(unzipped, &mut sink)
        }
        Some(Kind::Zip) => unpack_zip(reader, &mut sink),
        None => bail!("it is not a .tar, .tar.gz, .tgz or .zip file"),
    }
}

fn unpack_tar(reader: impl Read, sink: &mut Sink) -> anyhow::Result<()> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            sink.folder(&name)?;
        } else if kind.is_file() {
            sink.file(&name, entry)?;
        } else if !kind.is_pax_global_extensions() {
            bail!("its entry `{}` is a link or a device: refused", name.escape_debug());
        }
    }
    Ok(())
}

fn unpack_zip(reader: BufReader<File>, sink: &mut Sink) -> anyhow::Result<()> {
    let mut archive = zip::ZipArchive::new(reader)?;
    for index in 0..archive.len() {
        let entry = archive.by_index(index)?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        if entry.is_symlink() {
            bail!("its entry `{}` is a link: refused", name.escape_debug());
        } else if entry.is_dir() {
            sink.folder(&name)?;
        } else {
            sink.file(&name, entry)?;
        }
    }
    Ok(())
}

/// The destination of entries, and how many more bytes are allowed.
struct Sink<'a> {
    root: &'a Path,
    n_bytes_left: u64,
    n_entries: u64,
}

impl Sink<'_> {
    fn folder(&mut self, name: &str) -> anyhow::Result<()> {
        let path = self.admit(name)?;
        fs::create_dir_all(path)?;
        Ok(())
    }

    fn file(&mut self, name: &str, content: impl Read) -> anyhow::Result<()> {
        let path = self.admit(name)?;
        ensure!(path != self.root, "its entry `{}` has no name", name.escape_debug());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = File::create_new(&path).with_context(|| format!("its entry `{}`", name.escape_debug()))?;
        // One byte more than allowed distinguishes a full file from an overflow.
        let n_bytes = io::copy(&mut content.take(self.n_bytes_left.saturating_add(1)), &mut file)?;
        self.n_bytes_left = self
            .n_bytes_left
            .checked_sub(n_bytes)
            .with_context(|| format!("it grows to more than {RATIO_MAX} times its size: a decompression bomb?"))?;
        Ok(())
    }

    /// Returns the place of an entry below the root. An entry that would leave the root is an error, not a warning.
    fn admit(&mut self, name: &str) -> anyhow::Result<PathBuf> {
        self.n_entries += 1;
        ensure!(self.n_entries <= N_SAMPLES_MAX as u64, "it has more than {N_SAMPLES_MAX} entries");
        let is_plain = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
        let is_inside = Path::new(name).components().all(is_plain) && !name.contains(['\\', ':', '\0']);
        ensure!(is_inside, "its entry `{}` would be written outside of the folder: refused", name.escape_debug());
        Ok(Path::new(name)
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .fold(self.root.to_owned(), |path, part| path.join(part)))
    }
}

/// Moves everything below `from` into `to`, merging folders and replacing files.
fn move_into(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() && target.is_dir() {
            move_into(&entry.path(), &target)?;
        } else {
            fs::rename(entry.path(), &target).with_context(|| format!("failed to move to `{}`", target.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
