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
mod tests {
    use std::io::{Cursor, Write};

    use proptest::prelude::*;

    use super::*;

    /// A tar with hand-written headers, because the crate would refuse to write them.
    fn tar_entry(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut bytes = header.to_vec();
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in entries {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    /// Unpacks into `root/data`; returns the result and every path below `root` afterwards.
    fn check(name: &str, bytes: &[u8]) -> (anyhow::Result<()>, Vec<String>) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("data");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
        let outcome = unpack(&folder.join(name), &folder);
        let mut paths = Vec::new();
        let mut queue = vec![root.path().to_owned()];
        while let Some(next) = queue.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    queue.push(path.clone());
                }
                paths.push(path.strip_prefix(root.path()).unwrap().display().to_string());
            }
        }
        paths.sort();
        (outcome, paths)
    }

    #[test]
    fn files_and_folders_come_out() {
        let bytes =
            [tar_entry("a/", b'5', "", b""), tar_entry("./a/b.txt", b'0', "", b"hello"), vec![0; 1024]].concat();
        let (outcome, paths) = check("x.tar", &bytes);
        outcome.unwrap();
        assert_eq!(paths, ["data", "data/a", "data/a/b.txt", "data/x.tar"]);
        let (outcome, paths) = check("x.zip", &zip_of(&[("a/b.txt", b"hello")]));
        outcome.unwrap();
        assert_eq!(paths, ["data", "data/a", "data/a/b.txt", "data/x.zip"]);
    }

    #[test]
    fn an_entry_that_would_leave_the_folder_is_refused_and_nothing_stays() {
        for name in ["../evil", "/tmp/evil", "a/../../evil", "C:\\evil", "..\\evil"] {
            let good = tar_entry("good", b'0', "", b"x");
            let tar = [good, tar_entry(name, b'0', "", b"x"), vec![0; 1024]].concat();
            for (archive, bytes) in [("x.tar", tar), ("x.zip", zip_of(&[("good", b"x"), (name, b"x")]))] {
                let (outcome, paths) = check(archive, &bytes);
                let error = format!("{:#}", outcome.unwrap_err());
                assert!(error.contains("outside of the folder") && error.contains(archive), "{error}");
                assert_eq!(paths, ["data".to_owned(), format!("data/{archive}")]);
            }
        }
    }

    #[test]
    fn links_are_refused() {
        for kind in [b'1', b'2'] {
            let bytes = [tar_entry("a", kind, "/etc", b""), tar_entry("a/b", b'0', "", b"x"), vec![0; 1024]].concat();
            let (outcome, paths) = check("x.tar", &bytes);
            assert!(format!("{:#}", outcome.unwrap_err()).contains("is a link"));
            assert_eq!(paths, ["data", "data/x.tar"]);
        }
    }

    #[test]
    fn a_bomb_is_stopped_while_it_grows() {
        let zeros = vec![0u8; 80 << 20];
        let (outcome, paths) = check("x.zip", &zip_of(&[("zeros", &zeros)]));
        assert!(format!("{:#}", outcome.unwrap_err()).contains("bomb"));
        assert_eq!(paths, ["data", "data/x.zip"]);
    }

    #[test]
    fn what_was_there_stays_and_what_comes_anew_replaces_it() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/old"), "old").unwrap();
        fs::write(root.path().join("a/b"), "before").unwrap();
        let archive = root.path().join("x.zip");
        fs::write(&archive, zip_of(&[("a/b", b"after")])).unwrap();
        unpack(&archive, root.path()).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("a/old")).unwrap(), "old");
        assert_eq!(fs::read_to_string(root.path().join("a/b")).unwrap(), "after");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn broken_archives_never_panic_and_stay_inside(
            cut in 1usize..2000, places in proptest::collection::vec((0usize..2000, any::<u8>()), 0..5),
        ) {
            let tar = [tar_entry("a/b", b'0', "", &[7; 300]), tar_entry("c", b'0', "", b"x"), vec![0; 1024]].concat();
            for (name, mut bytes) in [("x.tar", tar.clone()), ("x.tgz", tar), ("x.zip", zip_of(&[("a/b", &[7; 300])]))] {
                bytes.truncate(cut);
                for &(place, value) in &places {
                    let place = place % bytes.len();
                    bytes[place] = value;
                }
                let (_, paths) = check(name, &bytes);
                prop_assert!(paths.iter().all(|path| path.starts_with("data")));
            }
        }
    }
}
