//! `emt report`.

mod gallery;
mod stages;
mod summaries;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::gallery::Gallery;
use self::summaries::Summaries;
use super::comparison::{self, ComparisonOptions, RecordedRun, Rules};
use super::data::Places;
use super::exit_code;
use super::results::{self, ChartOptions, Results};
use crate::chart::{self, ComparisonCharts};
use crate::compare::{Comparison, DEFAULT_MARGIN, Summary};
use crate::finetune::Curve;
use crate::gate::Decision;
use crate::record;
use crate::report::{self, CandidateReport, ComparisonReport, GalleryImage, StageReport};

/// Flags of `emt report`.
#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    /// Recorded runs: each compared with --baseline; without, each reported anew on its own
    #[arg(value_name = "RUN", required_unless_present = "stages")]
    runs: Vec<PathBuf>,
    /// Run before fine-tuning
    #[arg(long, value_name = "RUN")]
    baseline: Option<PathBuf>,
    /// The run of a base, then of its fine-tunes in the order of training, each with the dataset that it was tuned on:
    /// the forgetting matrix
    #[arg(long, value_names = ["BASE", "RUN:DATASET"], num_args = 2.., conflicts_with = "baseline")]
    stages: Vec<String>,
    /// Folder for the report; default: reports/<candidate>-against-<baseline>
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Lost images shown of each run, at most
    #[arg(long, value_name = "N", default_value_t = 200)]
    max_images: usize,
    /// Show no images
    #[arg(long)]
    no_images: bool,
    /// Where datasets lie that the catalog does not know: folders or NAME=FOLDER, as for `emt eval`
    #[arg(long, value_name = "A,B")]
    datasets: Option<String>,
    /// Folder of `emt finetune`, for accuracy over its epochs: one for each RUN, in their order
    #[arg(long, value_name = "DIR")]
    finetune: Vec<PathBuf>,
    /// What `emt gate --out` wrote, to stand in the report: one for each RUN, in their order
    #[arg(long, value_name = "FILE")]
    decision: Vec<PathBuf>,
    /// Heading of the report
    #[arg(long, value_name = "TEXT", default_value = "What was forgotten")]
    title: String,
    /// Datasets that the candidates were fine-tuned on: answers from their labels get the code `leak`; RUN:DATASET for
    /// one candidate alone
    #[arg(long, value_name = "A,B")]
    tuned_on: Option<String>,
    /// What standard output gets
    #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
    format: ReportFormat,
    #[command(flatten)]
    comparison: ComparisonOptions,
    #[command(flatten)]
    places: Places,
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

const PNG_WIDTH_PX: u32 = 1600;

/// Runs the command and returns its exit code.
pub(super) fn run(args: &ReportArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    let stages = if args.stages.is_empty() { None } else { Some(stages::read(&args.stages, &args.comparison)?) };
    match (&args.baseline, &stages) {
        (Some(baseline), _) => compare(args, baseline, quiet, out, err)?,
        (None, Some(stages)) => write_stages(args, stages, quiet, out)?,
        (None, None) => report_each(args, quiet, out)?,
    }
    Ok(exit_code::OK)
}

