use std::fs::File;

use candle_core::{Device, Tensor};

use super::*;
use crate::model::checkpoint::weights::testing::write;
use crate::model::checkpoint::weights::{Canonical, Checkpoint, safetensors_bytes};

fn checkpoint(folder: &std::path::Path, value: f32, age: Duration) -> Weights {
    write(&folder.join("config.json"), "{}");
    let tensor = ("weight".to_owned(), Tensor::new(&[value, 1.0], &Device::Cpu).unwrap());
    let path = folder.join("model.safetensors");
    std::fs::write(&path, safetensors_bytes(&[tensor]).unwrap()).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    let keep = |key: &str| Canonical::Keep(key.to_owned());
    Weights::new(&Checkpoint::open(folder).unwrap(), keep).unwrap()
}

#[test]
fn a_hash_is_remembered_while_place_size_and_time_of_the_files_stay() {
    let folder = tempfile::tempdir().unwrap();
    let memory = HashMemory { path: folder.path().join("cache/hashes.json"), n_bytes_min: 0 };
    let weights = checkpoint(folder.path(), 0.5, Duration::from_secs(60));
    let first = memory.hash(&weights).unwrap();
    assert_eq!(first, weights.hash().unwrap());
    // Different content with the same size and time shows that the memory answers.
    let forged = checkpoint(folder.path(), 0.5, Duration::from_secs(60));
    let mut known = memory.read();
    known.hashes.insert(look(&forged).unwrap(), ("blake3:remembered".to_owned(), 0));
    memory.write(&known).unwrap();
    assert_eq!(memory.hash(&forged).unwrap(), "blake3:remembered");
    let later = checkpoint(folder.path(), 0.25, Duration::from_secs(30));
    assert_eq!(memory.hash(&later).unwrap(), later.hash().unwrap());
}

#[test]
fn a_file_that_changed_only_now_and_small_weights_are_hashed_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let memory = HashMemory { path: folder.path().join("hashes.json"), n_bytes_min: 0 };
    let fresh = checkpoint(folder.path(), 0.5, Duration::ZERO);
    memory.hash(&fresh).unwrap();
    let old = checkpoint(folder.path(), 0.5, Duration::from_secs(60));
    HashMemory::new(memory.path.clone()).hash(&old).unwrap();
    assert!(!memory.path.exists());
}

#[test]
fn a_memory_that_is_damaged_or_cannot_be_written_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hashes.json");
    write(&path, "{no json");
    let weights = checkpoint(folder.path(), 0.5, Duration::from_secs(60));
    let expected = weights.hash().unwrap();
    assert_eq!(HashMemory { path: path.clone(), n_bytes_min: 0 }.hash(&weights).unwrap(), expected);
    let below_a_file = HashMemory { path: path.join("hashes.json"), n_bytes_min: 0 };
    assert_eq!(below_a_file.hash(&weights).unwrap(), expected);
}
