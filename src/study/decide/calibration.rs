//! The judge's measured error, one calibration per run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::compare::{Calibration, Interval, corrected_forgetting, outcome_pairs};
use crate::domain::{Outcome, Trial};
use crate::gate::Decision;
use crate::record::{self, Manifest};
use crate::study::compare::Passing;
use crate::study::recorded_run::RecordedRun;

/// The calibrations that were given, with their files.
#[derive(Clone, Debug, Default)]
pub struct Calibrations {
    baseline: Option<(PathBuf, Calibration)>,
    candidate: Option<(PathBuf, Calibration)>,
}

impl Calibrations {
    /// Reads the files of `emt judge calibrate`, of the baseline and of the candidate.
    ///
    /// # Errors
    /// A file cannot be read, or is no calibration.
    pub fn read(baseline: Option<&Path>, candidate: Option<&Path>) -> Result<Self> {
        let read = |path: Option<&Path>| -> Result<Option<(PathBuf, Calibration)>> {
            let Some(path) = path else { return Ok(None) };
            Ok(Some((path.to_owned(), record::read_calibration(path)?)))
        };
        Ok(Self { baseline: read(baseline)?, candidate: read(candidate)? })
    }

    /// A calibration of another judge than the run's is refused.
    pub(super) fn check(&self, baseline: &RecordedRun, candidate: &RecordedRun) -> Result<()> {
        for (calibration, run) in [(&self.baseline, baseline), (&self.candidate, candidate)] {
            if let Some((path, calibration)) = calibration {
                calibration.check(&run.manifest.spec).with_context(|| named(path, &run.name))?;
            }
        }
        Ok(())
    }

    /// Whether the judge of a run was measured; of another run the decision doubts a judge that could not tell right from wrong.
    pub(super) fn doubt_unmeasured(&self, decision: &mut Decision, runs: [(&str, &Manifest); 2]) {
        for (calibration, (name, manifest)) in [&self.baseline, &self.candidate].into_iter().zip(runs) {
            let doubt = manifest.environment.get(record::JUDGE_DOUBT).and_then(Value::as_str);
            if let (None, Some(doubt)) = (calibration, doubt) {
                decision.doubt_judge(format!("of the run `{name}`: {doubt}"));
            }
        }
    }

    fn is_given(&self) -> bool {
        self.baseline.is_some() || self.candidate.is_some()
    }

    /// Corrects the falls between two runs of these outcomes.
    pub(super) fn corrections<'a>(&'a self, outcomes: &'a Outcomes) -> impl Fn(&str, f64) -> Option<Interval> + 'a {
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
