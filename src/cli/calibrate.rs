//! `emt judge sample` and `emt judge calibrate`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::judge_options::JudgeOptions;
use super::progress::Progress;
use super::results::{self, Format};
use super::{exit_code, interrupt};
use crate::compare::{Calibration, JudgeIdentity};
use crate::domain::{Outcome, RunSpec};
use crate::judging::{Panel, Sheet, SheetForm, draw_sheet};
use crate::{eval, record, report};

#[derive(Args, Debug)]
pub(super) struct SampleArgs {
    /// The recorded run
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The sheet to write, `.csv` or `.jsonl`; an existing file is refused
    #[arg(long, short, value_name = "SHEET")]
    out: PathBuf,
    /// Pairs to draw; at least 10 per stratum are drawn
    #[arg(long, value_name = "N", default_value_t = 300)]
    n: usize,
    /// Seed of the draw
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

#[derive(Args, Debug)]
pub(super) struct CalibrateArgs {
    /// The marked sheet: CSV or JSON lines with `label`, `answer` and `correct`
    ///
    /// `correct` is true or false; a row in which it is empty is not marked.
    #[arg(long, value_name = "SHEET")]
    labels: PathBuf,
    /// File for the calibration as JSON
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// The run that the sheet was drawn from, to measure another judge than the run's
    #[arg(long, value_name = "RUN")]
    run: Option<PathBuf>,
    /// Format of the result on standard output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    judging: JudgeOptions,
}

pub(super) fn sample(args: &SampleArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    let shown = args.out.display();
    ensure!(args.n > 0, "--n must be at least 1: it is the number of pairs to draw");
    ensure!(!args.out.exists(), "`{shown}` exists, and may hold marks; hint: give another name, or remove it");
    let form = sheet_form(&args.out)?;
    let (manifest, trials) = results::read_run(&args.run)?;
    let sheet = draw_sheet(&manifest.spec, &manifest.identity, &trials, args.n, args.seed);
    ensure!(!sheet.rows.is_empty(), "the run `{}` has no scored answer of the model", args.run.display());
    write(&args.out, &sheet.write(form))?;
    let mut progress = Progress::new(err, quiet);
    if sheet.rows.len() > args.n {
        progress.say(&format!("10 pairs of each stratum, and the most frequent ones, are more than --n {}", args.n));
    }
    write!(out, "{}", report::sheet_table(&sheet))?;
    if !quiet {
        writeln!(out, "\n{shown}: {} pairs; fill in the column `correct`", sheet.rows.len())?;
    }
    Ok(exit_code::OK)
}

pub(super) fn calibrate(args: &CalibrateArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    let sheet = read_sheet(&args.labels)?;
    let in_sheet = || format!("in the sheet `{}`", args.labels.display());
    ensure!(
        sheet.rows.iter().any(|row| row.is_correct.is_some()),
        "no row of the sheet `{}` is marked; hint: fill the column `correct` with true or false",
        args.labels.display()
    );
    let run = args.run.as_deref().map(|run| run_of(&sheet, run)).transpose()?;
    let places = eval::sheet_places(&sheet, run.as_ref()).with_context(in_sheet)?;
    let mut panel = Panel::new(args.judging.panel_config()?, places.datasets)?;
    let judge = JudgeIdentity::of(&panel.specs());
    if let Some(origin) = sheet.origin.as_ref().filter(|origin| origin.judge != judge && run.is_none()) {
        bail!(
            "the sheet `{}` is from a run that was judged by {}, but the judge here is {judge}; hint: give that judge, \
             or --run RUN to judge its pairs again",
            args.labels.display(),
            origin.judge
        );
    }
    let mut progress = Progress::new(err, quiet);
    let recorded = eval::recorded_outcomes(&sheet, &judge);
    let is_recorded = recorded.is_some();
    let outcomes = match recorded {
        Some(outcomes) => outcomes,
        None => {
            let n_marked = sheet.rows.iter().filter(|row| row.is_correct.is_some()).count();
            let n_calls_max = panel.upper_bound_of_calls(n_marked as u64);
            if n_calls_max > 0 {
                progress.say(&format!(
                    "judge: at most {n_calls_max} calls, two fixed questions first, then one for each distinct pair of \
                     label and answer"
                ));
            }
            interrupt::listen();
            // How wrong it is is what is measured.
            panel.tolerate_inverted();
            if let Some(notice) = panel.check(&interrupt::is_stopped)? {
                progress.say(&format!("warning: {}", notice.text));
            }
            match eval::judge_sheet(&sheet, &mut panel, &places.places, &interrupt::is_stopped)
                .with_context(in_sheet)?
            {
                Some(outcomes) => outcomes,
                None => return Ok(exit_code::INTERRUPTED),
            }
        }
    };
    let is_judged = |outcome: &Outcome| !matches!(outcome, Outcome::Unscored(_));
    if !outcomes.iter().any(is_judged) {
        let why = panel.fatal_error().map(|error| format!(": {error}")).unwrap_or_default();
        bail!("the judge gave no verdict on any marked row of `{}`{why}", args.labels.display());
    }
    let pairs = eval::marked_pairs(&sheet, &outcomes, is_recorded);
    let calibration = Calibration::new(judge, sheet.origin.map(|origin| origin.run), &pairs);
    let json = report::calibration_json(&calibration);
    write(&args.out, &json)?;
    match args.format {
        Format::Json => write!(out, "{json}")?,
        Format::Table => write!(out, "{}", report::calibration_table(&calibration))?,
    }
    if calibration.n_judge_failed > 0 {
        let n = calibration.n_judge_failed;
        progress.say(&format!("warning: the judge gave no verdict on {n} marked rows; no number counts them"));
    }
    Ok(exit_code::OK)
}

fn read_sheet(path: &Path) -> Result<Sheet> {
    let form = sheet_form(path)?;
    let what = || format!("failed to read the sheet `{}`", path.display());
    let text =
        record::read_text(path).with_context(|| format!("{}; hint: a sheet is CSV or JSON lines, in UTF-8", what()))?;
    Sheet::parse(&text, form).with_context(what)
}

/// The specification of the run in `dir`, from which `sheet` must have been drawn if from any.
fn run_of(sheet: &Sheet, dir: &Path) -> Result<RunSpec> {
    let (manifest, _) = results::read_run(dir)?;
    if let Some(origin) = sheet.origin.as_ref().filter(|origin| origin.run != manifest.identity) {
        bail!(
            "the sheet was drawn from the run {}, but `{}` is {}; hint: give the run of the sheet with --run",
            origin.run,
            dir.display(),
            manifest.identity
        );
    }
    Ok(manifest.spec)
}

fn sheet_form(path: &Path) -> Result<SheetForm> {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("csv" | "tsv") => Ok(SheetForm::Csv),
        Some("jsonl" | "ndjson") => Ok(SheetForm::Jsonl),
        _ => bail!("`{}` is not named like a sheet; hint: the name of a sheet ends in .csv or .jsonl", path.display()),
    }
}

/// Writes `text` to `path` atomically.
fn write(path: &Path, text: &str) -> Result<()> {
    let name = path.file_name().with_context(|| format!("`{}` is not a file name", path.display()))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(record::write_file(dir, &name.to_string_lossy(), text.as_bytes())?)
}
