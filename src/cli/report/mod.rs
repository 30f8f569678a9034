//! `emt report`.

mod comparison;
mod decisions;
mod diagnoses;
mod stages;
mod summaries;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

pub(super) use self::comparison::ComparisonRequest;
pub(super) use self::decisions::Decisions;
use super::comparison_options::ComparisonOptions;
use super::data::Places;
use super::exit_code;
use super::gallery::{Gallery, N_ERRORS_SHOWN, Wanted};
use super::hub_options::HubOptions;
use super::reading::ColumnOptions;
use super::results::{self, ChartOptions, Results};
use super::tuned_on;
use crate::dataset::DatasetHub;
use crate::finetune::Curve;
use crate::record;
use crate::report::{self, StageReport};
use crate::study::{self, RecordedRun};

/// Flags of `emt report`.
#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    /// Recorded runs, to compare with --baseline or to report each on its own
    #[arg(value_name = "RUN", required_unless_present = "stages")]
    runs: Vec<PathBuf>,
    /// Run of the model before fine-tuning
    #[arg(long, value_name = "RUN")]
    baseline: Option<PathBuf>,
    /// Forgetting matrix of fine-tunes one after the other: a base, then RUN:DATASET per stage
    ///
    /// The stages are given in the order of training, each with the dataset that it was tuned on.
    #[arg(long, value_names = ["BASE", "RUN:DATASET"], num_args = 2.., conflicts_with = "baseline")]
    stages: Vec<String>,
    /// Folder for the report [default: reports/<candidate>-against-<baseline>]
    ///
    /// Without --baseline, reports are written into the run's own folder; with --stages, nothing is written.
    #[arg(long, short, value_name = "DIR", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Most images shown per run [default: 200 lost ones with --baseline, else 60 errors]
    #[arg(long, value_name = "N", help_heading = "Images")]
    max_images: Option<usize>,
    /// Show no images
    #[arg(long, help_heading = "Images")]
    no_images: bool,
    /// Where the images of a run's datasets lie: NAME=PATH, or a path that is called as the dataset is
    ///
    /// A run records where its datasets lay: this is for images that lie elsewhere by now. ORG/NAME on the hub is taken as well.
    #[arg(long, value_name = "A,B", hide_short_help = true, help_heading = "Images")]
    datasets: Option<String>,
    /// Folder of `emt finetune`, to show its curve; one per RUN, in the same order
    #[arg(long, value_name = "DIR")]
    finetune: Vec<PathBuf>,
    /// File of `emt gate --out`, to show its decision; one per RUN, in the same order
    #[arg(long, value_name = "FILE")]
    decision: Vec<PathBuf>,
    /// Folder of `emt diagnose`, to show why images were lost; one per RUN, in the same order
    #[arg(long, value_name = "DIR")]
    diagnosis: Vec<PathBuf>,
    /// Heading of the report
    #[arg(long, value_name = "TEXT", default_value = "What was forgotten", help_heading = "Output")]
    title: String,
    /// Datasets that the candidates were fine-tuned on; answers with their labels get the code `leak`
    ///
    /// RUN:DATASET is for one candidate alone.
    #[arg(long, value_name = "A,B")]
    tuned_on: Option<String>,
    /// Format of the result on standard output
    #[arg(long, value_enum, default_value_t = ReportFormat::Table, help_heading = "Output")]
    format: ReportFormat,
    #[command(flatten)]
    comparison: ComparisonOptions,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    columns: ColumnOptions,
    #[command(flatten)]
    hub: HubOptions,
    #[command(flatten)]
    charts: ChartOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// For people
    Table,
    /// The comparison's JSON, or the summary's
    Json,
    /// For a pull request
    Markdown,
}

/// Lost images that are shown of a candidate, where nobody says how many.
pub(super) const N_LOST_SHOWN: usize = 200;

impl ReportArgs {
    /// Which images are shown, `n` where nobody says how many.
    fn images<'a>(&'a self, n: usize, hub: &'a DatasetHub<'a>) -> Wanted<'a> {
        Wanted {
            n_max: self.max_images.unwrap_or(n),
            shows_images: !self.no_images,
            datasets: self.datasets.as_deref(),
            places: &self.places,
            columns: &self.columns,
            hub,
        }
    }
}

/// Runs the command and returns its exit code.
pub(super) fn run(args: &ReportArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    let stages = if args.stages.is_empty() { None } else { Some(stages::read(&args.stages, &args.comparison)?) };
    match (&args.baseline, &stages) {
        (Some(baseline), _) => compare_runs(args, baseline, quiet, out, err)?,
        (None, Some(stages)) => write_stages(args, stages, quiet, out)?,
        (None, None) => report_each(args, quiet, out, err)?,
    }
    Ok(exit_code::OK)
}

