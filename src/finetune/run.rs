//! The loop over epochs and steps, with its checkpoints.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use candle_core::Device;
use serde_json::{Value, json};

use super::example::{Item, TrainingSet, epoch_order, replayed};
use super::features::Features;
use super::hyperparameters::Hyperparameters;
use super::output::{Output, optimizer_file, read_optimizer};
use super::schedule::Schedule;
use super::trainer::{Example, StepReport, Trainer};
use crate::record::{OutputFile, TrainingFolder};

/// An event of a training.
#[derive(Clone, Copy, Debug)]
pub enum TrainingEvent {
    /// A step was made.
    Step {
        /// The number of the step, from 1.
        step: usize,
        /// The number of steps in the training.
        n_steps: usize,
        /// The step's epoch, from 1.
        epoch: usize,
        /// The step's report.
        report: StepReport,
        /// The learning rate of the step.
        learning_rate: f64,
        /// The duration, including image loading.
        duration: Duration,
    },
    /// A checkpoint was written.
    Saved {
        /// The step of the checkpoint.
        step: usize,
    },
}

/// Observes a training.
pub trait Watcher {
    /// Receives `event`; must return quickly.
    fn event(&mut self, event: TrainingEvent);

    /// Evaluates the model after `epoch` epochs, whose checkpoint is given; epoch 0 is the base. On resumption it is
    /// called again for earlier epochs. Returning `false` stops the training.
    fn epoch_ended(&mut self, epoch: usize, step: usize, checkpoint: Option<&Path>) -> Result<bool>;
}

/// The inputs of a training.
pub struct Training<'a> {
    /// The model and its variables.
    pub trainer: Trainer,
    /// The training data.
    pub sets: &'a [TrainingSet],
    /// The hyperparameters.
    pub hyperparameters: Hyperparameters,
    /// The seed of the order of samples.
    pub seed: u64,
    /// Steps between checkpoints, in addition to one after each epoch.
    pub save_every: Option<usize>,
    /// The writer of the output.
    pub output: &'a Output,
    /// The device of the tensors.
    pub device: Device,
    /// The tower's outputs for the images.
    pub features: Features,
    /// Whether a stop was requested.
    pub is_stopped: &'a (dyn Fn() -> bool + Sync),
}

/// How a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainingEnded {
    /// All steps are complete.
    Complete,
    /// Stopped on request; the same command resumes.
    Interrupted,
}

