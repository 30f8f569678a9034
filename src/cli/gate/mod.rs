//! `emt gate`.

mod calibration;
mod datasets;
mod history;
mod next;
mod output;
mod recorded;
mod sequential;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use self::calibration::CalibrationOptions;
use super::comparison::{ComparisonOptions, RecordedRun};
use super::eval::EvalOptions;
use crate::gate::{self, Policy};
use crate::record;

/// Flags of `emt gate`.
#[derive(Args, Debug)]
pub(super) struct GateArgs {
    /// Finished run of the model before fine-tuning
    #[arg(long, value_name = "RUN", requires = "candidate")]
    baseline: Option<PathBuf>,
    /// Finished run of the model after fine-tuning
    #[arg(long, value_name = "RUN", requires = "baseline")]
    candidate: Option<PathBuf>,
    /// Checkpoint folder of the base, `embedded`, or ORG/NAME[@REVISION] on the hub, to be evaluated with and without the
    /// one --adapter, each dataset until it is decided; or a server's address, with --served-model BASE,CANDIDATE. Then
    /// the flags of `emt eval` hold
    #[arg(long, short, value_name = "DIR|ORG/NAME|URL|embedded", conflicts_with_all = ["baseline", "candidate"])]
    model: Option<PathBuf>,
    /// Folder of both runs, in DIR/base and DIR/<adapter>; default: reports/<model>-<identity>. The same command again
    /// resumes
    #[arg(long, value_name = "DIR", requires = "model")]
    runs: Option<PathBuf>,
    #[command(flatten)]
    rules: RuleOptions,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    calibration: CalibrationOptions,
    #[command(flatten)]
    comparison: ComparisonOptions,
    #[command(flatten)]
    options: EvalOptions,
}

/// What is decided by.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Policy")]
pub(super) struct RuleOptions {
    /// What a release must satisfy, as TOML; default: what --print-policy writes
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Write the documented default policy and end
    #[arg(long)]
    print_policy: bool,
    /// The number of this candidate among all that were tried against this baseline, from 1: each is tested at a level
    /// that all together keep
    #[arg(long, value_name = "K", conflicts_with = "history", value_parser = clap::value_parser!(u64).range(1..))]
    attempt: Option<u64>,
    /// Decide although baseline and candidate are one and the same model, so that nothing can be found forgotten
    #[arg(long)]
    allow_same: bool,
    /// Folder of earlier decisions, from which the attempt's number follows: a candidate keeps the number that it first
    /// got. This decision is added to it
    #[arg(long, value_name = "DIR")]
    history: Option<PathBuf>,
}

/// Where the decision goes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputOptions {
    /// What standard output gets
    #[arg(long, value_enum, default_value_t = DecisionFormat::Table)]
    format: DecisionFormat,
    /// File for the decision as JSON
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// File for the decision as JUnit XML, one case a dataset and rule
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// File for the decision as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DecisionFormat {
    /// For people
    Table,
    /// The decision's JSON
    Json,
    /// For a pull request
    Markdown,
}

/// Runs the command and returns its exit code.
pub(super) fn run(args: &GateArgs, quiet: bool, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    if args.rules.print_policy {
        write!(out, "{}", gate::DEFAULT_POLICY)?;
        return Ok(super::exit_code::OK);
    }
    output::check(&args.output, &args.rules)?;
    let policy = read_policy(&args.rules)?;
    if let Some(model) = &args.model {
        return sequential::run(args, model, policy, quiet, out, err);
    }
    ensure!(
        args.options.adapters.adapters.is_empty() && args.options.limit.is_none(),
        "--adapter and --limit are for --model, which evaluates; hint: finished runs are taken as they are"
    );
    let (Some(baseline), Some(candidate)) = (&args.baseline, &args.candidate) else {
        bail!("there is nothing to decide on; hint: --baseline RUN --candidate RUN, or --model DIR --adapter DIR");
    };
    let runs = [RecordedRun::open(baseline)?, RecordedRun::open(candidate)?];
    let decision = recorded::decide(args, policy, runs, quiet, err)?;
    output::write(&args.output, &decision, out)?;
    Ok(decision.exit_code)
}

fn read_policy(rules: &RuleOptions) -> Result<Policy> {
    let Some(path) = &rules.policy else { return Ok(Policy::default()) };
    Policy::parse(&record::read_text(path)?).with_context(|| format!("in the policy `{}`", path.display()))
}

pub(super) fn names(list: Option<&str>) -> BTreeSet<String> {
    let names = list.into_iter().flat_map(|list| list.split(','));
    names.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
