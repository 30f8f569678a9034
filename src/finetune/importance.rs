//! How much each weight of the base matters for earlier tasks: the diagonal of the empirical Fisher information
//! (Kirkpatrick et al. 2017).

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{Tensor, Var};

use super::anchor::Anchored;
use super::example::{Item, TrainingSet};
use super::features::Features;
use super::objective::{self, TokenWeights};
use super::trainer::{Example, MicroResult, Worker, complete, summed};
use crate::model::Placement;
use crate::model::families::OpenedModel;

/// Returns the importance of each tensor of `anchored`, by name: the mean over the samples of `sets` of the squared gradient
/// of the sample's mean cross-entropy. Each sample counts alone: the square of a batch's mean gradient is smaller.
///
/// # Errors
/// An image cannot be read, or a device fails.
pub fn importance(
    opened: OpenedModel,
    anchored: &Anchored,
    sets: &[TrainingSet],
    features: &mut Features,
    placement: &Placement,
) -> Result<BTreeMap<String, Tensor>> {
    let mut workers = Worker::load_all(opened, &|_| Ok(anchored.overlay()), false, placement)?;
    let items: Vec<Item> =
        (0..sets.len()).flat_map(|set| (0..sets[set].n_samples()).map(move |index| Item { set, index })).collect();
    let examples = examples(&items, sets, features, &workers)?;
    let (names, variables): (Vec<&String>, Vec<&Var>) = anchored.variables().iter().unzip();
    let share = 1.0 / examples.len() as f64;
    let pass = |worker: &mut Worker, index: usize| {
        let example = &examples[index..=index];
        let cross_entropy = 1.0 / example[0].answer.len() as f64;
        let weights = [TokenWeights { cross_entropy, divergence: 0.0 }];
        let loss = objective::of_pass(&worker.model, None, example, &weights, &placement.device)?;
        let MicroResult { loss, divergence, gradients } = MicroResult::of(loss, &variables)?;
        let squared = |gradient: Option<Tensor>| gradient.map(|gradient| gradient.sqr()? * share).transpose();
        let gradients = gradients.into_iter().map(squared).collect::<candle_core::Result<_>>()?;
        Ok(MicroResult { loss, divergence, gradients })
    };
    let sum = summed(&mut workers, examples.len(), pass).context("the importance of weights could not be measured")?;
    let of_all = complete(sum.gradients, &variables)?;
    Ok(names.into_iter().cloned().zip(of_all).collect())
}

fn examples(items: &[Item], sets: &[TrainingSet], features: &mut Features, workers: &[Worker]) -> Result<Vec<Example>> {
    let model = &workers.first().context("a training has a model")?.model;
    let features = features.of(items, sets, model)?;
    Ok(items.iter().zip(features).map(|(item, features)| Example::of(item, sets, features)).collect())
}
