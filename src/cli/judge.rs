//! `emt judge`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::calibrate::{self, CalibrateArgs, SampleArgs};
use super::data::Places;
use super::gallery::Gallery;
use super::judge_options::JudgeOptions;
use super::progress::Progress;
use super::results::{self, ChartOptions, Format, Results};
use super::unscored::{self, Finished};
use super::{exit_code, interrupt, recorded_command, tuned_on};
use crate::domain::Trial;
use crate::eval;
use crate::judging::Panel;
use crate::record::{self, Manifest, RunFolder};

/// `emt judge`.
#[derive(Args, Debug)]
pub(super) struct JudgeArgs {
    #[command(subcommand)]
    command: JudgeCommand,
}

#[derive(Subcommand, Debug)]
enum JudgeCommand {
    /// Judge a run's answers again, without the model, and write a new run
    Score(Box<ScoreArgs>),
    /// Draw answers from a run into a sheet for people to mark
    Sample(SampleArgs),
    /// Measure a judge against a sheet that people marked
    Calibrate(Box<CalibrateArgs>),
}

#[derive(Args, Debug)]
struct ScoreArgs {
    /// The recorded run; it is not changed
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Folder of the new run; the same command resumes it
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Refuse to resume: fail if the folder exists
    #[arg(long, hide_short_help = true)]
    fresh: bool,
    /// Maximum share of unscored trials per subject and dataset; above it the exit code is 2
    #[arg(long, value_name = "SHARE", default_value_t = 0.02, hide_short_help = true)]
    max_unscored: f64,
    /// Format of the result on standard output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Datasets that the model was fine-tuned on; an answer from their labels is a leak [default: as recorded]
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
    let (mut spec, mut said) = (old.spec.clone(), BTreeMap::new());
    if args.tuned_on.is_some() {
        let name = record::run_name(&args.run);
        for part in tuned_on::parts(args.tuned_on.as_deref(), &[&name])? {
            said.insert(part.dataset.to_owned(), tuned_on::labels_of(part.dataset, &Places::default())?);
        }
        spec.tuned_on = said;
    }
    let mut panel = Panel::new(args.judging.panel_config()?, eval::judged_datasets(&spec)?)?;
    if args.max_unscored >= 1.0 {
        panel.tolerate_unparsable();
    }
    spec.judges = panel.specs();
    let mut environment = old.environment.clone();
    environment.insert("command".into(), results::command_line().into());
    environment.shift_remove(recorded_command::DIRECTORY);
    environment.extend(recorded_command::directory().map(|dir| (recorded_command::DIRECTORY.to_owned(), dir)));
    environment.insert("judged_from".into(), old.identity.clone().into());
    let mut progress = Progress::new(err, quiet);
    let n_answers = trials.iter().filter(|trial| eval::is_judged(trial)).count();
    let n_calls_max = panel.upper_bound_of_calls(n_answers as u64);
    if n_calls_max > 0 {
        progress.say(&format!(
            "judge: at most {n_calls_max} calls, two fixed questions first, then one for each distinct pair of label \
             and answer"
        ));
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
        progress.say(&format!("interrupted; run the same command again to continue `{}`", args.out.display()));
        return Ok(exit_code::INTERRUPTED);
    }
    let order: Vec<_> = trials.iter().map(Trial::key).collect();
    let trials = folder.finish(&order)?;
    let gallery = Gallery::none();
    let results = Results {
        dir: &args.out,
        run: &args.out,
        spec: &spec,
        trials: &trials,
        charts: &args.charts,
        gallery: &gallery,
    };
    results::write_all(&[results], args.format, quiet, out)?;
    unscored::refuse_unscored(&Finished {
        dir: &args.out,
        trials: &trials,
        judge_error: judge_error.as_deref(),
        max_unscored: args.max_unscored,
        judging: &args.judging,
        is_rejudged: true,
    })?;
    Ok(exit_code::OK)
}
