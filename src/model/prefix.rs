//! Prompts that a language model has read: what generation and label scoring both go on from.

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

use super::language::LanguageModel;
use super::layers::{KvCache, left_padded_mask};

/// A batch of prompts with the keys and values of all their positions. Rows are padded on the left.
pub struct Prefix {
    /// By row, the tokens of its prompt.
    pub(super) lengths: Vec<usize>,
    /// Positions of the longest prompt.
    pub(super) n_tokens: usize,
    /// One a layer; positions after the prompts are free.
    pub(super) caches: Vec<KvCache>,
    /// Hidden states of the last positions, `(batch, 1, hidden)`.
    pub(super) last: Tensor,
}

impl Prefix {
    /// Reads `prompts`, embeddings `(tokens, hidden)` of any lengths, and leaves room for `n_new` positions after them.
    ///
    /// # Errors
    /// There is no prompt, or one without a token.
    pub fn read(model: &dyn LanguageModel, prompts: &[Tensor], n_new: usize) -> Result<Self> {
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.dim(0)).collect::<candle_core::Result<_>>()?;
        ensure!(!lengths.is_empty() && !lengths.contains(&0), "a prompt without a token cannot be answered");
        let n_tokens = lengths.iter().copied().max().unwrap_or(0);
        let mut caches = model.new_caches(n_tokens + n_new);
        let padded: Vec<Tensor> = prompts
            .iter()
            .zip(&lengths)
            .map(|(prompt, &length)| prompt.pad_with_zeros(0, n_tokens - length, 0))
            .collect::<candle_core::Result<_>>()?;
        let embeddings = Tensor::stack(&padded, 0)?; // (batch, tokens, hidden)
        let device = embeddings.device();
        let positions: Vec<u32> = lengths
            .iter()
            .flat_map(|&length| (0..n_tokens).map(move |t| t.saturating_sub(n_tokens - length) as u32))
            .collect();
        let positions = Tensor::from_vec(positions, (lengths.len(), n_tokens), device)?;
        let padding = distinct_padding(&lengths, n_tokens);
        let mask = left_padded_mask(&padding, n_tokens, n_tokens, embeddings.dtype(), device)?;
        let hidden = model.forward(&embeddings, &positions, Some(&mask), Some(&mut caches))?;
        let last = hidden.narrow(1, n_tokens - 1, 1)?.contiguous()?;
        Ok(Self { lengths, n_tokens, caches, last })
    }

    /// By row, the tokens of its prompt.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Logits of the tokens that would come next, in f32, a row a prompt.
    pub fn next_logits(&self, model: &dyn LanguageModel) -> Result<Vec<Vec<f32>>> {
        last_logits(model, &self.last)
    }
}

/// Positions of padding by row of a mask; one row serves all where no prompt is padded.
pub(super) fn distinct_padding(lengths: &[usize], n_tokens: usize) -> Vec<usize> {
    if lengths.iter().all(|&length| length == n_tokens) {
        return vec![0];
    }
    lengths.iter().map(|length| n_tokens - length).collect()
}

/// Logits `(batch, vocabulary)` in f32 of the last positions of hidden states `(batch, tokens, hidden)`.
pub(super) fn last_logits(model: &dyn LanguageModel, hidden: &Tensor) -> Result<Vec<Vec<f32>>> {
    let n_tokens = hidden.dim(1)?;
    let last = hidden.narrow(1, n_tokens - 1, 1)?.squeeze(1)?.contiguous()?;
    Ok(model.logits(&last)?.to_dtype(DType::F32)?.to_vec2::<f32>()?)
}
