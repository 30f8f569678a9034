//! Arms of fine-tuning against each other: what each gains and forgets, and which forgets least at equal gain.
//!
//! *Gain* is the rise of accuracy on the new datasets, which arms are tuned on, *forgetting* the fall on all others, each
//! dataset with the same weight. Both are of images that the base and every arm answered, so that arms are compared on
//! the same images.

mod numbers;
mod ranking;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::numbers::{Measured, Table};
use self::ranking::{Ranked, on_frontier, rank};
use super::images::is_correct;
use super::summary::Interval;
use crate::domain::{Mode, Subject, Trial};

/// The schema of `sweep.json`.
pub const SWEEP_SCHEMA: &str = "emt.sweep/1";

/// How a sweep is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SweepOptions {
    /// The confidence of all intervals together.
    pub confidence: f64,
    /// Gains that differ by no more than this are equal.
    pub gain_tolerance: f64,
    /// The number of resamples.
    pub n_resamples: usize,
    /// The seed of the resamples.
    pub seed: u64,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self { confidence: 0.95, gain_tolerance: 0.02, n_resamples: 4000, seed: 0 }
    }
}

/// What is known of an arm before it is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmDetails {
    /// The method of its training.
    pub method: String,
    /// The datasets that it is to learn.
    pub new: Vec<String>,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// The number of values that train.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_trainable: Option<usize>,
}

/// The evaluation of one arm with one seed after one epoch, beside that of its base.
#[derive(Clone, Debug, PartialEq)]
pub struct SweptRun {
    /// The arm's name.
    pub arm: String,
    /// The seed of the training.
    pub seed: u64,
    /// The epoch, from 1.
    pub epoch: usize,
    /// What is known of the arm.
    pub details: ArmDetails,
    /// The datasets, in the order of evaluation.
    pub datasets: Vec<SweptDataset>,
}

/// The images of one dataset: for each sample, whether the base and the tuned model are right; `None` is unscored.
#[derive(Clone, Debug, PartialEq)]
pub struct SweptDataset {
    /// Its name.
    pub dataset: String,
    /// By sample.
    pub images: BTreeMap<String, [Option<bool>; 2]>,
}

impl SweptDataset {
    /// The images of `dataset` that both the base and the tuned model were asked about.
    pub fn of(dataset: &str, base: &[Trial], tuned: &[Trial]) -> Self {
        let is_answer = |trial: &&Trial| {
            trial.dataset == dataset && trial.subject == Subject::Model && trial.mode == Mode::Generate
        };
        let before: BTreeMap<&str, Option<bool>> =
            base.iter().filter(is_answer).map(|trial| (trial.sample.as_str(), is_correct(trial))).collect();
        let images = tuned.iter().filter(is_answer).filter_map(|trial| {
            let before = before.get(trial.sample.as_str())?;
            Some((trial.sample.clone(), [*before, is_correct(trial)]))
        });
        Self { dataset: dataset.to_owned(), images: images.collect() }
    }
}

/// `sweep.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// `emt.sweep/1`.
    pub schema: String,
    /// The base.
    pub model: String,
    /// The confidence of the intervals, which hold together.
    pub confidence: f64,
    /// Gains that differ by no more than this are equal.
    pub gain_tolerance: f64,
    /// The number of resamples.
    pub n_resamples: usize,
    /// What arms learn and are evaluated on; arms are ranked within a task.
    pub tasks: Vec<SweepTask>,
    /// By arm, epoch and seed.
    pub arms: Vec<SweepRow>,
    /// The trainings that ended with an error.
    pub failed: Vec<FailedArm>,
}

/// Arms that learn the same and are evaluated on the same images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepTask {
    /// The datasets that its arms are to learn.
    pub new: Vec<String>,
    /// What they are evaluated on.
    pub datasets: Vec<TaskDataset>,
    /// The names of its arms.
    pub arms: Vec<String>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// A dataset of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskDataset {
    /// Its name.
    pub dataset: String,
    /// Whether the arms are to learn it.
    pub is_new: bool,
    /// Images that the base and every arm were asked about.
    pub n_images: usize,
}

