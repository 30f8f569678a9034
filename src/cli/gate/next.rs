//! The next command after a gate that did not pass.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::recover;
use crate::cli::data::Places;
use crate::cli::recorded_command::RecordedCommand;
use crate::cli::results;
use crate::compare::SAMPLES;
use crate::dataset::available;
use crate::domain::text::quoted;
use crate::gate::{DatasetDecision, Decision, NextStep, Policy, ReasonCode, Verdict};
use crate::stats::{PairedCounts, n_to_decide};
use crate::study::RecordedRun;

/// Numbers of pairs are told in multiples of this: they are estimates.
const N_ROUND: usize = 50;

/// What the looks of a sequential design cost at most (O'Brien-Fleming's boundaries, up to 8 looks).
const SEQUENTIAL_INFLATION: f64 = 1.05;

/// What was asked for, as far as the next command repeats it.
pub(in crate::cli) struct Given<'a> {
    /// The fields that may differ.
    pub(in crate::cli) allow_different: &'a [String],
    /// Where datasets are.
    pub(in crate::cli) places: &'a Places,
    /// Images per dataset, at most.
    pub(in crate::cli) limit: Option<usize>,
    /// Whether a file names the samples.
    pub(in crate::cli) has_samples: bool,
    /// Whether a policy is given.
    pub(in crate::cli) has_policy: bool,
    /// The policy's file.
    pub(in crate::cli) policy: Option<&'a Path>,
}

/// Where the runs and their decision lie.
pub(super) struct Found<'a> {
    /// Baseline and candidate.
    pub runs: [&'a Path; 2],
    /// The decision, where it is written to a file.
    pub decision: Option<PathBuf>,
    /// What the candidate's run itself says of its fine-tuning.
    pub tuned_on: &'a BTreeSet<String>,
}

/// After a gate on finished runs.
pub(super) fn of_recorded(
    given: &Given<'_>,
    policy: &Policy,
    runs: [&RecordedRun; 2],
    decision_file: Option<PathBuf>,
    decision: &Decision,
) -> Result<Vec<NextStep>> {
    let found = Found { runs: runs.map(RecordedRun::dir), decision: decision_file, tuned_on: &runs[1].tuned_on() };
    match decision.decision {
        Verdict::Fail => {
            let report = report(given, &found, tuned_on_flag(policy, found.tuned_on), false);
            Ok(std::iter::once(report).chain(recover::step(given, policy, &found, decision)).collect())
        }
        Verdict::Inconclusive => {
            let at_hand = images_at_hand(given, runs, decision)?;
            let commands = commands(runs).unwrap_or_default();
            // Some images that were evaluated have no partner, and so will some of those to come.
            let n_evaluated = runs.map(limit).into_iter().flatten().max().unwrap_or(0);
            let n_pairs = decision.datasets.iter().map(|dataset| dataset.n_pairs).max().unwrap_or(0);
            let longer = |n: usize, told| longer_runs(&commands, n + n_evaluated.saturating_sub(n_pairs), told);
            Ok(undecided(policy, decision, &at_hand, &longer, &|told| asked_again(&commands, told)))
        }
        Verdict::Pass | Verdict::NotApplicable => Ok(Vec::new()),
    }
}

/// After a gate that evaluates; `at_hand` are the images that each dataset could give.
pub(super) fn of_sequence(
    given: &Given<'_>,
    policy: &Policy,
    found: &Found<'_>,
    at_hand: &BTreeMap<String, usize>,
    decision: &Decision,
) -> Vec<NextStep> {
    let is_relative = decision.datasets.iter().any(|dataset| policy.of(&dataset.dataset).relative_margin.is_some());
    match decision.decision {
        Verdict::Fail => {
            let report = report(given, found, tuned_on_flag(policy, found.tuned_on), is_relative);
            std::iter::once(report).chain(recover::step(given, policy, found, decision)).collect()
        }
        Verdict::Inconclusive => {
            let longer = |n: usize, told: String| longer_sequence(given, policy, decision, n, told);
            let again = |told| vec![NextStep { message: told, command: Some(results::command_line()) }];
            undecided(policy, decision, at_hand, &longer, &again)
        }
        Verdict::Pass | Verdict::NotApplicable => Vec::new(),
    }
}

/// `--tuned-on` of a report that counts the leaks that were decided on: the policy may know of datasets that the run does not.
fn tuned_on_flag(policy: &Policy, by_run: &BTreeSet<String>) -> Option<String> {
    let names = policy.tuned_on();
    (&names != by_run).then(|| names.into_iter().collect::<Vec<_>>().join(",")).filter(|list| !list.is_empty())
}