impl Training<'_> {
    /// Returns the optimizer steps per epoch.
    pub fn n_steps_per_epoch(&self) -> usize {
        let learnt = self.sets.iter().filter(|set| set.n_replayed.is_none());
        let n_samples: usize = learnt.map(TrainingSet::n_samples).sum();
        n_samples.div_ceil(self.n_learnt_per_batch())
    }

    /// The samples of a batch that are learnt; the others are of earlier tasks.
    fn n_learnt_per_batch(&self) -> usize {
        let n_replayed: usize = self.sets.iter().filter_map(|set| set.n_replayed).sum();
        self.hyperparameters.batch_size.saturating_sub(n_replayed).max(1)
    }

    /// Trains from the folder's last checkpoint to the end.
    pub fn run(mut self, folder: &mut TrainingFolder, watcher: &mut dyn Watcher) -> Result<TrainingEnded> {
        let n_per_epoch = self.n_steps_per_epoch();
        let n_steps = n_per_epoch * self.hyperparameters.n_epochs;
        let first = self.restore(folder)?;
        for epoch in 0..=first / n_per_epoch {
            let step = epoch * n_per_epoch;
            let dir = folder.checkpoint_dir(step as u64);
            if !watcher.epoch_ended(epoch, step, (epoch > 0).then_some(dir.as_path()))? {
                return Ok(TrainingEnded::Interrupted);
            }
        }
        let schedule = Schedule::new(&self.hyperparameters, n_steps);
        let mut order = (usize::MAX, Vec::new());
        for step in first..n_steps {
            if (self.is_stopped)() {
                self.save(folder, step, n_per_epoch)?;
                return Ok(TrainingEnded::Interrupted);
            }
            let started = Instant::now();
            let epoch = step / n_per_epoch;
            if order.0 != epoch {
                order = (epoch, epoch_order(self.sets, self.seed, epoch));
            }
            let learnt = order.1.chunks(self.n_learnt_per_batch()).nth(step % n_per_epoch);
            let learnt = learnt.context("an epoch has as many batches as steps")?;
            let batch = self.examples(&[learnt, &replayed(self.sets, self.seed, step)].concat())?;
            let learning_rate = schedule.rate(step);
            let (trainer, batch) = (&mut self.trainer, batch.as_slice());
            // Runs on a pool thread, which shares its work without sleeping in between.
            let report = rayon::scope(move |_| trainer.step(batch, learning_rate))?;
            let duration = started.elapsed();
            let (step, epoch) = (step + 1, epoch + 1);
            folder.log(&line(step, epoch, &report, learning_rate, duration))?;
            watcher.event(TrainingEvent::Step { step, n_steps, epoch, report, learning_rate, duration });
            let ends_epoch = step.is_multiple_of(n_per_epoch);
            if ends_epoch || self.save_every.is_some_and(|every| step.is_multiple_of(every)) {
                let files = self.save(folder, step, n_per_epoch)?;
                watcher.event(TrainingEvent::Saved { step });
                if ends_epoch {
                    folder.write_files(&files)?;
                    if !watcher.epoch_ended(epoch, step, Some(&folder.checkpoint_dir(step as u64)))? {
                        return Ok(TrainingEnded::Interrupted);
                    }
                }
            }
        }
        folder.complete()?;
        Ok(TrainingEnded::Complete)
    }

    /// Reads the optimizer's state of the last checkpoint, from which the variables were started, and returns the step
    /// to continue from.
    fn restore(&mut self, folder: &TrainingFolder) -> Result<usize> {
        let Some(step) = folder.last_step() else { return Ok(0) };
        let dir = folder.checkpoint_dir(step);
        let moments = read_optimizer(&dir, self.trainer.trainable(), &self.device)
            .with_context(|| format!("failed to continue from `{}`", dir.display()))?;
        self.trainer.restore(moments, step as usize)?;
        Ok(step as usize)
    }

    /// Writes the checkpoint of `step`, and returns the adapter's files.
    fn save(&self, folder: &TrainingFolder, step: usize, n_per_epoch: usize) -> Result<Vec<OutputFile>> {
        let trainable = self.trainer.trainable();
        let mut files = self.output.files(trainable, step, step / n_per_epoch)?;
        // Before the first step there is no state to save.
        if step > 0 {
            files.push(optimizer_file(trainable, self.trainer.optimizer())?);
            folder.write_checkpoint(step as u64, &files)?;
            files.pop();
        }
        Ok(files)
    }

    fn examples(&mut self, items: &[Item]) -> Result<Vec<Example>> {
        let features = self.features.of(items, self.sets, self.trainer.model())?;
        Ok(items.iter().zip(features).map(|(item, features)| Example::of(item, self.sets, features)).collect())
    }
}

/// Returns a line of `training.jsonl`.
fn line(step: usize, epoch: usize, report: &StepReport, learning_rate: f64, duration: Duration) -> Value {
    let mut line = json!({
        "step": step,
        "epoch": epoch,
        "loss": report.loss,
        "grad_norm": report.grad_norm,
        "learning_rate": learning_rate,
        "n_answer_tokens": report.n_answer_tokens,
        "seconds": duration.as_secs_f64(),
    });
    for (key, part) in [("divergence", report.divergence), ("penalty", report.penalty)] {
        if let Some(part) = part {
            line[key] = part.into();
        }
    }
    line
}