/// Each run's own report, made again from what is recorded.
fn report_each(args: &ReportArgs, quiet: bool, out: &mut dyn Write) -> Result<()> {
    let mut runs = Vec::with_capacity(args.runs.len());
    for dir in &args.runs {
        runs.push((results::name_of(dir), results::read_run(dir)?));
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
    let results: Vec<Results> = runs
        .iter()
        .zip(args.runs.iter().zip(&into))
        .map(|((_, (manifest, trials)), (from, dir))| Results {
            dir,
            run: from,
            spec: &manifest.spec,
            trials,
            charts: &args.charts,
        })
        .collect();
    let format = match args.format {
        ReportFormat::Table => results::Format::Table,
        ReportFormat::Json => results::Format::Json,
        ReportFormat::Markdown => bail!("--format markdown needs --baseline; hint: report.md lies in the run's folder"),
    };
    results::write_all(&results, format, quiet, out)
}

fn compare(args: &ReportArgs, baseline: &Path, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    if args.runs.is_empty() {
        bail!("there is no run to compare with the baseline; hint: emt report RUN --baseline RUN");
    }
    for (flag, n) in [("--finetune", args.finetune.len()), ("--decision", args.decision.len())] {
        if n > 0 && n != args.runs.len() {
            bail!("{flag} is given {n} times for {} runs; hint: once for each", args.runs.len());
        }
    }
    let before = RecordedRun::open(baseline)?;
    let mut after: Vec<RecordedRun> = args.runs.iter().map(|dir| RecordedRun::open(dir)).collect::<Result<_>>()?;
    comparison::make_names_differ(&mut after, &args.runs);
    let tuned_on = comparison::tuned_on(args.tuned_on.as_deref(), &after)?;
    let rules = Rules { tuned_on: &tuned_on, ignored: &|_| false, options: &args.comparison, places: &args.places };
    let mut summaries = Summaries::new(1 + after.len());
    let run_names: Vec<&str> = std::iter::once(&before).chain(&after).map(|run| run.name.as_str()).collect();
    let compared = comparison::compare(&before, &after, &rules, &mut |passing| match passing.is_recoded {
        true => summaries.add(passing.run, run_names[passing.run], passing.spec, passing.trials),
        false => Ok(()),
    })?;
    let mut summaries = summaries.finish();
    for (summary, run) in summaries.iter_mut().zip(std::iter::once(&before).chain(&after)) {
        summary.model.server_flips = results::server_flips(&run.manifest);
    }
    let curves = args.finetune.iter().map(|dir| read_curve(dir)).collect::<Result<Vec<Curve>>>()?;
    let dir = args.out.clone().unwrap_or_else(|| default_folder(&before, &after));
    write_comparison(args, &compared, &summaries, &after, &curves, &dir)?;
    match args.format {
        ReportFormat::Table => write!(out, "{}", report::comparison_table(&compared))?,
        ReportFormat::Json => write!(out, "{}", report::comparison_json(&compared))?,
        ReportFormat::Markdown => write!(out, "{}", record::read_text(&dir.join("report.md"))?)?,
    }
    if !quiet {
        writeln!(err, "{}: report.html, report.md, comparison.json, comparison.csv and charts", dir.display())?;
    }
    Ok(())
}

fn write_comparison(
    args: &ReportArgs,
    compared: &Comparison,
    summaries: &[Summary],
    after: &[RecordedRun],
    curves: &[Curve],
    dir: &Path,
) -> Result<()> {
    let Some((of_baseline, summaries)) = summaries.split_first() else { bail!("the baseline has no summary") };
    let afters: Vec<&Summary> = summaries.iter().collect();
    let charts = ComparisonCharts::draw(compared, of_baseline, &afters, args.charts.options(), Some(DEFAULT_MARGIN));
    let mut gallery = Gallery::open(args, after)?;
    let mut pictures: Vec<Vec<GalleryImage>> = Vec::with_capacity(after.len());
    for candidate in &compared.candidates {
        pictures.push(gallery.of(candidate)?);
    }
    let decisions = args.decision.iter().map(|path| decided(path)).collect::<Result<Vec<String>>>()?;
    let candidates: Vec<CandidateReport> = summaries
        .iter()
        .zip(&pictures)
        .enumerate()
        .map(|(index, (after, gallery))| CandidateReport {
            after,
            gallery,
            curve: curves.get(index),
            decision: decisions.get(index).map(String::as_str),
        })
        .collect();
    let report = ComparisonReport {
        title: &args.title,
        comparison: compared,
        before: of_baseline,
        candidates: &candidates,
        charts: &charts,
        stages: None,
        warnings: &gallery.warnings,
        command: &results::command_line(),
    };
    write_charts(&charts, compared, dir)?;
    for (name, text) in [
        ("comparison.json", report::comparison_json(compared)),
        ("comparison.csv", report::comparison_csv(compared)),
        ("report.md", report::comparison_markdown(&report)),
        ("report.html", report::comparison_html(&report)),
    ] {
        record::write_file(dir, name, text.as_bytes())?;
    }
    Ok(())
}

/// `rose.svg` is the one candidate's, or all of them side by side; of several each also has charts of its own.
fn write_charts(charts: &ComparisonCharts, compared: &Comparison, dir: &Path) -> Result<()> {
    let (Some(first_rose), Some(first_transitions)) = (charts.roses.first(), charts.transitions.first()) else {
        bail!("there is no candidate to draw");
    };
    let rose = charts.small_multiples.as_ref().unwrap_or(first_rose);
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, svg) in [("rose", rose), ("transitions", first_transitions), ("forest", &charts.forest)] {
        files.push((format!("{name}.svg"), svg.clone().into_bytes()));
        files.push((format!("{name}.png"), chart::png(svg, PNG_WIDTH_PX)?));
    }
    if compared.candidates.len() > 1 {
        for (index, candidate) in compared.candidates.iter().enumerate() {
            let name = &candidate.run;
            files.push((format!("rose-{name}.svg"), charts.roses[index].clone().into_bytes()));
            files.push((format!("transitions-{name}.svg"), charts.transitions[index].clone().into_bytes()));
        }
    }
    for (name, bytes) in files {
        record::write_file(dir, &name, &bytes)?;
    }
    Ok(())
}

fn read_curve(dir: &Path) -> Result<Curve> {
    let path = dir.join("curve.json");
    let text = record::read_text(&path)?;
    serde_json::from_str(&text).with_context(|| {
        format!("`{}` is no curve of emt; hint: --finetune takes the folder that `emt finetune` wrote", path.display())
    })
}

/// What the gate decided, in words.
fn decided(path: &Path) -> Result<String> {
    let decision: Decision = serde_json::from_str(&record::read_text(path)?).with_context(|| {
        format!("`{}` is no decision of emt; hint: --decision takes what `emt gate --out` wrote", path.display())
    })?;
    Ok(report::decision_text(&decision))
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