/// What shows the losses image by image. A relative margin asks the baseline about more images than the candidate.
fn report(given: &Given<'_>, found: &Found<'_>, tuned_on: Option<String>, has_unpaired: bool) -> NextStep {
    let path = |path: &Path| quoted(&path.display().to_string());
    let [baseline, candidate] = found.runs.map(path);
    let mut command = format!("emt report {candidate} --baseline {baseline}");
    let mut message = "what was lost, class by class and image by image".to_owned();
    match &found.decision {
        Some(file) => command.push_str(&format!(" --decision {}", path(file))),
        None => message.push_str(" (--out FILE keeps the decision, and --decision FILE puts it into the report)"),
    }
    let mut allowed = given.allow_different.to_vec();
    if has_unpaired && !allowed.iter().any(|field| field == SAMPLES) {
        allowed.push(SAMPLES.to_owned());
    }
    if !allowed.is_empty() {
        command.push_str(&format!(" --allow-different {}", quoted(&allowed.join(","))));
    }
    if let Some(list) = tuned_on {
        command.push_str(&format!(" --tuned-on {}", quoted(&list)));
    }
    if let Some(file) = &given.places.datasets_file {
        command.push_str(&format!(" --datasets-file {}", path(file)));
    }
    NextStep { message, command: Some(command) }
}

/// What would decide: `longer` makes the step to a number of images, `again` that to asking once more.
fn undecided(
    policy: &Policy,
    decision: &Decision,
    at_hand: &BTreeMap<String, usize>,
    longer: &dyn Fn(usize, String) -> Vec<NextStep>,
    again: &dyn Fn(String) -> Vec<NextStep>,
) -> Vec<NextStep> {
    let (mut steps, mut told, mut n_most) = (Vec::new(), Vec::new(), 0);
    let undecided = decision.datasets.iter().filter(|dataset| dataset.decision == Verdict::Inconclusive);
    for dataset in undecided {
        let has = |codes: &[ReasonCode]| dataset.reasons.iter().any(|reason| codes.contains(&reason.code));
        if has(&[ReasonCode::TooFewPairs, ReasonCode::Underpowered]) {
            let wanted = wanted(policy, dataset, decision.design == "sequential");
            let min_pairs = policy.of(&dataset.dataset).min_pairs;
            match size(dataset, min_pairs, wanted, at_hand.get(&dataset.dataset).copied()) {
                Size::Limit(n, message) => {
                    n_most = n_most.max(n);
                    told.push(message);
                }
                Size::None(message) => steps.push(NextStep { message, command: None }),
            }
        }
        if has(&[ReasonCode::TooManyUnscored, ReasonCode::UnscoredCouldDecide]) {
            let told = format!(
                "{}: {} pairs are unscored; the same command retries failed answers and verdicts; another judge must \
                 judge both runs (`emt judge score RUN --out NEW`)",
                dataset.dataset, dataset.n_unscored
            );
            steps.extend(again(told));
        }
        if has(&[ReasonCode::GraderDependent, ReasonCode::JudgeError]) {
            let message = format!(
                "{}: measure the judge against people: `emt judge sample RUN`, mark the sheet, `emt judge calibrate`, then \
                 --calibration-baseline and --calibration-candidate",
                dataset.dataset
            );
            steps.push(NextStep { message, command: None });
        }
    }
    if n_most > 0 {
        steps.splice(0..0, longer(n_most, told.join("; ")));
    }
    if decision.reasons.iter().any(|reason| reason.code == ReasonCode::JudgeError && reason.dataset.is_none()) {
        let message = "judge both runs again with a judge that tells a right answer from a wrong one (`emt judge score RUN --out \
                       NEW`), or measure this one (`emt judge calibrate`)"
            .to_owned();
        steps.push(NextStep { message, command: None });
    }
    if decision.reasons.iter().any(|reason| reason.code == ReasonCode::NothingPassed) {
        let message =
            "compare on a dataset that the baseline knows, and that the candidate was not fine-tuned on".to_owned();
        steps.push(NextStep { message, command: None });
    }
    steps
}

/// The pairs that would probably decide; `None` where the fall lies at the margin.
fn wanted(policy: &Policy, dataset: &DatasetDecision, is_sequential: bool) -> Option<usize> {
    let n = dataset.n_pairs - dataset.n_unscored;
    let counts = PairedCounts { n_lost: dataset.n_lost, n_gained: dataset.n_gained, n };
    let of_dataset = policy.of(&dataset.dataset);
    let n = n_to_decide(counts, dataset.margin, of_dataset.level())?;
    let inflated = if is_sequential { (n as f64 * SEQUENTIAL_INFLATION).ceil() as usize } else { n };
    inflated.max(of_dataset.min_pairs).max(dataset.n_pairs + 1).div_ceil(N_ROUND).checked_mul(N_ROUND)
}

enum Size {
    /// This many images, and why.
    Limit(usize, String),
    /// No number of images at hand would do.
    None(String),
}

