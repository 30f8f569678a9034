//! The logit lens: what each layer would answer (nostalgebraist 2020). The last norm and the head are applied to every state
//! of the residual stream.

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::numbers::{interval, log_probability_and_rank, mean, rows};
use super::passes::{followed, pass};
use super::watches::StateTap;
use super::{BASE, Batch, CANDIDATE, Inside, Tap};
use crate::model::families::Model;
use crate::model::run::prefix::PromptRow;

/// The log-probabilities and ranks of the label's token, by state and image.
#[derive(Default)]
struct Curve {
    log_probabilities: Vec<Vec<f64>>,
    ranks: Vec<Vec<f64>>,
}

impl Curve {
    /// Adds the states `(batch, hidden)` of a few images whose label has the token of `tokens`.
    fn add(&mut self, model: &Model, states: &[Tensor], tokens: &[u32]) -> Result<()> {
        self.log_probabilities.resize_with(states.len(), Vec::new);
        self.ranks.resize_with(states.len(), Vec::new);
        for (state, hidden) in states.iter().enumerate() {
            let logits = rows(&model.mllm.decoder().lens(hidden)?)?;
            for (logits, &token) in logits.iter().zip(tokens) {
                let (log_probability, rank) = log_probability_and_rank(logits, token);
                self.log_probabilities[state].push(log_probability);
                self.ranks[state].push(rank as f64);
            }
        }
        Ok(())
    }
}

/// The probe.
#[derive(Default)]
pub(super) struct Lens {
    first: [Curve; 2],
    decision: [Curve; 2],
    /// By model and image, whether the label's deciding token is the likeliest of all labels'.
    is_chosen: [Vec<bool>; 2],
}

/// Whether each image's label has the likeliest deciding token, after the states `(batch, hidden)` before the last norm.
fn chosen_labels(model: &Model, states: &Tensor, tokens: &[u32], labels: &[usize]) -> Result<Vec<bool>> {
    let logits = rows(&model.mllm.decoder().lens(states)?)?;
    let is_best = |(logits, &label): (&Vec<f32>, &usize)| {
        let of = |token: u32| logits[token as usize];
        tokens.iter().all(|&token| of(token) <= of(tokens[label]))
    };
    Ok(logits.iter().zip(labels).map(is_best).collect())
}

impl Tap for Lens {
    fn reads_forced(&self) -> bool {
        true
    }

    fn visit(&mut self, batch: &Batch<'_>) -> Result<()> {
        let readings = batch.readings.as_ref().context("the lens needs the forced passes")?;
        for at in [BASE, CANDIDATE] {
            let (model, question, prompts) = batch.of(at);
            let tokens = |of: &[u32]| batch.images.iter().map(|image| of[image.label]).collect::<Vec<u32>>();
            self.first[at].add(model, &readings[at].last, &tokens(&question.first))?;
            let (direct, others): (Vec<usize>, Vec<usize>) =
                (0..batch.images.len()).partition(|&image| readings[at].has_decision[image]);
            let decisions = tokens(&question.decision);
            let of = |images: &[usize]| images.iter().map(|&image| decisions[image]).collect::<Vec<u32>>();
            let labels = |images: &[usize]| images.iter().map(|&at| batch.images[at].label).collect::<Vec<usize>>();
            let mut is_chosen = vec![false; batch.images.len()];
            let mut decide = |states: &[Tensor], images: &[usize]| -> Result<()> {
                let last = states.last().context("a pass has states")?;
                let found = chosen_labels(model, last, &question.decision, &labels(images))?;
                images.iter().zip(found).for_each(|(&image, found)| is_chosen[image] = found);
                Ok(())
            };
            if !direct.is_empty() {
                let states = chosen(&readings[at].decision, &direct)?;
                self.decision[at].add(model, &states, &of(&direct))?;
                decide(&states, &direct)?;
            }
            if !others.is_empty() {
                let prompts: Vec<PromptRow> = others.iter().map(|&image| prompts[image].clone()).collect();
                let rows = followed(model, &prompts, &vec![question.shared.as_slice(); prompts.len()])?;
                let mut tap = StateTap::new(&rows, None);
                pass(model, &rows, &mut tap)?;
                self.decision[at].add(model, &tap.last, &of(&others))?;
                decide(&tap.last, &others)?;
            }
            self.is_chosen[at].extend(is_chosen);
        }
        Ok(())
    }

    fn conclude(self: Box<Self>, inside: &mut Inside) {
        let [base, candidate] = &self.first;
        for state in 0..base.log_probabilities.len() {
            let layer = inside.layer(state);
            layer.lens_baseline = mean(&base.log_probabilities[state]);
            layer.lens_candidate = mean(&candidate.log_probabilities[state]);
            layer.lens_baseline_interval = interval(&base.log_probabilities[state]);
            layer.lens_candidate_interval = interval(&candidate.log_probabilities[state]);
            layer.rank_baseline = mean(&base.ranks[state]);
            layer.rank_candidate = mean(&candidate.ranks[state]);
            layer.decision_baseline = mean(&self.decision[BASE].log_probabilities[state]);
            layer.decision_candidate = mean(&self.decision[CANDIDATE].log_probabilities[state]);
        }
        let [before, after] = &self.is_chosen;
        inside.is_chosen = before.iter().copied().zip(after.iter().copied()).collect();
        inside.parting_layer = parting(&base.log_probabilities, &candidate.log_probabilities);
    }
}

/// The rows of some images in every state `(batch, hidden)`.
fn chosen(states: &[Tensor], images: &[usize]) -> Result<Vec<Tensor>> {
    let places: Vec<u32> = images.iter().map(|&image| image as u32).collect();
    states.iter().map(|state| Ok(state.index_select(&Tensor::new(places.as_slice(), state.device())?, 0)?)).collect()
}

/// The first state from which on the curves differ: the interval of their mean difference excludes 0 there and in every later
/// state.
fn parting(base: &[Vec<f64>], candidate: &[Vec<f64>]) -> Option<usize> {
    let differs = |(base, candidate): (&Vec<f64>, &Vec<f64>)| {
        let differences: Vec<f64> = base.iter().zip(candidate).map(|(base, candidate)| candidate - base).collect();
        interval(&differences).is_some_and(|[low, high]| low > 0.0 || high < 0.0)
    };
    let differing: Vec<bool> = base.iter().zip(candidate).map(differs).collect();
    let n_last = differing.iter().rev().take_while(|&&differs| differs).count();
    (n_last > 0).then(|| differing.len() - n_last)
}

#[cfg(test)]
mod tests;
