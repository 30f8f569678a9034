//! Image folders, as folders on disk or inside an archive.
#![expect(clippy::disallowed_methods, reason = "a reader lists and reads its folder")]

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};

use super::archive::{Archive, read_limited};
use super::{Opened, ReadImage, decode_named, unreadable};
use crate::dataset::UnreadableImage;
use crate::dataset::labels::{ClassFinder, shorten};
use crate::domain::{LabelSet, RgbImage};

/// Deeper folders are a loop of links, not a data set.
const DEPTH_MAX: usize = 12;

/// What counts as an image, by the name's end.
const IMAGE_EXTENSIONS: [&str; 13] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "tif", "tiff", "webp", "ppm", "pgm", "pbm"];

/// Where encoded images lie.
pub(in crate::dataset) enum Source {
    /// A folder on disk.
    Folder(PathBuf),
    /// An archive, and the folder in it (empty, or with a `/` at its end).
    Archive { path: PathBuf, archive: Archive, prefix: String },
}

impl Source {
    /// Opens a folder or an archive; `inside` is the folder within an archive.
    pub(in crate::dataset) fn open(path: &Path, inside: Option<&str>) -> anyhow::Result<Source> {
        if !Archive::is_archive(path) || path.is_dir() {
            let folder = inside.map_or_else(|| path.to_owned(), |inside| path.join(inside));
            return Ok(Source::Folder(folder));
        }
        let prefix = inside.map(|inside| format!("{}/", inside.trim_matches('/'))).unwrap_or_default();
        Ok(Source::Archive { path: path.to_owned(), archive: Archive::open(path)?, prefix })
    }

    /// Steps into the folders that enclose everything in an archive (`photos/val/<class>/…`), and into `split` where there is one.
    pub(in crate::dataset) fn enter(&mut self, split: Option<&str>) -> anyhow::Result<()> {
        let Source::Archive { prefix, .. } = &*self else { return Ok(()) };
        let mut inside = prefix.clone();
        let images = self.list()?;
        let mut rest: Vec<&str> = images.iter().map(String::as_str).collect();
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
        if let Source::Archive { prefix, .. } = self {
            *prefix = inside;
        }
        Ok(())
    }

    /// The paths of all images below it, with `/`, in byte order; hidden files and folders are left out.
    pub(in crate::dataset) fn list(&self) -> anyhow::Result<Vec<String>> {
        match self {
            Source::Folder(folder) => {
                let mut found = Vec::new();
                walk(folder, "", 0, &mut found)?;
                found.sort_unstable();
                Ok(found)
            }
            Source::Archive { archive, prefix, .. } => Ok(archive
                .names()
                .into_iter()
                .filter_map(|name| name.strip_prefix(prefix.as_str()).map(str::to_owned))
                .filter(|name| is_image(name) && !name.split('/').any(is_hidden))
                .collect()),
        }
    }

    /// The folders directly in it that are none of `keys`, in byte order.
    pub(in crate::dataset) fn folders_without(&self, keys: &[String]) -> Vec<String> {
        let Source::Folder(folder) = self else { return Vec::new() };
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.path().is_dir());
        let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut others: Vec<String> = names.filter(|name| !is_hidden(name) && !keys.contains(name)).collect();
        others.sort_unstable();
        others
    }

    /// How people find the file: its path, or the archive and the entry.
    pub(in crate::dataset) fn describe(&self, inside: &str) -> String {
        match self {
            Source::Folder(folder) => folder.join(inside).display().to_string(),
            Source::Archive { path, prefix, .. } => format!("{}:{prefix}{inside}", path.display()),
        }
    }

    fn bytes(&self, inside: &str) -> anyhow::Result<Vec<u8>> {
        match self {
            Source::Folder(folder) => read_limited(File::open(folder.join(inside))?),
            Source::Archive { archive, prefix, .. } => archive.read(&format!("{prefix}{inside}")),
        }
    }
}

pub(super) fn is_image(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    IMAGE_EXTENSIONS.contains(&extension.as_str())
}

