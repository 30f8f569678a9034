//! `emt eval`.

mod comparator;
mod options;
mod prepare;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

pub(super) use self::options::EvalOptions;
use self::prepare::announce;
pub(super) use self::prepare::{DatasetFlags, Origin, Prepared, open_datasets, prepare, settle, sitting, warn};
use super::gallery::{Gallery, N_ERRORS_SHOWN};
use super::progress::Progress;
use super::results::{self, Format, Results};
use super::unscored::{self, Finished};
use super::{exit_code, interrupt};
use crate::record;
use crate::study::compare::settings_note;
use crate::study::{EvaluatedRun, Evaluation, PlannedEvaluation};

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
        bail!("--max-unscored must be a share from 0 to 1, but is {}", args.max_unscored);
    }
    let options = &args.options;
    let Prepared { mut planned, .. } = prepare(&args.model, options, args.out.as_deref(), quiet, err)?;
    if args.max_unscored >= 1.0 {
        planned.panel.tolerate_unparsable();
    }
    let Some(Evaluation { runs, datasets, judge_error }) = evaluate(planned, quiet, err)? else {
        return Ok(exit_code::INTERRUPTED);
    };
    let gallery = Gallery::of_datasets(datasets, args.max_images);
    write_results(args, &runs, &gallery, quiet, out)?;
    for run in &runs {
        unscored::refuse_unscored(&Finished {
            dir: &run.dir,
            trials: &run.trials,
            judge_error: judge_error.as_deref(),
            max_unscored: args.max_unscored,
            judging: &options.judging,
            is_rejudged: false,
        })?;
    }
    Ok(exit_code::OK)
}

/// Asks what remains, and shows how it goes on; `None` where somebody interrupted.
pub(super) fn evaluate(mut planned: PlannedEvaluation, quiet: bool, err: &mut dyn Write) -> Result<Option<Evaluation>> {
    let mut progress = Progress::new(err, quiet);
    warn(&mut progress, &planned);
    let open_runs = planned.open_folders()?;
    planned.plan_what_remains(&open_runs);
    announce(&mut progress, &planned, &open_runs);
    interrupt::listen();
    let (dir, feature_cache) = (planned.runs[0].dir.clone(), planned.feature_cache.clone());
    let ended = planned.run(open_runs, &interrupt::is_stopped, &mut progress);
    progress.finish();
    if let Some(cache) = feature_cache {
        progress.say(&cache.summary());
    }
    let ended = ended?;
    if ended.is_none() {
        progress.say(&format!("interrupted; run the same command again to continue `{}`", dir.display()));
    }
    Ok(ended)
}

/// In what candidates ran otherwise than the base that stands before them.
fn write_own_settings(runs: &[EvaluatedRun], out: &mut dyn Write) -> Result<()> {
    let Some((base, candidates)) = runs.split_first().filter(|(base, _)| base.spec.model.adapter.is_none()) else {
        return Ok(());
    };
    for run in candidates {
        if let Some(note) = settings_note(&base.spec, &run.spec, &record::run_name(&run.dir)) {
            writeln!(out, "\n{note}")?;
        }
    }
    Ok(())
}

/// Writes the files of all runs, and prints their numbers.
fn write_results(
    args: &EvalArgs,
    runs: &[EvaluatedRun],
    gallery: &Gallery,
    quiet: bool,
    out: &mut dyn Write,
) -> Result<()> {
    let finished: Vec<Results> = runs.iter().map(|run| Results::of(run, &args.options.charts, gallery)).collect();
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
