//! Forward passes over batches of prompts.

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::watches::StateTap;
use super::{FlowRule, Reading};
use crate::model::families::Model;
use crate::model::language::Pass;
use crate::model::layers::{Watch, Watched};
use crate::model::run::prefix::{Padding, PromptRow, batch, prompt_mask};

/// Hidden states `(batch, positions, hidden)` after the last norm. Rows are padded on the right, where none of their positions
/// attends.
pub(super) fn pass(model: &Model, rows: &[PromptRow], watch: &mut dyn Watch) -> Result<Tensor> {
    let n_positions = rows.iter().map(PromptRow::n_tokens).max().context("a pass needs a prompt")?;
    let input = batch(rows, n_positions, Padding::Right)?;
    let mask = prompt_mask(rows, [n_positions, n_positions], Padding::Right, &input.embeddings);
    let mut watch = Watched::by(watch);
    Ok(model.mllm.decoder().forward(Pass::new(&input).masked(&mask).watched(&mut watch))?)
}

/// Each row, followed by its tokens.
pub(super) fn followed(model: &Model, rows: &[PromptRow], tokens: &[&[u32]]) -> Result<Vec<PromptRow>> {
    let follow = |(row, tokens): (&PromptRow, &&[u32])| match tokens.is_empty() {
        true => Ok(row.clone()),
        false => Ok(row.clone().followed_by(&model.mllm.decoder().embed(tokens)?)?),
    };
    rows.iter().zip(tokens).map(follow).collect()
}

/// The row `(hidden)` of each image in `states` `(batch, positions, hidden)`: `(batch, hidden)`.
pub(super) fn rows_at(states: &Tensor, places: &[usize]) -> candle_core::Result<Tensor> {
    let rows = places.iter().enumerate().map(|(image, &place)| states.get(image)?.get(place));
    Tensor::stack(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)
}

/// The last position of each row.
pub(super) fn last_places(rows: &[PromptRow]) -> Vec<usize> {
    rows.iter().map(|row| row.n_tokens() - 1).collect()
}

/// The logits at the last position of each row, in f32.
pub(super) fn last_logits(model: &Model, rows: &[PromptRow], watch: &mut dyn Watch) -> Result<Vec<Vec<f32>>> {
    let hidden = pass(model, rows, watch)?;
    super::numbers::rows(&model.mllm.decoder().logits(&rows_at(&hidden, &last_places(rows))?)?)
}

/// What the pass of `model` over `prompts`, each followed by its answer, shows.
pub(super) fn forced_reading(
    model: &Model,
    prompts: &[PromptRow],
    answers: &[Vec<u32>],
    shared: &[u32],
    flow: Option<FlowRule>,
) -> Result<Reading> {
    // The last token is predicted and is no input.
    let inputs: Vec<&[u32]> = answers.iter().map(|answer| &answer[..answer.len().saturating_sub(1)]).collect();
    let rows = followed(model, prompts, &inputs)?;
    // The row after the shared tokens must be an input.
    let has_decision: Vec<bool> =
        answers.iter().map(|answer| answer.len() > shared.len() && answer.starts_with(shared)).collect();
    let offsets: Vec<usize> = has_decision.iter().map(|has| if *has { shared.len() } else { 0 }).collect();
    let mut tap = StateTap::new(prompts, flow.map(|rule| (answers, rule))).with_decisions(&offsets);
    let hidden = pass(model, &rows, &mut tap)?; // (batch, positions, hidden)
    let decoder = model.mllm.decoder();
    let logits = |((image, prompt), answer): ((usize, &PromptRow), &Vec<u32>)| {
        Ok(decoder.logits(&hidden.get(image)?.narrow(0, prompt.n_tokens() - 1, answer.len())?.contiguous()?)?)
    };
    let answer_logits = prompts.iter().enumerate().zip(answers).map(logits).collect::<Result<_>>()?;
    let StateTap { last, decision, image, flow, .. } = tap;
    Ok(Reading { last, decision, has_decision, image, answer_logits, flow })
}
