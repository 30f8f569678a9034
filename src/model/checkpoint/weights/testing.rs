//! Helpers of the tests: shared fixtures and their reference tensors.
#![expect(clippy::disallowed_methods, clippy::print_stderr, reason = "tests read fixtures, and say where they cannot")]

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use crate::domain::RgbImage;

/// The folder of shared fixtures. `None`, with a note, if `EMT_SHARED` is not set.
pub(crate) fn shared() -> Option<PathBuf> {
    let folder = std::env::var("EMT_SHARED").ok().map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: EMT_SHARED is not set");
    }
    folder
}

pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::write(path, bytes).unwrap();
}

pub(crate) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

pub(crate) fn read_json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&read(path)).unwrap()
}

/// Tensor `name` of the safetensors file `path`.
pub(crate) fn reference(path: &Path, name: &str) -> Tensor {
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    tensors.get(name).unwrap_or_else(|| panic!("{name} in {}", path.display())).clone()
}

pub(crate) fn reference_ids(path: &Path, name: &str) -> Vec<Vec<u32>> {
    let rows: Vec<Vec<i64>> = reference(path, name).to_vec2().unwrap();
    rows.into_iter().map(|row| row.into_iter().map(|id| id as u32).collect()).collect()
}

pub(crate) fn reference_values(path: &Path, name: &str) -> Vec<f32> {
    reference(path, name).flatten_all().unwrap().to_vec1().unwrap()
}

/// A PNG as RGB, as Pillow's `convert("RGB")` gives it for RGB and grey images.
pub(crate) fn rgb_image(path: &Path) -> RgbImage {
    let image = image::load_from_memory(&read(path)).unwrap().to_rgb8();
    RgbImage::new(image.width(), image.height(), image.into_raw()).unwrap()
}

/// A folder of reference files in `tests/golden`.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A copy of the files of `folder`.
pub(crate) fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            write(&copy.path().join(path.file_name().unwrap()), read(&path));
        }
    }
    copy
}

/// Renames the tensors of `folder`'s `model.safetensors`. Tensors without a new name are left out.
pub(crate) fn rename_tensors(folder: &Path, new_name: impl Fn(&str) -> Option<String>) {
    let path = folder.join("model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let renamed = tensors.into_iter().filter_map(|(name, tensor)| Some((new_name(&name)?, tensor)));
    candle_core::safetensors::save(&renamed.collect(), &path).unwrap();
}
