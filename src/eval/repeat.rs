//! Measures a server's own noise: asks about some samples again and counts what changes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::judge::Bench;
use super::respondent::Respondent;
use super::task::{Task, TaskId};
use crate::compare::ServerFlips;
use crate::domain::{Outcome, RunId, Subject, Trial};
use crate::record;

/// The key of the counts in the environment of `run.json`.
pub const SERVER_FLIPS: &str = "server_flips";

/// A trial that is asked again.
pub(super) struct Repeated {
    task: TaskId,
    position: usize,
    trial: Trial,
}

/// Chooses `n` answered trials of the run in `dir`. The choice is deterministic.
pub(super) fn choose(dir: &Path, tasks: &[Task], n: usize) -> Result<Vec<Repeated>> {
    let mut found: Vec<(blake3::Hash, Repeated)> = Vec::new();
    for (place, Task { dataset, work, .. }) in tasks.iter().enumerate() {
        let positions: BTreeMap<&str, usize> =
            work.selected.iter().map(|&position| (dataset.samples[position].id.as_str(), position)).collect();
        for trial in record::read_outcomes(dir, &dataset.name)? {
            let is_answered = trial.subject == Subject::Model && trial.answer().is_some();
            if let (true, Some(&position)) = (is_answered, positions.get(trial.sample.as_str())) {
                let hash = blake3::hash(format!("repeat {}", trial.sample).as_bytes());
                found.push((hash, Repeated { task: TaskId::new(place), position, trial }));
            }
        }
        found.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        found.truncate(n);
    }
    Ok(found.into_iter().map(|(_, repeated)| repeated).collect())
}

/// Asks the model of `run` about `chosen` again, and counts what changed.
pub(super) fn ask(
    respondent: &dyn Respondent,
    bench: &mut Bench,
    run: RunId,
    tasks: &[Task],
    chosen: &[Repeated],
) -> Result<Value> {
    let (mut n_repeated, mut n_answers_changed, mut n_outcomes_changed) = (0, 0, 0);
    for (place, task) in tasks.iter().enumerate() {
        let id = TaskId::new(place);
        let of_task: Vec<&Repeated> = chosen.iter().filter(|repeated| repeated.task == id).collect();
        let positions: Vec<usize> = of_task.iter().map(|repeated| repeated.position).collect();
        for (repeated, answer) in of_task.iter().zip(respondent.ask_again(run, task, &positions)?) {
            let (Some(text), Some(before)) = (answer, repeated.trial.answer()) else { continue };
            n_repeated += 1;
            if text == before.text {
                continue;
            }
            n_answers_changed += 1;
            let is_scored = |outcome: Outcome| !matches!(outcome, Outcome::Unscored(_));
            let after = bench.outcome_of(&repeated.trial, &text)?;
            if is_scored(after) && is_scored(repeated.trial.outcome) && after != repeated.trial.outcome {
                n_outcomes_changed += 1;
            }
        }
    }
    let flips = ServerFlips::new(n_repeated, n_answers_changed, n_outcomes_changed);
    serde_json::to_value(flips).context("counts are plain data")
}
