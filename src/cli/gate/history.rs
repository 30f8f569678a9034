//! Earlier decisions against the same baseline.
#![expect(clippy::disallowed_methods, reason = "lists the user's folder of decisions")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::RuleOptions;
use crate::gate::{DECISION_SCHEMA, Decision, RunName};
use crate::record;
use crate::report;

/// Which attempt this is, and where it is remembered.
pub(super) struct History {
    /// From 1; `None` where attempts are not counted.
    pub attempt: Option<u64>,
    /// The folder, and the name of this decision's file in it.
    file: Option<(PathBuf, String)>,
}

impl History {
    /// Finds the candidate of `[baseline, candidate]` among those that were decided on against the same baseline: it keeps
    /// the number that it first got, so that deciding again changes nothing. A new one gets the next number.
    pub fn open(rules: &RuleOptions, [baseline, candidate]: &[RunName; 2]) -> Result<Self> {
        let Some(dir) = &rules.history else { return Ok(Self { attempt: rules.attempt, file: None }) };
        let known = decisions(dir)?;
        let against: Vec<&Decision> = known
            .iter()
            .map(|(_, decision)| decision)
            .filter(|decision| identity(&decision.baseline) == Some(&baseline.identity))
            .collect();
        let own = against.iter().filter(|decision| identity(&decision.candidate) == Some(&candidate.identity));
        let first = own.filter_map(|decision| decision.attempt).min();
        let attempt = first.unwrap_or_else(|| next_attempt(&against, &candidate.identity));
        let name = file_name(&known, baseline, candidate);
        Ok(Self { attempt: Some(attempt), file: Some((dir.clone(), name)) })
    }

    /// Where the decision is, or will be.
    pub fn path(&self) -> Option<PathBuf> {
        self.file.as_ref().map(|(dir, name)| dir.join(name))
    }

    /// Adds the decision to the folder.
    pub fn add(&self, decision: &Decision) -> Result<()> {
        if let Some((dir, name)) = &self.file {
            record::write_file(dir, name, report::decision_json(decision).as_bytes())?;
        }
        Ok(())
    }
}

fn identity(run: &Option<RunName>) -> Option<&String> {
    run.as_ref().map(|run| &run.identity)
}

/// One more than the others that were decided on, and than the greatest number that was given: a decision that somebody
/// removed must not make room.
fn next_attempt(against: &[&Decision], candidate: &str) -> u64 {
    let others: BTreeSet<&String> = against
        .iter()
        .filter_map(|decision| identity(&decision.candidate))
        .filter(|identity| *identity != candidate)
        .collect();
    let greatest = against.iter().filter_map(|decision| decision.attempt).max().unwrap_or(0);
    1 + greatest.max(others.len() as u64)
}

/// The first digits of the candidate's identity; where those are another pair's decision already, the baseline's, too.
fn file_name(known: &[(PathBuf, Decision)], baseline: &RunName, candidate: &RunName) -> String {
    let digits = |run: &RunName, n: usize| {
        let digits = run.identity.rsplit(':').next().unwrap_or_default();
        digits[..n.min(digits.len())].to_owned()
    };
    let name = format!("{}.json", digits(candidate, 8));
    let is_another = |(path, decision): &(PathBuf, Decision)| {
        let is_named_so = path.file_name().is_some_and(|file| file.to_string_lossy() == name);
        let pair = [identity(&decision.baseline), identity(&decision.candidate)];
        is_named_so && pair != [Some(&baseline.identity), Some(&candidate.identity)]
    };
    match known.iter().any(is_another) {
        true => format!("{}-{}.json", digits(candidate, 64), digits(baseline, 64)),
        false => name,
    }
}

fn decisions(dir: &Path) -> Result<Vec<(PathBuf, Decision)>> {
    let reading = || format!("failed to read the history `{}`", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(reading),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.with_context(reading)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut decisions = Vec::with_capacity(paths.len());
    for path in paths {
        let text = record::read_text(&path)?;
        // Counting one too few would make the test too lenient: what cannot be read is an error.
        let decision: Decision = serde_json::from_str(&text).with_context(|| {
            format!("`{}` is no decision of emt; hint: keep other files out of the folder of --history", path.display())
        })?;
        if decision.schema != DECISION_SCHEMA {
            bail!("`{}` has the schema `{}`, and this emt knows `{DECISION_SCHEMA}`", path.display(), decision.schema);
        }
        decisions.push((path, decision));
    }
    Ok(decisions)
}
