//! `emt eval`.

mod comparator;
mod options;
mod prepare;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

pub(super) use self::options::EvalOptions;
pub(super) use self::prepare::{PlannedRun, Prepared, announce, open_runs, plan, prepare, prompt_name, warn};
use super::comparison::settings_note;
use super::progress::Progress;
use super::results::{self, Format, Results};
use super::{exit_code, interrupt};
use crate::domain::Trial;
use crate::eval::{self, Ended, EvalRun};

/// Flags of `emt eval`.
#[derive(Args, Debug)]
pub(super) struct EvalArgs {
    /// Model: a checkpoint folder, ORG/NAME on the hub, a server's address, or `embedded`
    ///
    /// ORG/NAME[@REVISION] is looked up in the hub's cache; a folder of that name wins. A server is one with OpenAI's chat
    /// interface, such as http://localhost:8000/v1. `embedded` is the miniature model that is part of the program.
    #[arg(long, short, value_name = "MODEL")]
    model: PathBuf,
    /// Folder of the run [default: reports/<model>-<identity>]
    ///
    /// With adapters the runs are in DIR/base and DIR/<adapter>, with several served models in DIR/<name>. The same command
    /// resumes a run that was interrupted.
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Largest share of unscored trials per subject and dataset; above it the exit code is 2
    #[arg(long, value_name = "SHARE", default_value_t = 0.02, hide_short_help = true)]
    max_unscored: f64,
    /// Format of the result on standard output
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
            if args.format == Format::Table {
                write_own_settings(&runs, out)?;
            }
            for (run, trials) in runs.iter().zip(&trials) {
                refuse_unscored(args, &run.dir, trials, judge_error.as_deref())?;
            }
            Ok(exit_code::OK)
        }
    }
}

/// In what candidates ran otherwise than the base that stands before them.
fn write_own_settings(runs: &[PlannedRun], out: &mut dyn Write) -> Result<()> {
    let Some((base, candidates)) = runs.split_first().filter(|(base, _)| base.spec.model.adapter.is_none()) else {
        return Ok(());
    };
    for run in candidates {
        if let Some(note) = settings_note(&base.spec, &run.spec, &results::name_of(&run.dir)) {
            writeln!(out, "\n{note}")?;
        }
    }
    Ok(())
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
