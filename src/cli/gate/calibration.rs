//! The judge's measured error, one calibration per run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::cli::comparison::{Passing, RecordedRun};
use crate::compare::{Calibration, Interval, corrected_forgetting, outcome_pairs};
use crate::domain::{Outcome, Trial};
use crate::record;

/// Where the judge was measured.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Calibration")]
pub(super) struct CalibrationOptions {
    /// What `emt judge calibrate` measured on answers of the baseline
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    calibration_baseline: Option<PathBuf>,
    /// What `emt judge calibrate` measured on answers of the candidate
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    calibration_candidate: Option<PathBuf>,
}

/// The calibrations that were given.
pub(super) struct Calibrations {
    baseline: Option<(PathBuf, Calibration)>,
    candidate: Option<(PathBuf, Calibration)>,
}

impl Calibrations {
    /// Reads the files.
    pub fn read(options: &CalibrationOptions) -> Result<Self> {
        let read = |path: &Option<PathBuf>| -> Result<Option<(PathBuf, Calibration)>> {
            let Some(path) = path else { return Ok(None) };
            Ok(Some((path.clone(), record::read_calibration(path)?)))
        };
        Ok(Self { baseline: read(&options.calibration_baseline)?, candidate: read(&options.calibration_candidate)? })
    }

    /// A calibration of another judge than the run's is refused.
    pub fn check(&self, baseline: &RecordedRun, candidate: &RecordedRun) -> Result<()> {
        for (calibration, run) in [(&self.baseline, baseline), (&self.candidate, candidate)] {
            if let Some((path, calibration)) = calibration {
                calibration.check(&run.manifest.spec).with_context(|| named(path, &run.name))?;
            }
        }
        Ok(())
    }

    fn is_given(&self) -> bool {
        self.baseline.is_some() || self.candidate.is_some()
    }

    /// Corrects the falls between two runs of these outcomes.
    pub fn corrections<'a>(&'a self, outcomes: &'a Outcomes) -> impl Fn(&str, f64) -> Option<Interval> + 'a {
        let [baseline, candidate] =
            [&self.baseline, &self.candidate].map(|given| given.as_ref().map(|(_, calibration)| calibration));
        move |dataset, confidence| {
            let pairs = outcomes.pairs.get(dataset)?;
            Some(corrected_forgetting(dataset, pairs, baseline, candidate, confidence)?.forgetting_interval)
        }
    }
}

/// The outcomes of both runs image by image, with the codes that were recorded: a judge was calibrated by those.
#[derive(Default)]
pub(super) struct Outcomes {
    baseline: Vec<Trial>,
    pairs: BTreeMap<String, Vec<(Outcome, Outcome)>>,
}

impl Outcomes {
    /// Takes what passes into the comparison, where there is something to correct.
    pub fn take(&mut self, calibrations: &Calibrations, passing: Passing<'_>) {
        if !calibrations.is_given() || passing.is_recoded {
            return;
        }
        match passing.run {
            0 => self.baseline = passing.trials.to_vec(),
            _ => self.pairs.extend(outcome_pairs(&self.baseline, passing.trials)),
        }
    }
}

fn named(path: &Path, run: &str) -> String {
    format!("the calibration `{}` does not fit the run `{run}`", path.display())
}
