//! What a finished run leaves: tables, summaries, reports and roses.

use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::gallery::Gallery;
use crate::chart::{self, Drawn, RoseChart, RoseOptions, Scale, Style};
use crate::compare::Summary;
use crate::domain::text::quoted;
use crate::domain::{Mode, RunSpec, Subject, Trial};
use crate::eval::UnscoredShare;
use crate::record::{self, Manifest};
use crate::report::{self, ReportInput};
use crate::study::{self, EvaluatedRun};

/// Form of the result on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// For people.
    Table,
    /// `summary.json`.
    Json,
}

/// Understands `names` and nothing else: a slip is answered with the nearest of them.
pub(super) fn names<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr + Clone + Send + Sync + 'static,
    T::Err: ToString,
{
    PossibleValuesParser::new(names.iter().copied())
        .try_map(|name| name.parse::<T>().map_err(|error| error.to_string()))
}

/// How charts look.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Charts")]
pub(super) struct ChartOptions {
    /// What shows the accuracy of a petal: `radius` (its length) or `area`
    #[arg(long, value_parser = names::<Scale>(&["radius", "area"]), default_value = "radius", hide_short_help = true)]
    rose_scale: Scale,
    /// Style of the rose chart: `petals`, or the paper's `radar` polygons
    #[arg(long, value_parser = names::<Style>(&["petals", "radar"]), default_value = "petals", hide_short_help = true)]
    rose_style: Style,
    /// Show the paper's results on the same datasets beside the run's
    #[arg(long, hide_short_help = true)]
    paper_rows: bool,
}

impl ChartOptions {
    /// Roses as they are drawn where nobody says how.
    pub(super) fn plain() -> Self {
        Self { rose_scale: Scale::Radius, rose_style: Style::Petals, paper_rows: false }
    }

    /// The same as the charts take them.
    pub(super) fn options(&self) -> RoseOptions {
        RoseOptions { scale: self.rose_scale, style: self.rose_style, paper_rows: self.paper_rows }
    }
}

/// A finished run.
pub(super) struct Results<'a> {
    /// Where its files go.
    pub dir: &'a Path,
    /// The folder of its `run.json`.
    pub run: &'a Path,
    pub spec: &'a RunSpec,
    pub trials: &'a [Trial],
    pub charts: &'a ChartOptions,
    /// Where images of its errors are found.
    pub gallery: &'a Gallery,
}

impl<'a> Results<'a> {
    /// Of a run that was just evaluated, into its own folder.
    pub(super) fn of(run: &'a EvaluatedRun, charts: &'a ChartOptions, gallery: &'a Gallery) -> Self {
        Self { dir: &run.dir, run: &run.dir, spec: &run.spec, trials: &run.trials, charts, gallery }
    }
}

/// Writes every file of each run's folder that is made from `run.json` and `trials.jsonl`, and prints the results: a
/// table each, and of several runs all in one, or one JSON document (of several runs, a list).
pub(super) fn write_all(runs: &[Results<'_>], format: Format, quiet: bool, out: &mut dyn Write) -> Result<()> {
    let summaries: Vec<Summary> = runs.iter().map(write).collect::<Result<_>>()?;
    match (format, summaries.as_slice()) {
        (Format::Json, [summary]) => writeln!(out, "{}", report::json(summary).trim_end())?,
        (Format::Json, summaries) => {
            let documents: Vec<String> =
                summaries.iter().map(|summary| report::json(summary).trim_end().to_owned()).collect();
            writeln!(out, "[{}]", documents.join(",\n"))?;
        }
        (Format::Table, summaries) => {
            for (index, (summary, run)) in summaries.iter().zip(runs).enumerate() {
                let gap = if index > 0 { "\n" } else { "" };
                write!(out, "{gap}{}", report::table(summary))?;
                if !quiet {
                    let dir = run.dir.display();
                    writeln!(out, "\n{dir}: report.html, report.md, summary.json, summary.csv, rose.svg, rose.png")?;
                }
            }
            if let ([_, _, ..], [first, ..]) = (summaries, runs) {
                let has_base = is_base_of(first, &runs[1..]);
                write!(out, "\n{}", report::side_by_side(summaries, has_base))?;
            }
        }
    }
    Ok(())
}

/// Whether the first run is of the model that the adapters of all others are for.
fn is_base_of(first: &Results<'_>, others: &[Results<'_>]) -> bool {
    let model = |results: &Results<'_>| results.spec.model.clone();
    model(first).adapter.is_none()
        && model(first).weights.is_some()
        && others.iter().all(|other| model(other).weights == model(first).weights && model(other).adapter.is_some())
}

/// Writes the files of one run.
fn write(results: &Results<'_>) -> Result<Summary> {
    let manifest = record::read_manifest(results.run)?;
    let with_leaks = study::tuned_on::with_leaks(results.spec, &manifest.environment, results.trials)?;
    let (spec, trials) = match &with_leaks {
        Some((spec, trials)) => (spec, trials.as_slice()),
        None => (results.spec, results.trials),
    };
    let summary = study::summary(&record::run_name(results.run), spec, trials, study::server_flips(&manifest))?;
    let rose = Drawn::rose(&RoseChart::of_summary(&summary, results.charts.options()));
    let environment = shown_environment(&manifest);
    let images = results.gallery.errors_of(&spec.datasets, trials)?;
    let input = ReportInput {
        summary: &summary,
        spec,
        trials,
        images: &images,
        rose: &rose,
        paper_rows: results.charts.paper_rows,
        environment: &environment,
        command: manifest.environment.get("command").and_then(|command| command.as_str()).unwrap_or_default(),
    };
    let files: [(&str, Vec<u8>); 6] = [
        ("summary.json", report::json(&summary).into_bytes()),
        ("summary.csv", report::csv(&summary).into_bytes()),
        ("report.md", report::markdown(&input).into_bytes()),
        ("report.html", report::html(&input).into_bytes()),
        ("rose.png", chart::png(&rose.wide, chart::PNG_WIDTH_PX)?),
        ("rose.svg", rose.wide.clone().into_bytes()),
    ];
    for (name, bytes) in files {
        record::write_file(results.dir, name, &bytes)?;
    }
    Ok(summary)
}

fn shown_environment(manifest: &Manifest) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    manifest.environment.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

/// The command that was typed, quoted where a shell would need it. Keys are never given as flags.
pub(super) fn command_line() -> String {
    let mut words: Vec<String> = std::env::args().map(|word| quoted(&word)).collect();
    if let Some(first) = words.first_mut() {
        *first = "emt".to_owned();
    }
    words.join(" ")
}

/// The words of a list with commas, as flags take it.
pub(super) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// As messages have it: whose trials, and in which mode.
pub(super) fn trials_name(UnscoredShare { dataset, subject, mode, .. }: &UnscoredShare) -> String {
    match (subject, mode) {
        (Subject::Model, Mode::Score) => format!("the model's label scorings of `{dataset}`"),
        (Subject::Model, _) => format!("the model's trials of `{dataset}`"),
        (Subject::Encoder, Mode::Probe) => format!("the probe's trials of `{dataset}`"),
        (Subject::Encoder, _) => format!("the encoder's trials of `{dataset}`"),
    }
}

/// Reads `path` as a run, with a message that says what to give.
pub(super) fn read_run(path: &Path) -> Result<(Manifest, Vec<Trial>)> {
    record::read_run(path).with_context(|| format!("failed to open the run `{}`", path.display()))
}
