//! The trainings of a sweep: every arm with every seed, one after the other.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::finetune::{self, EpochEvaluations, FineTune, FinetuneArgs};
use super::super::interrupt;
use super::file::{Arm, SweepFile};
use crate::compare::{ArmDetails, FailedArm};
use crate::record::{self, TrainingFolder};
use crate::study::{self, SweptTraining};

/// The file in a training's folder that says that it came to its end in a sweep.
const DONE: &str = "arm.json";
const DONE_SCHEMA: &str = "emt.sweep.arm/1";

/// The folder of the features that all arms share; no arm has this name.
const FEATURES: &str = ".features";

/// All trainings of a sweep.
pub(super) struct Trainings<'a> {
    file: &'a SweepFile,
    dir: &'a Path,
    command: clap::Command,
}

/// What came of them.
pub(super) struct Swept {
    /// The base, as the file names it.
    pub model: String,
    /// In the order of the file, seed after seed.
    pub finished: Vec<SweptTraining>,
    pub failed: Vec<FailedArm>,
}

/// A training as the file asks for it.
struct Asked {
    args: FinetuneArgs,
    /// What identifies its settings.
    settings: Vec<String>,
}

/// A run of the base that is complete.
struct BaseRun {
    dir: PathBuf,
    limit: usize,
}

impl<'a> Trainings<'a> {
    pub fn new(file: &'a SweepFile, dir: &'a Path) -> Self {
        Self { file, dir, command: super::super::command() }
    }

    /// Opens what every arm needs, so that a mistake is told before anything is trained.
    pub fn check(&self, err: &mut dyn Write) -> Result<()> {
        for arm in &self.file.arms {
            let place = || format!("the arm `{}` cannot be trained", arm.name);
            // Without the folder of features: nothing is written yet.
            let (args, _) = arm.arguments(&self.command, 0, self.dir, &[])?;
            let hyperparameters = args.hyperparameters().with_context(place)?;
            ensure!(hyperparameters.n_epochs > 0, "the arm `{}` has no epoch", arm.name);
            let mut nowhere = std::io::sink();
            let hub = args.hub.hub(true, &mut nowhere)?;
            let fine_tune = finetune::prepare(&args, &hub, true, err).with_context(place)?;
            ensure!(
                fine_tune.evaluations.is_some(),
                "the arm `{}` evaluates nothing, and a sweep compares evaluations; hint: leave `eval_datasets` out, or \
                 name datasets",
                arm.name
            );
        }
        Ok(())
    }

    /// Trains what is not finished; `None` where somebody interrupted. A training that fails is recorded, and the others go on.
    pub fn run(&self, quiet: bool, err: &mut dyn Write) -> Result<Option<Swept>> {
        let mut swept = Swept { model: String::new(), finished: Vec::new(), failed: Vec::new() };
        let mut bases = Vec::new();
        let n_trainings = self.file.arms.len() * self.file.seeds.len();
        let mut n_begun = 0;
        for arm in &self.file.arms {
            for &seed in &self.file.seeds {
                n_begun += 1;
                if !quiet {
                    writeln!(err, "\n{n_begun}/{n_trainings}: arm `{}`, seed {seed}", arm.name)?;
                }
                match self.train(arm, seed, &mut bases, quiet, err) {
                    Ok(Some((model, training))) => {
                        swept.model = model;
                        swept.finished.push(training);
                    }
                    Ok(None) => return Ok(None),
                    Err(error) => {
                        if !quiet {
                            writeln!(err, "the arm `{}` with seed {seed} failed: {error:#}", arm.name)?;
                        }
                        swept.failed.push(FailedArm { arm: arm.name.clone(), seed, message: format!("{error:#}") });
                    }
                }
            }
        }
        Ok(Some(swept))
    }

    /// The flags of one training.
    fn asked(&self, arm: &Arm, seed: u64) -> Result<Asked> {
        let further: Vec<OsString> = match arm.sets("feature-cache") {
            true => Vec::new(),
            // Images pass the frozen tower once for all arms.
            false => vec!["--feature-cache".into(), self.dir.join(FEATURES).into()],
        };
        let out = self.dir.join(&arm.name).join(format!("seed-{seed}"));
        let (args, settings) = arm.arguments(&self.command, seed, &out, &further)?;
        Ok(Asked { args, settings })
    }

