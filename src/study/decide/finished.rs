//! The gate on finished runs: one look at all pairs.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};

use super::calibration::Outcomes;
use super::history::History;
use super::{DecisionRules, datasets, only_named, run_names};
use crate::compare::{self, CandidateComparison};
use crate::domain::{SampleNames, SampleSet};
use crate::gate::{self, Decision, Policy};
use crate::record::RunState;
use crate::study::comparability;
use crate::study::compare::{Compare, settings_note};
use crate::study::recorded_run::RecordedRun;
use crate::study::tuned_on::{self, Part};

/// A decision on two finished runs, as it is asked for.
#[derive(Debug)]
pub struct Decide<'a> {
    /// The baseline and the candidate.
    pub runs: [RecordedRun; 2],
    /// What is decided by.
    pub rules: DecisionRules,
    /// The datasets that are decided on, by name or path; `None` is all of the baseline.
    pub datasets: Option<BTreeSet<String>>,
    /// The samples that are decided on; `None` is all.
    pub samples: Option<SampleNames>,
    /// The datasets that the candidate was fine-tuned on, as far as somebody says so.
    pub tuned_on: Vec<Part<'a>>,
}

/// A decision on two finished runs.
#[derive(Debug)]
pub struct Decided {
    /// What was decided.
    pub decision: Decision,
    /// The policy as it was applied: with the datasets that the candidate was fine-tuned on, at the level of its attempt.
    pub policy: Policy,
    /// The baseline and the candidate, of which only the datasets that were decided on.
    pub runs: [RecordedRun; 2],
    /// Which datasets could not pass, even if no answer had changed.
    pub hopeless: Vec<String>,
    /// Where the decision is added; nothing is added yet.
    pub history: History,
}

impl Decide<'_> {
    /// Compares the runs and decides.
    ///
    /// # Errors
    /// A run is not finished, the runs are not comparable, a name of the policy or of a sample is not known, or a file cannot be
    /// read.
    pub fn run(self) -> Result<Decided> {
        let Self { mut runs, rules, datasets: asked, samples, tuned_on: said } = self;
        for run in &runs {
            ensure!(
                run.manifest.state == RunState::Complete,
                "the run `{}` is not complete; hint: finish it with the command that started it",
                run.name
            );
        }
        let tuned_on = tuned_on::of_candidates(&said, std::slice::from_ref(&runs[1]));
        let mut warnings = checked_names(&rules, &said, asked.as_ref(), &mut runs)?;
        if let Some(names) = samples {
            let samples = found(&names, &runs)?;
            warnings.push(only_named(&samples));
            runs = runs.map(|run| run.only(samples.clone()));
        }
        let DecisionRules { mut policy, attempts, calibrations, .. } = rules.clone();
        policy.mark_tuned_on(tuned_on.into_iter().flatten());
        let run_names =
            [run_names::of_recorded(&runs[0], &mut warnings)?, run_names::of_recorded(&runs[1], &mut warnings)?];
        let history = History::open(&attempts, &run_names, &tested(&policy, &runs))?;
        if let Some(attempt) = history.attempt {
            policy = policy.at_attempt(attempt);
        }
        let [baseline, candidate] = &runs;
        calibrations.check(baseline, candidate)?;
        let mut outcomes = Outcomes::default();
        let comparison = Compare {
            baseline,
            candidates: std::slice::from_ref(candidate),
            tuned_on: &[policy.tuned_on()],
            may_lack: &|name| policy.of(name).ignore,
            allow_different: &rules.allow_different,
            catalog: &rules.catalog,
        }
        .run(&mut |passing| {
            outcomes.take(&calibrations, passing);
            Ok(())
        })?;
        let [compared] = comparison.candidates.as_slice() else { bail!("one candidate was compared") };
        if !rules.allows_same {
            let specs = [&baseline.manifest.spec, &candidate.manifest.spec];
            comparability::refuse_same([&baseline.name, &candidate.name], specs, &compared.differences)?;
        }
        datasets::refuse_unchecked(&policy, compared)?;
        let mut decision = gate::decide(&policy, compared, &calibrations.corrections(&outcomes));
        decision.warnings.splice(0..0, warnings);
        decision.warnings.extend(comparability::allowed(&compared.differences));
        decision.warnings.extend(oddities(baseline, candidate, compared));
        let [of_baseline, of_candidate] = run_names;
        decision.baseline = Some(of_baseline);
        decision.candidate = Some(of_candidate);
        decision.attempt = history.attempt;
        let named = [baseline, candidate].map(|run| (run.name.as_str(), &run.manifest));
        calibrations.doubt_unmeasured(&mut decision, named);
        decision.allowed_different.clone_from(&rules.allow_different);
        let hopeless = hopeless(&policy, compared);
        Ok(Decided { decision, policy, runs, hopeless, history })
    }
}

