//! `run.json`.
#![expect(clippy::disallowed_methods, reason = "record owns the run folder")]

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, PrettyFormatter};
use serde_json::{Map, Value};

use super::comparable::{COMPARATOR, by_subject, comparators};
use super::folder::EARLIER_IDENTITIES;
use super::{RecordError, comparable, files, identity};
use crate::domain::{RunSpec, text};

/// The schema of `run.json` that this version writes.
pub const RUN_SCHEMA: &str = "emt.run/1";
/// The schema of `trials.jsonl` that this version writes.
pub const TRIAL_SCHEMA: &str = "emt.trial/1";
/// The manifest's file name.
pub(super) const NAME: &str = "run.json";

/// Whether a run is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Trials may be missing.
    Running,
    /// All trials of the last command are recorded, one line each.
    Complete,
}

/// The content of `run.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The hash of the specification, which decides what may be resumed.
    pub identity: String,
    /// The specification of the run.
    pub spec: RunSpec,
    /// The fields that decide whether runs may be compared, named as in `--allow-different`.
    pub comparable: Map<String, Value>,
    /// Recorded and shown, never compared.
    pub environment: Map<String, Value>,
    /// Whether the run is complete.
    pub state: RunState,
}

impl Manifest {
    /// The manifest of a new run.
    pub fn new(spec: RunSpec, environment: Map<String, Value>) -> Self {
        let (identity, comparable) = (identity(&spec), comparable(&spec));
        Self { identity, spec, comparable, environment, state: RunState::Running }
    }

    /// The identities that the run had before it gained modes.
    pub fn earlier_identities(&self) -> Vec<String> {
        let earlier = self.environment.get(EARLIER_IDENTITIES).and_then(Value::as_array);
        earlier.into_iter().flatten().filter_map(|identity| identity.as_str().map(str::to_owned)).collect()
    }

    /// The prompts' names, texts, ids and hashes: `{dataset: {subject: {mode: …}}}`.
    pub fn prompts(&self) -> Map<String, Value> {
        let datasets = self.spec.datasets.iter();
        datasets
            .map(|dataset| {
                let prompts = by_subject(&dataset.prompts, |prompt| {
                    let mut value = serde_json::to_value(prompt).expect("a prompt is plain data");
                    if let Value::Object(fields) = &mut value {
                        // They are the keys already.
                        fields.shift_remove("subject");
                        fields.shift_remove("mode");
                    }
                    Some(value)
                });
                (dataset.dataset.clone(), prompts)
            })
            .collect()
    }

    /// Writes `dir/run.json` atomically.
    pub(super) fn write(&self, dir: &Path) -> Result<(), RecordError> {
        let wire = WireManifest {
            schema: RUN_SCHEMA.into(),
            trials: TRIAL_SCHEMA.into(),
            identity: self.identity.clone(),
            spec: self.spec.clone(),
            comparable: self.comparable.clone(),
            environment: self.environment.clone(),
            prompts: self.prompts(),
            state: self.state,
        };
        let mut bytes = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, FlatLists(PrettyFormatter::new()));
        wire.serialize(&mut serializer).expect("a manifest is plain data");
        bytes.push(b'\n');
        files::write_file(dir, NAME, &bytes)
    }

    /// Reads `dir/run.json`; `None` if there is no such file.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, RecordError> {
        let path = dir.join(NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RecordError::reading(&path, error)),
        };
        let broken = |reason: String| RecordError::BrokenManifest { path: path.clone(), reason };
        let value: Value =
            serde_json::from_slice(text::without_mark(&bytes)).map_err(|error| broken(error.to_string()))?;
        // Checked first, since a newer schema may differ everywhere else.
        for (field, known) in [("schema", RUN_SCHEMA), ("trials", TRIAL_SCHEMA)] {
            let Some(found) = value.get(field).and_then(Value::as_str) else {
                return Err(broken(format!("the field `{field}` is missing")));
            };
            if found == known {
                continue;
            }
            if !is_newer(found, known) {
                return Err(broken(format!("`{field}` is `{found}`, which is not `{known}`")));
            }
            let written_by = value.pointer("/environment/emt").and_then(Value::as_str).unwrap_or("of unknown version");
            let (found, known, written_by) = (found.to_owned(), known.to_owned(), written_by.to_owned());
            return Err(RecordError::NewerSchema { path, found, known, written_by });
        }
        let wire: WireManifest = serde_json::from_value(value).map_err(|error| broken(error.to_string()))?;
        let WireManifest { identity, spec, mut comparable, environment, state, .. } = wire;
        // Runs of earlier versions lack it, and must not be compared with a probe as if both had no comparator.
        comparable.entry(COMPARATOR).or_insert_with(|| comparators(&spec));
        Ok(Some(Self { identity, spec, comparable, environment, state }))
    }
}

/// Whether `found` is a later version of the schema `known`, such as `emt.run/2` of `emt.run/1`.
pub(super) fn is_newer(found: &str, known: &str) -> bool {
    let version = |schema: &str| -> Option<(String, u64)> {
        let (name, version) = schema.rsplit_once('/')?;
        Some((name.to_owned(), version.parse().ok()?))
    };
    match (version(found), version(known)) {
        (Some((name, found)), Some((known_name, known))) => name == known_name && found > known,
        _ => false,
    }
}

#[derive(Serialize, Deserialize)]
struct WireManifest {
    schema: String,
    trials: String,
    identity: String,
    spec: RunSpec,
    comparable: Map<String, Value>,
    environment: Map<String, Value>,
    /// Written for readers; `emt` reads `spec` instead.
    #[serde(default)]
    prompts: Map<String, Value>,
    state: RunState,
}

/// Indents objects and keeps lists on one line, so that a thousand token ids take one line.
struct FlatLists(PrettyFormatter<'static>);

impl Formatter for FlatLists {
    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

/// A run's name, which is its folder's name.
pub fn run_name(dir: &Path) -> String {
    // `.` and `..` contain no folder name.
    let path = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    path.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
