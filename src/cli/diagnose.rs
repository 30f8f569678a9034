//! `emt diagnose`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::Map;

use super::data::Places;
use super::eval::{self, DatasetFlags, Origin, open_datasets, sitting};
use super::gallery::{Gallery, N_ERRORS_SHOWN};
use super::hub_options::HubOptions;
use super::reading::ReadingOptions;
use super::results::{self, ChartOptions, Format, Results};
use super::served_options::is_address;
use super::{adapter_options, environment, exit_code};
use crate::chart::DiagnosisCharts;
use crate::domain::Mode;
use crate::eval::{AdapterRequest, EncoderChoice, SubjectsRequest};
use crate::model::Placement;
use crate::model::vision::preprocess::PixelLimits;
use crate::study::{ComparatorChoice, ComparatorRequest, DiagnosisPlan, Evaluate, Evaluation, RespondentRequest};
use crate::{prompting, record, report};

/// Flags of `emt diagnose`.
#[derive(Args, Debug)]
pub(super) struct DiagnoseArgs {
    /// Base model: a checkpoint folder, ORG/NAME on the hub, or `embedded`
    #[arg(long, short, value_name = "MODEL")]
    model: PathBuf,
    /// Fine-tune to diagnose: an adapter, a projector or a merged checkpoint; DIR, NAME=DIR, or ORG/NAME on the hub
    #[arg(long, value_name = "ADAPTER")]
    adapter: String,
    /// Folder for the diagnosis and its runs; the same command resumes
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Datasets: names of `emt data list`, folders, tables, or NAME=PATH [default: as in `emt eval`]
    #[arg(long, value_name = "A,B", help_heading = "Data")]
    datasets: Option<String>,
    #[command(flatten)]
    places: Places,
    /// Split to evaluate [default: the held-out split]
    #[arg(long, value_name = "NAME", hide_short_help = true, help_heading = "Data")]
    split: Option<String>,
    /// Sheet with other names for the classes of one dataset
    #[arg(long, value_name = "FILE", hide_short_help = true, help_heading = "Data")]
    labels: Option<PathBuf>,
    #[command(flatten)]
    reading: ReadingOptions,
    /// Diagnose on at most N images per dataset, balanced over its classes
    #[arg(long, value_name = "N", default_value_t = 200, help_heading = "Data")]
    limit: usize,
    /// Question: `emt`, `emt-open`, or a file with {noun} and {labels}
    #[arg(long, value_name = "NAME|FILE", default_value = "emt", help_heading = "Questions")]
    prompt: String,
    /// Most tokens per answer
    #[arg(long, value_name = "N", default_value_t = 32, hide_short_help = true, help_heading = "Questions")]
    max_new_tokens: usize,
    /// Least pixels (height x width) of an image [default: 256 positions]
    #[arg(long, value_name = "N", hide_short_help = true, help_heading = "Questions")]
    min_pixels: Option<u64>,
    /// Most pixels of an image [default: the checkpoint's, at most 1280 positions]
    #[arg(long, value_name = "N", hide_short_help = true, help_heading = "Questions")]
    max_pixels: Option<u64>,
    /// Images per forward pass [default: as many as memory allows, at most 32]
    #[arg(long, value_name = "N", help_heading = "Computing")]
    batch_size: Option<usize>,
    /// Device: cpu, cuda, cuda:1, metal, or auto (the GPU that the binary was built for, else cpu)
    #[arg(long, value_name = "DEVICE", default_value = "auto", help_heading = "Computing")]
    device: String,
    /// Numbers: f32, bf16, f16, or auto (f32 on a cpu, bf16 on a GPU)
    #[arg(long, value_name = "TYPE", default_value = "auto", help_heading = "Computing")]
    dtype: String,
    /// Refuse to resume: fail if the folder exists
    #[arg(long, hide_short_help = true, help_heading = "Data")]
    fresh: bool,
    /// Format of the result on standard output
    #[arg(long, value_enum, default_value_t = DiagnosisFormat::Text, help_heading = "Output")]
    format: DiagnosisFormat,
    #[command(flatten)]
    hub: HubOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DiagnosisFormat {
    /// For people
    Text,
    /// `diagnosis.json`
    Json,
    /// For a pull request
    Markdown,
}

/// Runs the command and returns its exit code.
pub(super) fn run(args: &DiagnoseArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    if is_address(&args.model) {
        bail!(
            "`{}` is a served model, and a diagnosis needs its weights; hint: give the checkpoint with --model DIR and \
             the fine-tune with --adapter DIR",
            args.model.display()
        );
    }
    ensure!(args.limit > 0 && args.max_new_tokens > 0, "--limit and --max-new-tokens must be at least 1");
    let adapter = adapter_options::request(&args.adapter)?;
    let flags = DatasetFlags {
        datasets: args.datasets.as_deref(),
        split: args.split.as_deref(),
        labels: args.labels.as_deref(),
        places: &args.places,
        reading: &args.reading,
        hub: &args.hub,
    };
    let datasets = open_datasets(&args.model, &flags, quiet, err)?;
    let mut nowhere = std::io::sink();
    let hub = args.hub.hub(true, &mut nowhere)?;
    let candidate = SubjectsRequest { adapters: std::slice::from_ref(&adapter), ..subjects(args, &[], &hub) };
    let plan = DiagnosisPlan::new(&candidate)?;
    if !quiet {
        let changed: Vec<&str> = plan.changed().iter().map(|component| component.name()).collect();
        writeln!(
            err,
            "the candidate changes {}: {} models answer about each image, of which the base is one",
            changed.join(", "),
            plan.n_models()
        )?;
    }
    let runs = args.out.join("runs");
    let (datasets, sources, hub_commits) = datasets.into_parts();
    let request = Evaluate {
        respondent: RespondentRequest::Checkpoint(subjects(args, &plan.adapters, &hub)),
        comparator: ComparatorRequest { choice: ComparatorChoice::Nothing, ..ComparatorRequest::default() },
        limit: Some(args.limit),
        template: prompting::load(&args.prompt)?,
        modes: vec![Mode::Generate, Mode::Score],
        max_new_tokens: args.max_new_tokens,
        batch_size: args.batch_size,
        placement: Placement::new(&args.device, &args.dtype)?,
        is_fresh: args.fresh,
        environment: sitting(paths(args, &adapter), Some(args.limit)),
        ..Evaluate::new(&args.model, &hub, datasets, &runs)?
    };
    let origin = Origin { tuned_on: None, places: &args.places, sources, hub_commits, hub: &hub };
    let planned = eval::settle(request, origin)?.planned;
    let Some(evaluation) = eval::evaluate(planned, quiet, err)? else { return Ok(exit_code::INTERRUPTED) };
    write(args, &plan, evaluation, quiet, out)?;
    Ok(exit_code::OK)
}

/// The base with `adapters` over it, without an encoder.
fn subjects<'a>(
    args: &'a DiagnoseArgs,
    adapters: &'a [AdapterRequest],
    hub: &'a crate::model::checkpoint::weights::Hub<'a>,
) -> SubjectsRequest<'a> {
    SubjectsRequest {
        encoder: EncoderChoice::None,
        pixels: PixelLimits { min_pixels: args.min_pixels, max_pixels: args.max_pixels },
        adapters,
        has_base: true,
        // Parts of a candidate may change nothing.
        allows_idle: !adapters.is_empty(),
        hashes: environment::hash_memory(),
        ..SubjectsRequest::new(&args.model, hub)
    }
}

