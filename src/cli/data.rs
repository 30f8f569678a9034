//! `emt data list | verify | fetch`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::hub_options::HubOptions;
use super::reading::ReadingOptions;
use super::sources::{found, refuse_flags_of_files};
use crate::dataset::{
    Available, Catalog, DataRoots, FetchEvent, FetchRequest, FoundOnHub, OpenRequest, Verification, available, fetch,
    open, verify,
};

/// Without a terminal a line of progress is written so often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// `emt data`.
#[derive(Args, Debug)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Subcommand, Debug)]
enum DataCommand {
    /// Show the known datasets, and which of them are on this machine
    List(ListArgs),
    /// Check published checksums, and that the images decode
    Verify(VerifyArgs),
    /// Download datasets that may be downloaded, check and unpack them
    Fetch(FetchArgs),
}

/// Where datasets are, for every command that reads them.
#[derive(Args, Clone, Debug, Default)]
pub struct Places {
    /// Folder of datasets [default: EMT_DATA, then the platform's cache folder]
    #[arg(long = "data", value_name = "DIR", help_heading = "Data")]
    pub data: Option<PathBuf>,
    /// Catalog of datasets [default: the built-in one]
    #[arg(long, value_name = "FILE", hide_short_help = true, help_heading = "Data")]
    pub datasets_file: Option<PathBuf>,
}

impl Places {
    /// The folders that are searched, in order.
    pub fn roots(&self) -> DataRoots {
        DataRoots {
            data: self.data.clone(),
            env: std::env::var_os("EMT_DATA").filter(|value| !value.is_empty()).map(PathBuf::from),
            cache: dirs::cache_dir().map(|cache| cache.join("emt").join("datasets")),
        }
    }

