//! Batched greedy generation.

use anyhow::Result;
use candle_core::Tensor;

use super::language::{LanguageModel, TokenInput};
use super::layers::left_padded_mask;
use super::prefix::{Prefix, last_logits};
use crate::domain::Stop;

/// When an answer ends.
#[derive(Clone, Debug)]
pub struct Decoding {
    /// At most as many tokens.
    pub max_new_tokens: usize,
    /// Any of these ends it.
    pub eos_ids: Vec<u32>,
    /// So does one of these in the text; it is cut off.
    pub stop_strings: Vec<String>,
}

/// One generated row.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The tokens, without the terminator.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub stop: Stop,
    /// The least top-1 minus top-2 logit over the steps.
    pub logit_gap: f32,
    /// Tokens of the prompt, image positions included.
    pub n_prompt_tokens: usize,
}

/// A row whose logits are not numbers: an overflow, or broken weights.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "the model's logits at step {step} are not finite; hint: weights out of range for this --dtype, try --dtype f32"
)]
pub struct NotFinite {
    /// The step, from 0.
    pub step: usize,
}

/// Greedily continues each prompt of `prefix`, which has room for `max_new_tokens`. A finished row leaves the batch.
/// `text_of` decodes tokens where stop strings must be looked for.
pub fn greedy(
    model: &dyn LanguageModel,
    prefix: Prefix,
    decoding: &Decoding,
    text_of: &dyn Fn(&[u32]) -> Result<String>,
) -> Result<Vec<Result<Generation, NotFinite>>> {
    let Prefix { lengths, next_positions, n_tokens, mut caches, last: mut hidden } = prefix;
    let mut rows: Vec<Row> = lengths
        .iter()
        .zip(next_positions)
        .enumerate()
        .map(|(index, (&n, next_position))| Row::new(index, n, n_tokens - n, next_position))
        .collect();
    let mut finished: Vec<Option<Result<Generation, NotFinite>>> = vec![None; rows.len()];
    for step in 0..decoding.max_new_tokens {
        let logits = last_logits(model, &hidden)?;
        let mut kept = Vec::with_capacity(rows.len());
        let mut remaining = Vec::with_capacity(rows.len());
        for (position, (mut row, logits)) in rows.into_iter().zip(&logits).enumerate() {
            match row.advance(logits, step, decoding, text_of)? {
                Some(end) => finished[row.index] = Some(end),
                None => {
                    kept.push(position as u32);
                    remaining.push(row);
                }
            }
        }
        rows = remaining;
        if rows.is_empty() {
            break;
        }
        if kept.len() < logits.len() {
            let kept = Tensor::new(kept.as_slice(), hidden.device())?;
            for cache in &mut caches {
                cache.keep_rows(&kept)?;
            }
        }
        hidden = decode_step(model, &rows, n_tokens + step, &mut caches)?;
    }
    Ok(finished.into_iter().flatten().collect())
}

/// A row that is still being written.
struct Row {
    index: usize,
    n_prompt_tokens: usize,
    n_padding: usize,
    next_position: usize,
    ids: Vec<u32>,
    logit_gap: f32,
}

impl Row {
    fn new(index: usize, n_prompt_tokens: usize, n_padding: usize, next_position: usize) -> Self {
        Self { index, n_prompt_tokens, n_padding, next_position, ids: Vec::new(), logit_gap: f32::INFINITY }
    }

    /// Takes the next token; `Some` where the row has ended.
    fn advance(
        &mut self,
        logits: &[f32],
        step: usize,
        decoding: &Decoding,
        text_of: &dyn Fn(&[u32]) -> Result<String>,
    ) -> Result<Option<Result<Generation, NotFinite>>> {
        let Some((token, gap)) = top_two(logits) else {
            return Ok(Some(Err(NotFinite { step })));
        };
        self.logit_gap = self.logit_gap.min(gap);
        if decoding.eos_ids.contains(&token) {
            return Ok(Some(Ok(self.end(Stop::Eos))));
        }
        self.ids.push(token);
        if !decoding.stop_strings.is_empty() {
            let text = text_of(&self.ids)?;
            if decoding.stop_strings.iter().any(|stop| text.contains(stop.as_str())) {
                return Ok(Some(Ok(self.end(Stop::StopString))));
            }
        }
        let is_last = step + 1 == decoding.max_new_tokens;
        Ok(is_last.then(|| Ok(self.end(Stop::Length))))
    }

    fn end(&mut self, stop: Stop) -> Generation {
        Generation {
            ids: std::mem::take(&mut self.ids),
            stop,
            logit_gap: self.logit_gap,
            n_prompt_tokens: self.n_prompt_tokens,
        }
    }
}

/// The first highest logit's index and its distance to the second; `None` where a logit is not finite.
fn top_two(logits: &[f32]) -> Option<(u32, f32)> {
    let mut best = (0, f32::NEG_INFINITY);
    let mut second = f32::NEG_INFINITY;
    for (index, &logit) in logits.iter().enumerate() {
        if !logit.is_finite() {
            return None;
        }
        if logit > best.1 {
            second = best.1;
            best = (index as u32, logit);
        } else if logit > second {
            second = logit;
        }
    }
    best.1.is_finite().then_some((best.0, best.1 - second))
}

fn decode_step(
    model: &dyn LanguageModel,
    rows: &[Row],
    n_positions_before: usize,
    caches: &mut [super::layers::KvCache],
) -> Result<Tensor> {
    let last: Vec<u32> = rows.iter().filter_map(|row| row.ids.last().copied()).collect();
    let embeddings = model.embed(&last)?.unsqueeze(1)?; // (batch, 1, hidden)
    let device = embeddings.device();
    let positions: Vec<u32> = rows.iter().map(|row| (row.next_position + row.ids.len() - 1) as u32).collect();
    let positions = Tensor::from_vec(positions, (rows.len(), 1), device)?;
    let padding = padding_of(rows);
    let mask = if padding.iter().all(|&n| n == 0) {
        None
    } else {
        Some(left_padded_mask(&padding, 1, n_positions_before + 1, embeddings.dtype(), device)?)
    };
    Ok(model.forward(&TokenInput::new(embeddings, positions), mask.as_ref(), Some(caches))?)
}

fn padding_of(rows: &[Row]) -> Vec<usize> {
    rows.iter().map(|row| row.n_padding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_logits_wins_with_gap_zero() {
        assert_eq!(top_two(&[1.0, 3.0, 3.0]), Some((1, 0.0)));
    }

    #[test]
    fn a_logit_that_is_not_finite_is_no_answer() {
        assert_eq!(top_two(&[1.0, f32::NAN]), None);
        assert_eq!(top_two(&[1.0, f32::INFINITY]), None);
    }
}
