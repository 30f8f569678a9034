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
    dir: Option<PathBuf>,
}

impl History {
    /// Counts the other candidates that were decided on against the baseline of `[baseline, candidate]`.
    pub fn open(rules: &RuleOptions, [baseline, candidate]: &[RunName; 2]) -> Result<Self> {
        let Some(dir) = &rules.history else { return Ok(Self { attempt: rules.attempt, dir: None }) };
        let others: BTreeSet<String> = decisions(dir)?
            .into_iter()
            .filter(|decision| decision.baseline.as_ref().is_some_and(|run| run.identity == baseline.identity))
            .filter_map(|decision| Some(decision.candidate?.identity))
            .filter(|identity| *identity != candidate.identity)
            .collect();
        Ok(Self { attempt: Some(1 + others.len() as u64), dir: Some(dir.clone()) })
    }

    /// Adds the decision to the folder.
    pub fn add(&self, decision: &Decision) -> Result<()> {
        let (Some(dir), Some(candidate)) = (&self.dir, &decision.candidate) else { return Ok(()) };
        let digits = candidate.identity.rsplit(':').next().unwrap_or_default();
        let name = format!("{}.json", &digits[..8.min(digits.len())]);
        record::write_file(dir, &name, report::decision_json(decision).as_bytes())?;
        Ok(())
    }
}

fn decisions(dir: &Path) -> Result<Vec<Decision>> {
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
        decisions.push(decision);
    }
    Ok(decisions)
}
