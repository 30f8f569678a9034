//! Hashes of large weights, remembered by the path, size and time of their files. Otherwise, hashing a checkpoint of
//! many gigabytes would take most of a warm start.
#![expect(
    clippy::disallowed_methods,
    reason = "model/checkpoint owns the files of a checkpoint, and the clock that tells fresh ones"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Weights;

/// Smaller weights (in bytes) are always hashed. Only hashes that take seconds are remembered.
const N_BYTES_MIN: usize = 256 << 20;

/// The minimum age of a file. A younger file could change again within the resolution of its time (as in git).
const AGE_MIN: Duration = Duration::from_secs(2);

/// The maximum number of hashes. The oldest are dropped first.
const N_KEPT_MAX: usize = 256;

/// A file of known hashes. Failures to read or write it are ignored, and weights are hashed.
#[derive(Clone, Debug)]
pub struct HashMemory {
    path: PathBuf,
    n_bytes_min: usize,
}

/// The file's format.
#[derive(Default, Deserialize, Serialize)]
struct Known {
    /// From a key that identifies the files without their content, to the content's hash and the hash's time (seconds
    /// since 1970).
    hashes: BTreeMap<String, (String, u64)>,
}

impl HashMemory {
    /// The memory in the file at `path`, which need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self { path, n_bytes_min: N_BYTES_MIN }
    }

    /// Like [`Weights::hash`], but remembered if all files of `weights` have the same path, size and modification time
    /// as when they were hashed. A changed file whose time was set back by hand is not detected.
    ///
    /// # Errors
    /// A file can no longer be read.
    pub fn hash(&self, weights: &Weights) -> anyhow::Result<String> {
        let Some(key) = Some(weights).filter(|weights| weights.n_bytes() >= self.n_bytes_min).and_then(look) else {
            return weights.hash();
        };
        let mut known = self.read();
        if let Some((hash, _)) = known.hashes.get(&key) {
            return Ok(hash.clone());
        }
        let hash = weights.hash()?;
        // The files may have changed during hashing.
        if look(weights).as_ref() == Some(&key) {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
            known.hashes.insert(key, (hash.clone(), now));
            while known.hashes.len() > N_KEPT_MAX {
                let oldest = known.hashes.iter().min_by_key(|(_, (_, made))| *made).map(|(key, _)| key.clone());
                oldest.map(|key| known.hashes.remove(&key));
            }
            // Two processes may write at once. One entry is then lost, and hashed again.
            let _ = self.write(&known);
        }
        Ok(hash)
    }

    fn read(&self) -> Known {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    fn write(&self, known: &Known) -> std::io::Result<()> {
        let beside = self.path.with_extension(format!("{}.tmp", std::process::id()));
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&beside, serde_json::to_vec(known)?)?;
        std::fs::rename(&beside, &self.path).inspect_err(|_| {
            // Removes a temporary file that could not be renamed.
            let _ = std::fs::remove_file(&beside);
        })
    }
}

/// Returns a key that identifies the files without their content: every tensor's name and position in its file, and
/// every file's path, size and time. `None` if a file is not on disk, or changed too recently.
fn look(weights: &Weights) -> Option<String> {
    let mut hasher = blake3::Hasher::new();
    let mut files = BTreeMap::new();
    for (name, stored) in weights.stored() {
        let place = format!(
            "{name}\0{}\0{:?}\0{}\0{:?}\0{:?}\0{}\0",
            stored.key,
            stored.bytes,
            stored.offset,
            stored.shape,
            stored.strides,
            stored.element.name()
        );
        hasher.update(place.as_bytes());
        files.insert(stored.file.path().to_owned(), ());
    }
    for path in files.keys() {
        let path = path.canonicalize().ok()?;
        let metadata = path.metadata().ok()?;
        let changed = metadata.modified().ok()?;
        if changed.elapsed().ok()? < AGE_MIN {
            return None;
        }
        let changed = changed.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update(format!("\0{}\0{}\0", metadata.len(), changed.as_nanos()).as_bytes());
    }
    Some(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
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
}
