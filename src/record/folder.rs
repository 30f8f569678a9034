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

/// Notes of earlier sittings that a later one keeps, unless it has its own.
const CARRIED: [&str; 3] = ["server_flips", "timing", EARLIER_IDENTITIES];

/// The identities that a run had before it grew, the first of them first.
pub(super) const EARLIER_IDENTITIES: &str = "earlier_identities";

/// Held by the operating system, so that a killed process leaves no lock behind.
const LOCK_NAME: &str = ".lock";

/// What was found when a folder was opened.
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
        /// Whether it had reached the end of an earlier command.
        was_complete: bool,
        /// Modes that this command adds to it.
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
    /// Whether `run.json` is as `manifest` is.
    is_manifest_written: bool,
    _lock: File,
}

impl RunFolder {
    /// Creates the run of `manifest` in `dir`, or continues it; also returns the trials that are there already, one a
    /// key.
    ///
    /// A torn last line of the journal is cut off. The modes of a run may grow: `run.json` then says so before the first
    /// trial of such a mode is appended, so that what lies in the folder is at any moment a run to continue. Another run in the folder is refused with the differing fields
    /// named, and so are a folder that another process writes to, one of a newer schema, and with `fresh` one that is not
    /// empty.
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
        // Where a command stopped before it recorded anything, another may begin.
        let is_kept = |recorded: &Manifest| {
            n_journal_bytes > 0 || recorded.state == RunState::Complete || recorded.identity == manifest.identity
        };
        let Some(recorded) = Manifest::read(dir)?.filter(is_kept) else {
            if n_journal_bytes > 0 {
                let hint = "restore it, or give another folder with --out";
                return Err(RecordError::NoRun { dir: dir.to_owned(), name: manifest::NAME, hint });
            }
            // The journal first: a folder with `run.json` always has one.
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

    /// Where the run lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The specification of the run.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What was found when the folder was opened.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Appends one batch of trials to the journal, and syncs it once per second. On an error, such as a full disk,
    /// nothing of the batch stays in the journal.
    pub fn append(&mut self, trials: &[Trial]) -> Result<(), RecordError> {
        if !self.is_manifest_written {
            self.write_manifest()?;
        }
        self.journal.append(&journal::lines(trials)?)
    }

    /// Waits until all that was appended is on the disk: for a run that is interrupted.
    pub fn sync(&mut self) -> Result<(), RecordError> {
        self.journal.sync()
    }

    /// How long this sitting waited for the disk to take the journal.
    pub fn time_in_sync(&self) -> Duration {
        self.journal.time_in_sync()
    }

    /// Adds to the environment what only the run itself can tell; it is written when the run ends.
    pub fn note(&mut self, name: &str, value: Value) {
        self.manifest.environment.insert(name.to_owned(), value);
    }

    /// Ends the run: compacts the journal to one line per trial, datasets in the order in which `order` first names them
    /// and samples as in `order`, and marks the run as complete. Returns the trials in that order, for the summary.
    pub fn finish(self, order: &[TrialKey]) -> Result<Vec<Trial>, RecordError> {
        let Self { dir, mut manifest, mut journal, _lock: lock, .. } = self;
        journal.sync()?;
        // Not every system replaces a file that is open.
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

/// Reads a run: its manifest and its trials, one a key. It needs only `run.json` and `trials.jsonl`, and changes
/// nothing: a torn last line, which a running or killed process leaves, is ignored.
pub fn read_run(dir: &Path) -> Result<(Manifest, Vec<Trial>), RecordError> {
    Ok((read_manifest(dir)?, replay(dir)?.trials))
}

/// Reads the trials of one dataset, without what only a person who opens the journal wants: the labels that were ranked
/// behind the choice, and judges' replies.
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

/// Reads only the specification of a run.
pub fn read_manifest(dir: &Path) -> Result<Manifest, RecordError> {
    let hint = "give the folder that `emt eval` named with --out";
    Manifest::read(dir)?.ok_or_else(|| RecordError::NoRun { dir: dir.to_owned(), name: manifest::NAME, hint })
}

/// The dataset of a line that begins with it, as ours do; `None` where that takes more than a look.
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

/// Whether there is nothing at `dir` but perhaps the lock of an earlier process.
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

/// The modes that `asked` adds to the run of `recorded`; an error where it asks for another run.
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
        // Whoever wrote the folder computed the hash in another way.
        differences.push(Difference {
            field: "identity".into(),
            recorded: recorded.identity.clone(),
            asked: asked.identity.clone(),
        });
    }
    Err(RecordError::OtherRun { dir: dir.to_owned(), differences })
}

/// The manifest of a run in progress: it began when it first began, and counts its sittings.
fn continued(recorded: Manifest, mut asked: Manifest) -> Manifest {
    if let Some(started) = recorded.environment.get("started") {
        let resumed = asked.environment.insert("started".into(), started.clone());
        asked.environment.insert("resumed".into(), resumed.unwrap_or_else(|| now().into()));
    }
    let n_sittings = recorded.environment.get("n_sittings").and_then(|n| n.as_u64()).unwrap_or(1);
    asked.environment.insert("n_sittings".into(), n_sittings.saturating_add(1).into());
    // What the run itself found out stays true.
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
