//! A run folder, open for writing or read as a whole.
#![expect(clippy::disallowed_methods, reason = "record owns the run folder")]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::journal::{self, Journal, Replay};
use super::manifest;
use super::{
    Difference, Manifest, RecordError, Resumption, RunState, differences, files, now, resumption, trials_digest,
};
use crate::domain::{Mode, Trial, TrialKey};

/// Notes of earlier sittings that are kept unless a later sitting has its own.
const CARRIED: [&str; 4] = ["server_flips", "timing", JUDGE_DOUBT, EARLIER_IDENTITIES];

/// The key in the environment that records that the run's judge did not distinguish a right answer from a wrong one.
pub const JUDGE_DOUBT: &str = "judge_doubt";

/// The identities that a run had before it grew, oldest first.
pub(super) const EARLIER_IDENTITIES: &str = "earlier_identities";

/// Locked through the operating system, so a killed process leaves no lock.
const LOCK_NAME: &str = ".lock";

/// The state of a folder when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// A new run.
    New,
    /// A run in progress.
    Resumed {
        /// Trials in its journal.
        n_trials: usize,
        /// Bytes of a torn last line that were cut off.
        n_bytes_torn: u64,
        /// Whether it had finished an earlier command.
        was_complete: bool,
        /// Modes that this command adds.
        added_modes: Vec<Mode>,
    },
}

/// A run folder open for writing. It is locked while this value lives.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    manifest: Manifest,
    opened: Opened,
    journal: Journal<File>,
    /// Whether `run.json` matches `manifest`.
    is_manifest_written: bool,
    _lock: File,
}