/// Checks the names of datasets in policy and flags, and leaves only those of `--datasets` in the runs; returns what should be
/// told.
fn checked_names(
    rules: &DecisionRules,
    said: &[Part<'_>],
    asked: Option<&BTreeSet<String>>,
    runs: &mut [RecordedRun; 2],
) -> Result<Vec<String>> {
    let said: BTreeSet<String> = said.iter().map(|part| part.dataset.to_owned()).collect();
    let mut known = datasets::known(&rules.catalog, runs.iter().flat_map(RecordedRun::datasets));
    known.extend(runs[1].tuned_on());
    datasets::check(rules, &said, &known)?;
    let left_out = datasets::keep_only(runs, asked)?;
    let compared: BTreeSet<String> = runs[0].datasets().map(str::to_owned).collect();
    let mut warnings = Vec::new();
    if !left_out.is_empty() {
        let list: Vec<&str> = left_out.iter().map(String::as_str).collect();
        warnings.push(format!("--datasets leaves out {}: nothing is decided on it", list.join(", ")));
    }
    warnings.extend(datasets::unchecked(rules, &compared, &left_out)?);
    warnings.extend(datasets::only_tuned_on(&rules.policy, &said, &compared));
    Ok(warnings)
}

/// Finds the named samples in the trials of either run: what only one of them has is no pair, and told as such.
fn found(names: &SampleNames, runs: &[RecordedRun; 2]) -> Result<SampleSet> {
    let mut ids: Vec<(&str, BTreeSet<String>)> = Vec::new();
    for dataset in runs[0].datasets() {
        let mut of_dataset = BTreeSet::new();
        for run in runs {
            of_dataset.extend(run.trials_of(dataset)?.into_iter().map(|trial| trial.sample));
        }
        ids.push((dataset, of_dataset));
    }
    let known: Vec<(&str, Vec<&str>)> =
        ids.iter().map(|(dataset, ids)| (*dataset, ids.iter().map(String::as_str).collect())).collect();
    Ok(names.among(&known)?)
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
        found.push("baseline and candidate are the same model (--allow-same): no forgetting could be found".to_owned());
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
    found.extend(settings_note(before, after, &candidate.name));
    if !compared.only_candidate.is_empty() {
        let names = compared.only_candidate.join(", ");
        found.push(format!("the baseline lacks {names}, which the candidate has: nothing is decided on it"));
    }
    found
}

/// The datasets on which even a candidate without a single changed answer could not pass.
fn hopeless(policy: &Policy, comparison: &CandidateComparison) -> Vec<String> {
    let told = |dataset: &compare::DatasetComparison| {
        let (of_dataset, n) = (policy.of(&dataset.dataset), dataset.n_pairs);
        let is_decided = !of_dataset.ignore && !of_dataset.tuned_on;
        let can_pass = n >= of_dataset.min_pairs && gate::reachable(n, of_dataset.margin, of_dataset.level());
        (is_decided && !can_pass).then(|| {
            format!(
                "{}: {n} pairs are too few to pass, even if no answer changed (margin {}, alpha {:.4})",
                dataset.dataset,
                of_dataset.margin,
                of_dataset.level()
            )
        })
    };
    comparison.datasets.iter().filter_map(told).collect()
}
