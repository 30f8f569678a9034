//! Batched greedy generation.

use anyhow::Result;
use candle_core::{D, Tensor};

use super::logits_processors::{LogitsContext, LogitsProcessors};
use super::prefix::{Prefix, last_logits};
use crate::domain::Stop;
use crate::model::language::{DecoderState, LanguageModel, Pass, TokenInput};
use crate::model::layers::{Watched, left_padded_mask};

/// When an answer ends, and how its tokens are chosen.
#[derive(Clone, Debug)]
pub struct Decoding {
    /// The maximum number of new tokens.
    pub max_new_tokens: usize,
    /// Tokens that end the answer.
    pub eos_ids: Vec<u32>,
    /// Strings that end the answer when its text contains one. The string is cut off.
    pub stop_strings: Vec<String>,
    /// The processors applied to logits before a token is chosen.
    pub processors: LogitsProcessors,
}

/// One generated row.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The generated tokens, without the terminator.
    pub ids: Vec<u32>,
    /// Why the answer ended.
    pub stop: Stop,
    /// The smallest gap between the highest and the second-highest processed logit over all steps. Infinite if every
    /// token was forced.
    pub logit_gap: f32,
    /// The number of prompt tokens, including image positions.
    pub n_prompt_tokens: usize,
}

/// A row whose logits are not finite, because of an overflow or broken weights.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "the model's logits at step {step} are not finite; hint: weights out of range for this --dtype, try --dtype f32"
)]
pub struct LogitsNotFinite {
    /// The step, counted from 0.
    pub step: usize,
}