fn size(dataset: &DatasetDecision, min_pairs: usize, wanted: Option<usize>, at_hand: Option<usize>) -> Size {
    let name = &dataset.dataset;
    let n_used = dataset.n_pairs + dataset.n_unreadable;
    let needs = match (wanted, dataset.n_needed.map(|n| n.max(min_pairs))) {
        // The reason names the other number: each is for its own fall.
        (Some(n), Some(n_needed)) if n != n_needed => format!(
            "if the true fall is the one measured on {} pairs, about {n} pairs would decide; if nothing was lost, \
             about {n_needed}",
            dataset.n_pairs
        ),
        (Some(n), _) => format!("about {n} pairs would decide, judging by the {} so far", dataset.n_pairs),
        (None, _) => format!("the fall is close to the margin of {:.1} points", dataset.margin * 100.0),
    };
    match (wanted, at_hand) {
        (_, Some(at_hand)) if n_used >= at_hand => Size::None(format!(
            "{name}: {needs}, and all {at_hand} available images are used: this data cannot decide; more images of it \
             can, or another dataset"
        )),
        (None, _) => Size::None(format!("{name}: {needs}: no number of images is likely to decide")),
        (Some(n), Some(at_hand)) if n > at_hand => Size::None(format!(
            "{name}: {needs}; only {at_hand} images are available: this data cannot decide; more images of it can, or \
             another dataset"
        )),
        (Some(n), _) => Size::Limit(n, format!("{name}: {needs}")),
    }
}

/// By dataset, the images that evaluating on could use: the published number, or what was used where nothing limited it or samples
/// were named. What is not known is left out.
fn images_at_hand(given: &Given<'_>, runs: [&RecordedRun; 2], decision: &Decision) -> Result<BTreeMap<String, usize>> {
    let places = given.places;
    let catalog = available(&places.catalog()?, &places.roots());
    let has = |run: &RecordedRun, key: &str| run.manifest.environment.contains_key(key);
    let is_limited = |run: &RecordedRun| has(run, "limit") || has(run, "samples");
    let is_unlimited = given.has_samples || !runs.into_iter().any(is_limited);
    let of_dataset = |dataset: &DatasetDecision| {
        let spec = runs[0].manifest.spec.datasets.iter().find(|spec| spec.dataset == dataset.dataset)?;
        let published = catalog.iter().find(|known| known.name == spec.dataset && known.split == spec.split);
        let n_used = dataset.n_pairs + dataset.n_unreadable;
        if is_unlimited { Some(n_used) } else { published.and_then(|known| known.n_samples_published) }
    };
    Ok(decision.datasets.iter().filter_map(|dataset| Some((dataset.dataset.clone(), of_dataset(dataset)?))).collect())
}

/// How many images of each dataset the command that made a run asked for.
fn limit(run: &RecordedRun) -> Option<usize> {
    run.manifest.environment.get("limit")?.as_u64().and_then(|n| usize::try_from(n).ok())
}

/// The commands that made the runs, for where they lie now; one where a lock-step made both. `None` where a run does not tell, or
/// no longer lies as its command would have it.
fn commands(runs: [&RecordedRun; 2]) -> Option<Vec<RecordedCommand>> {
    let mut commands = Vec::with_capacity(runs.len());
    for run in runs {
        commands.push(RecordedCommand::of(&run.manifest)?.for_run(run.dir())?);
    }
    commands.dedup();
    Some(commands)
}

/// Goes on with finished runs. Only `emt eval` and `emt gate` take a larger limit for what they made.
fn longer_runs(commands: &[RecordedCommand], n: usize, told: String) -> Vec<NextStep> {
    if commands.is_empty() || !commands.iter().all(RecordedCommand::takes_limit) {
        let message = format!("{told}: continue both runs with --limit {n}, then decide again");
        return vec![NextStep { message, command: None }];
    }
    let step = |(place, command): (usize, &RecordedCommand)| {
        let message = match (place, commands.len()) {
            (0, 1) => format!("{told}: this continues both runs; then decide again"),
            (0, _) => format!("{told}: these continue the runs; then decide again"),
            _ => "and".to_owned(),
        };
        NextStep { message, command: Some(command.clone().without_samples().with_limit(n).text()) }
    };
    commands.iter().enumerate().map(step).collect()
}

fn asked_again(commands: &[RecordedCommand], told: String) -> Vec<NextStep> {
    if commands.is_empty() {
        return vec![NextStep { message: told, command: None }];
    }
    let step = |(place, command): (usize, &RecordedCommand)| {
        let message = if place == 0 { told.clone() } else { "and".to_owned() };
        NextStep { message, command: Some(command.text()) }
    };
    commands.iter().enumerate().map(step).collect()
}

/// The same gate with a larger `--limit`, and with a larger `max_pairs` in the policy where that is what ends it.
fn longer_sequence(given: &Given<'_>, policy: &Policy, decision: &Decision, n: usize, told: String) -> Vec<NextStep> {
    let is_capped = |dataset: &&DatasetDecision| {
        dataset.decision == Verdict::Inconclusive && policy.of(&dataset.dataset).max_pairs < n
    };
    let is_policy_too_small = decision.datasets.iter().any(|dataset| is_capped(&dataset));
    let command = RecordedCommand::of_this_process();
    let is_limited = given.limit.is_some_and(|limit| limit < n);
    let mut command = if is_limited { command.with_limit(n) } else { command }.text();
    let mut message = told;
    if is_policy_too_small {
        message.push_str(&format!(": `max_pairs = {n}` in the policy allows this number"));
        if !given.has_policy {
            message.push_str(" (`emt gate --print-policy > policy.toml` writes one)");
            command.push_str(" --policy policy.toml");
        }
    }
    message.push_str("; this continues both runs");
    vec![NextStep { message, command: Some(command) }]
}
