//! One reader per format. A reader lists samples without decoding them; images are read on demand.

pub(super) mod archive;
pub(super) mod arrow;
pub(super) mod cifar;
pub(super) mod class_names;
pub(super) mod embedded;
pub(super) mod files;
mod front_matter;
pub(super) mod idx;
pub(super) mod manifest;
mod names;
pub(super) mod parquet;
pub(super) mod pickle;
pub(super) mod reach;
pub(super) mod shards;
pub(super) mod webdataset;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};

pub(super) use names::is_of_the_system;

use super::catalog::Alternative;
use super::decode::{decode_turned, is_tiff};
use super::{Orientation, UnreadableImage};
use crate::domain::{LabelSet, RgbImage};

/// The formats that a catalog may name.
pub(super) const READERS: [&Reader; 8] = [
    &idx::READER,
    &cifar::PYTHON,
    &cifar::BINARY,
    &files::READER,
    &manifest::READER,
    &manifest::TINY_IMAGENET,
    &parquet::READER,
    &embedded::READER,
];

/// A format that a catalog may name.
pub(super) struct Reader {
    /// The name after `reader =`.
    pub(super) name: &'static str,
    /// Whether its images were encoded, and may therefore carry an orientation.
    pub(super) is_of_encoded_images: bool,
    /// Whether its files are compiled into the program instead of being on disk.
    pub(super) is_built_in: bool,
    /// Opens the files of one split.
    pub(super) open: fn(&Wanted) -> anyhow::Result<Opened>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

/// What a catalog reader must open.
pub(super) struct Wanted<'a> {
    /// The catalog entry, with the options of each reader.
    pub(super) alternative: &'a Alternative,
    /// The place where its `folder` was found.
    pub(super) folder: &'a Path,
    /// One path for each of its `files`.
    pub(super) paths: &'a [PathBuf],
    /// The published number of samples, if the catalog has it.
    pub(super) n_samples: Option<usize>,
    /// The classes.
    pub(super) labels: &'a LabelSet,
    /// How to treat the orientation stored in images.
    pub(super) orientation: Orientation,
}

impl Wanted<'_> {
    /// Returns the single file or folder that most readers take.
    ///
    /// # Errors
    /// The catalog names another number of files.
    fn path(&self) -> anyhow::Result<&Path> {
        let [path] = self.some_paths()?;
        Ok(path)
    }

    /// Returns as many files or folders as the reader takes.
    ///
    /// # Errors
    /// The catalog names another number of files.
    fn some_paths<const N: usize>(&self) -> anyhow::Result<&[PathBuf; N]> {
        let (named, n_files) = (self.alternative.reader.name, self.paths.len());
        <&[PathBuf; N]>::try_from(self.paths)
            .with_context(|| format!("its reader `{named}` does not take {n_files} files; see the catalog's head"))
    }

    /// Returns an option of the reader.
    ///
    /// # Errors
    /// The catalog lacks it.
    fn option<T>(&self, key: &str, value: Option<T>) -> anyhow::Result<T> {
        value.with_context(|| format!("its reader `{}` lacks `{key}` in the catalog", self.alternative.reader.name))
    }
}

/// Whether a file's name is that of an image.
pub(super) fn is_image_name(name: &str) -> bool {
    names::kind_of(name) == names::Kind::Image
}

/// Reads the image of a sample; called from many threads.
pub(super) trait ReadImage: Send + Sync {
    fn read(&self, position: usize) -> Result<RgbImage, UnreadableImage>;
}

/// What a reader found: for each sample the suffix of its id and its class, and the images in the same order.
pub(super) struct Opened {
    pub(super) samples: Vec<(String, usize)>,
    pub(super) reader: Arc<dyn ReadImage>,
    pub(super) warnings: Vec<String>,
    /// Notes for the user that are not problems.
    pub(super) notes: Vec<String>,
}

/// A larger encoded image is refused before it is read; no photograph comes near it.
pub(super) const IMAGE_BYTES_MAX: u64 = 1 << 28;

/// An index with more rows or entries is refused; no image dataset has as many.
pub(super) const N_SAMPLES_MAX: usize = 20_000_000;

/// A larger data file (IDX, CIFAR batch, sheet) is refused; the largest published one has 184 MB.
const DATA_FILE_BYTES_MAX: u64 = 1 << 31;

/// Decodes `bytes`; the error contains their hash.
pub(super) fn decode_named(path: &str, bytes: &[u8], orientation: Orientation) -> Result<RgbImage, UnreadableImage> {
    // The first picture of such a file is a thumbnail.
    if names::is_raw(path) && is_tiff(bytes) {
        return Err(unreadable(
            path,
            "it is a camera's raw picture, which is not read; hint: develop it to JPEG or PNG",
            bytes,
        ));
    }
    decode_turned(bytes, orientation).map_err(|message| unreadable(path, &message, bytes))
}

/// Reads the image at `path` from a table's `file`, if the table may name it.
pub(super) fn read_beside(
    file: &Path,
    place: &str,
    path: &str,
    orientation: Orientation,
) -> Result<RgbImage, UnreadableImage> {
    let failed = |error: anyhow::Error| unreadable(&format!("{place}: {path}"), &format!("{error:#}"), &[]);
    let path = reach::Reach::of_table(file).resolve(path).map_err(failed)?;
    let bytes = files::open_file(&path).and_then(archive::read_limited).map_err(failed)?;
    decode_named(&path.display().to_string(), &bytes, orientation)
}

