//! Image folders on disk or inside an archive.
#![expect(clippy::disallowed_methods, reason = "a reader lists and reads its folder")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};

use super::archive::{Archive, read_limited};
use super::names::{self, Kind, UniqueNames, is_of_the_system};
use super::{Opened, ReadImage, Reader, decode_named, unreadable};
use crate::dataset::catalog::Alternative;
use crate::dataset::decode::looks_like_image;
use crate::dataset::labels::{ClassFinder, shorten};
use crate::dataset::{Orientation, UnreadableImage};
use crate::domain::{LabelSet, RgbImage};

/// A folder on disk or inside an archive: `<class>/**/<image>`.
pub(super) const READER: Reader = Reader {
    name: "image-folder",
    is_of_encoded_images: true,
    is_built_in: false,
    open: |wanted| {
        let mut source = source_of(wanted.path()?, wanted.alternative)?;
        let listing = source.list()?;
        samples(source, listing, &ClassFinder::new(wanted.labels), wanted.labels, wanted.orientation)
    },
};

/// Opens the folder or archive of a catalog entry.
pub(in crate::dataset) fn source_of(path: &Path, alternative: &Alternative) -> anyhow::Result<Source> {
    let mut source = Source::open(path, alternative.inside.as_deref())?;
    if alternative.inside.is_none() {
        source.enter(None);
    }
    Ok(source)
}

/// Deeper folders are not a dataset; link loops are detected earlier.
const DEPTH_MAX: usize = 64;

/// This many bytes decide whether a file is an image.
pub(super) const N_BYTES_SNIFFED: u64 = 32;

/// The location of encoded images.
pub(in crate::dataset) enum Source {
    /// A folder on disk.
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The paths of files whose names are not UTF-8, by the names assigned to them.
        odd: BTreeMap<String, PathBuf>,
    },
    /// An archive, and the folder in it (empty, or ending with `/`).
    Archive { path: PathBuf, archive: Archive, prefix: String, images: Listing },
}

/// The images below a folder or in an archive.
#[derive(Clone, Default)]
pub(in crate::dataset) struct Listing {
    /// Paths with `/`, in byte order.
    pub(in crate::dataset) paths: Vec<String>,
    /// Notes for the user.
    pub(in crate::dataset) notes: Vec<String>,
}

impl Source {
    /// Returns the images below `folder`, which are named individually.
    pub(in crate::dataset) fn folder(folder: &Path) -> Source {
        Source::Folder { folder: folder.to_owned(), odd: BTreeMap::new() }
    }

    /// Opens a folder or an archive; `inside` is the folder within an archive.
    pub(in crate::dataset) fn open(path: &Path, inside: Option<&str>) -> anyhow::Result<Source> {
        if !Archive::is_archive(path) || path.is_dir() {
            return Ok(Source::folder(&inside.map_or_else(|| path.to_owned(), |inside| path.join(inside))));
        }
        let prefix = inside.map(|inside| format!("{}/", inside.trim_matches('/'))).unwrap_or_default();
        let archive = Archive::open(path)?;
        let images = list_archive(&archive);
        Ok(Source::Archive { path: path.to_owned(), archive, prefix, images })
    }

    /// Enters the folders that enclose everything in an archive (`photos/val/<class>/…`), and `split` if it exists.
    pub(in crate::dataset) fn enter(&mut self, split: Option<&str>) {
        let Source::Archive { prefix, images, .. } = self else { return };
        let mut inside = prefix.clone();
        let mut rest: Vec<&str> = images.paths.iter().filter_map(|name| name.strip_prefix(inside.as_str())).collect();
        loop {
            let tops: BTreeSet<&str> =
                rest.iter().filter_map(|name| name.split_once('/')).map(|(top, _)| top).collect();
            let only = if tops.len() == 1 { tops.first().copied() } else { None };
            let asked = split.filter(|split| tops.contains(split));
            let Some(step) = asked.or(only) else { break };
            let start = format!("{step}/");
            let below: Vec<&str> = rest.iter().filter_map(|name| name.strip_prefix(start.as_str())).collect();
            if !below.iter().any(|name| name.contains('/')) {
                break;
            }
            rest = below;
            inside.push_str(&start);
        }
        *prefix = inside;
    }

