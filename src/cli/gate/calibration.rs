//! The judge's measured error, for each run apart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::cli::comparison::RecordedRun;
use crate::compare::{Calibration, Interval, corrected_forgetting, outcome_pairs};
use crate::domain::Outcome;
use crate::record;

/// Where the judge was measured.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Calibration")]
pub(super) struct CalibrationOptions {
    /// What `emt judge calibrate` found on answers of the baseline
    #[arg(long, value_name = "FILE")]
    calibration_baseline: Option<PathBuf>,
    /// What `emt judge calibrate` found on answers of the candidate
    #[arg(long, value_name = "FILE")]
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

    /// Corrects the falls between two runs, whose codes must be those that were recorded. A calibration of another judge
    /// than the run's is refused.
    pub fn corrections<'a>(
        &'a self,
        baseline: &RecordedRun,
        candidate: &RecordedRun,
    ) -> Result<impl Fn(&str, f64) -> Option<Interval> + use<'a>> {
        for (calibration, run) in [(&self.baseline, baseline), (&self.candidate, candidate)] {
            if let Some((path, calibration)) = calibration {
                let place = || named(path, &run.name);
                calibration.check(&run.manifest.spec).with_context(place)?;
            }
        }
        let [of_baseline, of_candidate] =
            [&self.baseline, &self.candidate].map(|given| given.as_ref().map(|(_, calibration)| calibration));
        let pairs: BTreeMap<String, Vec<(Outcome, Outcome)>> = match (of_baseline, of_candidate) {
            (None, None) => BTreeMap::new(),
            _ => outcome_pairs(&baseline.trials, &candidate.trials),
        };
        Ok(move |dataset: &str, confidence: f64| {
            let pairs = pairs.get(dataset)?;
            let corrected = corrected_forgetting(dataset, pairs, of_baseline, of_candidate, confidence)?;
            Some(corrected.forgetting_interval)
        })
    }
}

fn named(path: &Path, run: &str) -> String {
    format!("the calibration `{}` does not fit the run `{run}`", path.display())
}
