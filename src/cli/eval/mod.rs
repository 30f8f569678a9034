//! `emt eval`.

mod comparator;
mod options;
mod prepare;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

pub(super) use self::options::EvalOptions;
pub(super) use self::prepare::{
    LOGPROB_TOLERANCE, PlannedRun, Prepared, SERVER, announce, logprobs_apart, open_runs, plan, prepare,
    probe_logprobs, prompt_name, warn,
};
use super::comparison::settings_note;
use super::gallery::{Gallery, N_ERRORS_SHOWN};
use super::progress::Progress;
use super::results::{self, Format, Results};
use super::unscored::{self, Finished};
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
    #[arg(long, value_name = "SHARE", default_value_t = 0.02, hide_short_help = true, help_heading = "Output")]
    max_unscored: f64,
    /// Most errors shown with their images in report.html; 0 shows none
    #[arg(long, value_name = "N", default_value_t = N_ERRORS_SHOWN, hide_short_help = true, help_heading = "Output")]
    max_images: usize,
    /// Format of the result on standard output
    #[arg(long, value_enum, default_value_t = Format::Table, help_heading = "Output")]
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
    announce(&mut progress, &prepared, &works, &open_runs);
    interrupt::listen();
    let n_repeats = prepared.n_repeats(options);
    let Prepared { placement, subjects, datasets, questions, probes, batching, mut panel, runs, feature_cache, .. } =
        prepared;
    if args.max_unscored >= 1.0 {
        panel.tolerate_unparsable();
    }
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
            let gallery = Gallery::of_datasets(datasets, args.max_images);
            write_results(args, &runs, &trials, &gallery, quiet, out)?;
            for (run, trials) in runs.iter().zip(&trials) {
                unscored::refuse_unscored(&Finished {
                    dir: &run.dir,
                    trials,
                    judge_error: judge_error.as_deref(),
                    max_unscored: args.max_unscored,
                    judging: &options.judging,
                    is_rejudged: false,
                })?;
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

/// Writes the files of all runs, and prints their numbers.
fn write_results(
    args: &EvalArgs,
    runs: &[PlannedRun],
    trials: &[Vec<Trial>],
    gallery: &Gallery,
    quiet: bool,
    out: &mut dyn Write,
) -> Result<()> {
    let finished: Vec<Results> = runs
        .iter()
        .zip(trials)
        .map(|(run, trials)| Results {
            dir: &run.dir,
            run: &run.dir,
            spec: &run.spec,
            trials,
            charts: &args.options.charts,
            gallery,
        })
        .collect();
    results::write_all(&finished, args.format, quiet, out)?;
    if args.format == Format::Table {
        write_own_settings(runs, out)?;
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
