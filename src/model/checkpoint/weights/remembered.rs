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
mod tests;
