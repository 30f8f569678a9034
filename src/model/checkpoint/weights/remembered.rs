//! Hashes of large weights, remembered by the place, size and time of their files: hashing a checkpoint of many
//! gigabytes would otherwise be most of a warm start.
#![expect(
    clippy::disallowed_methods,
    reason = "model/checkpoint owns the files of a checkpoint, and the clock that tells fresh ones"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Weights;

/// Weights of fewer bytes are hashed at once; the memory is for those that take seconds.
const N_BYTES_MIN: usize = 256 << 20;

/// A file that changed so lately could change again within the resolution of its time (as git has it).
const AGE_MIN: Duration = Duration::from_secs(2);

/// More are dropped, the oldest first.
const N_KEPT_MAX: usize = 256;

/// A file of known hashes. What cannot be read or written is no error: then weights are hashed.
#[derive(Clone, Debug)]
pub struct HashMemory {
    path: PathBuf,
    n_bytes_min: usize,
}

/// The file's form.
#[derive(Default, Deserialize, Serialize)]
struct Known {
    /// By what is looked at instead of the content, the content's hash and when it was made (seconds since 1970).
    hashes: BTreeMap<String, (String, u64)>,
}

impl HashMemory {
    /// The memory in the file at `path`, which need not be there.
    pub fn new(path: PathBuf) -> Self {
        Self { path, n_bytes_min: N_BYTES_MIN }
    }

    /// As [`Weights::hash`], from memory where all files of `weights` are the same as when they were hashed: of equal
    /// place, size and time of change. A file whose time was set back by hand would be mistaken for the old one.
    ///
    /// # Errors
    /// A file cannot be read any more.
    pub fn hash(&self, weights: &Weights) -> anyhow::Result<String> {
        let Some(key) = Some(weights).filter(|weights| weights.n_bytes() >= self.n_bytes_min).and_then(look) else {
            return weights.hash();
        };
        let mut known = self.read();
        if let Some((hash, _)) = known.hashes.get(&key) {
            return Ok(hash.clone());
        }
        let hash = weights.hash()?;
        // Files that changed meanwhile are not those that were looked at.
        if look(weights).as_ref() == Some(&key) {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
            known.hashes.insert(key, (hash.clone(), now));
            while known.hashes.len() > N_KEPT_MAX {
                let oldest = known.hashes.iter().min_by_key(|(_, (_, made))| *made).map(|(key, _)| key.clone());
                oldest.map(|key| known.hashes.remove(&key));
            }
            // Two processes may write at once: one entry is then lost, and hashed again.
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
            // What could not take its place is of no use.
            let _ = std::fs::remove_file(&beside);
        })
    }
}

/// What is looked at instead of the content: every tensor's name and place in its file, and every file's place, size
/// and time. `None` where a file lies on no disk, or changed only now.
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
        // Another content under the same size and time shows that it is the memory that answers.
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