/// Each run's own report, made again from what is recorded.
fn report_each(args: &ReportArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    let mut runs = Vec::with_capacity(args.runs.len());
    for dir in &args.runs {
        runs.push((record::run_name(dir), results::read_run(dir)?));
    }
    let into: Vec<PathBuf> = args
        .runs
        .iter()
        .zip(&runs)
        .map(|(dir, (name, _))| match &args.out {
            Some(out) if runs.len() == 1 => out.clone(),
            Some(out) => out.join(name),
            None => dir.clone(),
        })
        .collect();
    let hub = args.hub.datasets(quiet, err)?;
    let gallery = Gallery::open(args.images(N_ERRORS_SHOWN, &hub), runs.iter().map(|(_, (manifest, _))| manifest))?;
    drop(hub);
    if !quiet {
        for warning in &gallery.warnings {
            writeln!(err, "warning: {warning}")?;
        }
    }
    let results: Vec<Results> = runs
        .iter()
        .zip(args.runs.iter().zip(&into))
        .map(|((_, (manifest, trials)), (from, dir))| Results {
            dir,
            run: from,
            spec: &manifest.spec,
            trials,
            charts: &args.charts,
            gallery: &gallery,
        })
        .collect();
    let format = match args.format {
        ReportFormat::Table => results::Format::Table,
        ReportFormat::Json => results::Format::Json,
        ReportFormat::Markdown => bail!("--format markdown needs --baseline; hint: report.md is in the run's folder"),
    };
    results::write_all(&results, format, quiet, out)
}

fn compare_runs(
    args: &ReportArgs,
    baseline: &Path,
    quiet: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<()> {
    if args.runs.is_empty() {
        bail!("there is no run to compare with the baseline; hint: emt report RUN --baseline RUN");
    }
    for (flag, n) in [
        ("--finetune", args.finetune.len()),
        ("--decision", args.decision.len()),
        ("--diagnosis", args.diagnosis.len()),
    ] {
        if n > 0 && n != args.runs.len() {
            bail!("{flag} is given {n} times for {} runs; hint: once for each", args.runs.len());
        }
    }
    let baseline = RecordedRun::open(baseline)?;
    let mut candidates: Vec<RecordedRun> = args.runs.iter().map(|dir| RecordedRun::open(dir)).collect::<Result<_>>()?;
    study::make_names_differ(&mut candidates, &args.runs);
    let names: Vec<&str> = candidates.iter().map(|run| run.name.as_str()).collect();
    let said = tuned_on::parts(args.tuned_on.as_deref(), &names)?;
    let dir = args.out.clone().unwrap_or_else(|| default_folder(&baseline, &candidates));
    let request = ComparisonRequest {
        decisions: Decisions::read(&args.decision, &baseline, &candidates)?,
        diagnoses: diagnoses::read(&args.diagnosis, &candidates)?,
        tuned_on: study::tuned_on::of_candidates(&said, &candidates),
        curves: args.finetune.iter().map(|dir| read_curve(dir)).collect::<Result<_>>()?,
        baseline,
        candidates,
        allow_different: &args.comparison.allow_different,
        charts: args.charts.options(),
        title: &args.title,
        dir: &dir,
    };
    let hub = args.hub.datasets(quiet, err)?;
    let (compared, warnings) = request.write(args.images(N_LOST_SHOWN, &hub))?;
    drop(hub);
    for warning in warnings.iter().filter(|_| !quiet) {
        writeln!(err, "warning: {warning}")?;
    }
    match args.format {
        ReportFormat::Table => write!(out, "{}", report::comparison_table(&compared))?,
        ReportFormat::Json => write!(out, "{}", report::comparison_json(&compared))?,
        ReportFormat::Markdown => write!(out, "{}", record::read_text(&dir.join("report.md"))?)?,
    }
    if !quiet {
        writeln!(
            err,
            "{}: report.html, report.md, comparison.json, comparison.csv, lost.csv, gained.csv and charts",
            dir.display()
        )?;
    }
    Ok(())
}

fn read_curve(dir: &Path) -> Result<Curve> {
    let path = dir.join("curve.json");
    let text = record::read_text(&path)?;
    serde_json::from_str(&text).with_context(|| {
        format!(
            "`{}` is not a curve of emt; hint: --finetune takes the folder that `emt finetune` wrote",
            path.display()
        )
    })
}

fn default_folder(before: &RecordedRun, after: &[RecordedRun]) -> PathBuf {
    let names: Vec<&str> = after.iter().map(|run| run.name.as_str()).collect();
    Path::new("reports").join(format!("{}-against-{}", names.join("-"), before.name))
}

fn write_stages(args: &ReportArgs, stages: &StageReport, quiet: bool, out: &mut dyn Write) -> Result<()> {
    let markdown = report::stages_markdown(stages);
    let json = report::stages_json(stages);
    if let Some(dir) = &args.out {
        let html = report::stages_html(stages, "What was forgotten, stage by stage", &results::command_line());
        for (name, text) in [("stages.json", &json), ("report.md", &markdown), ("report.html", &html)] {
            record::write_file(dir, name, text.as_bytes())?;
        }
        if !quiet && args.format == ReportFormat::Table {
            writeln!(out, "{}: report.html, report.md, stages.json\n", dir.display())?;
        }
    }
    match args.format {
        ReportFormat::Json => write!(out, "{json}")?,
        ReportFormat::Table | ReportFormat::Markdown => write!(out, "{markdown}")?,
    }
    Ok(())
}
