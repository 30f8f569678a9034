//! CIFAR-10 and CIFAR-100: Python pickles and the binary version.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::pickle;
use super::{Opened, RawImages, RawLayout, ReadImage, Reader, check_labels, indexed, read_data_file};

/// 32 x 32 pixels in three colour planes.
const IMAGE_BYTES: usize = 3 * 32 * 32;

/// Python batches: dictionaries with `data` (n, 3072) and `labels` or `fine_labels`.
pub(super) const PYTHON: Reader = Reader {
    name: "cifar-python",
    is_of_encoded_images: false,
    is_built_in: false,
    open: |wanted| open(wanted.paths, |bytes| parse_python(bytes, wanted.labels.len())),
};

/// Binary batches: records of `label_bytes`, the last of which is the class, and 3072 pixels.
pub(super) const BINARY: Reader = Reader {
    name: "cifar-binary",
    is_of_encoded_images: false,
    is_built_in: false,
    open: |wanted| {
        let n_label_bytes = wanted.option("label_bytes", wanted.alternative.label_bytes)?;
        open(wanted.paths, |bytes| parse_binary(bytes, n_label_bytes, wanted.labels.len()))
    },
};

/// Labels and images of one batch; the last 3072 bytes of a record are the pixels.
struct Batch {
    labels: Vec<usize>,
    bytes: Vec<u8>,
    stride: usize,
}

fn open(paths: &[PathBuf], parse: impl Fn(Vec<u8>) -> anyhow::Result<Batch>) -> anyhow::Result<Opened> {
    let mut batches: Vec<(Vec<usize>, Arc<dyn ReadImage>)> = Vec::new();
    for path in paths {
        let batch = parse(read_data_file(path)?).with_context(|| format!("failed to read `{}`", path.display()))?;
        batches.push((batch.labels, Arc::new(raw_images(path, batch.bytes, batch.stride))));
    }
    Ok(indexed(batches))
}

fn raw_images(path: &Path, bytes: Vec<u8>, stride: usize) -> RawImages {
    RawImages { path: path.display().to_string(), width: 32, height: 32, layout: RawLayout::Planes, bytes, stride }
}

fn parse_python(bytes: Vec<u8>, n_classes: usize) -> anyhow::Result<Batch> {
    let pickle = pickle::parse(&bytes)?;
    let root = pickle.root();
    let labels = ["labels", "fine_labels"].iter().find_map(|key| pickle.entry(root, key));
    let labels = pickle.sizes(labels.context("it has neither `labels` nor `fine_labels`")?).context("its labels")?;
    let (shape, data) = pickle::array(&pickle, pickle.entry(root, "data").context("it has no `data`")?)?;
    ensure!(
        shape == [labels.len(), IMAGE_BYTES],
        "its `data` has the shape {shape:?} and there are {} labels; ({}, {IMAGE_BYTES}) is expected",
        labels.len(),
        labels.len()
    );
    check_labels(&labels, n_classes)?;
    Ok(Batch { labels, bytes: data.into_owned(), stride: IMAGE_BYTES })
}

fn parse_binary(bytes: Vec<u8>, n_label_bytes: usize, n_classes: usize) -> anyhow::Result<Batch> {
    ensure!(matches!(n_label_bytes, 1 | 2), "label_bytes is {n_label_bytes}; hint: 1 for CIFAR-10, 2 for CIFAR-100");
    let stride = n_label_bytes + IMAGE_BYTES;
    ensure!(
        !bytes.is_empty() && bytes.len().is_multiple_of(stride),
        "its {} bytes are not a whole number of records of {stride}; hint: fetch it again",
        bytes.len()
    );
    let labels: Vec<usize> = bytes.chunks_exact(stride).map(|record| usize::from(record[n_label_bytes - 1])).collect();
    check_labels(&labels, n_classes)?;
    Ok(Batch { labels, bytes, stride })
}

#[cfg(test)]
mod tests;
