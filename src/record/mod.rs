//! The run folder: manifest, journal, and the files of reports.
//!
//! This module owns two disk formats, `run.json` (`emt.run/1`) and `trials.jsonl` (`emt.trial/1`). While a run is in
//! progress its journal is append-only, and a later line with the same key replaces an earlier one. A finished run is
//! compacted to one line per trial. The [`identity`] of a run's [`RunSpec`](crate::domain::RunSpec) decides what may be
//! resumed ([`resumption`]: its modes may grow), and [`comparable`] returns the fields that decide whether two runs may
//! be compared. A [`TrainingFolder`] is the folder of a fine-tuning (`training.json`, `emt.training/1`), and a
//! [`FeatureCache`] stores features of frozen towers.

mod comparable;
mod differences;
mod digest;
mod environment;
mod error;
mod feature_cache;
mod files;
mod folder;
mod growth;
mod identity;
mod journal;
mod manifest;
mod parts;
mod training;
mod wire;

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod testing;

pub use comparable::{comparable, keep_datasets};
pub use differences::{Difference, differences};
pub use digest::{TrialsDigest, trials_digest};
pub use environment::{Sitting, environment, now};
pub use error::RecordError;
pub use feature_cache::{FeatureCache, FeatureKey};
pub use files::{json_files, read_calibration, read_summary, read_text, write_file};
pub use folder::{FolderLock, JUDGE_DOUBT, Opened, RunFolder, read_manifest, read_outcomes, read_run};
pub use growth::{Resumption, resumption};
pub use identity::identity;
pub use manifest::{Manifest, RUN_SCHEMA, RunState, TRIAL_SCHEMA, run_name};
pub use parts::{part_key, read_part, write_part};
pub use training::{OutputFile, TRAINING_SCHEMA, TrainingFolder};