    /// Returns the paths of all images below it, without files that operating systems leave behind.
    pub(in crate::dataset) fn list(&mut self) -> anyhow::Result<Listing> {
        match self {
            Source::Folder { folder, odd } => {
                let mut walk = Walk::default();
                walk.folder(folder, "", &mut Vec::new())?;
                *odd = std::mem::take(&mut walk.odd);
                Ok(walk.into_listing())
            }
            Source::Archive { prefix, images, .. } => {
                let below = images.paths.iter().filter_map(|name| name.strip_prefix(prefix.as_str()));
                Ok(Listing { paths: below.map(str::to_owned).collect(), notes: images.notes.clone() })
            }
        }
    }

    /// Returns the immediate subfolders that are not in `keys`, in byte order.
    pub(in crate::dataset) fn folders_without(&self, keys: &[String]) -> Vec<String> {
        let Source::Folder { folder, .. } = self else { return Vec::new() };
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.path().is_dir());
        let names = folders.map(|entry| names::readable(entry.file_name().as_encoded_bytes()));
        let mut others: Vec<String> = names.filter(|name| !is_of_the_system(name) && !keys.contains(name)).collect();
        others.sort_unstable();
        others
    }

    /// Returns the file's place for users: its path, or the archive and the entry.
    pub(in crate::dataset) fn describe(&self, inside: &str) -> String {
        match self {
            Source::Folder { folder, .. } => folder.join(inside).display().to_string(),
            Source::Archive { path, prefix, .. } => format!("{}:{prefix}{inside}", path.display()),
        }
    }

    fn bytes(&self, inside: &str) -> anyhow::Result<Vec<u8>> {
        match self {
            Source::Folder { folder, odd } => {
                let path = odd.get(inside).cloned().unwrap_or_else(|| folder.join(inside));
                read_limited(open_file(&path)?)
            }
            Source::Archive { archive, prefix, .. } => archive.read(&format!("{prefix}{inside}")),
        }
    }
}

/// Opens a regular file; reading a pipe or a device might never end.
pub(super) fn open_file(path: &Path) -> anyhow::Result<File> {
    ensure!(std::fs::metadata(path)?.is_file(), "it is not a file");
    Ok(File::open(path)?)
}

/// Returns the images of an archive. Files whose names are inconclusive are images if their first bytes are an image's.
fn list_archive(archive: &Archive) -> Listing {
    let (mut paths, mut sniffed) = (Vec::new(), Vec::new());
    for name in archive.names() {
        if name.split('/').any(is_of_the_system) {
            continue;
        }
        match names::kind_of(&name) {
            Kind::Image => paths.push(name),
            Kind::Unknown if archive.start_of(&name).is_ok_and(|start| looks_like_image(&start)) => {
                sniffed.push(name.clone());
                paths.push(name);
            }
            Kind::Unknown | Kind::Other => {}
        }
    }
    let notes = names::note_of_sniffed(&sniffed).into_iter().chain(archive.note_of_names()).collect();
    Listing { paths, notes }
}

/// A walk through a folder and everything below it.
#[derive(Default)]
struct Walk {
    paths: Vec<String>,
    sniffed: Vec<String>,
    loops: Vec<String>,
    names: UniqueNames,
    odd: BTreeMap<String, PathBuf>,
}

impl Walk {
    /// Adds images of `folder`, whose paths begin with `prefix`; `above` are its parent folders, with links resolved.
    fn folder(&mut self, folder: &Path, prefix: &str, above: &mut Vec<PathBuf>) -> anyhow::Result<()> {
        let named = || format!("failed to list the folder `{}`", folder.display());
        ensure!(above.len() <= DEPTH_MAX, "`{}` is deeper than {DEPTH_MAX} folders", folder.display());
        let itself = folder.canonicalize().with_context(named)?;
        if above.contains(&itself) {
            self.loops.push(prefix.trim_end_matches('/').to_owned());
            return Ok(());
        }
        above.push(itself);
        let mut entries =
            std::fs::read_dir(folder).with_context(named)?.collect::<Result<Vec<_>, _>>().with_context(named)?;
        // Two names that read alike must not be assigned texts by their order on disk.
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            let shown = names::readable(name.as_encoded_bytes());
            if is_of_the_system(&shown) {
                continue;
            }
            // Links are followed, because datasets are often linked together.
            if path.is_dir() {
                let inside = format!("{prefix}{shown}");
                if name.to_str().is_none() {
                    self.names.count(&inside);
                }
                self.folder(&path, &format!("{inside}/"), above)?;
            } else if self.is_image(&path, &shown, prefix) {
                let inside = self.names.add(prefix, name.as_encoded_bytes());
                // If part of the path is not UTF-8, or the text belongs to another name, it does not lead to the file.
                if name.to_str().is_none() || folder.to_str().is_none() || !inside.ends_with(shown.as_str()) {
                    self.odd.insert(inside.clone(), path);
                }
                self.paths.push(inside);
            }
        }
        above.pop();
        Ok(())
    }

    fn is_image(&mut self, path: &Path, shown: &str, prefix: &str) -> bool {
        match names::kind_of(shown) {
            Kind::Image => true,
            Kind::Other => false,
            Kind::Unknown => {
                let mut start = Vec::new();
                let file = open_file(path).ok();
                let is_read = file.is_some_and(|file| file.take(N_BYTES_SNIFFED).read_to_end(&mut start).is_ok());
                let is_image = is_read && looks_like_image(&start);
                if is_image {
                    self.sniffed.push(format!("{prefix}{shown}"));
                }
                is_image
            }
        }
    }

    fn into_listing(mut self) -> Listing {
        self.paths.sort_unstable();
        let mut notes: Vec<String> = names::note_of_sniffed(&self.sniffed).into_iter().collect();
        notes.extend(self.names.note("Latin-1"));
        if !self.loops.is_empty() {
            notes.push(format!("links that lead back to a folder above them are left out: {}", shorten(&self.loops)));
        }
        Listing { paths: self.paths, notes }
    }
}

