//! `emt gate`.

mod causes;
mod finished;
mod next;
mod output;
mod recover;
mod sequential;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

pub(super) use self::finished::decide;
pub(super) use self::next::Given;
use super::comparison_options::ComparisonOptions;
use super::eval::EvalOptions;
use super::{results, tuned_on};
use crate::gate::{self, Policy};
use crate::record;
use crate::study::{Attempts, Calibrations, Decide, DecisionRules, RecordedRun};

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

/// Where the judge was measured.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Calibration")]
struct CalibrationOptions {
    /// What `emt judge calibrate` measured on answers of the baseline
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    calibration_baseline: Option<PathBuf>,
    /// What `emt judge calibrate` measured on answers of the candidate
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    calibration_candidate: Option<PathBuf>,
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
    /// Find out why images were lost on datasets that failed or stayed inconclusive, on the images of the runs
    ///
    /// The causes join the decision, the Markdown and the JUnit file. The whole diagnosis is in the folder `diagnosis` of the
    /// candidate's run. It costs about ten evaluations of these images.
    #[arg(long)]
    diagnose: bool,
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
    let candidate_dir = candidate;
    let candidate = runs[1].name.clone();
    let request = Decide {
        runs,
        rules: args.decision_rules(policy)?,
        datasets: args.options.datasets.as_deref().map(names),
        samples: args.options.samples.read()?,
        tuned_on: tuned_on::parts(args.options.tuned_on.as_deref(), &[&candidate])?,
    };
    let mut decision = finished::decide(request, &args.given(), args.output.out.as_deref(), quiet, err)?;
    if args.output.diagnose && !causes::find(&mut decision, args, [baseline, candidate_dir], quiet, err)? {
        return Ok(super::exit_code::INTERRUPTED);
    }
    output::write(&args.output, &decision, out)?;
    Ok(decision.exit_code)
}

impl GateArgs {
    /// What the next command repeats.
    fn given(&self) -> Given<'_> {
        Given {
            allow_different: &self.comparison.allow_different,
            places: &self.options.places,
            limit: self.options.limit,
            has_samples: self.options.samples.path().is_some(),
            has_policy: self.rules.policy.is_some(),
            policy: self.rules.policy.as_deref(),
        }
    }

    /// What is decided by.
    fn decision_rules(&self, policy: Policy) -> Result<DecisionRules> {
        let attempts = match (&self.rules.history, self.rules.attempt) {
            (Some(dir), _) => Attempts::CountedIn(dir.clone()),
            (None, Some(attempt)) => Attempts::Number(attempt),
            (None, None) => Attempts::Alone,
        };
        let CalibrationOptions { calibration_baseline, calibration_candidate } = &self.calibration;
        Ok(DecisionRules {
            policy,
            policy_file: self.rules.policy.clone(),
            attempts,
            allows_same: self.rules.allow_same,
            allow_different: self.comparison.allow_different.clone(),
            calibrations: Calibrations::read(calibration_baseline.as_deref(), calibration_candidate.as_deref())?,
            catalog: self.options.places.catalog()?,
        })
    }
}

fn read_policy(rules: &RuleOptions) -> Result<Policy> {
    let Some(path) = &rules.policy else { return Ok(Policy::default()) };
    Policy::parse(&record::read_text(path)?).with_context(|| format!("in the policy `{}`", path.display()))
}

/// The names of a list with commas.
fn names(list: &str) -> BTreeSet<String> {
    results::list(list).map(str::to_owned).collect()
}
