//! One optimizer step: micro-batches forward and backward, gradients summed, checked, clipped and applied.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, Var};
use rayon::prelude::*;

use super::example::{Item, TrainingSet};
use super::hyperparameters::Hyperparameters;
use super::objective::{self, Objective, PassLoss};
use super::optimizer::{self, AdamW};
use super::trainable::{Parameter, Trainable};
use crate::model::Placement;
use crate::model::checkpoint::overlay::Overlay;
use crate::model::families::{Model, OpenedModel, RenderedPrompt, Seen};
use crate::model::layers::{StepCounter, add};

/// One example of a batch.
#[derive(Clone, Debug)]
pub struct Example {
    /// The question.
    pub prompt: Arc<RenderedPrompt>,
    /// The tokens of the answer with the terminator, on which the loss is computed.
    pub answer: Vec<u32>,
    /// The tower's output for the images of the question.
    pub features: Vec<Seen>,
    /// Whether it is of an earlier task.
    pub is_replayed: bool,
}

impl Example {
    /// The example `item` of `sets`, whose images have these features.
    pub fn of(item: &Item, sets: &[TrainingSet], features: Vec<Seen>) -> Self {
        let set = &sets[item.set];
        let (prompt, answer) = set.prompt_and_answer(item.index);
        let is_replayed = set.n_replayed.is_some();
        Self { prompt: Arc::clone(prompt), answer: answer.to_owned(), features, is_replayed }
    }
}

/// The result of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// What the step minimised: the mean cross-entropy over the batch's answer tokens, in nats, and what was added to it.
    pub loss: f64,
    /// The divergence from the base in it, with its weight.
    pub divergence: Option<f64>,
    /// The pull to the base's weights in it.
    pub penalty: Option<f64>,
    /// The norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// The number of tokens over which the loss is averaged.
    pub n_answer_tokens: usize,
}

/// Why a training cannot continue.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Stopped {
    /// The loss or a gradient overflowed.
    #[error(
        "the {what} is not finite at step {step}: the training diverged and stops; the last checkpoint is unchanged; \
         hint: a lower --learning-rate, or a longer --warmup-ratio"
    )]
    NotFinite {
        /// `loss`, or the gradient of a tensor.
        what: String,
        /// The step, from 1.
        step: usize,
    },
    /// A tensor that should train gets no gradient.
    #[error(
        "`{name}` gets no gradient at step {step}{}; it would stay as it is, and the training stops",
        if *n_others > 0 { format!(", and so do {n_others} more") } else { String::new() }
    )]
    NoGradient {
        /// The first such tensor.
        name: String,
        /// The number of other such tensors.
        n_others: usize,
        /// The step, from 1.
        step: usize,
    },
}

/// A model with the counter that its dropouts read.
pub(super) struct Worker {
    pub(super) model: Model,
    /// The base, if the training is held to its answers.
    base: Option<Model>,
    dropout_step: StepCounter,
}

impl Worker {
    /// Loads as many models under `overlay` as compute at once, each with the base beside it if `keeps_base`.
    pub(super) fn load_all(
        opened: OpenedModel,
        overlay: &dyn Fn(&StepCounter) -> Result<Overlay>,
        keeps_base: bool,
        placement: &Placement,
    ) -> Result<Vec<Self>> {
        ensure!(placement.dtype == DType::F32, "training computes in f32; hint: leave --dtype out");
        let is_small = opened.weights.n_parameters() < N_PARAMETERS_OF_ONE_WORKER;
        let n_workers = if placement.device.is_cpu() && is_small { rayon::current_num_threads() } else { 1 };
        let counters: Vec<StepCounter> = (0..n_workers).map(|_| StepCounter::default()).collect();
        let mut overlays = counters.iter().map(overlay).collect::<Result<Vec<_>>>()?;
        overlays.extend((0..n_workers).filter(|_| keeps_base).map(|_| Overlay::default()));
        let mut models = opened.load_all(overlays, placement)?;
        let mut bases = models.split_off(n_workers).into_iter();
        let workers = models.into_iter().zip(counters);
        Ok(workers.map(|(model, dropout_step)| Self { model, base: bases.next(), dropout_step }).collect())
    }
}

/// Model, variables and optimizer.
pub struct Trainer {
    workers: Vec<Worker>,
    trainable: Trainable,
    optimizer: AdamW,
    micro_batch_size: usize,
    max_grad_norm: Option<f64>,
    objective: Objective,
    device: Device,
    sofar: Sofar,
}

/// Larger models keep all cores busy alone, and two copies of their activations would not fit.
const N_PARAMETERS_OF_ONE_WORKER: usize = 200_000_000;

/// A micro-batch's dropout depends on its number within the step; no step has this many.
const N_MICRO_BATCHES_MAX: u64 = 1 << 20;