    /// The catalog that names datasets.
    pub fn catalog(&self) -> anyhow::Result<Catalog> {
        self.datasets_file.as_deref().map_or_else(|| Ok(Catalog::embedded()), Catalog::from_file)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    places: Places,
    /// Format of the result on standard output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Args, Debug)]
struct VerifyArgs {
    /// Names of the catalog, paths, or NAME=PATH [default: the datasets found on this machine]
    #[arg(value_name = "DATASET", value_delimiter = ',')]
    datasets: Vec<String>,
    #[command(flatten)]
    places: Places,
    /// Split to check [default: the catalog's default split]
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    split: Option<String>,
    /// Sheet with other names for the classes, as for `emt eval`
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    labels: Option<PathBuf>,
    #[command(flatten)]
    reading: ReadingOptions,
    #[command(flatten)]
    hub: HubOptions,
    /// Decode at most N images per dataset
    #[arg(long, value_name = "N", help_heading = "Data")]
    limit: Option<usize>,
}

#[derive(Args, Debug)]
struct FetchArgs {
    /// Names of the catalog
    #[arg(value_name = "DATASET", value_delimiter = ',', required = true)]
    datasets: Vec<String>,
    #[command(flatten)]
    places: Places,
    /// Fetch only the files of this split, if they are separate
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    split: Option<String>,
    /// Mirror with the same file names
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
}

/// Runs the command: results to `out`, progress and warnings to `err` unless `quiet`. Returns the exit code.
pub fn run(args: &DataArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<u8> {
    match &args.command {
        DataCommand::List(args) => list(args, out),
        DataCommand::Verify(args) => run_verify(args, quiet, out, err),
        DataCommand::Fetch(args) => run_fetch(args, quiet, out, err),
    }
}

// ---- list ----

fn list(args: &ListArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let (catalog, roots) = (args.places.catalog()?, args.places.roots());
    let rows: Vec<(Available, Option<Result<usize, String>>)> = available(&catalog, &roots)
        .into_iter()
        .map(|row| {
            let found = row.is_found.then(|| count(&catalog, &roots, &row));
            (row, found)
        })
        .collect();
    match args.format {
        Format::Table => print_table(&rows, &roots, out)?,
        Format::Json => {
            let datasets: Vec<serde_json::Value> = rows.iter().map(|(row, found)| row_json(row, found)).collect();
            let document = json!({"schema": "emt.datasets/1", "datasets": datasets});
            writeln!(out, "{}", serde_json::to_string_pretty(&document)?)?;
        }
    }
    Ok(0)
}

fn count(catalog: &Catalog, roots: &DataRoots, row: &Available) -> Result<usize, String> {
    let request = OpenRequest { text: &row.name, split: Some(&row.split), labels_file: None, ..OpenRequest::default() };
    open(catalog, roots, &request).map(|dataset| dataset.samples.len()).map_err(|error| format!("{error:#}"))
}

fn print_table(
    rows: &[(Available, Option<Result<usize, String>>)],
    roots: &DataRoots,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let mut lines = vec![["dataset", "split", "classes", "samples", "licence"].map(str::to_owned)];
    for (row, found) in rows {
        let samples = match found {
            None => "not found".to_owned(),
            Some(Ok(n_samples)) => n_samples.to_string(),
            Some(Err(_)) => "damaged".to_owned(),
        };
        let mark = if row.is_default_split { "" } else { " *" };
        lines.push([
            row.name.clone(),
            format!("{}{mark}", row.split),
            row.n_classes.to_string(),
            samples,
            row.licence.clone(),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    for [name, split, classes, samples, licence] in &lines {
        let [name_width, split_width, classes_width, samples_width] = widths;
        writeln!(
            out,
            "{name:<name_width$}  {split:<split_width$}  {classes:>classes_width$}  {samples:>samples_width$}  {licence}"
        )?;
    }
    writeln!(out, "\n* read only where --split asks for it")?;
    for (row, found) in rows {
        if let Some(Err(message)) = found {
            writeln!(out, "{} {}: {message}", row.name, row.split)?;
        }
    }
    let folders: Vec<String> = roots.folders().map(|folder| folder.display().to_string()).collect();
    writeln!(out, "looked for below {}", folders.join(", "))?;
    Ok(())
}

fn row_json(row: &Available, found: &Option<Result<usize, String>>) -> serde_json::Value {
    let (n_samples, fault) = match found {
        Some(Ok(n_samples)) => (Some(n_samples), None),
        Some(Err(message)) => (None, Some(message)),
        None => (None, None),
    };
    json!({
        "dataset": row.name, "split": row.split, "is_default_split": row.is_default_split,
        "is_training_split": row.is_training_split, "is_evaluated_by_default": row.is_evaluated_by_default,
        "n_classes": row.n_classes, "n_samples": n_samples, "n_samples_published": row.n_samples_published,
        "is_embedded": row.is_embedded, "path": row.found_at.as_ref().map(|path| path.display().to_string()), "fault": fault,
        "licence": row.licence, "may_redistribute": row.may_redistribute, "can_be_fetched": row.can_be_fetched,
    })
}

// ---- verify ----

fn run_verify(args: &VerifyArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<u8> {
    let (catalog, roots) = (args.places.catalog()?, args.places.roots());
    let names = if args.datasets.is_empty() { found_names(&catalog, &roots)? } else { args.datasets.clone() };
    refuse_flags_of_files(names.iter().map(String::as_str), &["data", "download", "exif"])?;
    let hub = args.hub.datasets(quiet, err)?;
    let all = names.iter().map(|name| found(&catalog, &hub, name, args.split.as_deref()));
    let all: Vec<FoundOnHub> = all.collect::<anyhow::Result<_>>()?;
    drop(hub);
    let requests = names.iter().zip(&all);
    let requests = requests.map(|(given, found)| args.reading.request(given, found, args.labels.as_deref()));
    let requests: Vec<OpenRequest> = requests.collect();
    if args.reading.columns().is_given() {
        let opened = requests.iter().map(|request| open(&catalog, &roots, request));
        // What cannot be opened is told below.
        if let Ok(opened) = opened.collect::<anyhow::Result<Vec<_>>>() {
            args.reading.columns().refuse_idle(&names, &opened)?;
        }
    }
    let mut exit_code = 0;
    for (request, found) in requests.iter().zip(&all) {
        let name = request.text;
        let mut progress = Progress::new(name, quiet, "images");
        let verification = verify(&catalog, &roots, request, args.limit, &mut |n_done, n_total| {
            progress.show(n_done as u64, Some(n_total as u64), err);
        });
        progress.clear();
        match verification {
            Ok(mut verification) => {
                if verification.dataset.chosen_of.is_empty() {
                    verification.dataset.chosen_of.clone_from(&found.chosen_of);
                }
                print_verification(&verification, out)?;
                exit_code = exit_code.max(if verification.is_good() { 0 } else { 2 });
            }
            Err(error) => {
                writeln!(out, "{name}: {error:#}")?;
                exit_code = 2;
            }
        }
    }
    Ok(exit_code)
}

fn found_names(catalog: &Catalog, roots: &DataRoots) -> anyhow::Result<Vec<String>> {
    let found = available(catalog, roots).into_iter().filter(|row| row.is_default_split && row.is_found);
    let names: Vec<String> = found.map(|row| row.name).collect();
    if names.is_empty() {
        anyhow::bail!("no dataset was found; hint: emt data fetch mnist, or --data DIR");
    }
    Ok(names)
}

fn print_verification(verification: &Verification, out: &mut dyn Write) -> anyhow::Result<()> {
    let dataset = &verification.dataset;
    let verdict = if verification.is_good() { "good" } else { "NOT GOOD" };
    let n_good = verification.n_tried - verification.unreadable.len();
    writeln!(
        out,
        "{} ({}): {verdict}; {n_good} of {} images decode, {} samples, {} files as published",
        dataset.name,
        dataset.split,
        verification.n_tried,
        dataset.samples.len(),
        verification.files.iter().filter(|file| file.is_equal()).count()
    )?;
    for file in verification.files.iter().filter(|file| !file.is_equal()) {
        writeln!(out, "  {}: MD5 {}, published {}", file.path.display(), file.found, file.expected)?;
    }
    for warning in dataset.warnings.iter().chain(&dataset.split_note()).chain(&dataset.notes) {
        writeln!(out, "  {warning}")?;
    }
    for image in &verification.unreadable {
        writeln!(out, "  {}: {}", image.path, image.message)?;
    }
    Ok(())
}

// ---- fetch ----

fn run_fetch(args: &FetchArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<u8> {
    let (catalog, roots) = (args.places.catalog()?, args.places.roots());
    let root = roots.destination().context("there is no folder to fetch into; hint: --data DIR")?;
    for name in &args.datasets {
        let folders = fetch_one(&catalog, name, args, root, quiet, err)?;
        for folder in folders {
            writeln!(out, "{name}: {}", folder.display())?;
        }
    }
    Ok(0)
}

fn fetch_one(
    catalog: &Catalog,
    name: &str,
    args: &FetchArgs,
    root: &Path,
    quiet: bool,
    err: &mut dyn Write,
) -> anyhow::Result<Vec<PathBuf>> {
    let request = FetchRequest { name, split: args.split.as_deref(), base_url: args.base_url.as_deref(), root };
    let mut progress = Progress::new(name, quiet, "bytes");
    let folders = fetch(catalog, &request, &mut |event| {
        let line = match event {
            FetchEvent::Downloading { n_done, n_total, .. } => return progress.show(n_done, n_total, err),
            FetchEvent::AlreadyThere { path } => format!("{name}: `{}` already exists", path.display()),
            FetchEvent::Unchecked { url } => format!("warning: the catalog has no checksum of `{url}`"),
            FetchEvent::Unpacking { path } => format!("{name}: unpacking `{}`", path.display()),
        };
        if !quiet {
            // A broken standard error does not stop a download.
            let _ = writeln!(err, "{line}");
        }
    });
    progress.clear();
    folders
}

/// A bar on a terminal, otherwise a plain line every few seconds.
pub(super) struct Progress {
    name: String,
    unit: &'static str,
    bar: Option<ProgressBar>,
    is_quiet: bool,
    last_line: Instant,
}

impl Progress {
    pub(super) fn new(name: &str, is_quiet: bool, unit: &'static str) -> Self {
        let bar = (!is_quiet && std::io::stderr().is_terminal()).then(|| {
            let template = match unit {
                "bytes" => "{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                _ => "{prefix} {bar:30} {pos}/{len} {per_sec} {eta}",
            };
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::no_length().with_style(style).with_prefix(name.to_owned())
        });
        Self { name: name.to_owned(), unit, bar, is_quiet, last_line: Instant::now() }
    }

    pub(super) fn show(&mut self, n_done: u64, n_total: Option<u64>, err: &mut dyn Write) {
        if let Some(bar) = &self.bar {
            if let Some(n_total) = n_total {
                bar.set_length(n_total);
            }
            bar.set_position(n_done);
        } else if !self.is_quiet && self.last_line.elapsed() >= PROGRESS_INTERVAL {
            self.last_line = Instant::now();
            let total = n_total.map(|n_total| format!(" of {n_total}")).unwrap_or_default();
            let _ = writeln!(err, "{}: {n_done}{total} {}", self.name, self.unit);
        }
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
