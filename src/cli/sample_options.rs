//! The flag that names samples, for every command that evaluates or decides.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::domain::SampleNames;
use crate::record;

/// Which samples are meant, where not all are.
#[derive(Args, Clone, Debug)]
pub(super) struct SampleOptions {
    /// Only the samples that a file names: one id per line, or a CSV with a column `sample`
    ///
    /// Ids are those of trials.jsonl; lost.csv and gained.csv of `emt report` are such files. --limit counts within the named
    /// samples. The same command without --samples continues the run with all of them.
    #[arg(long, value_name = "FILE", hide_short_help = true, help_heading = "Data")]
    samples: Option<PathBuf>,
}

impl SampleOptions {
    /// The file, where one is given.
    pub(super) fn path(&self) -> Option<&Path> {
        self.samples.as_deref()
    }

    /// Reads the file, where one is given.
    pub(super) fn read(&self) -> Result<Option<SampleNames>> {
        let Some(path) = self.path() else { return Ok(None) };
        let text = record::read_text(path).context("failed to read the file of --samples")?;
        Ok(Some(SampleNames::parse(&path.display().to_string(), &text)?))
    }
}
