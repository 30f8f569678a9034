//! What a step minimises: the cross-entropy of answers, and what holds the training back from forgetting.

use anyhow::{Context, Result};
use candle_core::{D, Device, Tensor};
use candle_nn::ops::log_softmax;

use super::anchor::Anchor;
use super::trainer::Example;
use crate::model::families::{ForcedAnswer, ImagePrompt, Model};
use crate::model::layers::Watched;

/// The temperature at which answers of base and model are compared, as in Li and Hoiem 2016.
const TEMPERATURE: f64 = 2.0;

/// What a step minimises besides the mean cross-entropy of the batch's answers.
#[derive(Default)]
pub struct Objective {
    /// The weight of the divergence of the model's answers from the base's, on the inputs that are learnt.
    pub keep_base: Option<f64>,
    /// The weight of the mean over earlier tasks; `None` takes one mean over all tokens.
    pub replay_weight: Option<f64>,
    /// What pulls weights back to the base's.
    pub anchors: Vec<Anchor>,
}

/// The weights of one example's tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TokenWeights {
    /// In the cross-entropy.
    pub cross_entropy: f64,
    /// In the divergence from the base.
    pub divergence: f64,
}

/// The loss of one pass.
pub(super) struct PassLoss {
    /// What gradients are taken of.
    pub total: Tensor,
    /// The divergence from the base in it, before its weight.
    pub divergence: Option<Tensor>,
}

impl Objective {
    /// Returns the weights of the tokens of each example of a batch.
    pub(super) fn weights(&self, batch: &[Example]) -> Vec<TokenWeights> {
        let n_tokens = |is_replayed: bool| -> usize {
            batch.iter().filter(|one| one.is_replayed == is_replayed).map(|one| one.answer.len()).sum()
        };
        let (n_new, n_old) = (n_tokens(false) as f64, n_tokens(true) as f64);
        let weights = |example: &Example| TokenWeights {
            cross_entropy: match (self.replay_weight, example.is_replayed) {
                (None, _) => 1.0 / (n_new + n_old),
                (Some(_), false) => 1.0 / n_new,
                (Some(weight), true) => weight / n_old,
            },
            divergence: if example.is_replayed { 0.0 } else { self.keep_base.unwrap_or(0.0) / n_new },
        };
        batch.iter().map(weights).collect()
    }
}

/// Returns the loss of `examples`, whose tokens have these weights, with `base` as what is kept.
pub(super) fn of_pass(
    model: &Model,
    base: Option<&Model>,
    examples: &[Example],
    weights: &[TokenWeights],
    device: &Device,
) -> Result<PassLoss> {
    let forced: Vec<ForcedAnswer<'_>> = examples
        .iter()
        .map(|Example { prompt, answer, features, .. }| ForcedAnswer {
            prompt: ImagePrompt { prompt, images: features.as_slice() },
            answer,
        })
        .collect();
    let logits = model.mllm.teacher_forced(&forced, Watched::by_none())?; // (targets, vocabulary)
    let targets: Vec<u32> = examples.iter().flat_map(|example| &example.answer).copied().collect();
    let by_token = |of: &dyn Fn(&TokenWeights) -> f64| {
        let repeated =
            examples.iter().zip(weights).flat_map(|(one, w)| std::iter::repeat_n(of(w) as f32, one.answer.len()));
        Tensor::from_vec(repeated.collect::<Vec<f32>>(), targets.len(), device)
    };
    let n_targets = targets.len();
    let of_targets = Tensor::from_vec(targets.clone(), (n_targets, 1), device)?;
    let chosen = log_softmax(&logits, D::Minus1)?.gather(&of_targets, 1)?.squeeze(1)?;
    let cross_entropy = (chosen * by_token(&|w| -w.cross_entropy)?)?.sum_all()?;
    let Some(base) = base else { return Ok(PassLoss { total: cross_entropy, divergence: None }) };
    let kept = base.mllm.teacher_forced(&forced, Watched::by_none())?.detach();
    let divergence = (divergence(&kept, &logits)? * by_token(&|w| w.divergence)?)?.sum_all()?;
    Ok(PassLoss { total: (cross_entropy + &divergence)?, divergence: Some(divergence) })
}

/// Returns the divergence `T^2 KL(softmax(base / T) || softmax(model / T))` by token, of logits `(tokens, vocabulary)`.
fn divergence(base: &Tensor, model: &Tensor) -> Result<Tensor> {
    let [of_base, of_model] = [base, model].map(|logits| log_softmax(&(logits / TEMPERATURE)?, D::Minus1));
    let (of_base, of_model) = (of_base?, of_model?);
    let sum = (of_base.exp()? * (&of_base - of_model)?)?.sum(D::Minus1).context("logits have a vocabulary")?;
    Ok((sum * (TEMPERATURE * TEMPERATURE))?)
}
