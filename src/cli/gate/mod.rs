//! `emt gate`.

mod calibration;
mod datasets;
mod history;
mod next;
mod output;
mod recorded;
mod run_names;
mod sequential;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
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
    /// Base model to evaluate with and without the --adapter, or a server's address
    ///
    /// A checkpoint folder, `embedded`, or ORG/NAME[@REVISION] on the hub, with one --adapter; or a server's address with
    /// --served-model BASE,CANDIDATE. Each dataset is evaluated until it is decided. The flags of `emt eval` apply.
    #[arg(long, short, value_name = "MODEL", conflicts_with_all = ["baseline", "candidate"])]
    model: Option<PathBuf>,
    /// Folder of the two runs that --model evaluates [default: reports/<model>-<identity>]
    ///
    /// The runs are in DIR/base and DIR/<adapter>. The same command resumes them.
    #[arg(long, value_name = "DIR")]
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
    /// TOML file with what a release must satisfy [default: what --print-policy writes]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Print the default policy, with each key explained, and exit
    #[arg(long)]
    print_policy: bool,
    /// Number of this candidate among those tried on the same test data, from 1
    ///
    /// Each attempt is tested at a stricter level, so that all attempts together keep the policy's level.
    #[arg(long, value_name = "K", hide_short_help = true, conflicts_with = "history", value_parser = clap::value_parser!(u64).range(1..))]
    attempt: Option<u64>,
    /// Decide although baseline and candidate are the same model, so that nothing can be found forgotten
    #[arg(long, hide_short_help = true)]
    allow_same: bool,
    /// Folder of earlier decisions, which give the attempt's number
    ///
    /// A candidate keeps the number that it first got, whether its adapter is merged or not, and in whatever modes and numbers it is
    /// evaluated. All decisions on a dataset count together, whatever their baseline. This decision is added to the folder.
    #[arg(long, value_name = "DIR")]
    history: Option<PathBuf>,
}

/// Where the decision goes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputOptions {
    /// Format of the result on standard output
    #[arg(long, value_enum, default_value_t = DecisionFormat::Table)]
    format: DecisionFormat,
    /// File for the decision as JSON
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// File for the decision as JUnit XML, one case per dataset and rule
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