/// Greedily continues each prompt of `prefix`, which has room for `max_new_tokens`. A finished row leaves the batch.
/// `text_of` decodes tokens and is called only if there are stop strings.
pub fn greedy(
    model: &dyn LanguageModel,
    prefix: Prefix,
    decoding: &Decoding,
    text_of: &dyn Fn(&[u32]) -> Result<String>,
    mut watch: Watched<'_>,
) -> Result<Vec<Result<Generation, LogitsNotFinite>>> {
    let Prefix { lengths, next_positions, prompt_ids, n_tokens, mut state, last: mut hidden } = prefix;
    let mut rows: Vec<Row> = lengths
        .iter()
        .zip(next_positions.into_iter().zip(prompt_ids))
        .enumerate()
        .map(|(index, (&n, (next_position, prompt)))| Row::new(index, n, n_tokens - n, next_position, prompt))
        .collect();
    let mut finished: Vec<Option<Result<Generation, LogitsNotFinite>>> = vec![None; rows.len()];
    let mut choose = Choose::default();
    for step in 0..decoding.max_new_tokens {
        let logits = last_logits(model, &hidden)?;
        let choices = match decoding.processors.is_empty() {
            true => choose.of(&logits)?,
            false => process(&logits, &rows, decoding)?,
        };
        let mut kept = Vec::with_capacity(rows.len());
        let mut remaining = Vec::with_capacity(rows.len());
        for (position, (mut row, choice)) in rows.into_iter().zip(&choices).enumerate() {
            match row.advance(*choice, step, decoding, text_of)? {
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
        if kept.len() < choices.len() {
            watch.keeps(&kept);
            state.keep_rows(&Tensor::new(kept.as_slice(), hidden.device())?)?;
        }
        hidden = decode_step(model, &rows, n_tokens + step, &mut state, &mut watch)?;
    }
    Ok(finished.into_iter().flatten().collect())
}

/// A row that is still being generated.
struct Row {
    index: usize,
    n_prompt_tokens: usize,
    n_padding: usize,
    next_position: usize,
    /// The prompt's tokens, for logits processors.
    prompt: Vec<u32>,
    ids: Vec<u32>,
    logit_gap: f32,
}

impl Row {
    fn new(index: usize, n_prompt_tokens: usize, n_padding: usize, next_position: usize, prompt: Vec<u32>) -> Self {
        Self { index, n_prompt_tokens, n_padding, next_position, prompt, ids: Vec::new(), logit_gap: f32::INFINITY }
    }

    /// Adds the next token. Returns `Some` if the row has ended.
    fn advance(
        &mut self,
        choice: Option<(u32, f32)>,
        step: usize,
        decoding: &Decoding,
        text_of: &dyn Fn(&[u32]) -> Result<String>,
    ) -> Result<Option<Result<Generation, LogitsNotFinite>>> {
        let Some((token, gap)) = choice else {
            return Ok(Some(Err(LogitsNotFinite { step })));
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

/// Chooses each row's token by its processed logits. Always runs on the CPU, because processors address single tokens.
fn process(logits: &Tensor, rows: &[Row], decoding: &Decoding) -> candle_core::Result<Vec<Option<(u32, f32)>>> {
    let choose = |(row, mut logits): (&Row, Vec<f32>)| {
        let context = LogitsContext {
            prompt: &row.prompt,
            new: &row.ids,
            max_new_tokens: decoding.max_new_tokens,
            eos_ids: &decoding.eos_ids,
        };
        decoding.processors.choose(context, &mut logits)
    };
    Ok(rows.iter().zip(logits.to_vec2::<f32>()?).map(choose).collect())
}

/// Chooses tokens on the device that holds the logits. A GPU transfers four numbers per row instead of the vocabulary.
#[derive(Default)]
struct Choose {
    /// The token ids `(1, vocabulary)` in f32, on the device.
    tokens: Option<Tensor>,
}

impl Choose {
    /// For each row of logits `(rows, vocabulary)` in f32, returns the result of [`top_two`].
    fn of(&mut self, logits: &Tensor) -> candle_core::Result<Vec<Option<(u32, f32)>>> {
        if logits.device().is_cpu() {
            return Ok(logits.to_vec2::<f32>()?.iter().map(|row| top_two(row)).collect());
        }
        self.on_device(logits)
    }

    fn on_device(&mut self, logits: &Tensor) -> candle_core::Result<Vec<Option<(u32, f32)>>> {
        let (_, n_tokens) = logits.dims2()?;
        let tokens = match self.tokens.take() {
            Some(tokens) => tokens,
            None => Tensor::arange(0f32, n_tokens as f32, logits.device())?.unsqueeze(0)?,
        };
        let tokens = self.tokens.insert(tokens).broadcast_as(logits.shape())?;
        let all = |number: f32| Tensor::full(number, logits.shape(), logits.device());
        let highest = logits.max_keepdim(D::Minus1)?;
        // A device's argmax does not guarantee an order among equal logits.
        let is_highest = logits.broadcast_eq(&highest)?;
        let first = is_highest.where_cond(&tokens, &all(n_tokens as f32)?)?.min_keepdim(D::Minus1)?;
        let is_first = tokens.broadcast_eq(&first)?;
        let second = is_first.where_cond(&all(f32::NEG_INFINITY)?, logits)?.max_keepdim(D::Minus1)?;
        // 0, or NaN if a logit is not finite.
        let broken = (logits * 0.0)?.sum_keepdim(D::Minus1)?;
        let numbers = Tensor::cat(&[first, highest, second, broken], 1)?.to_vec2::<f32>()?;
        let choice = |row: &Vec<f32>| (row[3] == 0.0).then(|| (row[0] as u32, row[1] - row[2]));
        Ok(numbers.iter().map(choice).collect())
    }
}

/// Returns the index of the first highest logit and its distance to the second-highest, or `None` if a logit is not
/// finite.
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
    state: &mut DecoderState,
    watch: &mut Watched<'_>,
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
    let input = TokenInput::new(embeddings, positions);
    Ok(model.forward(Pass { mask: mask.as_ref(), ..Pass::new(&input).after(state).watched(watch) })?)
}

fn padding_of(rows: &[Row]) -> Vec<usize> {
    rows.iter().map(|row| row.n_padding).collect()
}

#[cfg(test)]
mod tests;
