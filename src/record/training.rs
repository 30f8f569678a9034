//! The folder of a fine-tuning: its specification, its log and its checkpoints.
#![expect(clippy::disallowed_methods, reason = "record owns the training folder")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::differences::value_differences;
use super::folder::{is_empty, lock};
use super::{RecordError, files, now};
use crate::domain::TrainingSpec;

/// The schema of `training.json`.
pub const TRAINING_SCHEMA: &str = "emt.training/1";

const NAME: &str = "training.json";
const LOG_NAME: &str = "training.jsonl";
const CHECKPOINT_PREFIX: &str = "checkpoint-";

/// A file to write: its path below the folder, with `/`, and its bytes.
pub type OutputFile = (String, Vec<u8>);

/// A training folder open for writing. It is locked while this value lives.
#[derive(Debug)]
pub struct TrainingFolder {
    dir: PathBuf,
    spec: TrainingSpec,
    environment: Map<String, Value>,
    was_complete: bool,
    last_step: Option<u64>,
    log: File,
    _lock: File,
}

impl TrainingFolder {
    /// Creates the training of `spec` in `dir`, or continues it after its last checkpoint. Later log lines are cut off.
    ///
    /// A training of another specification in the folder is refused, and the error names the differing fields. Also
    /// refused are a folder that another process writes to and, with `fresh`, one that is not empty.
    pub fn create_or_resume(
        dir: &Path,
        spec: TrainingSpec,
        environment: Map<String, Value>,
        fresh: bool,
    ) -> Result<Self, RecordError> {
        if fresh && !is_empty(dir)? {
            return Err(RecordError::NotFresh { dir: dir.to_owned() });
        }
        fs::create_dir_all(dir).map_err(|error| RecordError::writing(dir, error))?;
        let lock = lock(dir)?;
        let recorded = read(dir)?;
        let mut was_complete = false;
        if let Some(recorded) = &recorded {
            let differences = value_differences(&recorded["spec"], &plain(&spec));
            if !differences.is_empty() {
                return Err(RecordError::OtherRun { dir: dir.to_owned(), differences });
            }
            was_complete = recorded["state"] == "complete";
        }
        let last_step = if recorded.is_some() { last_checkpoint(dir)? } else { None };
        let log = open_log(dir, last_step)?;
        let folder = Self { dir: dir.to_owned(), spec, environment, was_complete, last_step, log, _lock: lock };
        if !was_complete {
            folder.write_state("running")?;
        }
        Ok(folder)
    }

    /// The training's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it was already complete when opened.
    pub fn was_complete(&self) -> bool {
        self.was_complete
    }

    /// The optimizer step of the last checkpoint when the folder was opened.
    pub fn last_step(&self) -> Option<u64> {
        self.last_step
    }

    /// The folder of a step's checkpoint.
    pub fn checkpoint_dir(&self, step: u64) -> PathBuf {
        self.dir.join(format!("{CHECKPOINT_PREFIX}{step}"))
    }

    /// Writes the checkpoint of a step atomically.
    pub fn write_checkpoint(&self, step: u64, files: &[OutputFile]) -> Result<(), RecordError> {
        let dir = self.checkpoint_dir(step);
        if dir.is_dir() {
            return Ok(());
        }
        let unfinished = self.dir.join(format!(".{CHECKPOINT_PREFIX}{step}.tmp"));
        let written = fs::remove_dir_all(&unfinished).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(RecordError::writing(&unfinished, error)),
        });
        let written = written.and_then(|()| write_all(&unfinished, files));
        let written =
            written.and_then(|()| fs::rename(&unfinished, &dir).map_err(|error| RecordError::writing(&dir, error)));
        if written.is_err() {
            // Only the first error is reported; removing the files may free the space that it lacked.
            let _ = fs::remove_dir_all(&unfinished);
        }
        written
    }

    /// Writes files of the folder itself, each atomically.
    pub fn write_files(&self, files: &[OutputFile]) -> Result<(), RecordError> {
        write_all(&self.dir, files)
    }

    /// Appends one line to `training.jsonl`.
    pub fn log(&mut self, line: &Value) -> Result<(), RecordError> {
        let written = self.log.write_all(format!("{line}\n").as_bytes());
        written.map_err(|error| RecordError::writing(&self.dir.join(LOG_NAME), error))
    }

    /// Returns the lines of `training.jsonl`.
    pub fn logged(&self) -> Result<Vec<Value>, RecordError> {
        read_log(&self.dir)
    }

    /// Marks the training as complete.
    pub fn complete(&self) -> Result<(), RecordError> {
        self.write_state("complete")
    }

    fn write_state(&self, state: &str) -> Result<(), RecordError> {
        let mut environment = self.environment.clone();
        environment.insert("written".to_owned(), now().into());
        let value = json!({
            "schema": TRAINING_SCHEMA,
            "spec": plain(&self.spec),
            "environment": environment,
            "state": state,
        });
        let text = serde_json::to_string_pretty(&value).expect("a state is plain data");
        files::write_file(&self.dir, NAME, format!("{text}\n").as_bytes())
    }
}

