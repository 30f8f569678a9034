//! The datasets that a policy, a flag and the runs speak of.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{RuleOptions, names};
use crate::cli::comparison::RecordedRun;
use crate::cli::data::Places;
use crate::compare::CandidateComparison;
use crate::domain::nearest;
use crate::gate::{Decision, Policy};

/// The datasets that somebody knows: those of the runs and of the catalog.
pub(super) fn known<'a>(places: &Places, of_runs: impl Iterator<Item = &'a str>) -> Result<BTreeSet<String>> {
    let catalog = places.catalog()?;
    let mut known: BTreeSet<String> = catalog.names().map(str::to_owned).collect();
    known.extend(of_runs.map(str::to_owned));
    Ok(known)
}

/// Refuses a policy and a `--tuned-on` that name a dataset of which nobody knows: what they say of it would have no effect.
pub(super) fn check(
    policy: &Policy,
    rules: &RuleOptions,
    tuned_on: &BTreeSet<String>,
    known: &BTreeSet<String>,
) -> Result<()> {
    policy.check_datasets(known, "neither the runs nor the catalog know").with_context(|| match &rules.policy {
        Some(path) => format!("in the policy `{}`", path.display()),
        None => "in the policy".to_owned(),
    })?;
    if let Some(name) = tuned_on.iter().find(|name| !known.contains(*name)) {
        bail!("--tuned-on {name}: neither the runs nor the catalog know this dataset{}", meant(name, known));
    }
    Ok(())
}

/// The runs with only the datasets of `--datasets`, where it is given; in the order of the runs, whatever that of the flag.
/// The second value says what was left out.
pub(super) fn keep_only(runs: &mut [RecordedRun; 2], list: Option<&str>) -> Result<Option<String>> {
    let Some(list) = list else { return Ok(None) };
    let asked = names(Some(list));
    if asked.is_empty() {
        bail!("--datasets names no dataset; hint: leave it out, and all of the baseline are decided on");
    }
    let mut kept = BTreeSet::new();
    for text in &asked {
        let name = &name_in_runs(text, &runs[0]);
        for run in runs.iter() {
            if !run.datasets().any(|known| known == name) {
                let of_run: BTreeSet<String> = run.datasets().map(str::to_owned).collect();
                bail!("--datasets {text}: the run `{}` has no such dataset{}", run.name, meant(name, &of_run));
            }
        }
        kept.insert(name.clone());
    }
    let left_out: BTreeSet<&str> = runs[0].datasets().filter(|name| !kept.contains(*name)).collect();
    let told = left_out.into_iter().collect::<Vec<_>>().join(", ");
    runs.iter_mut().for_each(|run| run.keep_only(&kept));
    Ok((!told.is_empty()).then(|| format!("--datasets leaves out {told}: nothing is decided on it")))
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
        Some(nearest) => format!("; hint: is `{nearest}` meant?"),
        None => format!("; hint: known are {}", names.join(", ")),
    }
}

/// A policy may be shared by pipelines with other datasets; what it says of those that were not compared is told.
pub(super) fn without_effect(named: &BTreeSet<String>, decision: &Decision) -> Vec<String> {
    named
        .iter()
        .filter(|name| decision.datasets.iter().all(|dataset| dataset.dataset != **name))
        .map(|name| format!("the policy or --tuned-on names `{name}`, which was not compared"))
        .collect()
}

/// The datasets that a person named, in the policy or by flag.
pub(super) fn named(policy: &Policy) -> BTreeSet<String> {
    policy.named().map(str::to_owned).collect()
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
                "the policy has `max_leak` for `{}`, and nobody said what the candidate was fine-tuned on; hint: --tuned-on \
                 DATASET, or `tuned_on` in the policy",
                dataset.dataset
            );
        }
        if of_dataset.min_retention.is_some() && dataset.encoder_cells_after.is_none() {
            bail!(
                "the policy has `min_retention` for `{}`, and the candidate's run has no encoder beside the model; hint: \
                 evaluate it with --encoder DIR",
                dataset.dataset
            );
        }
    }
    Ok(())
}