impl Trainer {
    /// Loads `opened` with the variables of `trainable`. One pass takes `micro_batch_size` examples; a step sums over
    /// as many passes as its batch needs.
    pub fn new(
        opened: OpenedModel,
        trainable: Trainable,
        hyperparameters: &Hyperparameters,
        objective: Objective,
        micro_batch_size: usize,
        placement: &Placement,
    ) -> Result<Self> {
        let overlay = |counter: &StepCounter| trainable.overlay(counter);
        let workers = Worker::load_all(opened, &overlay, objective.keep_base.is_some(), placement)?;
        let variables = trainable.parameters().iter().map(|parameter| &parameter.variable);
        let optimizer = AdamW::new(variables, hyperparameters.weight_decay)?;
        Ok(Self {
            workers,
            trainable,
            optimizer,
            micro_batch_size: micro_batch_size.max(1),
            max_grad_norm: hyperparameters.max_grad_norm,
            objective,
            device: placement.device.clone(),
            sofar: Sofar { n_steps: 0, n_moved: 0 },
        })
    }

    /// Returns the model with the variables' current values.
    pub fn model(&self) -> &Model {
        &self.workers[0].model
    }

    /// Returns the trained tensors.
    pub fn trainable(&self) -> &Trainable {
        &self.trainable
    }

    /// Returns the optimizer's state.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// Continues from a saved optimizer state; the variables must already have their values.
    pub fn restore(&mut self, moments: Vec<(Tensor, Tensor)>, n_steps: usize) -> Result<()> {
        self.optimizer.restore(moments, n_steps)
    }

    /// Makes one optimizer step at the given rate. On failure nothing has changed.
    ///
    /// # Errors
    /// [`Stopped`], or a device failure.
    pub fn step(&mut self, batch: &[Example], learning_rate: f64) -> Result<StepReport> {
        let step = self.optimizer.n_steps() + 1;
        let n_answer_tokens: usize = batch.iter().map(|example| example.answer.len()).sum();
        let Gradients { loss, divergence, penalty, by_parameter } = self.gradients(batch)?;
        if !loss.is_finite() {
            bail!(Stopped::NotFinite { what: "loss".to_owned(), step });
        }
        let grad_norm = checked_norm(self.trainable.parameters(), &by_parameter, step, self.sofar)?;
        let scale = self.max_grad_norm.map_or(1.0, |max_norm| optimizer::clipping(grad_norm, max_norm));
        let variables: Vec<&Var> = self.trainable.parameters().iter().map(|p| &p.variable).collect();
        self.optimizer.step(&variables, &by_parameter, scale, learning_rate)?;
        self.sofar.n_steps += 1;
        self.sofar.n_moved += usize::from(learning_rate > 0.0);
        Ok(StepReport { loss, divergence, penalty, grad_norm, n_answer_tokens })
    }

    /// Returns the loss of a batch and its gradients.
    pub(super) fn gradients(&mut self, batch: &[Example]) -> Result<Gradients> {
        ensure!(batch.iter().any(|example| !example.answer.is_empty()), "a batch without an answer has no loss");
        let step = self.optimizer.n_steps() as u64;
        let Self { workers, trainable, micro_batch_size, objective, device, .. } = self;
        let weights = objective.weights(batch);
        let passes: Vec<_> = batch.chunks(*micro_batch_size).zip(weights.chunks(*micro_batch_size)).collect();
        let variables: Vec<&Var> = trainable.parameters().iter().map(|p| &p.variable).collect();
        let (variables, device): (&[&Var], &Device) = (&variables, device);
        let pass = |worker: &mut Worker, index: usize| {
            let (examples, weights) = passes[index];
            worker.dropout_step.store(step * N_MICRO_BATCHES_MAX + index as u64, Ordering::Relaxed);
            let loss = objective::of_pass(&worker.model, worker.base.as_ref(), examples, weights, device)?;
            MicroResult::of(loss, variables)
        };
        let sum = summed(workers, passes.len(), pass)?;
        let mut by_parameter = complete(sum.gradients, variables)?;
        let mut penalty = None;
        for anchor in &objective.anchors {
            *penalty.get_or_insert(0.0) += anchor.add_to(trainable.parameters(), &mut by_parameter)?;
        }
        let loss = sum.loss + penalty.unwrap_or(0.0);
        Ok(Gradients { loss, divergence: sum.divergence, penalty, by_parameter })
    }
}

/// The gradients of a batch.
pub(super) struct Gradients {
    /// What is minimised.
    pub loss: f64,
    /// The divergence from the base in it.
    pub divergence: Option<f64>,
    /// The pull to the base's weights in it.
    pub penalty: Option<f64>,
    /// One per parameter.
    pub by_parameter: Vec<Tensor>,
}