fn plain(spec: &TrainingSpec) -> Value {
    serde_json::to_value(spec).expect("a specification is plain data")
}

fn write_all(dir: &Path, files: &[OutputFile]) -> Result<(), RecordError> {
    for (path, bytes) in files {
        match path.rsplit_once('/') {
            Some((below, name)) => files::write_file(&dir.join(below), name, bytes)?,
            None => files::write_file(dir, path, bytes)?,
        }
    }
    Ok(())
}

fn read(dir: &Path) -> Result<Option<Value>, RecordError> {
    let path = dir.join(NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RecordError::reading(&path, error)),
    };
    let broken = |reason: String| RecordError::BrokenManifest { path: path.clone(), reason };
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
    let schema = value.get("schema").and_then(Value::as_str).unwrap_or("none");
    if schema != TRAINING_SCHEMA || !value.get("spec").is_some_and(Value::is_object) {
        return Err(broken(format!("its schema is {schema}, and this version reads {TRAINING_SCHEMA}")));
    }
    Ok(Some(value))
}

/// Returns the highest step that has a checkpoint.
fn last_checkpoint(dir: &Path) -> Result<Option<u64>, RecordError> {
    let mut last = None;
    for entry in fs::read_dir(dir).map_err(|error| RecordError::reading(dir, error))? {
        let name = entry.map_err(|error| RecordError::reading(dir, error))?.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix(CHECKPOINT_PREFIX)?.parse().ok());
        last = last.max(step);
    }
    Ok(last)
}

/// Opens the log at its end, without the lines of steps after the last checkpoint, which are trained again.
fn open_log(dir: &Path, last_step: Option<u64>) -> Result<File, RecordError> {
    let path = dir.join(LOG_NAME);
    let kept = read_log(dir)?.into_iter().filter(|line| line["step"].as_u64() <= last_step && last_step.is_some());
    let text: String = kept.map(|line| format!("{line}\n")).collect();
    files::write_file(dir, LOG_NAME, text.as_bytes())?;
    OpenOptions::new().append(true).open(&path).map_err(|error| RecordError::writing(&path, error))
}

/// Returns the complete lines; a line torn by a crash is left out.
fn read_log(dir: &Path) -> Result<Vec<Value>, RecordError> {
    let path = dir.join(LOG_NAME);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(RecordError::reading(&path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, rate: f64) -> Result<TrainingFolder, RecordError> {
        let mut spec: TrainingSpec =
            serde_json::from_str(include_str!("../../tests/golden/training/lora.json")).unwrap();
        spec.hyperparameters.learning_rate = rate;
        TrainingFolder::create_or_resume(dir, spec, Map::new(), false)
    }

    fn files() -> Vec<OutputFile> {
        vec![("emt.json".into(), b"{}".to_vec()), ("peft/adapter_config.json".into(), b"{}".to_vec())]
    }

    #[test]
    fn a_training_goes_on_after_its_last_checkpoint_and_forgets_what_it_logged_later() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = open(dir.path(), 0.1).unwrap();
        assert_eq!(folder.last_step(), None);
        for step in 1..=5 {
            folder.log(&json!({"step": step})).unwrap();
            if step == 3 {
                folder.write_checkpoint(step, &files()).unwrap();
            }
        }
        drop(folder);
        fs::create_dir(dir.path().join(".checkpoint-5.tmp")).unwrap();
        let folder = open(dir.path(), 0.1).unwrap();
        assert_eq!(folder.last_step(), Some(3));
        assert!(folder.checkpoint_dir(3).join("peft/adapter_config.json").is_file());
        let steps: Vec<u64> = folder.logged().unwrap().iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [1, 2, 3]);
    }

    #[test]
    fn another_training_in_the_folder_is_refused_with_the_field_named() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), 0.1).unwrap());
        let error = open(dir.path(), 0.2).unwrap_err().to_string();
        assert!(error.contains("`hyperparameters.learning_rate` is 0.1 there and 0.2 here"), "{error}");
    }

    #[test]
    fn a_complete_training_says_so() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), 0.1).unwrap().complete().unwrap();
        assert!(open(dir.path(), 0.1).unwrap().was_complete());
    }
}