impl RunFolder {
    /// Creates the run of `manifest` in `dir`, or continues it. Also returns the existing trials, one per key.
    ///
    /// A torn last line of the journal is cut off. The modes of a run may grow. `run.json` is then updated before the
    /// first trial of a new mode is appended, so that the folder can be resumed at any moment. Another run in the
    /// folder is refused, and the error names the differing fields. Also refused are a folder that another process
    /// writes to, one of a newer schema, and, with `fresh`, one that is not empty.
    pub fn create_or_resume(dir: &Path, manifest: Manifest, fresh: bool) -> Result<(Self, Vec<Trial>), RecordError> {
        if fresh && !is_empty(dir)? {
            return Err(RecordError::NotFresh { dir: dir.to_owned() });
        }
        fs::create_dir_all(dir).map_err(|error| RecordError::writing(dir, error))?;
        let lock = lock(dir)?;
        let journal_path = dir.join(journal::NAME);
        let open_journal = || {
            let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&journal_path);
            opened.map_err(|error| RecordError::writing(&journal_path, error))
        };
        let n_journal_bytes = fs::metadata(&journal_path).map_or(0, |metadata| metadata.len());
        // If a command stopped before it recorded anything, another run may replace it.
        let is_kept = |recorded: &Manifest| {
            n_journal_bytes > 0 || recorded.state == RunState::Complete || recorded.identity == manifest.identity
        };
        let Some(recorded) = Manifest::read(dir)?.filter(is_kept) else {
            if n_journal_bytes > 0 {
                let hint = "restore it, or give another folder with --out";
                return Err(RecordError::NoRun { dir: dir.to_owned(), name: manifest::NAME, hint });
            }
            // The journal is created first: a folder with `run.json` always has one.
            let journal = Journal::resume(open_journal()?, journal_path.clone(), 0)?;
            let mut folder = Self {
                dir: dir.to_owned(),
                manifest,
                opened: Opened::New,
                journal,
                is_manifest_written: false,
                _lock: lock,
            };
            folder.write_manifest()?;
            return Ok((folder, Vec::new()));
        };
        let added_modes = refuse_another(dir, &recorded, &manifest)?;
        let replay = replay(dir)?;
        let mut journal = Journal::resume(open_journal()?, journal_path.clone(), replay.n_bytes_whole)?;
        if replay.lacks_newline {
            journal.append(b"\n")?;
        }
        let opened = Opened::Resumed {
            n_trials: replay.trials.len(),
            n_bytes_torn: replay.n_bytes_torn,
            was_complete: recorded.state == RunState::Complete,
            added_modes,
        };
        let manifest = continued(recorded, manifest);
        let folder = Self { dir: dir.to_owned(), manifest, opened, journal, is_manifest_written: false, _lock: lock };
        Ok((folder, replay.trials))
    }

    /// The run's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The specification of the run.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The state of the folder when it was opened.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Appends one batch of trials to the journal, which is synced once per second. On an error, such as a full disk,
    /// nothing of the batch stays in the journal.
    pub fn append(&mut self, trials: &[Trial]) -> Result<(), RecordError> {
        if !self.is_manifest_written {
            self.write_manifest()?;
        }
        self.journal.append(&journal::lines(trials)?)
    }

    /// Waits until all appended trials are on the disk, for an interrupted run.
    pub fn sync(&mut self) -> Result<(), RecordError> {
        self.journal.sync()
    }

    /// How long this sitting waited for the disk to sync the journal.
    pub fn time_in_sync(&self) -> Duration {
        self.journal.time_in_sync()
    }

    /// Adds an entry to the environment; it is written when the run ends.
    pub fn note(&mut self, name: &str, value: Value) {
        self.manifest.environment.insert(name.to_owned(), value);
    }

    /// Ends the run and marks it as complete. The journal is compacted to one line per trial, with datasets in the
    /// order in which `order` first names them and samples as in `order`. Returns the trials in that order.
    pub fn finish(self, order: &[TrialKey]) -> Result<Vec<Trial>, RecordError> {
        let Self { dir, mut manifest, mut journal, _lock: lock, .. } = self;
        journal.sync()?;
        // Some systems cannot replace an open file.
        drop(journal);
        let trials = journal::compacted(replay(&dir)?.trials, order);
        files::write_with(&dir, journal::NAME, |file| {
            for trial in &trials {
                let lines = journal::lines(std::slice::from_ref(trial)).map_err(io::Error::other)?;
                file.write_all(&lines)?;
            }
            Ok(())
        })?;
        manifest.state = RunState::Complete;
        manifest.environment.insert("finished".into(), now().into());
        trials_digest(&dir)?.note(&mut manifest);
        manifest.write(&dir)?;
        drop(lock);
        Ok(trials)
    }

    fn write_manifest(&mut self) -> Result<(), RecordError> {
        self.manifest.write(&self.dir)?;
        self.is_manifest_written = true;
        Ok(())
    }
}

/// A folder that no other process writes to while this value lives.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Locks `dir`, which is created if it is missing. A folder that another process has locked is refused.
    pub fn new(dir: &Path) -> Result<Self, RecordError> {
        fs::create_dir_all(dir).map_err(|error| RecordError::writing(dir, error))?;
        Ok(Self { _file: lock(dir)? })
    }
}

/// Reads a run: its manifest and its trials, one per key. It needs only `run.json` and `trials.jsonl` and changes
/// nothing. A torn last line, left by a running or killed process, is ignored.
pub fn read_run(dir: &Path) -> Result<(Manifest, Vec<Trial>), RecordError> {
    Ok((read_manifest(dir)?, replay(dir)?.trials))
}

/// Reads the trials of one dataset, without rankings of labels and replies of judges.
pub fn read_outcomes(dir: &Path, dataset: &str) -> Result<Vec<Trial>, RecordError> {
    let is_wanted = |line: &[u8]| first_dataset(line).is_none_or(|name| name == dataset.as_bytes());
    let trim = |trial: &mut Trial| {
        trial.scores = Vec::new();
        trial.verdicts.iter_mut().for_each(|verdict| verdict.reply = None);
        trial.verdicts.shrink_to_fit();
    };
    let mut trials = replay_with(dir, &is_wanted, &trim)?.trials;
    trials.retain(|trial| trial.dataset == dataset);
    Ok(trials)
}

