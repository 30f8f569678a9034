//! Errors of run folders.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::Difference;
use crate::domain::Mode;

/// An error of a run folder. Each message names the file, the place and what to do.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Another process writes to the folder.
    #[error(
        "`{}` is in use by another emt process; hint: wait until it ends, or give another folder with --out", dir.display()
    )]
    InUse {
        /// The run folder.
        dir: PathBuf,
    },
    /// `--fresh` was given and the folder is not empty.
    #[error("`{}` exists, and --fresh starts only in a new folder; hint: give another folder with --out, or resume without --fresh", dir.display())]
    NotFresh {
        /// The run folder.
        dir: PathBuf,
    },
    /// The folder holds another run.
    #[error("`{}` holds another run: {}; hint: give another folder with --out", dir.display(), list(differences))]
    OtherRun {
        /// The run folder.
        dir: PathBuf,
        /// The differences between the two specifications; never empty.
        differences: Vec<Difference>,
    },
    /// The folder holds the same run with modes that this command leaves out.
    #[error(
        "`{}` holds answers in the modes {}, and this command asks for {}: a run may gain modes but never loses any; \
         hint: `--modes {}` continues it and asks only what is missing, or give another folder with --out",
        dir.display(),
        modes(recorded),
        modes(asked),
        modes(&all(recorded, asked))
    )]
    OtherModes {
        /// The run folder.
        dir: PathBuf,
        /// The modes in the folder.
        recorded: Vec<Mode>,
        /// The modes of the command.
        asked: Vec<Mode>,
    },
    /// The folder was written by a newer `emt`.
    #[error("`{}` has the schema `{found}`, written by emt {written_by}, and this is emt {this}, which knows `{known}`; hint: use emt {written_by} or newer", path.display(), this = env!("CARGO_PKG_VERSION"))]
    NewerSchema {
        /// `run.json`.
        path: PathBuf,
        /// The schema in the file.
        found: String,
        /// The newest schema that this version reads.
        known: String,
        /// The version of `emt` that wrote the file, if the file says so.
        written_by: String,
    },
    /// A file of the folder is missing.
    #[error("`{}` is not a run folder: `{name}` is missing; hint: {hint}", dir.display())]
    NoRun {
        /// The folder.
        dir: PathBuf,
        /// The missing file.
        name: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// `run.json` cannot be read.
    #[error("failed to read `{}`: {reason}; hint: restore the file, or start again in another folder", path.display())]
    BrokenManifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that one command wrote for another cannot be read.
    #[error("failed to read `{}`: {reason}; hint: {hint}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// A line of the journal cannot be read, and it is not a torn last line.
    #[error(
        "failed to read `{}`, line {line}: {reason}; hint: delete that line and run the same command again, which \
         repeats its trial",
        path.display()
    )]
    BrokenLine {
        /// The file.
        path: PathBuf,
        /// The line number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A trial cannot be written so that it reads back.
    #[error("the trial of `{sample}` cannot be recorded: {reason}")]
    Unwritable {
        /// The sample's id.
        sample: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk is full or a quota is exceeded.
    #[error(
        "failed to write `{}`: the disk is full ({error}); hint: free some disk space and run the same command again: \
         what is recorded so far is kept",
        path.display()
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        error: io::Error,
    },
    /// The folder is not writable.
    #[error("failed to write `{}`: the folder is read-only ({error}); hint: give a writable folder with --out", path.display())]
    ReadOnly {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        error: io::Error,
    },
    /// A file exists in the place of a folder.
    #[error("failed to write `{}`: a file is in the way ({error}); hint: give another folder", path.display())]
    InTheWay {
        /// The folder that could not be made.
        path: PathBuf,
        /// The operating system's error.
        error: io::Error,
    },
    /// Any other error of the operating system.
    #[error("failed to {action} `{}`: {error}", path.display())]
    Io {
        /// The attempted action, such as `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        error: io::Error,
    },
}

impl RecordError {
    /// A failed read.
    pub(super) fn reading(path: &Path, error: io::Error) -> Self {
        Self::Io { action: "read", path: path.to_owned(), error }
    }

    /// A failed write. Causes that the user can fix have their own variants.
    pub(super) fn writing(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            // To a user, a file-size limit looks like a full disk.
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::DiskFull { path, error }
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path, error },
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => Self::InTheWay { path, error },
            _ => Self::Io { action: "write", path, error },
        }
    }
}

/// Enough to see what differs; a whole other prompt would fill the screen.
const N_DIFFERENCES_SHOWN_MAX: usize = 6;

/// The modes in the form of `--modes`.
fn modes(modes: &[Mode]) -> String {
    modes.iter().map(|mode| mode.name()).collect::<Vec<_>>().join(",")
}

/// The modes of either run, in run order.
fn all(recorded: &[Mode], asked: &[Mode]) -> Vec<Mode> {
    let mut modes = [recorded, asked].concat();
    modes.sort_unstable();
    modes.dedup();
    modes
}

fn list(differences: &[Difference]) -> String {
    let mut shown: Vec<String> =
        differences.iter().take(N_DIFFERENCES_SHOWN_MAX).map(|difference| difference.to_string()).collect();
    if differences.len() > N_DIFFERENCES_SHOWN_MAX {
        shown.push(format!("and {} more", differences.len() - N_DIFFERENCES_SHOWN_MAX));
    }
    shown.join("; ")
}

#[cfg(test)]
mod tests;