/// One arm after one epoch, with one seed or as the mean over seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepRow {
    /// The arm's name.
    pub arm: String,
    /// The epoch, from 1.
    pub epoch: usize,
    /// The seed; `None` is the mean over all seeds.
    pub seed: Option<u64>,
    /// The rise of accuracy on the new datasets; `None` if none of them is evaluated.
    pub gain: Option<f64>,
    /// Holds together with the other intervals of the task.
    pub gain_interval: Option<Interval>,
    /// The fall of accuracy on all other datasets; `None` if there is none.
    pub forgetting: Option<f64>,
    /// Holds together with the other intervals of the task.
    pub forgetting_interval: Option<Interval>,
    /// 1 + the number of arms with equal gain that forget less, beyond doubt. Only of the last epoch, over all seeds, and only of arms
    /// with equal gain.
    pub rank: Option<usize>,
    /// Whether no arm of the task gains more by more than the tolerance, beyond doubt; `None` where there is no rank for another reason.
    pub has_equal_gain: Option<bool>,
    /// Whether no other arm or epoch of the task gains more without forgetting more.
    pub is_on_frontier: bool,
    /// The place of its task in `tasks`, from 0.
    pub task: usize,
    /// The number of seeds.
    pub n_seeds: usize,
    /// What is known of the arm.
    #[serde(flatten)]
    pub details: ArmDetails,
    /// Each dataset alone.
    pub datasets: Vec<RowDataset>,
}

impl SweepRow {
    /// Whether it gains something, beyond doubt.
    pub fn shows_gain(&self) -> bool {
        self.gain_interval.is_some_and(|[low, _]| low > 0.0)
    }
}

impl Sweep {
    /// The rows over all seeds of their arms: the means, or those of the only seed.
    pub fn overall(&self) -> impl Iterator<Item = &SweepRow> {
        self.arms.iter().filter(|row| {
            row.seed.is_none() || self.arms.iter().all(|other| other.task != row.task || other.seed.is_some())
        })
    }

    /// Whether `row` is of the last epoch of its arm.
    pub fn is_last(&self, row: &SweepRow) -> bool {
        self.arms.iter().all(|other| other.arm != row.arm || other.task != row.task || other.epoch <= row.epoch)
    }
}

/// One dataset of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowDataset {
    /// Its name.
    pub dataset: String,
    /// Whether the arm is to learn it.
    pub is_new: bool,
    /// Images scored both before and after; of several seeds, the least.
    pub n_images: usize,
    /// The base's accuracy on them.
    pub baseline_accuracy: Option<f64>,
    /// The tuned model's accuracy on them.
    pub accuracy: Option<f64>,
}

/// A training that ended with an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedArm {
    /// The arm's name.
    pub arm: String,
    /// The seed of the training.
    pub seed: u64,
    /// The error.
    pub message: String,
}

/// Returns all numbers of a sweep. `runs` are in the order in which rows are wanted.
pub fn sweep(model: &str, runs: &[SweptRun], failed: Vec<FailedArm>, options: SweepOptions) -> Sweep {
    let mut tasks = Vec::new();
    let mut rows = Vec::new();
    for group in tasks_of(runs) {
        let table = Table::of(&group);
        let task = tasks.len();
        rows.extend(rows_of(task, &table, options));
        tasks.push(task_of(&table, &rows, task));
    }
    Sweep {
        schema: SWEEP_SCHEMA.to_owned(),
        model: model.to_owned(),
        confidence: options.confidence,
        gain_tolerance: options.gain_tolerance,
        n_resamples: options.n_resamples,
        tasks,
        arms: rows,
        failed,
    }
}

