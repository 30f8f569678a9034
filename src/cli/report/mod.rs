//! `emt report`.

mod decisions;
mod stages;
mod summaries;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::decisions::Decisions;
use self::summaries::Summaries;
use super::comparability;
use super::comparison::{self, ComparisonOptions, RecordedRun, Rules};
use super::data::Places;
use super::exit_code;
use super::gallery::{Gallery, N_ERRORS_SHOWN, Wanted};
use super::hub_options::HubOptions;
use super::reading::ColumnOptions;
use super::results::{self, ChartOptions, Results};
use crate::chart::{self, ComparisonCharts};
use crate::compare::{self, Comparison, DEFAULT_MARGIN, Summary};
use crate::dataset::DatasetHub;
use crate::finetune::Curve;
use crate::record;
use crate::report::{self, CandidateReport, ComparisonReport, DecisionBrief, GalleryImage, StageReport};

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

const PNG_WIDTH_PX: u32 = 1600;

/// Lost images that are shown of a candidate, where nobody says how many.
const N_LOST_SHOWN: usize = 200;

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
        ReportFormat::Markdown => bail!("--format markdown needs --baseline; hint: report.md lies in the run's folder"),
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
    for (flag, n) in [("--finetune", args.finetune.len()), ("--decision", args.decision.len())] {
        if n > 0 && n != args.runs.len() {
            bail!("{flag} is given {n} times for {} runs; hint: once for each", args.runs.len());
        }
    }
    let before = RecordedRun::open(baseline)?;
    let mut after: Vec<RecordedRun> = args.runs.iter().map(|dir| RecordedRun::open(dir)).collect::<Result<_>>()?;
    comparison::make_names_differ(&mut after, &args.runs);
    let decisions = Decisions::read(&args.decision, &before, &after)?;
    let tuned_on = comparison::tuned_on(args.tuned_on.as_deref(), &after)?;
    let rules = Rules {
        tuned_on: &tuned_on,
        ignored: &|name| decisions.leave_out(name),
        options: &args.comparison,
        places: &args.places,
    };
    let mut summaries = Summaries::new(1 + after.len());
    let run_names: Vec<&str> = std::iter::once(&before).chain(&after).map(|run| run.name.as_str()).collect();
    let compared = comparison::compare(&before, &after, &rules, &mut |passing| match passing.is_recoded {
        true => summaries.add(passing.run, run_names[passing.run], passing.spec, passing.trials),
        false => Ok(()),
    })?;
    let mut warnings = oddities(&before, after.iter())?;
    warnings.extend(decisions.check_numbers(&compared.candidates)?);
    for warning in warnings.iter().filter(|_| !quiet) {
        writeln!(err, "warning: {warning}")?;
    }
    let mut summaries = summaries.finish();
    for (summary, run) in summaries.iter_mut().zip(std::iter::once(&before).chain(&after)) {
        summary.model.server_flips = results::server_flips(&run.manifest);
    }
    let curves = args.finetune.iter().map(|dir| read_curve(dir)).collect::<Result<Vec<Curve>>>()?;
    let dir = args.out.clone().unwrap_or_else(|| default_folder(&before, &after));
    let margin = decisions.margin().unwrap_or(DEFAULT_MARGIN);
    let decisions: Vec<DecisionBrief> = decisions.all().map(report::decision_brief).collect();
    let texts = Texts { decisions: &decisions, margin, warnings: &warnings };
    let hub = args.hub.datasets(quiet, err)?;
    let gallery = Gallery::open(args.images(N_LOST_SHOWN, &hub), after.iter().map(|run| &run.manifest))?;
    drop(hub);
    for warning in gallery.warnings.iter().filter(|_| !quiet) {
        writeln!(err, "warning: {warning}")?;
    }
    write_comparison(args, &compared, &summaries, &gallery, &curves, texts, &dir)?;
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

/// What of the runs was changed after they ended, and which of them are one and the same model.
fn oddities<'a>(before: &RecordedRun, after: impl Iterator<Item = &'a RecordedRun>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    found.extend(before.digest()?.1);
    for run in after {
        found.extend(run.digest()?.1);
        let differences = compare::field_differences(&before.manifest.comparable, &run.manifest.comparable);
        let specs = [&before.manifest.spec, &run.manifest.spec];
        if is_one_run(before, run)? {
            found.push(format!(
                "baseline `{}` and candidate `{}` are the same model, and one and the same run; nothing could be found \
                 forgotten; hint: --baseline takes the run of the model before fine-tuning",
                before.name, run.name
            ));
            continue;
        }
        found.extend(comparability::same_model([&before.name, &run.name], specs, &differences));
    }
    Ok(found)
}

/// Whether two folders hold the same trials of the same specification.
fn is_one_run(before: &RecordedRun, after: &RecordedRun) -> Result<bool> {
    Ok(before.manifest.identity == after.manifest.identity && before.digest()?.0 == after.digest()?.0)
}

/// What stands in a report beside the numbers.
#[derive(Clone, Copy)]
struct Texts<'a> {
    /// By candidate, what was decided.
    decisions: &'a [DecisionBrief],
    /// What the forest shows beside the falls.
    margin: f64,
    warnings: &'a [String],
}

fn write_comparison(
    args: &ReportArgs,
    compared: &Comparison,
    summaries: &[Summary],
    gallery: &Gallery,
    curves: &[Curve],
    texts: Texts<'_>,
    dir: &Path,
) -> Result<()> {
    let Some((of_baseline, summaries)) = summaries.split_first() else { bail!("the baseline has no summary") };
    let afters: Vec<&Summary> = summaries.iter().collect();
    let charts = ComparisonCharts::draw(compared, of_baseline, &afters, args.charts.options(), Some(texts.margin));
    let mut pictures: Vec<Vec<GalleryImage>> = Vec::with_capacity(compared.candidates.len());
    for candidate in &compared.candidates {
        pictures.push(gallery.of(candidate)?);
    }
    let warnings: Vec<String> = texts.warnings.iter().chain(&gallery.warnings).cloned().collect();
    let candidates: Vec<CandidateReport> = summaries
        .iter()
        .zip(&pictures)
        .enumerate()
        .map(|(index, (after, gallery))| CandidateReport {
            after,
            gallery,
            curve: curves.get(index),
            decision: texts.decisions.get(index),
        })
        .collect();
    let report = ComparisonReport {
        title: &args.title,
        comparison: compared,
        before: of_baseline,
        candidates: &candidates,
        charts: &charts,
        stages: None,
        warnings: &warnings,
        command: &results::command_line(),
    };
    write_charts(&charts, compared, dir)?;
    for (name, text) in [
        ("comparison.json", report::comparison_json(compared)),
        ("comparison.csv", report::comparison_csv(compared)),
        ("lost.csv", report::lost_csv(compared)),
        ("gained.csv", report::gained_csv(compared)),
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
        files.push((format!("{name}.svg"), svg.wide.clone().into_bytes()));
        files.push((format!("{name}.png"), chart::png(&svg.wide, PNG_WIDTH_PX)?));
    }
    if compared.candidates.len() > 1 {
        for (index, candidate) in compared.candidates.iter().enumerate() {
            let name = &candidate.run;
            files.push((format!("rose-{name}.svg"), charts.roses[index].wide.clone().into_bytes()));
            files.push((format!("transitions-{name}.svg"), charts.transitions[index].wide.clone().into_bytes()));
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
