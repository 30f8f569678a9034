//! `emt recover`.

mod engine;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use self::engine::{Recovered, Request};
use super::data::Places;
use super::eval::{DatasetFlags, Origin, open_datasets};
use super::hub_options::HubOptions;
use super::judge_options::JudgeOptions;
use super::reading::ReadingOptions;
use super::served_options::is_address;
use super::{adapter_options, exit_code, results};
use crate::diagnose::Diagnosis;
use crate::domain::Component;
use crate::gate::Policy;
use crate::model::Placement;
use crate::model::vision::preprocess::PixelLimits;
use crate::study::DecisionRules;
use crate::study::recover::{RecoveryMethod, Trials, guilty_components, parse_strengths};
use crate::{prompting, record, report};

/// Images of each dataset, at most, where no number is given.
const N_IMAGES: usize = 1000;

/// Flags of `emt recover`.
#[derive(Args, Debug)]
pub(super) struct RecoverArgs {
    /// Base model: a checkpoint folder, ORG/NAME on the hub, or `embedded`
    #[arg(long, short, value_name = "MODEL")]
    model: PathBuf,
    /// Fine-tune to recover: an adapter, a projector or a merged checkpoint; DIR, NAME=DIR, or ORG/NAME on the hub
    #[arg(long, value_name = "ADAPTER")]
    adapter: String,
    /// Folder for the recovered adapter, the frontier and the runs; the same command resumes
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Datasets of what was learned: names of `emt data list`, folders, tables, or NAME=PATH
    #[arg(long, value_name = "A,B", help_heading = "Data")]
    new: String,
    /// Datasets of what must not be forgotten
    #[arg(long, value_name = "A,B", help_heading = "Data")]
    old: String,
    #[command(flatten)]
    places: Places,
    /// Split to evaluate [default: the held-out split]
    #[arg(long, value_name = "NAME", hide_short_help = true, help_heading = "Data")]
    split: Option<String>,
    #[command(flatten)]
    reading: ReadingOptions,
    /// Use at most N images per dataset, balanced over its classes; half of them choose, half confirm
    #[arg(long, value_name = "N", default_value_t = N_IMAGES, help_heading = "Data")]
    limit: usize,
    /// Methods: scale, lines, interpolate [default: scale,lines; of a whole checkpoint interpolate,lines]
    ///
    /// `scale` weakens all of an adapter by one factor. `lines` weakens early layers more than late ones (LiNeS). `interpolate` goes
    /// from the base to a whole checkpoint (WiSE-FT).
    #[arg(long, value_name = "A,B", help_heading = "Strengths")]
    methods: Option<String>,
    /// Strengths from 0 (the base) to 1 (the fine-tune); `0,0.1,..,1` goes in equal steps
    #[arg(long, value_name = "A,B", default_value = "0,0.1,..,1", help_heading = "Strengths")]
    strengths: String,
    /// Folder of a diagnosis: also try each strength with the base's weights of the guilty component
    #[arg(long, value_name = "DIR", help_heading = "Strengths")]
    diagnosis: Option<PathBuf>,
    /// TOML file with what a release must satisfy [default: what `emt gate --print-policy` writes]
    #[arg(long, value_name = "FILE", help_heading = "Policy")]
    policy: Option<PathBuf>,
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
    /// Points evaluated at once [default: as many as memory allows, at most 48]
    ///
    /// A whole checkpoint takes as much memory again for each. On a GPU the default is one at a time for whole checkpoints.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=48), hide_short_help = true, help_heading = "Computing")]
    lock_step: Option<u64>,
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
    #[arg(long, value_enum, default_value_t = RecoveryFormat::Text, help_heading = "Output")]
    format: RecoveryFormat,
    #[command(flatten)]
    judging: JudgeOptions,
    #[command(flatten)]
    hub: HubOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RecoveryFormat {
    /// For people
    Text,
    /// `recovery.json`
    Json,
    /// For a pull request
    Markdown,
}

/// Runs the command and returns its exit code.
pub(super) fn run(args: &RecoverArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    ensure!(
        args.limit > 1 && args.max_new_tokens > 0 && args.batch_size != Some(0),
        "--limit must be at least 2, and --max-new-tokens and --batch-size at least 1"
    );
    if is_address(&args.model) {
        bail!(
            "`{}` is a served model, and a recovery changes weights; hint: give the checkpoint with --model DIR and the fine-tune \
             with --adapter DIR",
            args.model.display()
        );
    }
    let methods = args.methods.as_deref().map(RecoveryMethod::parse_list).transpose()?;
    let strengths = parse_strengths(&args.strengths)?;
    let lock_step = args.lock_step.and_then(|n| usize::try_from(n).ok());
    let trials = Trials { methods, strengths, guilty: Vec::new(), lock_step };
    let rules = rules(args)?;
    let n_new = results::list(&args.new).count();
    ensure!(n_new > 0 && results::list(&args.old).count() > 0, "--new and --old each name at least one dataset");
    let list = format!("{},{}", args.new, args.old);
    let flags = DatasetFlags {
        datasets: Some(&list),
        split: args.split.as_deref(),
        labels: None,
        places: &args.places,
        reading: &args.reading,
        hub: &args.hub,
    };
    let opened = open_datasets(&args.model, &flags, quiet, err)
        .map_err(|error| anyhow::anyhow!("{}", format!("{error:#}").replace("--datasets", "--new and --old")))?;
    let mut nowhere = std::io::sink();
    let hub = args.hub.hub(true, &mut nowhere)?;
    let (datasets, sources, hub_commits) = opened.into_parts();
    let names: Vec<String> = datasets.iter().map(|dataset| dataset.name.clone()).collect();
    let (new, old) = names.split_at(n_new);
    check_policy(&rules, &names)?;
    let trials = Trials { guilty: guilty(args.diagnosis.as_deref(), old)?, ..trials };
    let request = Request {
        model: &args.model,
        adapter: adapter_options::request(&args.adapter)?,
        trials,
        new: new.to_vec(),
        old: old.to_vec(),
        datasets,
        origin: Origin { tuned_on: None, places: &args.places, sources, hub_commits, hub: &hub },
        limit: args.limit,
        template: prompting::load(&args.prompt)?,
        max_new_tokens: args.max_new_tokens,
        pixels: PixelLimits { min_pixels: args.min_pixels, max_pixels: args.max_pixels },
        batch_size: args.batch_size,
        placement: Placement::new(&args.device, &args.dtype)?,
        judging: &args.judging,
        rules,
        is_fresh: args.fresh,
        out: &args.out,
    };
    let Some(recovered) = engine::recover(request, quiet, err)? else { return Ok(exit_code::INTERRUPTED) };
    tell(args, &recovered, quiet, out)?;
    Ok(recovered.recovery.decision.exit_code())
}

fn tell(args: &RecoverArgs, recovered: &Recovered, quiet: bool, out: &mut dyn Write) -> Result<()> {
    let Recovered { recovery, decision, written } = recovered;
    match args.format {
        RecoveryFormat::Text => write!(out, "{}", report::recovery_text(recovery))?,
        RecoveryFormat::Json => write!(out, "{}", report::recovery_json(recovery))?,
        RecoveryFormat::Markdown => write!(out, "{}", report::recovery_markdown(recovery, decision.as_ref()))?,
    }
    if !quiet && args.format == RecoveryFormat::Text {
        writeln!(out, "{}: {}, runs/", args.out.display(), written.join(", "))?;
    }
    Ok(())
}

/// What the gate decides by. Only one candidate is ever tried on the confirmation half.
fn rules(args: &RecoverArgs) -> Result<DecisionRules> {
    let policy = match &args.policy {
        None => Policy::default(),
        Some(path) => {
            Policy::parse(&record::read_text(path)?).with_context(|| format!("in the policy `{}`", path.display()))?
        }
    };
    Ok(DecisionRules {
        policy_file: args.policy.clone(),
        catalog: args.places.catalog()?,
        ..DecisionRules::new(policy)
    })
}

/// Refuses, before anything is evaluated, a policy that the gate would refuse afterwards.
fn check_policy(rules: &DecisionRules, names: &[String]) -> Result<()> {
    let mut known: BTreeSet<String> = rules.catalog.names().map(str::to_owned).collect();
    known.extend(names.iter().cloned());
    rules.policy.check_datasets(&known, "neither --new and --old nor the catalog know").context("in the policy")?;
    if let Some(name) = names.iter().find(|name| rules.policy.of(name).min_retention.is_some()) {
        bail!(
            "the policy has `min_retention` for `{name}`, which compares with the encoder, and a recovery evaluates none; hint: \
             leave the key out here, and check the recovered adapter with `emt gate`"
        );
    }
    Ok(())
}

/// The components that the diagnosis in a folder finds guilty.
fn guilty(diagnosis: Option<&Path>, old: &[String]) -> Result<Vec<Component>> {
    let Some(dir) = diagnosis else { return Ok(Vec::new()) };
    let path = dir.join("diagnosis.json");
    let text = record::read_text(&path).context("failed to read the folder of --diagnosis")?;
    let diagnosis: Diagnosis = serde_json::from_str(&text).with_context(|| {
        format!("`{}` is no diagnosis; hint: --diagnosis is the folder that `emt diagnose --out` wrote", path.display())
    })?;
    guilty_components(&diagnosis, old).with_context(|| format!("in `{}`", path.display()))
}
