//! Files that are replaced atomically: a reader sees the old one or the new one.
#![expect(clippy::disallowed_methods, reason = "record owns the run folder")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::RecordError;
use super::manifest::is_newer;
use crate::compare::{CALIBRATION_SCHEMA, Calibration, Summary};
use crate::domain::text;

/// Writes `bytes` to `dir/name` atomically: a reader sees the old file or the new one. The folder is created if it is
/// missing.
pub fn write_file(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), RecordError> {
    fs::create_dir_all(dir).map_err(|error| RecordError::writing(dir, error))?;
    write_with(dir, name, |file| file.write_all(bytes))
}

/// Reads `dir/summary.json` of a finished run.
pub fn read_summary(dir: &Path) -> Result<Summary, RecordError> {
    let path = dir.join("summary.json");
    let bytes = fs::read(&path).map_err(|error| RecordError::reading(&path, error))?;
    let bytes = text::without_mark(&bytes);
    serde_json::from_slice(bytes).map_err(|error| RecordError::BrokenManifest { path, reason: error.to_string() })
}

/// Reads the output of `emt judge calibrate`.
pub fn read_calibration(path: &Path) -> Result<Calibration, RecordError> {
    let bytes = fs::read(path).map_err(|error| RecordError::reading(path, error))?;
    let hint = "`emt judge calibrate --out FILE` writes a calibration";
    let broken = |reason: String| RecordError::Broken { path: path.to_owned(), reason, hint };
    let text = text::decode(&bytes).map_err(|error| broken(error.to_string()))?;
    let value: Value = serde_json::from_str(text).map_err(|error| broken(error.to_string()))?;
    match value.get("schema").and_then(Value::as_str) {
        Some(CALIBRATION_SCHEMA) => serde_json::from_value(value).map_err(|error| broken(error.to_string())),
        Some(found) if is_newer(found, CALIBRATION_SCHEMA) => Err(RecordError::NewerSchema {
            path: path.to_owned(),
            found: found.to_owned(),
            known: CALIBRATION_SCHEMA.to_owned(),
            written_by: "of unknown version".to_owned(),
        }),
        Some(found) => Err(broken(format!("it is `{found}`, not `{CALIBRATION_SCHEMA}`"))),
        None => Err(broken("it has no field `schema`".to_owned())),
    }
}

/// Reads the text of `path`, which a command or a user wrote.
pub fn read_text(path: &Path) -> Result<String, RecordError> {
    let bytes = fs::read(path).map_err(|error| RecordError::reading(path, error))?;
    let invalid = |error| RecordError::reading(path, io::Error::new(io::ErrorKind::InvalidData, error));
    Ok(text::decode(&bytes).map_err(invalid)?.to_owned())
}

/// Works like [`write_file`], for content that is written in pieces.
pub(super) fn write_with(
    dir: &Path,
    name: &str,
    write: impl FnOnce(&mut io::BufWriter<File>) -> io::Result<()>,
) -> Result<(), RecordError> {
    let path = dir.join(name);
    // In the same folder, since a rename across file systems is not atomic.
    let unfinished = dir.join(format!(".{name}.tmp"));
    let written = File::create(&unfinished).and_then(|file| {
        let mut writer = io::BufWriter::new(file);
        write(&mut writer)?;
        writer.flush()?;
        writer.get_ref().sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&unfinished, &path)) {
        // Only the first error is reported; a leftover is overwritten next time.
        let _ = fs::remove_file(&unfinished);
        return Err(RecordError::writing(&path, error));
    }
    // Makes the rename durable. Some systems cannot open a folder, but the file is complete anyway.
    if let Ok(folder) = File::open(dir) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Returns the `.json` files of a folder, sorted by name; none if the folder does not exist.
///
/// # Errors
/// The folder cannot be listed.
pub fn json_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests;
