//! A server's own noise: some samples are asked about again, and what changes is counted.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::desk::ServerAsker;
use super::judge::Bench;
use super::plan::DatasetWork;
use crate::compare::ServerFlips;
use crate::dataset::Dataset;
use crate::domain::{Mode, Outcome, Subject, Trial};
use crate::record;

/// The key of `run.json`'s environment under which the counts stand.
pub const SERVER_FLIPS: &str = "server_flips";

/// A trial that is asked for again.
pub(super) struct Repeated {
    dataset: usize,
    position: usize,
    trial: Trial,
}

/// `n` answered trials of the run in `dir`, always the same ones of the same samples.
pub(super) fn choose(dir: &Path, datasets: &[Dataset], works: &[DatasetWork], n: usize) -> Result<Vec<Repeated>> {
    let mut found: Vec<(blake3::Hash, Repeated)> = Vec::new();
    for (index, (dataset, work)) in datasets.iter().zip(works).enumerate() {
        let positions: HashMap<&str, usize> =
            work.selected.iter().map(|&position| (dataset.samples[position].id.as_str(), position)).collect();
        for trial in record::read_outcomes(dir, &dataset.name)? {
            let is_answered = trial.subject == Subject::Model && trial.mode == Mode::Generate && trial.answer.is_some();
            if let (true, Some(&position)) = (is_answered, positions.get(trial.sample.as_str())) {
                let hash = blake3::hash(format!("repeat {}", trial.sample).as_bytes());
                found.push((hash, Repeated { dataset: index, position, trial }));
            }
        }
        found.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        found.truncate(n);
    }
    Ok(found.into_iter().map(|(_, repeated)| repeated).collect())
}

/// Asks the model of `run` about `chosen` again, and counts what changed.
pub(super) fn ask(
    asker: &ServerAsker,
    bench: &mut Bench,
    run: usize,
    datasets: &[Dataset],
    chosen: &[Repeated],
) -> Result<Value> {
    let (mut n_repeated, mut n_answers_changed, mut n_outcomes_changed) = (0, 0, 0);
    for (index, dataset) in datasets.iter().enumerate() {
        let of_dataset: Vec<&Repeated> = chosen.iter().filter(|repeated| repeated.dataset == index).collect();
        let asked: Vec<(usize, usize)> = of_dataset.iter().map(|repeated| (run, repeated.position)).collect();
        for (repeated, answer) in of_dataset.iter().zip(asker.ask_again(index, dataset, &asked)?) {
            let (Some(text), Some(before)) = (answer, &repeated.trial.answer) else { continue };
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
