//! The gate on finished runs: one look at all pairs.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Result, bail, ensure};

use super::calibration::{Calibrations, Outcomes};
use super::history::History;
use super::{GateArgs, datasets, next, run_names};
use crate::cli::comparability;
use crate::cli::comparison::{self, RecordedRun, Rules};
use crate::cli::recorded_command::RecordedCommand;
use crate::cli::{results, tuned_on};
use crate::compare::{self, CandidateComparison};
use crate::gate::{self, Decision, Policy};
use crate::{record, report};

/// Decides on two finished runs.
pub(super) fn decide(
    args: &GateArgs,
    mut policy: Policy,
    mut runs: [RecordedRun; 2],
    quiet: bool,
    err: &mut dyn Write,
) -> Result<Decision> {
    refuse_unfinished(&runs)?;
    let tuned_on = comparison::tuned_on(args.options.tuned_on.as_deref(), std::slice::from_ref(&runs[1]))?;
    let mut warnings = checked_names(args, &policy, &mut runs)?;
    policy.mark_tuned_on(tuned_on.into_iter().flatten());
    let run_names =
        [run_names::of_recorded(&runs[0], &mut warnings)?, run_names::of_recorded(&runs[1], &mut warnings)?];
    let history = History::open(&args.rules, &run_names, &tested(&policy, &runs))?;
    if let Some(attempt) = history.attempt {
        policy = policy.at_attempt(attempt);
    }
    let calibrations = Calibrations::read(&args.calibration)?;
    let [baseline, candidate] = runs;
    let candidates = [candidate];
    calibrations.check(&baseline, &candidates[0])?;
    let tuned_on = policy.tuned_on();
    let rules = Rules {
        tuned_on: std::slice::from_ref(&tuned_on),
        ignored: &|name| policy.of(name).ignore,
        options: &args.comparison,
        places: &args.options.places,
    };
    let mut outcomes = Outcomes::default();
    let comparison = comparison::compare(&baseline, &candidates, &rules, &mut |passing| {
        outcomes.take(&calibrations, passing);
        Ok(())
    })?;
    let [compared] = comparison.candidates.as_slice() else { bail!("one candidate was compared") };
    if !args.rules.allow_same {
        let specs = [&baseline.manifest.spec, &candidates[0].manifest.spec];
        comparability::refuse_same([&baseline.name, &candidates[0].name], specs, &compared.differences)?;
    }
    datasets::refuse_unchecked(&policy, compared)?;
    if !quiet {
        say_what_cannot_pass(&policy, compared, err)?;
    }
    let mut decision = gate::decide(&policy, compared, &calibrations.corrections(&outcomes));
    decision.warnings.splice(0..0, warnings);
    decision.warnings.extend(comparability::allowed(&compared.differences));
    decision.warnings.extend(oddities(&baseline, &candidates[0], compared));
    let [of_baseline, of_candidate] = run_names;
    decision.baseline = Some(of_baseline);
    decision.candidate = Some(of_candidate);
    decision.attempt = history.attempt;
    decision.allowed_different.clone_from(&args.comparison.allow_different);
    decision.next = next::of_recorded(args, &policy, [&baseline, &candidates[0]], history.path(), &decision)?;
    history.add(&decision)?;
    Ok(decision)
}

fn refuse_unfinished(runs: &[RecordedRun; 2]) -> Result<()> {
    for run in runs {
        let command = RecordedCommand::of(&run.manifest).and_then(|command| command.for_run(run.dir()));
        ensure!(
            run.manifest.state == record::RunState::Complete,
            "the run `{}` is not complete; hint: {} goes on with it",
            run.name,
            command.map_or_else(|| "the command that began it".to_owned(), |command| format!("`{}`", command.text()))
        );
    }
    Ok(())
}

/// Checks the names of datasets in policy and flags, and leaves only those of `--datasets` in the runs; returns what should be
/// told.
fn checked_names(args: &GateArgs, policy: &Policy, runs: &mut [RecordedRun; 2]) -> Result<Vec<String>> {
    let places = &args.options.places;
    let said = tuned_on::parts(args.options.tuned_on.as_deref(), &[&runs[1].name])?;
    let said: BTreeSet<String> = said.into_iter().map(|part| part.dataset.to_owned()).collect();
    let mut known = datasets::known(places, runs.iter().flat_map(RecordedRun::datasets))?;
    known.extend(runs[1].tuned_on());
    datasets::check(policy, &args.rules, &said, &known)?;
    let left_out = datasets::keep_only(runs, args.options.datasets.as_deref())?;
    let compared: BTreeSet<String> = runs[0].datasets().map(str::to_owned).collect();
    let mut warnings = Vec::new();
    if !left_out.is_empty() {
        let list: Vec<&str> = left_out.iter().map(String::as_str).collect();
        warnings.push(format!("--datasets leaves out {}: nothing is decided on it", list.join(", ")));
    }
    warnings.extend(datasets::unchecked(policy, &args.rules, places, &compared, &left_out)?);
    warnings.extend(datasets::only_tuned_on(policy, &said, &compared));
    Ok(warnings)
}

/// The datasets that are decided on.
fn tested(policy: &Policy, runs: &[RecordedRun; 2]) -> Vec<String> {
    runs[0].datasets().filter(|name| !policy.of(name).ignore).map(str::to_owned).collect()
}

/// Warnings about these two runs, which do not affect the decision.
fn oddities(baseline: &RecordedRun, candidate: &RecordedRun, compared: &CandidateComparison) -> Vec<String> {
    let mut found = Vec::new();
    let (before, after) = (&baseline.manifest.spec, &candidate.manifest.spec);
    if compare::is_same_model(before, after, &compared.differences) {
        found.push(
            "baseline and candidate are the same model (--allow-same): nothing could be found forgotten".to_owned(),
        );
    } else if before.model.weights.is_some()
        && before.model.weights == after.model.weights
        && before.model.adapter.is_some()
        && after.model.adapter.is_none()
    {
        found.push(
            "the candidate is the base of the baseline's adapter: are --baseline and --candidate the right way round?"
                .to_owned(),
        );
    }
    found.extend(comparison::settings_note(before, after, &candidate.name));
    if !compared.only_candidate.is_empty() {
        let names = compared.only_candidate.join(", ");
        found.push(format!("the baseline lacks {names}, which the candidate has: nothing is decided on it"));
    }
    for run in [baseline, candidate] {
        let flips = results::server_flips(&run.manifest);
        found.extend(flips.map(|flips| report::server_flips_note(&run.name, &flips)));
    }
    found
}

/// Where even a candidate without a single changed answer could not pass, a person should know before anything else.
fn say_what_cannot_pass(policy: &Policy, comparison: &CandidateComparison, err: &mut dyn Write) -> Result<()> {
    for dataset in &comparison.datasets {
        let of_dataset = policy.of(&dataset.dataset);
        if of_dataset.ignore || of_dataset.tuned_on {
            continue;
        }
        let n = dataset.n_pairs;
        if n < of_dataset.min_pairs || !gate::reachable(n, of_dataset.margin, of_dataset.level()) {
            writeln!(
                err,
                "warning: {}: {n} pairs are too few to pass, even if no answer changed (margin {}, alpha {:.4})",
                dataset.dataset,
                of_dataset.margin,
                of_dataset.level()
            )?;
        }
    }
    Ok(())
}
