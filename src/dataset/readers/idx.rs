//! IDX, the format of MNIST, plain or gzip-compressed.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};

use super::{Opened, RawImages, RawLayout, Reader, check_labels, indexed, read_data_file};

pub(super) const READER: Reader = Reader {
    name: "idx",
    is_of_encoded_images: false,
    is_built_in: false,
    open: |wanted| {
        let [images, labels] = wanted.some_paths()?;
        open(images, labels, wanted.labels.len())
    },
};

/// A larger decompressed file is a bomb; MNIST's largest has 47 MB.
const UNPACKED_BYTES_MAX: u64 = 1 << 31;

/// Opens a pair of files: images `(n, height, width)` and labels `(n)`, unsigned bytes.
fn open(images: &Path, labels: &Path, n_classes: usize) -> anyhow::Result<Opened> {
    let named = |path: &Path| format!("failed to read `{}`", path.display());
    let pixels = gunzip(read_data_file(images)?).and_then(|bytes| parse(bytes, 3)).with_context(|| named(images))?;
    let classes = gunzip(read_data_file(labels)?).and_then(|bytes| parse(bytes, 1)).with_context(|| named(labels))?;
    ensure!(
        pixels.sides[0] == classes.sides[0],
        "`{}` has {} images and `{}` has {} labels; hint: fetch both again",
        images.display(),
        pixels.sides[0],
        labels.display(),
        classes.sides[0]
    );
    let label_indices: Vec<usize> = classes.data.iter().map(|&label| usize::from(label)).collect();
    check_labels(&label_indices, n_classes).with_context(|| named(labels))?;
    let reader = RawImages {
        path: images.display().to_string(),
        height: u32::try_from(pixels.sides[1]).with_context(|| named(images))?,
        width: u32::try_from(pixels.sides[2]).with_context(|| named(images))?,
        layout: RawLayout::Grey,
        stride: pixels.sides[1] * pixels.sides[2],
        bytes: pixels.data,
    };
    Ok(indexed(vec![(label_indices, Arc::new(reader))]))
}

struct IdxArray {
    sides: Vec<usize>,
    data: Vec<u8>,
}

/// Parses the magic (0, 0, type, number of sides), the sides as big-endian u32, and the data.
fn parse(mut bytes: Vec<u8>, n_sides: usize) -> anyhow::Result<IdxArray> {
    let header_len = 4 + 4 * n_sides;
    ensure!(bytes.len() >= header_len, "it ends within its header of {header_len} bytes");
    ensure!(bytes[..3] == [0, 0, 8], "it is not an IDX file of unsigned bytes (it starts with {:02x?})", &bytes[..4]);
    ensure!(usize::from(bytes[3]) == n_sides, "it has {} dimensions, but {n_sides} are expected", bytes[3]);
    let sides: Vec<usize> = bytes[4..header_len]
        .chunks_exact(4)
        .map(|side| u32::from_be_bytes([side[0], side[1], side[2], side[3]]) as usize)
        .collect();
    let n_bytes = sides.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
    let expected = n_bytes.and_then(|n_bytes| n_bytes.checked_add(header_len));
    if expected != Some(bytes.len()) || sides.contains(&0) {
        bail!("its header says {sides:?} values and it has {} bytes; hint: fetch it again", bytes.len());
    }
    bytes.drain(..header_len);
    Ok(IdxArray { sides, data: bytes })
}

fn gunzip(bytes: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes.as_slice())
        .take(UNPACKED_BYTES_MAX + 1)
        .read_to_end(&mut unpacked)
        .context("it is not a complete gzip file; hint: fetch it again")?;
    ensure!(unpacked.len() as u64 <= UNPACKED_BYTES_MAX, "it unpacks to more than {UNPACKED_BYTES_MAX} bytes");
    Ok(unpacked)
}

#[cfg(test)]
mod tests;
