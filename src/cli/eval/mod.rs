//! `emt eval`.

mod comparator;
mod options;
mod prepare;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

pub(super) use self::options::EvalOptions;
pub(super) use self::prepare::{PlannedRun, Prepared, announce, open_runs, plan, prepare, prompt_name, tuned_on, warn};
use super::progress::Progress;
use super::results::{self, Format, Results};
use super::{exit_code, interrupt};
use crate::domain::Trial;
use crate::eval::{self, Ended, EvalRun};

/// Flags of `emt eval`.
#[derive(Args, Debug)]
pub(super) struct EvalArgs {
    /// Checkpoint folder of the model; `embedded`: the miniature that is a part of the program; ORG/NAME[@REVISION] on
    /// the hub, found in its cache (a folder of that name wins); or the address of a server with OpenAI's chat interface, such
    /// as http://localhost:8000/v1
    #[arg(long, short, value_name = "DIR|ORG/NAME|URL|embedded")]
    model: PathBuf,
    /// Run folder; default: reports/<model>-<identity>. With adapters the runs lie in DIR/base and DIR/<adapter>. The
    /// same command again resumes
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Exit with 2 where a larger share of one subject's trials of a dataset is unscored
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    max_unscored: f64,
    /// What standard output gets
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    options: EvalOptions,
}

/// Runs the command and returns its exit code.
pub(super) fn run(args: &EvalArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    if !(0.0..=1.0).contains(&args.max_unscored) {
        bail!("--max-unscored is a share from 0 to 1, and is {}", args.max_unscored);
    }
    let options = &args.options;
    let prepared = prepare(&args.model, options, args.out.as_deref(), quiet, err)?;
    let mut progress = Progress::new(err, quiet);
    warn(&mut progress, &prepared);
    let open_runs = open_runs(&args.model, options, &prepared)?;
    let works = plan(options, &prepared, &open_runs);
    announce(&mut progress, &prepared, &works, open_runs.iter().any(|open| !open.recorded.is_empty()));
    interrupt::listen();
    let n_repeats = prepared.n_repeats(options);
    let Prepared { placement, subjects, datasets, questions, probes, batching, panel, runs, feature_cache, .. } =
        prepared;
    let run = EvalRun {
        datasets: &datasets,
        prompt_name: prompt_name(&runs[0].spec),
        questions: &questions,
        probes: &probes,
        modes: &runs[0].spec.modes,
        max_new_tokens: options.max_new_tokens,
        batch_size: batching.size,
        n_repeats,
        panel,
        runs: open_runs,
        is_stopped: &interrupt::is_stopped,
    };
    let ended = eval::run(run, &works, || subjects.load(&placement, feature_cache.clone()), &mut progress);
    progress.finish();
    if let Some(cache) = feature_cache {
        progress.say(&cache.summary());
    }
    match ended? {
        Ended::Interrupted => {
            let dir = runs[0].dir.display();
            progress.say(&format!("interrupted; the same command goes on where `{dir}` ends"));
            Ok(exit_code::INTERRUPTED)
        }
        Ended::Complete { trials, judge_error } => {
            let finished: Vec<Results> = runs
                .iter()
                .zip(&trials)
                .map(|(run, trials)| Results {
                    dir: &run.dir,
                    run: &run.dir,
                    spec: &run.spec,
                    trials,
                    charts: &options.charts,
                })
                .collect();
            results::write_all(&finished, args.format, quiet, out)?;
            for (run, trials) in runs.iter().zip(&trials) {
                refuse_unscored(args, &run.dir, trials, judge_error.as_deref())?;
            }
            Ok(exit_code::OK)
        }
    }
}

/// The run is complete on disk; may its numbers be trusted?
fn refuse_unscored(args: &EvalArgs, dir: &Path, trials: &[Trial], judge_error: Option<&str>) -> Result<()> {
    let Some(unscored) = eval::largest_unscored_share(trials) else { return Ok(()) };
    if unscored.share > args.max_unscored {
        let why = judge_error.map(|error| format!(" ({error})")).unwrap_or_default();
        bail!(
            "{:.1}% of {} are unscored, more than --max-unscored {:.1}%{why}; the run is \
             complete in `{}`; hint: run the same command again to retry, or `emt judge score {} --out NEW` to judge it \
             anew",
            unscored.share * 100.0,
            results::trials_name(&unscored),
            args.max_unscored * 100.0,
            dir.display(),
            dir.display()
        );
    }
    Ok(())
}

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Table, Self::Json]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(match self {
            Self::Table => clap::builder::PossibleValue::new("table"),
            Self::Json => clap::builder::PossibleValue::new("json"),
        })
    }
}