/// Encoded images, read on demand.
pub(in crate::dataset) struct ImageFiles {
    source: Source,
    paths: Vec<String>,
    orientation: Orientation,
}

impl ReadImage for ImageFiles {
    fn read(&self, position: usize) -> Result<RgbImage, UnreadableImage> {
        let Some(inside) = self.paths.get(position) else {
            return Err(unreadable("?", &format!("there is no image {position}"), &[]));
        };
        let path = self.source.describe(inside);
        let bytes = self.source.bytes(inside).map_err(|error| unreadable(&path, &format!("{error:#}"), &[]))?;
        decode_named(&path, &bytes, self.orientation)
    }
}

/// Returns the class folders of `paths` (`<class>/…/<image>`), in byte order.
pub(in crate::dataset) fn class_folders(paths: &[String]) -> Vec<String> {
    let folders: BTreeSet<&str> =
        paths.iter().filter_map(|path| path.split_once('/')).map(|(class, _)| class).collect();
    folders.into_iter().map(str::to_owned).collect()
}

/// Returns samples of `<class>/…/<image>`. Folders that are no class of `finder` are left out (for a subset of ImageNet
/// in the whole).
pub(in crate::dataset) fn samples(
    source: Source,
    listing: Listing,
    finder: &ClassFinder,
    labels: &LabelSet,
    orientation: Orientation,
) -> anyhow::Result<Opened> {
    let rows = listing.paths.into_iter().filter_map(|path| {
        let class = finder.find(path.split_once('/')?.0)?;
        Some((path, class))
    });
    let mut opened = from_rows(source, rows.collect(), labels, orientation)?;
    opened.notes = listing.notes;
    Ok(opened)
}

/// Returns samples of known classes.
pub(in crate::dataset) fn from_rows(
    source: Source,
    rows: Vec<(String, usize)>,
    labels: &LabelSet,
    orientation: Orientation,
) -> anyhow::Result<Opened> {
    let missing = without_image(labels, rows.iter().map(|(_, class)| *class));
    if missing.len() == labels.len() {
        bail!("`{}` has no image of any class; hint: it holds <class>/<image>", source.describe(""));
    }
    let of_formats = names::warning_of_formats(rows.iter().map(|(path, _)| path.as_str()));
    let warnings = warning_of(&missing).into_iter().chain(of_formats).collect();
    let paths = rows.iter().map(|(path, _)| path.clone()).collect();
    let reader = Arc::new(ImageFiles { source, paths, orientation });
    Ok(Opened { samples: rows, reader, warnings, notes: Vec::new() })
}

/// Returns the names of the classes without samples.
pub(in crate::dataset) fn without_image(labels: &LabelSet, classes: impl Iterator<Item = usize>) -> Vec<String> {
    let mut n_of_class = vec![0usize; labels.len()];
    classes.for_each(|class| n_of_class[class] += 1);
    labels.names().zip(&n_of_class).filter(|(_, n)| **n == 0).map(|(name, _)| name.to_owned()).collect()
}

/// Returns a warning about classes without images.
pub(in crate::dataset) fn warning_of(missing: &[String]) -> Option<String> {
    (!missing.is_empty()).then(|| format!("no image of {}: {}", n_classes(missing.len()), shorten(missing)))
}

fn n_classes(n: usize) -> String {
    if n == 1 { "1 class".to_owned() } else { format!("{n} classes") }
}
