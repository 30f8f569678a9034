//! Earlier decisions on the same test data.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Attempts;
use super::run_names::is_same_candidate;
use crate::gate::{DECISION_SCHEMA, DatasetDecision, Decision, ReasonCode, RunName};
use crate::record;

/// Which attempt this is, and where it is remembered.
#[derive(Debug)]
pub struct History {
    /// From 1; `None` where attempts are not counted.
    pub attempt: Option<u64>,
    /// The folder, and the name of this decision's file in it.
    file: Option<(PathBuf, String)>,
}

impl History {
    /// Finds the candidate of `[baseline, candidate]` among those that were decided on over the same test data, which are the
    /// `datasets`: it keeps the number that it first got, so that deciding again changes nothing. A new one gets the next
    /// number.
    ///
    /// Whatever the baseline was and however the candidate was asked: what wears out is the test data.
    pub(super) fn open(attempts: &Attempts, [baseline, candidate]: &[RunName; 2], datasets: &[String]) -> Result<Self> {
        let dir = match attempts {
            Attempts::Alone => return Ok(Self { attempt: None, file: None }),
            Attempts::Number(attempt) => return Ok(Self { attempt: Some(*attempt), file: None }),
            Attempts::CountedIn(dir) => dir,
        };
        let known = decisions(dir)?;
        let of_dataset = |dataset: &String| {
            let on_it: Vec<&Decision> =
                known.iter().map(|(_, decision)| decision).filter(|decision| has_tested(decision, dataset)).collect();
            attempt_on(&on_it, candidate)
        };
        let attempt = datasets.iter().map(of_dataset).max().unwrap_or(1);
        let name = file_name(&known, [baseline, candidate], datasets, attempt);
        Ok(Self { attempt: Some(attempt), file: Some((dir.clone(), name)) })
    }

    /// Where the decision is, or will be.
    pub fn path(&self) -> Option<PathBuf> {
        self.file.as_ref().map(|(dir, name)| dir.join(name))
    }

    /// Adds the decision, as JSON, to the folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&self, decision_json: &str) -> Result<()> {
        if let Some((dir, name)) = &self.file {
            record::write_file(dir, name, decision_json.as_bytes())?;
        }
        Ok(())
    }
}

/// Whether a decision was about the dataset; one that its policy ignored was not tested.
fn has_tested(decision: &Decision, name: &str) -> bool {
    decision.datasets.iter().any(|dataset| dataset.dataset == name && is_tested(dataset))
}

fn is_tested(dataset: &DatasetDecision) -> bool {
    dataset.reasons.iter().all(|reason| reason.code != ReasonCode::Ignored)
}

/// The number of the candidate among those of `known`, all decided on over one dataset. A new one is one more than the others,
/// and than the greatest number that was given: a decision that somebody removed must not make room.
fn attempt_on(known: &[&Decision], candidate: &RunName) -> u64 {
    let is_own = |decision: &&&Decision| {
        decision.candidate.as_ref().is_some_and(|decided| is_same_candidate(decided, candidate))
    };
    if let Some(first) = known.iter().filter(is_own).filter_map(|decision| decision.attempt).min() {
        return first;
    }
    let others: BTreeSet<&String> = known
        .iter()
        .filter(|decision| !is_own(decision))
        .filter_map(|decision| decision.candidate.as_ref())
        .map(|decided| decided.model.as_ref().unwrap_or(&decided.identity))
        .collect();
    let greatest = known.iter().filter_map(|decision| decision.attempt).max().unwrap_or(0);
    1 + greatest.max(others.len() as u64)
}

/// The first digits of the candidate's identity; where those are another decision already, more: no decision takes the place
/// of one on another pair, on other datasets, or with another number.
fn file_name(
    known: &[(PathBuf, Decision)],
    [baseline, candidate]: [&RunName; 2],
    datasets: &[String],
    attempt: u64,
) -> String {
    let digits = |identity: &str, n: usize| {
        let digits = identity.rsplit(':').next().unwrap_or_default();
        digits[..n.min(digits.len())].to_owned()
    };
    let tested: BTreeSet<&str> = datasets.iter().map(String::as_str).collect();
    let is_free = |name: &String| {
        let is_named_so = |path: &Path| path.file_name().is_some_and(|file| file.to_string_lossy() == *name);
        known.iter().filter(|(path, _)| is_named_so(path)).all(|(_, decision)| {
            let of = |run: &Option<RunName>| run.as_ref().map(|run| run.identity.clone());
            let tested_then = decision.datasets.iter().filter(|dataset| is_tested(dataset));
            of(&decision.baseline).as_ref() == Some(&baseline.identity)
                && of(&decision.candidate).as_ref() == Some(&candidate.identity)
                && tested_then.map(|dataset| dataset.dataset.as_str()).collect::<BTreeSet<_>>() == tested
                && decision.attempt == Some(attempt)
        })
    };
    let (short, long) = (digits(&candidate.identity, 8), digits(&candidate.identity, 64));
    let of_pair = format!("{long}-{}", digits(&baseline.identity, 64));
    let list: Vec<&str> = tested.iter().copied().collect();
    let of_all = digits(&blake3::hash(format!("{of_pair} {}", list.join(",")).as_bytes()).to_hex(), 16);
    let names = [format!("{short}.json"), format!("{of_pair}.json")];
    names.into_iter().find(is_free).unwrap_or_else(|| format!("{short}-{of_all}-{attempt}.json"))
}

fn decisions(dir: &Path) -> Result<Vec<(PathBuf, Decision)>> {
    let reading = || format!("failed to read the history `{}`", dir.display());
    let paths = record::json_files(dir).with_context(reading)?;
    let mut decisions = Vec::with_capacity(paths.len());
    for path in paths {
        let text = record::read_text(&path)?;
        // Counting one too few would make the test too lenient: what cannot be read is an error.
        let decision: Decision = serde_json::from_str(&text).with_context(|| {
            format!(
                "`{}` is not a decision of emt; hint: keep other files out of the folder of --history",
                path.display()
            )
        })?;
        if decision.schema != DECISION_SCHEMA {
            bail!("`{}` has the schema `{}`, and this emt knows `{DECISION_SCHEMA}`", path.display(), decision.schema);
        }
        decisions.push((path, decision));
    }
    Ok(decisions)
}
