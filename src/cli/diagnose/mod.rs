//! `emt diagnose`.

mod engine;
pub(super) mod recorded;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use super::data::Places;
use super::eval::{DatasetFlags, Origin, open_datasets};
use super::hub_options::HubOptions;
use super::reading::ReadingOptions;
use super::sample_options::SampleOptions;
use super::served_options::is_address;
use super::{adapter_options, exit_code, results};
use crate::dataset::{self, Dataset, OpenRequest};
use crate::diagnose::Probe;
use crate::diagnose::taps::{FlowRule, MirMethod};
use crate::model::Placement;
use crate::model::vision::preprocess::PixelLimits;
use crate::{prompting, record, report};
pub(super) use engine::Mir;
use engine::{Diagnose, Diagnosed};
use recorded::OfRuns;

/// Images of each dataset, at most, where neither a number nor samples are given.
const N_IMAGES: usize = 200;

/// Flags of `emt diagnose`.
#[derive(Args, Debug)]
pub(super) struct DiagnoseArgs {
    /// Base model: a checkpoint folder, ORG/NAME on the hub, or `embedded`
    #[arg(long, short, value_name = "MODEL", required_unless_present = "baseline")]
    model: Option<PathBuf>,
    /// Fine-tune to diagnose: an adapter, a projector or a merged checkpoint; DIR, NAME=DIR, or ORG/NAME on the hub
    ///
    /// Without it, only --model is diagnosed: reliance, lens, knockout, flow, truncation, mir and composite.
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<String>,
    /// Run of the base, as `emt eval` recorded it; models, datasets, images and questions come from the runs
    #[arg(long, value_name = "RUN", requires = "candidate", conflicts_with = "model")]
    baseline: Option<PathBuf>,
    /// Run of the fine-tune
    #[arg(long, value_name = "RUN", requires = "baseline")]
    candidate: Option<PathBuf>,
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
    /// How the probe `flow` sums up attention: `mean` or `max` over heads, then `raw`, `no-sink` with commas
    #[arg(long, value_name = "RULE", default_value = "mean", value_parser = FlowRule::parse, hide_short_help = true, help_heading = "Questions")]
    flow: FlowRule,
    /// How the probe `mir` computes: as the paper defines it, or as its released code does
    #[arg(
        long,
        value_enum,
        value_name = "exact|published",
        default_value = "exact",
        hide_short_help = true,
        help_heading = "Questions"
    )]
    mir: MirName,
    /// Texts for `mir`, one per line [default: a hundred passages of our own]
    #[arg(long, value_name = "FILE", hide_short_help = true, help_heading = "Data")]
    mir_texts: Option<PathBuf>,
    /// Images for `mir`: a dataset, as in --datasets [default: those of the diagnosis]
    #[arg(long, value_name = "NAME|PATH", hide_short_help = true, help_heading = "Data")]
    mir_images: Option<String>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MirName {
    /// The formula of the paper
    Exact,
    /// The released code, whose square root of a matrix returns the matrix
    Published,
}

/// What the Modality Integration Rate is computed from, opened.
struct OpenedMir {
    method: MirMethod,
    texts: Vec<String>,
    images: Option<Dataset>,
}

impl OpenedMir {
    fn open(args: &DiagnoseArgs) -> Result<Self> {
        let method = match args.mir {
            MirName::Exact => MirMethod::Exact,
            MirName::Published => MirMethod::Published,
        };
        let texts = match &args.mir_texts {
            Some(file) => {
                let text = record::read_text(file)?;
                let texts: Vec<String> =
                    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
                ensure!(
                    texts.len() > 1,
                    "--mir-texts `{}` has {} texts, and the Modality Integration Rate needs two or more, one per line",
                    file.display(),
                    texts.len()
                );
                texts
            }
            None => Mir::default().texts,
        };
        let open = |name: &String| {
            let request = OpenRequest { text: name, split: None, labels_file: None, ..OpenRequest::default() };
            dataset::open(&args.places.catalog()?, &args.places.roots(), &request)
        };
        Ok(Self { method, texts, images: args.mir_images.as_ref().map(open).transpose()? })
    }

    fn get(&self) -> Mir<'_> {
        Mir { method: self.method, texts: self.texts.clone(), images: self.images.as_ref() }
    }
}

/// Runs the command and returns its exit code.
pub(super) fn run(args: &DiagnoseArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    ensure!(args.limit != Some(0) && args.max_new_tokens > 0, "--limit and --max-new-tokens must be at least 1");
    let diagnosed = match (&args.model, &args.adapter, &args.baseline, &args.candidate) {
        (Some(model), adapter, ..) => of_models(args, model, adapter.as_deref(), quiet, err)?,
        (.., Some(baseline), Some(candidate)) => of_runs(args, baseline, candidate, quiet, err)?,
        _ => bail!("there is nothing to diagnose; hint: --model DIR --adapter DIR, or --baseline RUN --candidate RUN"),
    };
    let Some(diagnosed) = diagnosed else { return Ok(exit_code::INTERRUPTED) };
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

/// Diagnoses what two recorded runs show.
fn of_runs(
    args: &DiagnoseArgs,
    baseline: &Path,
    candidate: &Path,
    quiet: bool,
    err: &mut dyn Write,
) -> Result<Option<Diagnosed>> {
    let mir = OpenedMir::open(args)?;
    let is_placed = args.device != "auto" || args.dtype != "auto";
    let wanted = OfRuns {
        baseline,
        candidate,
        probes: Probe::parse_list(&args.probes)?,
        datasets: args.datasets.as_deref().map(|list| results::list(list).map(str::to_owned).collect()),
        limit: args.limit,
        samples: args.samples.read()?,
        batch_size: args.batch_size,
        placement: if is_placed { Some(Placement::new(&args.device, &args.dtype)?) } else { None },
        is_fresh: args.fresh,
        places: &args.places,
        hub: &args.hub,
        flow: args.flow,
        mir: mir.get(),
        out: &args.out,
    };
    recorded::diagnose(wanted, quiet, err)
}

/// Diagnoses a fine-tune over its base.
fn of_models(
    args: &DiagnoseArgs,
    model: &Path,
    adapter: Option<&str>,
    quiet: bool,
    err: &mut dyn Write,
) -> Result<Option<Diagnosed>> {
    if is_address(model) {
        bail!(
            "`{}` is a served model, and a diagnosis needs its weights; hint: give the checkpoint with --model DIR and \
             the fine-tune with --adapter DIR",
            model.display()
        );
    }
    let (adapter, samples) = (adapter.map(adapter_options::request).transpose()?, args.samples.read()?);
    let limit = args.limit.or_else(|| samples.is_none().then_some(N_IMAGES));
    let flags = DatasetFlags {
        datasets: args.datasets.as_deref(),
        split: args.split.as_deref(),
        labels: args.labels.as_deref(),
        places: &args.places,
        reading: &args.reading,
        hub: &args.hub,
    };
    let datasets = open_datasets(model, &flags, quiet, err)?;
    let mut nowhere = std::io::sink();
    let hub = args.hub.hub(true, &mut nowhere)?;
    let mir = OpenedMir::open(args)?;
    let (datasets, sources, hub_commits) = datasets.into_parts();
    let wanted = Diagnose {
        model,
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
        flow: args.flow,
        mir: mir.get(),
        out: &args.out,
    };
    engine::diagnose(wanted, quiet, err)
}
