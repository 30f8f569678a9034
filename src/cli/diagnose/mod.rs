//! `emt diagnose`.

mod engine;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use super::data::Places;
use super::eval::{DatasetFlags, Origin, open_datasets};
use super::hub_options::HubOptions;
use super::reading::ReadingOptions;
use super::sample_options::SampleOptions;
use super::served_options::is_address;
use super::{adapter_options, exit_code};
use crate::diagnose::Probe;
use crate::model::Placement;
use crate::model::vision::preprocess::PixelLimits;
use crate::{prompting, report};
use engine::Diagnose;

/// Images of each dataset, at most, where neither a number nor samples are given.
const N_IMAGES: usize = 200;

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
    /// Diagnose on at most N images per dataset, balanced over its classes [default: 200, or all of --samples]
    #[arg(long, value_name = "N", help_heading = "Data")]
    limit: Option<usize>,
    #[command(flatten)]
    samples: SampleOptions,
    /// Probes: `quick` (weights, swap, reliance, drift, lens), `all`, or names (see `emt help diagnose`)
    #[arg(long, value_name = "quick|all|A,B", default_value = "quick", help_heading = "Questions")]
    probes: String,
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
    ensure!(args.limit != Some(0) && args.max_new_tokens > 0, "--limit and --max-new-tokens must be at least 1");
    let (adapter, samples) = (adapter_options::request(&args.adapter)?, args.samples.read()?);
    let limit = args.limit.or_else(|| samples.is_none().then_some(N_IMAGES));
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
    let (datasets, sources, hub_commits) = datasets.into_parts();
    let wanted = Diagnose {
        model: &args.model,
        adapter,
        probes: Probe::parse_list(&args.probes)?,
        datasets,
        origin: Origin { tuned_on: None, places: &args.places, sources, hub_commits, hub: &hub },
        limit,
        samples,
        samples_file: args.samples.path(),
        template: prompting::load(&args.prompt)?,
        max_new_tokens: args.max_new_tokens,
        pixels: PixelLimits { min_pixels: args.min_pixels, max_pixels: args.max_pixels },
        batch_size: args.batch_size,
        placement: Placement::new(&args.device, &args.dtype)?,
        is_fresh: args.fresh,
        out: &args.out,
    };
    let Some(diagnosed) = engine::diagnose(wanted, quiet, err)? else { return Ok(exit_code::INTERRUPTED) };
    let written = engine::write(&args.out, &diagnosed)?;
    let diagnosis = &diagnosed.diagnosis;
    match args.format {
        DiagnosisFormat::Text => write!(out, "{}", report::diagnosis_text(diagnosis))?,
        DiagnosisFormat::Json => write!(out, "{}", report::diagnosis_json(diagnosis))?,
        DiagnosisFormat::Markdown => write!(out, "{}", report::diagnosis_markdown(diagnosis))?,
    }
    if !quiet && args.format == DiagnosisFormat::Text {
        writeln!(out, "{}: {}, runs/", args.out.display(), written.join(", "))?;
    }
    Ok(exit_code::OK)
}