/// `.DS_Store`, `._cat.jpg`, and the folder that macOS puts into archives.
fn is_hidden(part: &str) -> bool {
    part.starts_with('.') || part == "__MACOSX"
}

fn walk(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<String>) -> anyhow::Result<()> {
    let named = || format!("failed to list the folder `{}`", folder.display());
    ensure!(
        depth <= DEPTH_MAX,
        "`{}` lies deeper than {DEPTH_MAX} folders; hint: a link in a circle?",
        folder.display()
    );
    for entry in std::fs::read_dir(folder).with_context(named)? {
        let entry = entry.with_context(named)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_hidden(&name) {
            continue;
        }
        let inside = format!("{prefix}{name}");
        // Links are followed: data sets are often linked together.
        if entry.path().is_dir() {
            walk(&entry.path(), &format!("{inside}/"), depth + 1, found)?;
        } else if is_image(&name) {
            found.push(inside);
        }
    }
    Ok(())
}

/// Encoded images, read when asked for.
pub(in crate::dataset) struct ImageFiles {
    pub(in crate::dataset) source: Source,
    pub(in crate::dataset) paths: Vec<String>,
}

impl ReadImage for ImageFiles {
    fn read(&self, position: usize) -> Result<RgbImage, UnreadableImage> {
        let Some(inside) = self.paths.get(position) else {
            return Err(unreadable("?", &format!("there is no image {position}"), &[]));
        };
        let path = self.source.describe(inside);
        let bytes = self.source.bytes(inside).map_err(|error| unreadable(&path, &format!("{error:#}"), &[]))?;
        decode_named(&path, &bytes)
    }
}

/// The class folders of `paths` (`<class>/…/<image>`), in byte order.
pub(in crate::dataset) fn class_folders(paths: &[String]) -> Vec<String> {
    let folders: BTreeSet<&str> =
        paths.iter().filter_map(|path| path.split_once('/')).map(|(class, _)| class).collect();
    folders.into_iter().map(str::to_owned).collect()
}

/// Samples of `<class>/…/<image>`; folders that are no class of `finder` are left out (a subset of ImageNet in all of it).
pub(in crate::dataset) fn samples(source: Source, finder: &ClassFinder, labels: &LabelSet) -> anyhow::Result<Opened> {
    let paths = source.list()?;
    let rows = paths.into_iter().filter_map(|path| {
        let class = finder.find(path.split_once('/')?.0)?;
        Some((path, class))
    });
    from_rows(source, rows.collect(), labels)
}

/// Samples of known classes.
pub(in crate::dataset) fn from_rows(
    source: Source,
    rows: Vec<(String, usize)>,
    labels: &LabelSet,
) -> anyhow::Result<Opened> {
    let missing = without_image(labels, rows.iter().map(|(_, class)| *class));
    if missing.len() == labels.len() {
        bail!("`{}` has no image of any class; hint: it holds <class>/<image>", source.describe(""));
    }
    let warnings = warning_of(&missing).into_iter().collect();
    let paths = rows.iter().map(|(path, _)| path.clone()).collect();
    Ok(Opened { samples: rows, reader: Arc::new(ImageFiles { source, paths }), warnings })
}

/// The names of the classes that none of the samples is of.
pub(in crate::dataset) fn without_image(labels: &LabelSet, classes: impl Iterator<Item = usize>) -> Vec<String> {
    let mut n_of_class = vec![0usize; labels.len()];
    classes.for_each(|class| n_of_class[class] += 1);
    labels.names().zip(&n_of_class).filter(|(_, n)| **n == 0).map(|(name, _)| name.to_owned()).collect()
}

/// What a person should know of classes without an image.
pub(in crate::dataset) fn warning_of(missing: &[String]) -> Option<String> {
    (!missing.is_empty()).then(|| format!("no image of {}: {}", n_classes(missing.len()), shorten(missing)))
}

fn n_classes(n: usize) -> String {
    if n == 1 { "1 class".to_owned() } else { format!("{n} classes") }
}
