//! `emt gate`.

mod calibration;
mod history;
mod output;
mod sequential;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use self::calibration::{CalibrationOptions, Calibrations, Outcomes};
use self::history::History;
use super::comparison::{self, ComparisonOptions, RecordedRun, Rules};
use super::eval::EvalOptions;
use super::results;
use crate::gate::{self, Decision, Policy, RunName};
use crate::{record, report};

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
    /// Folder of earlier decisions, from which the attempt's number follows; this decision is added to it
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
    let baseline = RecordedRun::open(baseline)?;
    let candidate = RecordedRun::open(candidate)?;
    let decision = decide_recorded(args, policy, baseline, candidate, quiet, err)?;
    output::write(&args.output, &decision, out)?;
    Ok(decision.exit_code)
}

fn read_policy(rules: &RuleOptions) -> Result<Policy> {
    let Some(path) = &rules.policy else { return Ok(Policy::default()) };
    Policy::parse(&record::read_text(path)?).with_context(|| format!("in the policy `{}`", path.display()))
}

/// The fixed design: one look at all pairs of two finished runs.
fn decide_recorded(
    args: &GateArgs,
    mut policy: Policy,
    baseline: RecordedRun,
    candidate: RecordedRun,
    quiet: bool,
    err: &mut dyn Write,
) -> Result<Decision> {
    for run in [&baseline, &candidate] {
        ensure!(
            run.manifest.state == record::RunState::Complete,
            "the run `{}` is not complete; hint: the command that began it goes on with it",
            run.name
        );
    }
    let of_candidate = comparison::tuned_on(args.options.tuned_on.as_deref(), std::slice::from_ref(&candidate))?;
    let of_adapter = candidate.tuned_on();
    policy.mark_tuned_on(of_candidate.into_iter().flatten().filter(|name| !of_adapter.contains(name)));
    let named = named(&policy);
    policy.mark_tuned_on(of_adapter);
    let names =
        [&baseline, &candidate].map(|run| RunName { run: run.name.clone(), identity: run.manifest.identity.clone() });
    let history = History::open(&args.rules, &names)?;
    let policy = match history.attempt {
        Some(attempt) => policy.at_attempt(attempt),
        None => policy,
    };
    let calibrations = Calibrations::read(&args.calibration)?;
    let candidates = [candidate];
    calibrations.check(&baseline, &candidates[0])?;
    let is_ignored = |name: &str| policy.of(name).ignore;
    let tuned_on = policy.tuned_on();
    let rules = Rules {
        tuned_on: std::slice::from_ref(&tuned_on),
        ignored: &is_ignored,
        options: &args.comparison,
        places: &args.options.places,
    };
    let mut outcomes = Outcomes::default();
    let comparison = comparison::compare(&baseline, &candidates, &rules, &mut |passing| {
        outcomes.take(&calibrations, passing);
        Ok(())
    })?;
    let [compared] = comparison.candidates.as_slice() else { bail!("one candidate was compared") };
    if !quiet {
        say_what_cannot_pass(&policy, compared, err)?;
    }
    let mut decision = gate::decide(&policy, compared, &calibrations.corrections(&outcomes));
    decision.warnings.extend(unknown_datasets(&named, &decision));
    for run in [&baseline, &candidates[0]] {
        let flips = results::server_flips(&run.manifest);
        decision.warnings.extend(flips.map(|flips| report::server_flips_note(&run.name, &flips)));
    }
    let [of_baseline, of_candidate] = names;
    decision.baseline = Some(of_baseline);
    decision.candidate = Some(of_candidate);
    decision.attempt = history.attempt;
    decision.allowed_different.clone_from(&args.comparison.allow_different);
    history.add(&decision)?;
    Ok(decision)
}

pub(super) fn names(list: Option<&str>) -> BTreeSet<String> {
    let names = list.into_iter().flat_map(|list| list.split(','));
    names.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Where even a candidate without a single changed answer could not pass, a person should know before anything else.
fn say_what_cannot_pass(
    policy: &Policy,
    comparison: &crate::compare::CandidateComparison,
    err: &mut dyn Write,
) -> Result<()> {
    for dataset in &comparison.datasets {
        let of_dataset = policy.of(&dataset.dataset);
        if of_dataset.ignore || of_dataset.tuned_on {
            continue;
        }
        let n = dataset.n_pairs;
        if n < of_dataset.min_pairs || !gate::reachable(n, of_dataset.margin, of_dataset.alpha) {
            writeln!(
                err,
                "warning: {}: {n} pairs are too few to pass, even if no answer changed (margin {}, alpha {:.4})",
                dataset.dataset, of_dataset.margin, of_dataset.alpha
            )?;
        }
    }
    Ok(())
}

/// The datasets that a person named, in the policy or by flag.
fn named(policy: &Policy) -> BTreeSet<String> {
    policy.named().map(str::to_owned).collect()
}

/// A policy may speak of datasets that these runs do not have; a slip in a name would else go unnoticed.
fn unknown_datasets(named: &BTreeSet<String>, decision: &Decision) -> Vec<String> {
    named
        .iter()
        .filter(|name| decision.datasets.iter().all(|dataset| dataset.dataset != **name))
        .map(|name| format!("the policy or --tuned-on names `{name}`, which was not compared"))
        .collect()
}
