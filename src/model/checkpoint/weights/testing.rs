//! Helpers of the tests: shared fixtures and their reference tensors.
#![expect(clippy::disallowed_methods, clippy::print_stderr, reason = "tests read fixtures, and say where they cannot")]

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::{Miniature, open_checkpoint};
use crate::assets::embedded::MINIATURE;
use crate::domain::RgbImage;

/// The folder of shared fixtures. `None`, with a note, if `EMT_SHARED` is not set.
pub(crate) fn shared() -> Option<PathBuf> {
    let folder = std::env::var("EMT_SHARED").ok().map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: EMT_SHARED is not set");
    }
    folder
}

/// The folders `name` of reference checkpoints: the small one in `tests/golden`, and the one of the shared folder if
/// `EMT_SHARED` is set.
pub(crate) fn fixtures(name: &str) -> Vec<PathBuf> {
    let shared = std::env::var_os("EMT_SHARED").map(|shared| PathBuf::from(shared).join("fixtures"));
    let folders = [Some(golden("fixtures")), shared].into_iter().flatten().map(|root| root.join(name));
    let found: Vec<PathBuf> = folders.filter(|folder| folder.exists()).collect();
    assert!(!found.is_empty(), "no fixture has the name {name}");
    found
}

/// The folders that hold fixtures, the small ones first.
pub(crate) fn fixture_roots() -> Vec<PathBuf> {
    fixtures("")
}

/// The pictures of a fixture, in the order of their names.
pub(crate) fn pictures(fixture: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(fixture.join("images")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A checkpoint of the miniature as a folder.
pub(crate) fn unpacked(miniature: Miniature) -> tempfile::TempDir {
    let checkpoint = open_checkpoint(Path::new("embedded"), miniature).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let assets = MINIATURE.as_ref().unwrap();
    let files = if miniature == Miniature::Model { assets.llava.files } else { assets.clip.files };
    for (name, bytes) in files {
        write(&folder.path().join(name), bytes);
    }
    let weights = checkpoint.read_file("model.safetensors").unwrap().unwrap();
    write(&folder.path().join("model.safetensors"), &*weights);
    folder
}

/// The prompts about the data sets that `tests/golden/make_small_answers.py` rendered for the miniature, by name.
pub(crate) fn miniature_prompts() -> serde_json::Map<String, serde_json::Value> {
    read_json(&golden("miniature/prompts.json")).as_object().unwrap().clone()
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
