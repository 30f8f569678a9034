//! `emt sweep`.

mod file;
mod paper;
mod trainings;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use self::file::SweepFile;
use self::trainings::{Swept, Trainings};
use super::{exit_code, results};
use crate::chart::{self, Drawn, Frontier, SmallMultiples, SweptRose};
use crate::compare::{Sweep, SweepOptions};
use crate::record::{self, FolderLock};
use crate::report::{SweepCharts, sweep_html, sweep_json, sweep_markdown, sweep_table};
use crate::study::{self, SweptTraining};

/// Flags of `emt sweep`.
#[derive(Args, Debug)]
pub(super) struct SweepArgs {
    /// TOML file: flags of `emt finetune` as keys, a list of seeds, and a table [arms.NAME] for each arm
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Folder for trainings, their runs, sweep.json, charts and the page; the same command resumes
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print a file that repeats Figures 3 and 4 of the EMT paper for the checkpoint of --model
    #[arg(long)]
    print_paper: bool,
    /// Checkpoint of the printed file: a folder, ORG/NAME on the hub, or `embedded`
    #[arg(long, short, value_name = "MODEL")]
    model: Option<PathBuf>,
}

/// Runs the command and returns its exit code.
pub(super) fn run(args: &SweepArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    if args.print_paper {
        let model = args.model.as_deref();
        let model = model.context("--print-paper needs a checkpoint; hint: --model DIR, or --model embedded")?;
        write!(out, "{}", paper::file(model))?;
        return Ok(exit_code::OK);
    }
    let path = args.file.as_deref().context(
        "a sweep needs a file of arms; hint: `emt sweep FILE.toml --out DIR`, where --print-paper prints an example",
    )?;
    let dir = args.out.as_deref().context("a sweep needs a folder; hint: --out DIR")?;
    let text = record::read_text(path)?;
    let file = SweepFile::parse(path, &text, &super::command())?;
    let trainings = Trainings::new(&file, dir);
    trainings.check(err)?;
    let lock = FolderLock::new(dir)?;
    let Some(swept) = trainings.run(quiet, err)? else { return Ok(exit_code::INTERRUPTED) };
    let options = SweepOptions { gain_tolerance: file.gain_tolerance, ..SweepOptions::default() };
    let Swept { model, finished, failed } = swept;
    let sweep = study::measure(&model, &finished, failed, options)?;
    write_files(dir, &sweep, &finished)?;
    drop(lock);
    write!(out, "{}", sweep_table(&sweep))?;
    if !quiet {
        writeln!(out, "\n{}: sweep.html, sweep.md, sweep.json, frontier.svg, roses.svg", dir.display())?;
    }
    for failed in &sweep.failed {
        writeln!(err, "error: the arm `{}` with seed {} failed: {}", failed.arm, failed.seed, failed.message)?;
    }
    Ok(if sweep.failed.is_empty() { exit_code::OK } else { exit_code::FAILED })
}

/// Writes what a sweep leaves beside its trainings.
fn write_files(dir: &Path, sweep: &Sweep, finished: &[SweptTraining]) -> Result<()> {
    let command = results::command_line();
    let frontier = chart::frontier(&Frontier::of_sweep(sweep, None));
    let multiples = SmallMultiples::of_sweep(sweep, &roses(finished)?);
    let of_task = |task: usize| Drawn::frontier(&Frontier::of_sweep(sweep, Some(task)));
    let roses = Drawn::small_multiples(&multiples);
    let charts = SweepCharts {
        frontiers: (0..sweep.tasks.len()).map(of_task).collect(),
        roses: (!multiples.cells.is_empty()).then(|| roses.clone()),
    };
    let files: [(&str, Vec<u8>); 7] = [
        ("sweep.json", sweep_json(sweep).into_bytes()),
        ("sweep.md", sweep_markdown(sweep, &command).into_bytes()),
        ("sweep.html", sweep_html(sweep, &charts, &command).into_bytes()),
        ("frontier.png", chart::png(&frontier, chart::PNG_WIDTH_PX)?),
        ("frontier.svg", frontier.into_bytes()),
        ("roses.png", chart::png(&roses.wide, chart::PNG_WIDTH_PX)?),
        ("roses.svg", roses.wide.into_bytes()),
    ];
    for (name, bytes) in files {
        record::write_file(dir, name, &bytes)?;
    }
    Ok(())
}

/// The first seed of each arm before and after.
fn roses(finished: &[SweptTraining]) -> Result<Vec<SweptRose>> {
    let mut roses: Vec<SweptRose> = Vec::new();
    for training in finished {
        if roses.iter().any(|rose| rose.arm == training.arm) {
            continue;
        }
        let summary = |epoch: usize| record::read_summary(&study::epoch_dir(&training.dir, epoch));
        roses.push(SweptRose {
            arm: training.arm.clone(),
            seed: training.seed,
            before: summary(0)?,
            after: summary(training.n_epochs)?,
        });
    }
    Ok(roses)
}