    /// One training, with the base's name; `None` where somebody interrupted.
    fn train(
        &self,
        arm: &Arm,
        seed: u64,
        bases: &mut Vec<BaseRun>,
        quiet: bool,
        err: &mut dyn Write,
    ) -> Result<Option<(String, SweptTraining)>> {
        let Asked { args, settings } = self.asked(arm, seed)?;
        let mut nowhere = std::io::sink();
        let hub = args.hub.hub(true, &mut nowhere)?;
        let fine_tune = finetune::prepare(&args, &hub, quiet, err)?;
        let new = arm.new.clone().unwrap_or_else(|| fine_tune.tuned_on.clone());
        let (limit, hyperparameters) = (args.eval_limit, args.hyperparameters()?);
        let n_trainable = match finished(&fine_tune, &settings)? {
            Some(n_trainable) => {
                say(quiet, err, "finished before")?;
                n_trainable
            }
            None => {
                if let Some(evaluations) = &fine_tune.evaluations {
                    reuse_base(evaluations, &args.out, bases, quiet, err)?;
                }
                let Some(trained) = fine_tune.train(quiet, err)? else { return Ok(None) };
                if !quiet {
                    finetune::print(&trained.curve, &args.out, true, err)?;
                }
                let done = json!({"schema": DONE_SCHEMA, "settings": settings, "n_trainable": trained.n_trainable});
                record::write_file(&args.out, DONE, format!("{done:#}\n").as_bytes())?;
                trained.n_trainable
            }
        };
        bases.push(BaseRun { dir: study::epoch_dir(&args.out, 0), limit });
        let training = SweptTraining {
            arm: arm.name.clone(),
            seed,
            dir: args.out.clone(),
            n_epochs: hyperparameters.n_epochs,
            details: ArmDetails {
                method: args.method.name().to_owned(),
                new,
                learning_rate: hyperparameters.learning_rate,
                n_trainable: Some(n_trainable),
            },
        };
        Ok((!interrupt::is_stopped()).then(|| (args.model.display().to_string(), training)))
    }
}

fn say(quiet: bool, err: &mut dyn Write, line: &str) -> Result<()> {
    if !quiet {
        writeln!(err, "{line}")?;
    }
    Ok(())
}

/// The number of values that an equal training has trained in this folder to its end, evaluations included; `None` where it has not.
/// Another training in the folder is refused.
fn finished(fine_tune: &FineTune<'_>, settings: &[String]) -> Result<Option<usize>> {
    let spec = fine_tune.opened.spec().clone();
    let folder = TrainingFolder::create_or_resume(fine_tune.out, spec, fine_tune.environment.clone(), false)?;
    let path = fine_tune.out.join(DONE);
    if !folder.was_complete() || !path.is_file() {
        return Ok(None);
    }
    let done: Value =
        serde_json::from_str(&record::read_text(&path)?).with_context(|| format!("`{}`", path.display()))?;
    if done["schema"] != DONE_SCHEMA || done["settings"] != json!(settings) {
        return Ok(None);
    }
    Ok(done["n_trainable"].as_u64().map(|n| n as usize))
}

/// Begins the evaluation of the base with answers that an earlier training of the sweep got, if they are to the same questions.
fn reuse_base(
    evaluations: &EpochEvaluations<'_>,
    out: &Path,
    bases: &[BaseRun],
    quiet: bool,
    err: &mut dyn Write,
) -> Result<()> {
    let of_limit: Vec<&BaseRun> = bases.iter().filter(|base| base.limit == evaluations.limit).collect();
    if of_limit.is_empty() {
        return Ok(());
    }
    let planned = evaluations.plan(0, None, &study::epoch_dir(out, 0))?;
    let run = planned.runs.first().context("an evaluation has a run")?;
    for base in of_limit {
        if study::reuse_answers(&base.dir, run)? {
            return say(quiet, err, &format!("the base's answers are those of {}", base.dir.display()));
        }
    }
    Ok(())
}
