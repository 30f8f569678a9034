//! The datasets that a policy, a flag and the runs name.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::DecisionRules;
use crate::compare::CandidateComparison;
use crate::dataset::Catalog;
use crate::domain::nearest;
use crate::gate::Policy;
use crate::study::recorded_run::RecordedRun;

/// The datasets that somebody knows: those of the runs and of the catalog.
pub(super) fn known<'a>(catalog: &Catalog, of_runs: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut known: BTreeSet<String> = catalog.names().map(str::to_owned).collect();
    known.extend(of_runs.map(str::to_owned));
    known
}

/// Refuses a policy and a `--tuned-on` that name a dataset that is not known: what they say of it would have no effect.
pub(super) fn check(rules: &DecisionRules, tuned_on: &BTreeSet<String>, known: &BTreeSet<String>) -> Result<()> {
    rules.policy.check_datasets(known, "neither the runs nor the catalog know").with_context(|| {
        match &rules.policy_file {
            Some(path) => format!("in the policy `{}`", path.display()),
            None => "in the policy".to_owned(),
        }
    })?;
    if let Some(name) = tuned_on.iter().find(|name| !known.contains(*name)) {
        bail!("--tuned-on {name}: neither the runs nor the catalog know this dataset{}", meant(name, known));
    }
    Ok(())
}

/// The runs with only the datasets of `--datasets`, where it is given; in the order of the runs, whatever that of the flag.
/// Returns what was left out.
pub(super) fn keep_only(runs: &mut [RecordedRun; 2], asked: Option<&BTreeSet<String>>) -> Result<BTreeSet<String>> {
    let Some(asked) = asked else { return Ok(BTreeSet::new()) };
    if asked.is_empty() {
        bail!("--datasets names no dataset; hint: leave it out, and all of the baseline are decided on");
    }
    let mut kept = BTreeSet::new();
    for text in asked {
        let name = &name_in_runs(text, &runs[0]);
        for run in runs.iter() {
            if !run.datasets().any(|known| known == name) {
                let of_run: BTreeSet<String> = run.datasets().map(str::to_owned).collect();
                bail!("--datasets {text}: the run `{}` has no such dataset{}", run.name, meant(name, &of_run));
            }
        }
        kept.insert(name.clone());
    }
    let left_out = runs.iter().flat_map(|run| run.datasets()).filter(|name| !kept.contains(*name));
    let left_out = left_out.map(str::to_owned).collect();
    runs.iter_mut().for_each(|run| run.keep_only(&kept));
    Ok(left_out)
}

/// What a run calls the dataset of a person's words: a path has the name of its last two parts, as for `emt eval`.
fn name_in_runs(text: &str, run: &RecordedRun) -> String {
    if run.datasets().any(|known| known == text) {
        return text.to_owned();
    }
    if let Some((name, _)) = text.split_once('=') {
        return name.to_owned();
    }
    let parts: Vec<String> = Path::new(text).iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let last = parts[parts.len().saturating_sub(2)..].join("/");
    if run.datasets().any(|known| known == last) { last } else { text.to_owned() }
}

fn meant(name: &str, known: &BTreeSet<String>) -> String {
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    match nearest(name, &names) {
        Some(nearest) => format!("; hint: did you mean `{nearest}`?"),
        None => format!("; hint: the known datasets are {}", names.join(", ")),
    }
}

/// What the policy as it was written says of datasets that are not among `compared`, to be told: its rules for them were not
/// checked. A policy may be shared by pipelines with other datasets, so names of the catalog, and those that `--datasets` left
/// out, are told. Any other name is refused, and so is one whose last part is that of a compared dataset without rules:
/// `mnist` beside `embedded/mnist`.
pub(super) fn unchecked(
    rules: &DecisionRules,
    compared: &BTreeSet<String>,
    left_out: &BTreeSet<String>,
) -> Result<Vec<String>> {
    let DecisionRules { policy, catalog, .. } = rules;
    let named: BTreeSet<&str> = policy.named().collect();
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let shown = rules.policy_file.as_ref().map_or_else(String::new, |path| format!(" `{}`", path.display()));
    let mut warnings = Vec::new();
    for name in policy.ruled().filter(|name| !compared.contains(*name)) {
        let is_meant = |other: &&String| last(other) == last(name) && !named.contains(other.as_str());
        if let Some(meant) = compared.iter().find(is_meant) {
            bail!(
                "the policy{shown} names `{name}`, which is not compared, so its rules would not be checked; hint: did \
                 you mean `{meant}`?"
            );
        }
        if !left_out.contains(name) && !catalog.names().any(|known| known == name) {
            bail!(
                "the policy{shown} names `{name}`, which the baseline lacks, so its rules would not be checked{}, or evaluate \
                 the baseline on it, too",
                meant(name, compared)
            );
        }
        warnings.push(format!("the policy names `{name}`, which was not compared: its rules for it were not checked"));
    }
    Ok(warnings)
}

/// The datasets that are called fine-tuned and are not among `compared`, to be told.
pub(super) fn only_tuned_on(policy: &Policy, by_flag: &BTreeSet<String>, compared: &BTreeSet<String>) -> Vec<String> {
    let ruled: BTreeSet<&str> = policy.ruled().collect();
    let by_policy = policy.named().filter(|name| !ruled.contains(name)).map(str::to_owned);
    let names: BTreeSet<String> = by_policy.chain(by_flag.iter().cloned()).collect();
    let of_name = |name: &String| {
        format!(
            "the policy or --tuned-on names `{name}`, which was not compared: its labels decide only what is a leak"
        )
    };
    names.difference(compared).map(of_name).collect()
}

/// Refuses a limit of the policy that nothing in the runs can be held against: unchecked, it would count as kept.
pub(super) fn refuse_unchecked(policy: &Policy, compared: &CandidateComparison) -> Result<()> {
    for dataset in &compared.datasets {
        let of_dataset = policy.of(&dataset.dataset);
        if of_dataset.ignore || of_dataset.tuned_on {
            continue;
        }
        if of_dataset.max_leak.is_some() && !dataset.is_leak_known {
            bail!(
                "the policy has `max_leak` for `{}`, but it is not known what the candidate was fine-tuned on, or its \
                 labels are not known; hint: --tuned-on DATASET, or `tuned_on` in the policy",
                dataset.dataset
            );
        }
        if of_dataset.min_retention.is_some() && dataset.encoder_cells_after.is_none() {
            bail!(
                "the policy has `min_retention` for `{}`, but the candidate's run has no encoder; hint: \
                 evaluate it with --encoder DIR",
                dataset.dataset
            );
        }
    }
    Ok(())
}
