//! The hash of a run's journal, which shows whether the journal has changed.
#![expect(clippy::disallowed_methods, reason = "record owns the run folder")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Manifest, RecordError, RunState, journal};

/// The key in the environment of `run.json` of what a finished run recorded.
const RECORDED: &str = "recorded";

/// The size and hash of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialsDigest {
    /// The number of lines, which is one per trial in a finished run.
    pub n_trials: usize,
    /// `blake3:` and the hash of the file.
    pub trials: String,
}

impl TrialsDigest {
    /// Returns the digest that a finished run noted in `manifest`; `None` for a run in progress and for one of an
    /// earlier version.
    pub fn recorded(manifest: &Manifest) -> Option<Self> {
        let recorded = manifest.environment.get(RECORDED).filter(|_| manifest.state == RunState::Complete)?;
        serde_json::from_value(recorded.clone()).ok()
    }

    /// Notes the digest in the manifest of a run that ends.
    pub(super) fn note(&self, manifest: &mut Manifest) {
        let value = serde_json::to_value(self).unwrap_or(Value::Null);
        manifest.environment.insert(RECORDED.to_owned(), value);
    }
}

/// Reads the journal in `dir` and hashes it.
pub fn trials_digest(dir: &Path) -> Result<TrialsDigest, RecordError> {
    let path = dir.join(journal::NAME);
    let file = File::open(&path).map_err(|error| RecordError::reading(&path, error))?;
    let mut reader = BufReader::new(file);
    let (mut hasher, mut n_trials, mut line) = (blake3::Hasher::new(), 0, Vec::new());
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(|error| RecordError::reading(&path, error))? == 0 {
            break;
        }
        hasher.update(&line);
        n_trials += usize::from(!line.iter().all(u8::is_ascii_whitespace));
    }
    Ok(TrialsDigest { n_trials, trials: format!("blake3:{}", hasher.finalize().to_hex()) })
}
