//! Several trainings of one base against each other.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::evaluate::PlannedRun;
use super::recorded_run::RecordedRun;
use super::tuned_on;
use crate::compare::{self, ArmDetails, FailedArm, Sweep, SweepOptions, SweptDataset, SweptRun};
use crate::record::{self, Manifest, RunFolder, RunState};

/// A finished training whose epochs were evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct SweptTraining {
    /// The arm's name.
    pub arm: String,
    /// The seed of the training.
    pub seed: u64,
    /// The folder of the training.
    pub dir: PathBuf,
    /// The number of epochs.
    pub n_epochs: usize,
    /// What is known of the arm.
    pub details: ArmDetails,
}

/// The folder of the run after `epoch` epochs of the training in `dir`; epoch 0 is the base.
pub fn epoch_dir(dir: &Path, epoch: usize) -> PathBuf {
    dir.join("eval").join(format!("epoch-{epoch}"))
}

/// Gain and forgetting of every epoch of `trainings` of the base `model`, and the rank of every arm.
///
/// # Errors
/// A run of an epoch cannot be read.
pub fn measure(
    model: &str,
    trainings: &[SweptTraining],
    failed: Vec<FailedArm>,
    options: SweepOptions,
) -> Result<Sweep> {
    let mut runs = Vec::new();
    for training in trainings {
        runs.extend(runs_of(training)?);
    }
    Ok(compare::sweep(model, &runs, failed, options))
}

fn runs_of(training: &SweptTraining) -> Result<Vec<SweptRun>> {
    let base = RecordedRun::open(&epoch_dir(&training.dir, 0))?;
    let names: Vec<String> = base.datasets().map(str::to_owned).collect();
    let tuned: Vec<RecordedRun> = (1..=training.n_epochs)
        .map(|epoch| RecordedRun::open(&epoch_dir(&training.dir, epoch)))
        .collect::<Result<_>>()?;
    let mut runs: Vec<SweptRun> = (1..=training.n_epochs)
        .map(|epoch| SweptRun {
            arm: training.arm.clone(),
            seed: training.seed,
            epoch,
            details: training.details.clone(),
            datasets: Vec::with_capacity(names.len()),
        })
        .collect();
    for name in &names {
        let before = base.trials_of(name)?;
        for (run, tuned) in runs.iter_mut().zip(&tuned) {
            run.datasets.push(SweptDataset::of(name, &before, &tuned.trials_of(name)?));
        }
    }
    Ok(runs)
}

/// Begins the run `planned` with the answers of the run in `recorded`, if that is complete and differs at most in what its model was
/// fine-tuned on, which decides codes alone. Returns whether `planned` has answers now; one that has some already is left as it is.
///
/// # Errors
/// A folder cannot be read or written.
pub fn reuse_answers(recorded: &Path, planned: &PlannedRun) -> Result<bool> {
    let place = || format!("failed to reuse the answers of `{}`", recorded.display());
    let manifest = record::read_manifest(recorded).with_context(place)?;
    let mut spec = manifest.spec.clone();
    spec.tuned_on.clone_from(&planned.spec.tuned_on);
    if manifest.state != RunState::Complete || record::identity(&spec) != record::identity(&planned.spec) {
        return Ok(false);
    }
    let (_, mut trials) = record::read_run(recorded).with_context(place)?;
    tuned_on::recode(&manifest.spec, &mut trials, &planned.spec.tuned_on)?;
    let begun = Manifest::new(planned.spec.clone(), planned.environment.clone());
    let (mut folder, known) = RunFolder::create_or_resume(&planned.dir, begun, false)?;
    if known.is_empty() {
        folder.append(&trials)?;
        folder.sync()?;
    }
    Ok(true)
}