/// Reads only the manifest of a run.
pub fn read_manifest(dir: &Path) -> Result<Manifest, RecordError> {
    let hint = "give the folder that `emt eval` named with --out";
    Manifest::read(dir)?.ok_or_else(|| RecordError::NoRun { dir: dir.to_owned(), name: manifest::NAME, hint })
}

/// Returns the dataset of a line that starts with it, as our lines do; `None` if the line must be parsed.
fn first_dataset(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"{\"dataset\":")?.trim_ascii_start().strip_prefix(b"\"")?;
    let end = rest.iter().position(|&byte| byte == b'"')?;
    let name = &rest[..end];
    (!name.contains(&b'\\')).then_some(name)
}

fn replay(dir: &Path) -> Result<Replay, RecordError> {
    replay_with(dir, &|_| true, &|_| {})
}

fn replay_with(
    dir: &Path,
    is_wanted: &dyn Fn(&[u8]) -> bool,
    trim: &dyn Fn(&mut Trial),
) -> Result<Replay, RecordError> {
    let path = dir.join(journal::NAME);
    match File::open(&path) {
        Ok(file) => journal::replay_where(BufReader::new(file), &path, is_wanted, trim),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let hint = "restore it, or give another folder";
            Err(RecordError::NoRun { dir: dir.to_owned(), name: journal::NAME, hint })
        }
        Err(error) => Err(RecordError::reading(&path, error)),
    }
}

/// Whether `dir` is missing or empty, apart from a lock of an earlier process.
pub(super) fn is_empty(dir: &Path) -> Result<bool, RecordError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(RecordError::reading(dir, error)),
    };
    for entry in entries {
        if entry.map_err(|error| RecordError::reading(dir, error))?.file_name() != LOCK_NAME {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn lock(dir: &Path) -> Result<File, RecordError> {
    let path = dir.join(LOCK_NAME);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = opened.map_err(|error| RecordError::writing(&path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RecordError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(RecordError::Io { action: "lock", path, error: source }),
    }
}

/// Returns the modes that `asked` adds to the run of `recorded`; an error if it is another run.
fn refuse_another(dir: &Path, recorded: &Manifest, asked: &Manifest) -> Result<Vec<Mode>, RecordError> {
    let names = |manifest: &Manifest| manifest.spec.modes.clone();
    match resumption(recorded, &asked.spec) {
        Resumption::Same => return Ok(Vec::new()),
        Resumption::Grows(added) => return Ok(added),
        Resumption::Shrinks | Resumption::OtherModes => {
            return Err(RecordError::OtherModes {
                dir: dir.to_owned(),
                recorded: names(recorded),
                asked: names(asked),
            });
        }
        Resumption::Other => {}
    }
    let mut differences = differences(&recorded.spec, &asked.spec);
    if differences.is_empty() {
        // The writer of the folder computed the hash in another way.
        differences.push(Difference {
            field: "identity".into(),
            recorded: recorded.identity.clone(),
            asked: asked.identity.clone(),
        });
    }
    Err(RecordError::OtherRun { dir: dir.to_owned(), differences })
}

/// Returns the manifest of a resumed run, which keeps its start time and counts its sittings.
fn continued(recorded: Manifest, mut asked: Manifest) -> Manifest {
    if let Some(started) = recorded.environment.get("started") {
        let resumed = asked.environment.insert("started".into(), started.clone());
        asked.environment.insert("resumed".into(), resumed.unwrap_or_else(|| now().into()));
    }
    let n_sittings = recorded.environment.get("n_sittings").and_then(|n| n.as_u64()).unwrap_or(1);
    asked.environment.insert("n_sittings".into(), n_sittings.saturating_add(1).into());
    // Results of the run itself stay valid.
    for name in CARRIED {
        if let Some(value) = recorded.environment.get(name).filter(|_| !asked.environment.contains_key(name)) {
            asked.environment.insert(name.into(), value.clone());
        }
    }
    if recorded.identity != asked.identity {
        let earlier = asked.environment.entry(EARLIER_IDENTITIES).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(earlier) = earlier {
            earlier.push(recorded.identity.into());
        }
    }
    asked.state = RunState::Running;
    asked
}