/// Computes `n_passes` passes on all workers, and sums their results in the order of the passes.
pub(super) fn summed(
    workers: &mut [Worker],
    n_passes: usize,
    pass: impl Fn(&mut Worker, usize) -> Result<MicroResult> + Sync,
) -> Result<MicroResult> {
    let next = AtomicUsize::new(0);
    let sum = Mutex::new(SumInOrder::default());
    let work = |worker: &mut Worker| -> Result<()> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= n_passes {
                return Ok(());
            }
            let result = pass(worker, index)?;
            sum.lock().unwrap_or_else(PoisonError::into_inner).add(index, result)?;
        }
    };
    // Runs on the pool that matrix products also use; separate threads would compete with it.
    workers.par_iter_mut().try_for_each(work)?;
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    sum.sum.context("a batch has an example")
}

/// The progress of the training since it was last started.
#[derive(Clone, Copy, Debug)]
struct Sofar {
    /// Steps made.
    n_steps: usize,
    /// Steps whose rate was not 0.
    n_moved: usize,
}

/// Returns the norm over all gradients. Every tensor must get a gradient: an operation without a backward pass drops it
/// silently, and an untrained tensor looks like one that forgot nothing.
fn checked_norm(parameters: &[Parameter], gradients: &[Tensor], step: usize, sofar: Sofar) -> Result<f64> {
    let mut sum = 0.0;
    let mut without = Vec::new();
    for (parameter, gradient) in parameters.iter().zip(gradients) {
        let Some(norm) = optimizer::norm(gradient)? else {
            bail!(Stopped::NotFinite { what: format!("gradient of `{}`", parameter.name), step });
        };
        sum += norm * norm;
        // The gradient of A is rightly 0 until B has moved away from 0.
        let must_move = (sofar.n_steps == 0 && !parameter.is_first_factor()) || sofar.n_moved == 1;
        if norm == 0.0 && must_move {
            without.push(parameter.name.clone());
        }
    }
    if let Some(name) = without.first() {
        bail!(Stopped::NoGradient { name: name.clone(), n_others: without.len() - 1, step });
    }
    Ok(sum.sqrt())
}

/// The result of one pass. A gradient is absent if nothing reached the variable.
pub(super) struct MicroResult {
    pub loss: f64,
    pub divergence: Option<f64>,
    pub gradients: Vec<Option<Tensor>>,
}

impl MicroResult {
    /// Computes the gradients of `loss`.
    pub(super) fn of(loss: PassLoss, variables: &[&Var]) -> Result<Self> {
        let mut store = loss.total.backward()?;
        let gradients = variables.iter().map(|variable| store.remove(variable.as_tensor())).collect();
        let number = |tensor: &Tensor| Ok::<f64, candle_core::Error>(f64::from(tensor.to_scalar::<f32>()?));
        let divergence = loss.divergence.as_ref().map(number).transpose()?;
        Ok(Self { loss: number(&loss.total)?, divergence, gradients })
    }
}

/// Sums passes in the order of the batch, so that the sum does not depend on thread timing.
#[derive(Default)]
struct SumInOrder {
    sum: Option<MicroResult>,
    n_added: usize,
    /// Passes that came before their turn.
    waiting: BTreeMap<usize, MicroResult>,
}

impl SumInOrder {
    /// Adds the pass `index` after all earlier ones have been added.
    fn add(&mut self, index: usize, result: MicroResult) -> Result<()> {
        self.waiting.insert(index, result);
        while let Some(result) = self.waiting.remove(&self.n_added) {
            self.n_added += 1;
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum.plus(result)?,
                None => result,
            });
        }
        Ok(())
    }
}

impl MicroResult {
    fn plus(self, other: Self) -> Result<Self> {
        let gradients = self.gradients.into_iter().zip(other.gradients).map(|pair| match pair {
            (Some(sum), Some(gradient)) => add(sum, &gradient).map(Some),
            (sum, gradient) => Ok(sum.or(gradient)),
        });
        Ok(Self {
            loss: self.loss + other.loss,
            divergence: self.divergence.zip(other.divergence).map(|(one, other)| one + other),
            gradients: gradients.collect::<candle_core::Result<_>>()?,
        })
    }
}

/// Returns the gradients of all variables; one that nothing reached is 0.
pub(super) fn complete(gradients: Vec<Option<Tensor>>, variables: &[&Var]) -> Result<Vec<Tensor>> {
    let whole = variables.iter().zip(gradients).map(|(variable, gradient)| match gradient {
        Some(gradient) => Ok(gradient),
        None => variable.zeros_like(),
    });
    Ok(whole.collect::<candle_core::Result<_>>()?)
}

#[cfg(test)]
mod tests;
