//! The command that may save a candidate that failed: `emt recover`.

use std::collections::BTreeSet;
use std::path::Path;

use super::next::{Found, Given};
use crate::cli::diagnose::recorded;
use crate::domain::text::quoted;
use crate::gate::{Decision, NextStep, Policy, Verdict};
use crate::study::RecordedRun;

/// What may save the candidate without training; `None` if its weights are not here, or no dataset besides those that it was
/// fine-tuned on was decided on.
pub(super) fn step(given: &Given<'_>, policy: &Policy, found: &Found<'_>, decision: &Decision) -> Option<NextStep> {
    let [baseline, candidate] = found.runs;
    if !recorded::is_local(candidate) {
        return None;
    }
    let runs = [RecordedRun::open(baseline).ok()?, RecordedRun::open(candidate).ok()?];
    let (model, adapter) = recorded::models(&runs).ok()?;
    let new: BTreeSet<String> = policy.tuned_on().into_iter().chain(found.tuned_on.iter().cloned()).collect();
    let is_old = |name: &str| !new.contains(name) && !policy.of(name).ignore;
    let decided = decision.datasets.iter().filter(|dataset| dataset.decision != Verdict::NotApplicable);
    let old: Vec<&str> = decided.map(|dataset| dataset.dataset.as_str()).filter(|name| is_old(name)).collect();
    if old.is_empty() {
        return None;
    }
    let path = |path: &Path| quoted(&path.display().to_string());
    let mut message = "whether a weaker fine-tune keeps both, without training".to_owned();
    let new = match new.is_empty() {
        true => {
            message.push_str(" (NEW is a dataset of what it was fine-tuned on)");
            "NEW".to_owned()
        }
        false => quoted(&new.into_iter().collect::<Vec<_>>().join(",")),
    };
    let adapter = adapter.path.as_deref().map(path)?;
    let old = quoted(&old.join(","));
    let mut command = format!("emt recover --model {} --adapter {adapter} --new {new} --old {old}", path(&model));
    let files = [("--policy", given.policy), ("--data", given.places.data.as_deref())];
    let catalog = ("--datasets-file", given.places.datasets_file.as_deref());
    for (flag, file) in files.into_iter().chain([catalog]) {
        command.extend(file.map(|file| format!(" {flag} {}", path(file))));
    }
    command.push_str(" --out recovered");
    Some(NextStep { message, command: Some(command) })
}
