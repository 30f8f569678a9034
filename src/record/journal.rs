//! Reads and writes the journal of trials.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::RecordError;
use super::wire::{self, LineError};
use crate::domain::{Trial, TrialKey};

/// The journal's file name.
pub(super) const NAME: &str = "trials.jsonl";

/// Syncing more often costs more than it saves.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// The content of a journal.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// One trial per key, in the order in which the keys first appeared.
    pub trials: Vec<Trial>,
    /// The length of the journal up to its last complete line.
    pub n_bytes_whole: u64,
    /// The bytes of a torn last line.
    pub n_bytes_torn: u64,
    /// Whether the last line is complete except for its newline.
    pub lacks_newline: bool,
}

/// Works like [`replay_where`], with every line and every part of a trial.
#[cfg(test)]
pub(super) fn replay(reader: impl BufRead, path: &Path) -> Result<Replay, RecordError> {
    replay_where(reader, path, &|_| true, &|_| {})
}

/// Replays a journal. The last line of a key wins. A last line that is not complete JSON was torn by a crash and is
/// left out. A broken line elsewhere, and a complete line that is not a trial, are errors. Unwanted lines are not
/// parsed, and `trim` removes unneeded parts of each trial.
pub(super) fn replay_where(
    mut reader: impl BufRead,
    path: &Path,
    is_wanted: &dyn Fn(&[u8]) -> bool,
    trim: &dyn Fn(&mut Trial),
) -> Result<Replay, RecordError> {
    let mut replay = Replay::default();
    // Keyed by hash: for a long journal the keys would need as much memory as the trials.
    let mut places: HashMap<[u8; 16], usize> = HashMap::new();
    let mut broken: Option<(usize, LineError)> = None;
    let mut line = Vec::new();
    for line_number in 1.. {
        line.clear();
        let n_bytes = reader.read_until(b'\n', &mut line).map_err(|error| RecordError::reading(path, error))? as u64;
        if n_bytes == 0 {
            break;
        }
        if let Some((line, error)) = broken.take() {
            return Err(RecordError::BrokenLine { path: path.to_owned(), line, reason: error.to_string() });
        }
        if !is_wanted(&line) || line.iter().all(u8::is_ascii_whitespace) {
            replay.n_bytes_whole += n_bytes;
            replay.lacks_newline = line.last() != Some(&b'\n');
            continue;
        }
        match wire::parse(&line) {
            Ok(mut trial) => {
                replay.n_bytes_whole += n_bytes;
                replay.lacks_newline = line.last() != Some(&b'\n');
                trim(&mut trial);
                match places.entry(key_hash(&trial)) {
                    Entry::Occupied(place) => replay.trials[*place.get()] = trial,
                    Entry::Vacant(place) => {
                        place.insert(replay.trials.len());
                        replay.trials.push(trial);
                    }
                }
            }
            Err(error @ LineError::NotJson(_)) => {
                broken = Some((line_number, error));
                replay.n_bytes_torn = n_bytes;
            }
            Err(error) => {
                let (path, reason) = (path.to_owned(), error.to_string());
                return Err(RecordError::BrokenLine { path, line: line_number, reason });
            }
        }
    }
    Ok(replay)
}

fn key_hash(trial: &Trial) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in [&trial.dataset, &trial.sample] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(&[trial.subject as u8, trial.mode as u8]);
    let mut hash = [0; 16];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    hash
}

/// Serialises `trials` as lines.
pub(super) fn lines(trials: &[Trial]) -> Result<Vec<u8>, RecordError> {
    let mut lines = Vec::new();
    for trial in trials {
        wire::write(trial, &mut lines)
            .map_err(|reason| RecordError::Unwritable { sample: trial.sample.clone(), reason: reason.to_owned() })?;
    }
    Ok(lines)
}

/// Orders `trials` as in a finished run: datasets in the order in which `order` first names them, and each dataset in
/// the order of `order`. Trials that `order` does not name, such as those of a larger limit, follow at the end of their
/// dataset.
pub(super) fn compacted(trials: Vec<Trial>, order: &[TrialKey]) -> Vec<Trial> {
    let mut dataset_ranks: HashMap<&str, usize> = HashMap::new();
    let mut ranks: HashMap<&TrialKey, usize> = HashMap::with_capacity(order.len());
    for (position, key) in order.iter().enumerate() {
        let next = dataset_ranks.len();
        dataset_ranks.entry(&key.dataset).or_insert(next);
        ranks.entry(key).or_insert(position);
    }
    let rank = |trial: &Trial| {
        let dataset = dataset_ranks.get(trial.dataset.as_str()).copied().unwrap_or(usize::MAX);
        (dataset, ranks.get(&trial.key()).copied().unwrap_or(usize::MAX))
    };
    let mut trials = trials;
    // A stable sort: unnamed trials keep the order of the journal.
    trials.sort_by_cached_key(rank);
    trials
}

/// The target of a journal: a file, or in tests a disk that fills up.
pub(super) trait Sink {
    /// Writes all of `bytes` at the end.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts to `n_bytes`.
    fn truncate(&mut self, n_bytes: u64) -> io::Result<()>;
    /// Waits until everything is on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

impl Sink for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.seek(SeekFrom::End(0))?;
        self.write_all(bytes)
    }

    fn truncate(&mut self, n_bytes: u64) -> io::Result<()> {
        self.set_len(n_bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// A journal open for appending.
#[derive(Debug)]
pub(super) struct Journal<S> {
    sink: S,
    path: PathBuf,
    /// The length up to the last complete batch.
    n_bytes: u64,
    last_sync: Instant,
    is_synced: bool,
    /// How long syncs took.
    time_in_sync: Duration,
}

impl<S: Sink> Journal<S> {
    /// Resumes after `n_bytes` of complete lines; the rest is cut off.
    pub fn resume(mut sink: S, path: PathBuf, n_bytes: u64) -> Result<Self, RecordError> {
        sink.truncate(n_bytes).map_err(|error| RecordError::writing(&path, error))?;
        Ok(Self { sink, path, n_bytes, last_sync: Instant::now(), is_synced: true, time_in_sync: Duration::ZERO })
    }

    /// Appends one batch of complete lines, and syncs if the last sync is a second old. On an error nothing of the
    /// batch stays in the journal.
    pub fn append(&mut self, lines: &[u8]) -> Result<(), RecordError> {
        if let Err(error) = self.sink.append(lines) {
            // If this also fails, the torn line is repaired on resume.
            let _ = self.sink.truncate(self.n_bytes);
            return Err(RecordError::writing(&self.path, error));
        }
        self.n_bytes += lines.len() as u64;
        self.is_synced = false;
        if self.last_sync.elapsed() >= SYNC_INTERVAL {
            self.sync()?;
        }
        Ok(())
    }

    /// Waits until everything is on the disk.
    pub fn sync(&mut self) -> Result<(), RecordError> {
        if !self.is_synced {
            let started = Instant::now();
            self.sink.sync().map_err(|error| RecordError::writing(&self.path, error))?;
            (self.is_synced, self.last_sync) = (true, Instant::now());
            self.time_in_sync += self.last_sync - started;
        }
        Ok(())
    }

    /// How long syncs took.
    pub fn time_in_sync(&self) -> Duration {
        self.time_in_sync
    }
}

#[cfg(test)]
mod tests;
