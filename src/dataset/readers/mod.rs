//! One reader a format. A reader lists samples without decoding them; images are read when asked for.

pub(super) mod archive;
pub(super) mod cifar;
mod class_names;
pub(super) mod embedded;
pub(super) mod files;
mod front_matter;
pub(super) mod idx;
pub(super) mod manifest;
pub(super) mod parquet;
pub(super) mod pickle;
pub(super) mod shards;
pub(super) mod webdataset;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::{UnreadableImage, decode};
use crate::domain::RgbImage;

/// Reads the image of a sample; called from many threads.
pub(super) trait ReadImage: Send + Sync {
    fn read(&self, position: usize) -> Result<RgbImage, UnreadableImage>;
}

/// What a reader found: for each sample the end of its id and its class, and the images in the same order.
pub(super) struct Opened {
    pub(super) samples: Vec<(String, usize)>,
    pub(super) reader: Arc<dyn ReadImage>,
    pub(super) warnings: Vec<String>,
}

/// An encoded image above this is refused before it is read: no photograph comes near it.
pub(super) const IMAGE_BYTES_MAX: u64 = 1 << 28;

/// A data file (IDX, CIFAR batch, sheet) above this is refused: the largest published one has 184 MB.
const DATA_FILE_BYTES_MAX: u64 = 1 << 31;

/// Decodes `bytes`; the error carries their hash.
pub(super) fn decode_named(path: &str, bytes: &[u8]) -> Result<RgbImage, UnreadableImage> {
    decode(bytes).map_err(|message| unreadable(path, &message, bytes))
}

/// An unreadable image whose raw bytes are `bytes`.
pub(super) fn unreadable(path: &str, message: &str, bytes: &[u8]) -> UnreadableImage {
    UnreadableImage {
        path: path.to_owned(),
        message: message.to_owned(),
        content: format!("file:{}", blake3::hash(bytes).to_hex()),
    }
}

/// Images that lie as rows of raw bytes in memory.
pub(super) struct RawImages {
    pub(super) path: String,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) layout: RawLayout,
    /// All images, one after the other, each `stride` bytes of which the last `n_channels * height * width` are pixels.
    pub(super) bytes: Vec<u8>,
    pub(super) stride: usize,
}

/// How the pixels of one raw image lie.
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

/// Batches that follow one another; their samples are numbered through.
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

/// Numbers the labels of batches through, as `00042`.
pub(super) fn indexed(batches: Vec<(Vec<usize>, Arc<dyn ReadImage>)>) -> Opened {
    let labels: Vec<usize> = batches.iter().flat_map(|(labels, _)| labels.iter().copied()).collect();
    let samples = labels.into_iter().enumerate().map(|(index, label)| (format!("{index:05}"), label)).collect();
    let parts = batches.into_iter().map(|(labels, reader)| (labels.len(), reader)).collect();
    Opened { samples, reader: Arc::new(Concatenated { parts }), warnings: Vec::new() }
}

/// Checks that every label index is one of the classes.
pub(super) fn check_labels(labels: &[usize], n_classes: usize) -> anyhow::Result<()> {
    for (index, &label) in labels.iter().enumerate() {
        ensure!(label < n_classes, "sample {index} has the label {label}, and there are {n_classes} classes");
    }
    Ok(())
}

/// A whole data file, refused above a size that no data set has.
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
