//! The folders of runs: where they lie, and whether they may be gone on with.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use super::PlannedRun;
use crate::domain::{DatasetSpec, RunId, RunSpec};
use crate::eval::{Description, Opened, RunDescription, SERVER};
use crate::record::{self, Resumption};

/// The name of the run without an adapter, beside those of adapters.
pub const BASE_NAME: &str = "base";

/// Where runs go, and what is recorded of this sitting.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub out: Option<&'a Path>,
    pub environment: &'a Map<String, Value>,
}

/// One run without adapters; with them, the base's (unless left out) and one for each.
pub(super) fn planned_runs(
    place: Place<'_>,
    respondent: &dyn Opened,
    description: &Description,
    common: &RunSpec,
    datasets: &mut [Vec<DatasetSpec>],
) -> Result<Vec<PlannedRun>> {
    let is_alone = description.runs.len() == 1;
    let planned = |(run, described): (RunId, &RunDescription)| {
        let RunDescription { name, model, encoder, .. } = described;
        let datasets = datasets.get_mut(run.place()).map(std::mem::take).unwrap_or_default();
        let mut spec = RunSpec { model: model.clone(), encoder: encoder.clone(), datasets, ..common.clone() };
        if let Some(probe) = &mut spec.probe {
            probe.tower = respondent.probe_tower(run)?;
        }
        let dir = match place.out {
            Some(dir) if is_alone => dir.to_owned(),
            Some(dir) => dir.join(name.as_deref().unwrap_or(BASE_NAME)),
            None => default_folder(&spec),
        };
        let mut environment = place.environment.clone();
        environment.extend(described.environment.clone());
        Ok(PlannedRun { spec, dir, environment })
    };
    RunId::all(description.runs.len()).zip(&description.runs).map(planned).collect()
}

fn default_folder(spec: &RunSpec) -> PathBuf {
    let identity = record::identity(spec);
    let digits = identity.rsplit(':').next().unwrap_or_default();
    // A repository's name has a slash, and is one folder.
    let name = spec.model.name.replace('/', "--");
    Path::new("reports").join(format!("{name}-{}", &digits[..8.min(digits.len())]))
}

/// How far the log-probabilities of one answer of one model may lie apart: what else a server does at the time changes their
/// digits, an update of the weights changes more.
pub const LOGPROB_TOLERANCE: f64 = 0.1;

/// The log-probabilities of a served model's answer to the probe, where its server tells them.
pub fn probe_logprobs(server: &Value) -> Option<Vec<f64>> {
    Some(server["probe"]["logprobs"].as_array()?.iter().filter_map(Value::as_f64).collect())
}

/// How far two answers' log-probabilities lie apart at most; of answers of two lengths, infinitely far.
pub fn logprobs_apart(before: &[f64], now: &[f64]) -> f64 {
    if before.len() != now.len() {
        return f64::INFINITY;
    }
    before.iter().zip(now).map(|(before, now)| (before - now).abs()).fold(0.0, f64::max)
}

/// Refuses to go on with a run where another model answers under the name by now: its probe has the same text, and other
/// log-probabilities.
pub(super) fn refuse_another_model(dir: &Path, spec: &RunSpec, server: &Value) -> Result<()> {
    let Ok(recorded) = record::read_manifest(dir) else { return Ok(()) };
    // Any other difference is told field by field.
    if !matches!(record::resumption(&recorded, spec), Resumption::Same | Resumption::Grows(_)) {
        return Ok(());
    }
    let before = recorded.environment.get(SERVER).and_then(probe_logprobs);
    let (Some(before), Some(now)) = (before, probe_logprobs(server)) else { return Ok(()) };
    let apart = logprobs_apart(&before, &now);
    if apart > LOGPROB_TOLERANCE {
        let told = if apart.is_finite() { format!("up to {apart:.2} apart") } else { "different in number".to_owned() };
        bail!(
            "another model answers under this name than when `{}` was started: the log-probabilities of its answer to \
             the probe are {told}; hint: give another folder with --out, or serve the first model again",
            dir.display()
        );
    }
    Ok(())
}