/// Returns samples of the rows that have a class, numbered by row, as `00042`.
pub(super) fn labelled_rows(classes: Vec<Option<usize>>, reader: Arc<dyn ReadImage>) -> Opened {
    let ends = (0..classes.len()).map(|row| format!("{row:05}"));
    labelled(ends.collect(), classes, reader)
}

/// Returns samples of those of `ends` that have a class.
pub(super) fn labelled(ends: Vec<String>, classes: Vec<Option<usize>>, reader: Arc<dyn ReadImage>) -> Opened {
    let n_rows = classes.len();
    let rows: Vec<(usize, (String, usize))> = std::iter::zip(ends, classes)
        .enumerate()
        .filter_map(|(row, (end, class))| Some((row, (end, class?))))
        .collect();
    let warnings: Vec<String> = manifest::warning_of_unlabelled(n_rows - rows.len(), n_rows).into_iter().collect();
    let (places, samples): (Vec<usize>, Vec<(String, usize)>) = rows.into_iter().unzip();
    let reader: Arc<dyn ReadImage> = if places.len() == n_rows { reader } else { Arc::new(Chosen { reader, places }) };
    Opened { samples, reader, warnings, notes: Vec::new() }
}

/// A selection of another reader's images.
struct Chosen {
    reader: Arc<dyn ReadImage>,
    places: Vec<usize>,
}

impl ReadImage for Chosen {
    fn read(&self, position: usize) -> Result<RgbImage, UnreadableImage> {
        match self.places.get(position) {
            Some(&place) => self.reader.read(place),
            None => Err(unreadable("?", &format!("there is no image {position}"), &[])),
        }
    }
}

/// Returns an unreadable image whose raw bytes are `bytes`.
pub(super) fn unreadable(path: &str, message: &str, bytes: &[u8]) -> UnreadableImage {
    UnreadableImage {
        path: path.to_owned(),
        message: message.to_owned(),
        content: format!("file:{}", blake3::hash(bytes).to_hex()),
    }
}

/// Images stored as rows of raw bytes in memory.
pub(super) struct RawImages {
    pub(super) path: String,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) layout: RawLayout,
    /// All images consecutively, each `stride` bytes, the last `n_channels * height * width` of which are pixels.
    pub(super) bytes: Vec<u8>,
    pub(super) stride: usize,
}

/// The layout of a raw image's pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RawLayout {
    /// `(height, width)`.
    Grey,
    /// `(3, height, width)`: CIFAR's planes.
    Planes,
}

impl ReadImage for RawImages {
    fn read(&self, position: usize) -> Result<RgbImage, UnreadableImage> {
        let record = position
            .checked_mul(self.stride)
            .and_then(|start| self.bytes.get(start..start.checked_add(self.stride)?))
            .ok_or_else(|| unreadable(&self.path, &format!("image {position} lies beyond its end"), &[]))?;
        let n_pixels = self.width as usize * self.height as usize;
        let image = match self.layout {
            RawLayout::Grey => RgbImage::from_grey(self.width, self.height, &record[self.stride - n_pixels..]),
            RawLayout::Planes => {
                let planes = &record[self.stride - 3 * n_pixels..];
                let pixels = (0..n_pixels).flat_map(|i| [planes[i], planes[n_pixels + i], planes[2 * n_pixels + i]]);
                RgbImage::new(self.width, self.height, pixels.collect())
            }
        };
        image.ok_or_else(|| unreadable(&self.path, &format!("image {position} has no pixels"), record))
    }
}

/// Consecutive batches with continuous sample numbers.
pub(super) struct Concatenated {
    parts: Vec<(usize, Arc<dyn ReadImage>)>,
}

impl ReadImage for Concatenated {
    fn read(&self, position: usize) -> Result<RgbImage, UnreadableImage> {
        let mut rest = position;
        for (n_images, part) in &self.parts {
            if rest < *n_images {
                return part.read(rest);
            }
            rest -= n_images;
        }
        Err(unreadable("?", &format!("there is no image {position}"), &[]))
    }
}

/// Numbers the labels of batches continuously, as `00042`.
pub(super) fn indexed(batches: Vec<(Vec<usize>, Arc<dyn ReadImage>)>) -> Opened {
    let labels: Vec<usize> = batches.iter().flat_map(|(labels, _)| labels.iter().copied()).collect();
    let samples = labels.into_iter().enumerate().map(|(index, label)| (format!("{index:05}"), label)).collect();
    let parts = batches.into_iter().map(|(labels, reader)| (labels.len(), reader)).collect();
    Opened { samples, reader: Arc::new(Concatenated { parts }), warnings: Vec::new(), notes: Vec::new() }
}

/// Checks that every label index is one of the classes.
pub(super) fn check_labels(labels: &[usize], n_classes: usize) -> anyhow::Result<()> {
    for (index, &label) in labels.iter().enumerate() {
        ensure!(label < n_classes, "sample {index} has the label {label}, and there are {n_classes} classes");
    }
    Ok(())
}

/// Reads a whole data file; refuses a size that no dataset has.
#[expect(clippy::disallowed_methods, reason = "a reader reads its data file")]
pub(super) fn read_data_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = std::fs::File::open(path).with_context(|| format!("failed to read `{}`", path.display()))?;
    let mut bytes = Vec::new();
    let n_bytes = file.take(DATA_FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    n_bytes.with_context(|| format!("failed to read `{}`", path.display()))?;
    ensure!(
        bytes.len() as u64 <= DATA_FILE_BYTES_MAX,
        "failed to read `{}`: it is larger than {DATA_FILE_BYTES_MAX} bytes",
        path.display()
    );
    Ok(bytes)
}
