//! `emt judge`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::calibrate::{self, CalibrateArgs, SampleArgs};
use super::data::Places;
use super::judge_options::JudgeOptions;
use super::progress::Progress;
use super::results::{self, ChartOptions, Format, Results};
use super::{exit_code, interrupt};
use crate::domain::Trial;
use crate::eval;
use crate::judging::Panel;
use crate::record::{Manifest, RunFolder};

/// `emt judge`.
#[derive(Args, Debug)]
pub(super) struct JudgeArgs {
    #[command(subcommand)]
    command: JudgeCommand,
}

#[derive(Subcommand, Debug)]
enum JudgeCommand {
    /// Judge the answers of a recorded run again, without the model, into a new run folder
    Score(Box<ScoreArgs>),
    /// Draw answers of a recorded run as a sheet for people to mark
    Sample(SampleArgs),
    /// Measure a judge against a sheet that people marked
    Calibrate(Box<CalibrateArgs>),
}

#[derive(Args, Debug)]
struct ScoreArgs {
    /// The recorded run; it stays as it is
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The new run's folder; the same command again resumes
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Refuse a folder that exists
    #[arg(long)]
    fresh: bool,
    /// Exit with 2 where a larger share of one subject's trials of a dataset is unscored
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    max_unscored: f64,
    /// What standard output gets
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Datasets that the model was fine-tuned on: an answer from their labels gets the code `leak`; default: as recorded
    #[arg(long, value_name = "A,B")]
    tuned_on: Option<String>,
    #[command(flatten)]
    judging: JudgeOptions,
    #[command(flatten)]
    charts: ChartOptions,
}

/// Runs the command and returns its exit code.
pub(super) fn run(args: &JudgeArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    match &args.command {
        JudgeCommand::Score(args) => score(args, quiet, out, err),
        JudgeCommand::Sample(args) => calibrate::sample(args, quiet, out, err),
        JudgeCommand::Calibrate(args) => calibrate::calibrate(args, quiet, out, err),
    }
}

fn score(args: &ScoreArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    let (old, trials) = results::read_run(&args.run)?;
    let mut spec = old.spec.clone();
    if args.tuned_on.is_some() {
        spec.tuned_on = super::eval::tuned_on(args.tuned_on.as_deref(), &Places::default())?;
    }
    let panel = Panel::new(args.judging.panel_config()?, eval::judged_datasets(&spec)?)?;
    spec.judges = panel.specs();
    let mut environment = old.environment.clone();
    environment.insert("command".into(), results::command_line().into());
    environment.insert("judged_from".into(), old.identity.clone().into());
    let mut progress = Progress::new(err, quiet);
    let n_answers = trials.iter().filter(|trial| eval::is_judged(trial)).count();
    let n_calls_max = panel.upper_bound_of_calls(n_answers as u64);
    if n_calls_max > 0 {
        progress.say(&format!("judge: at most {n_calls_max} calls, one for each distinct pair of label and answer"));
    }
    let manifest = Manifest::new(spec.clone(), environment);
    let (mut folder, recorded) = RunFolder::create_or_resume(&args.out, manifest, args.fresh)?;
    interrupt::listen();
    let judge_error =
        eval::rejudge(&spec, &trials, panel, &mut folder, &recorded, &interrupt::is_stopped, &mut progress);
    progress.finish();
    let judge_error = judge_error?;
    if interrupt::is_stopped() {
        folder.sync()?;
        progress.say(&format!("interrupted; the same command goes on where `{}` ends", args.out.display()));
        return Ok(exit_code::INTERRUPTED);
    }
    let order: Vec<_> = trials.iter().map(Trial::key).collect();
    let trials = folder.finish(&order)?;
    let results = Results { dir: &args.out, run: &args.out, spec: &spec, trials: &trials, charts: &args.charts };
    results::write_all(&[results], args.format, quiet, out)?;
    match eval::largest_unscored_share(&trials) {
        Some(unscored) if unscored.share > args.max_unscored => {
            let why = judge_error.map(|error| format!(" ({error})")).unwrap_or_default();
            bail!(
                "{:.1}% of {} are unscored, more than --max-unscored {:.1}%{why}; the run is \
                 complete in `{}`; hint: run the same command again to retry",
                unscored.share * 100.0,
                results::trials_name(&unscored),
                args.max_unscored * 100.0,
                args.out.display()
            )
        }
        _ => Ok(exit_code::OK),
    }
}