fn paths(args: &DiagnoseArgs, adapter: &AdapterRequest) -> Map<String, serde_json::Value> {
    let text = |path: &Path| path.display().to_string().into();
    Map::from_iter([("model".to_owned(), text(&args.model)), ("adapters".to_owned(), text(&adapter.path))])
}

/// Writes all files, and prints what was found.
fn write(
    args: &DiagnoseArgs,
    plan: &DiagnosisPlan,
    evaluation: Evaluation,
    quiet: bool,
    out: &mut dyn Write,
) -> Result<()> {
    let (diagnosis, images) = plan.conclude(&evaluation)?;
    let (charts, gallery) = (ChartOptions::plain(), Gallery::of_datasets(evaluation.datasets, N_ERRORS_SHOWN));
    // The base and the candidate are runs like any others; the parts keep their journals alone.
    let finished: Vec<Results> =
        evaluation.runs.iter().take(2).map(|run| Results::of(run, &charts, &gallery)).collect();
    results::write_all(&finished, Format::Table, true, &mut std::io::sink())?;
    let (drawn, lost) = (DiagnosisCharts::draw(&diagnosis), gallery.of_diagnosis(&diagnosis, &images)?);
    let (json, markdown) = (report::diagnosis_json(&diagnosis), report::diagnosis_markdown(&diagnosis));
    for (name, text) in [
        ("images.jsonl", &report::diagnosed_images(&images)),
        ("diagnosis.md", &markdown),
        ("diagnosis.html", &report::diagnosis_html(&diagnosis, &drawn, &lost, &results::command_line())),
        ("diagnosis.json", &json),
    ] {
        record::write_file(&args.out, name, text.as_bytes())?;
    }
    let mut written = vec!["diagnosis.html", "diagnosis.md", "diagnosis.json", "images.jsonl"];
    for (name, figure) in drawn.main() {
        record::write_file(&args.out, name, figure.drawn.wide.as_bytes())?;
        written.push(name);
    }
    match args.format {
        DiagnosisFormat::Text => write!(out, "{}", report::diagnosis_text(&diagnosis))?,
        DiagnosisFormat::Json => write!(out, "{json}")?,
        DiagnosisFormat::Markdown => write!(out, "{markdown}")?,
    }
    if !quiet && args.format == DiagnosisFormat::Text {
        writeln!(out, "{}: {}, runs/", args.out.display(), written.join(", "))?;
    }
    Ok(())
}