/// The runs of each task, in the order in which tasks appear.
fn tasks_of(runs: &[SweptRun]) -> Vec<Vec<&SweptRun>> {
    let key = |run: &SweptRun| {
        let mut new = run.details.new.clone();
        new.sort();
        let mut datasets: Vec<&str> = run.datasets.iter().map(|dataset| dataset.dataset.as_str()).collect();
        datasets.sort_unstable();
        (new, datasets.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let mut tasks: Vec<(_, Vec<&SweptRun>)> = Vec::new();
    for run in runs {
        let key = key(run);
        match tasks.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(run),
            None => tasks.push((key, vec![run])),
        }
    }
    tasks.into_iter().map(|(_, group)| group).collect()
}

/// The rows of one task: each seed alone, then the means over seeds where there are several.
fn rows_of(task: usize, table: &Table<'_>, options: SweepOptions) -> Vec<SweepRow> {
    let resampled = table.resample(options);
    let has_several = table.has_several_seeds();
    let alone: Vec<Measured> = resampled.runs(options);
    let means: Vec<Measured> = if has_several { resampled.means(options) } else { alone.clone() };
    let ranked = rank(&resampled.last_epochs(&means), options);
    let frontier = on_frontier(&means);
    let row = |measured: &Measured, is_mean: bool| {
        let first = table.runs[measured.runs[0]];
        let found = ranked.iter().find(|ranked| is_mean && ranked.is_of(measured));
        SweepRow {
            arm: first.arm.clone(),
            epoch: first.epoch,
            seed: (!is_mean || !has_several).then_some(first.seed),
            gain: measured.gain,
            gain_interval: measured.gain_interval,
            forgetting: measured.forgetting,
            forgetting_interval: measured.forgetting_interval,
            rank: found.and_then(|Ranked { rank, .. }| *rank),
            has_equal_gain: found.map(|ranked| ranked.has_equal_gain),
            is_on_frontier: is_mean && frontier.iter().any(|point| point.runs == measured.runs),
            task,
            n_seeds: measured.runs.len(),
            details: first.details.clone(),
            datasets: table.datasets_of(&measured.runs),
        }
    };
    let mut rows = Vec::new();
    if has_several {
        rows.extend(alone.iter().map(|measured| row(measured, false)));
    }
    rows.extend(means.iter().map(|measured| row(measured, true)));
    rows.sort_by_key(|row| {
        let place = table.runs.iter().position(|run| run.arm == row.arm);
        (place, row.epoch, row.seed.is_none())
    });
    rows
}

fn task_of(table: &Table<'_>, rows: &[SweepRow], task: usize) -> SweepTask {
    let mut arms: Vec<String> = Vec::new();
    for run in &table.runs {
        if !arms.contains(&run.arm) {
            arms.push(run.arm.clone());
        }
    }
    let mut notes = Vec::new();
    if table.has_several_seeds() {
        let least = rows.iter().filter(|row| row.task == task && row.seed.is_none()).map(|row| row.n_seeds).min();
        if least.is_some_and(|n| n < 2) {
            notes.push("An arm has one seed alone; its intervals are over images.".to_owned());
        }
    } else {
        notes.push("One seed: the intervals are over images, and another seed may rank the arms otherwise.".to_owned());
    }
    let is_without_gain = |row: &&SweepRow| row.task == task && row.has_equal_gain.is_some() && !row.shows_gain();
    let without_gain: Vec<&str> = rows.iter().filter(is_without_gain).map(|row| row.arm.as_str()).collect();
    if !without_gain.is_empty() {
        notes.push(format!(
            "No gain beyond doubt: {}. What learns nothing may forget nothing.",
            without_gain.join(", ")
        ));
    }
    for dataset in table.datasets.iter().filter(|dataset| dataset.n_images == 0) {
        notes.push(format!("No image of {} was answered by every arm.", dataset.name));
    }
    let new = table.runs.first().map(|run| run.details.new.clone()).unwrap_or_default();
    let datasets = table.datasets.iter().map(|dataset| TaskDataset {
        dataset: dataset.name.clone(),
        is_new: dataset.is_new,
        n_images: dataset.n_images,
    });
    SweepTask { new, datasets: datasets.collect(), arms, notes }
}
