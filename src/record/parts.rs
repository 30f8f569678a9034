//! Parts of a diagnosis that are computed once: `inside/<key>.json` in its folder.

#![expect(clippy::disallowed_methods, reason = "record owns the folder of a diagnosis")]

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::RecordError;
use super::files::write_file;
use super::identity::sorted;

/// The folder of the parts.
const FOLDER: &str = "inside";

/// The key of a part: a hash of everything that decides it.
pub fn part_key(identity: &Value) -> String {
    blake3::hash(sorted(identity).to_string().as_bytes()).to_hex()[..16].to_owned()
}

/// Reads the part of the diagnosis in `dir`; `None` if it is not recorded or not whole.
///
/// # Errors
/// The file exists and cannot be read.
pub fn read_part<T: DeserializeOwned>(dir: &Path, key: &str) -> Result<Option<T>, RecordError> {
    let path: PathBuf = dir.join(FOLDER).join(format!("{key}.json"));
    match fs::read(&path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RecordError::reading(&path, error)),
    }
}

/// Records a part.
///
/// # Errors
/// The file cannot be written.
pub fn write_part<T: Serialize>(dir: &Path, key: &str, part: &T) -> Result<(), RecordError> {
    let bytes = serde_json::to_vec(part).expect("a part holds only strings as keys");
    write_file(&dir.join(FOLDER), &format!("{key}.json"), &bytes)
}
