//! Language models: embeddings in, logits out. One decoder, and one file a family that reads its configuration.

mod decoder;
mod families;
mod gemma;
mod llama;
mod mistral;
mod phi3;
mod qwen;

use std::ops::Range;

use candle_core::Tensor;

use super::layers::{KvCache, Mask};

pub use decoder::{Decoder, DecoderConfig, scaled};
pub use qwen::QwenText;

/// Embedded tokens with their places.
#[derive(Clone, Debug)]
pub struct TokenInput {
    /// `(batch, tokens, hidden)`.
    pub embeddings: Tensor,
    /// u32: `(batch, tokens)`, or `(3, batch, tokens)` of time, row and column.
    pub positions: Tensor,
    /// Each `(batch, tokens, hidden)`, zero outside images: the first is added after the first layer, and so on.
    pub deepstack: Vec<Tensor>,
    /// So many of the last tokens are wanted; the others are what these look back on. `None` wants all.
    pub n_wanted: Option<usize>,
}

impl TokenInput {
    /// Tokens to which nothing is added later; all are wanted.
    pub fn new(embeddings: Tensor, positions: Tensor) -> Self {
        Self { embeddings, positions, deepstack: Vec::new(), n_wanted: None }
    }

    /// The tokens that are wanted.
    pub fn wanted(&self) -> candle_core::Result<Range<usize>> {
        let n_tokens = self.embeddings.dim(1)?;
        Ok(n_tokens - self.n_wanted.map_or(n_tokens, |n_wanted| n_wanted.min(n_tokens))..n_tokens)
    }
}

/// A decoder-only language model.
pub trait LanguageModel: Send {
    /// Token embeddings `(tokens, hidden)`.
    fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor>;

    /// Hidden states of the wanted tokens after the last norm, `(batch, wanted, hidden)`. Without `mask` every token sees all positions; without
    /// `caches` nothing is kept for later tokens, and gradients flow.
    fn forward(
        &self,
        input: &TokenInput,
        mask: Option<&Mask>,
        caches: Option<&mut [KvCache]>,
    ) -> candle_core::Result<Tensor>;

    /// Logits `(…, vocabulary)` of hidden states.
    fn logits(&self, hidden: &Tensor) -> candle_core::Result<Tensor>;

    /// One cache a layer, for `capacity` positions.
    fn new_caches(&self, capacity: usize) -> Vec<KvCache>;
}

#[cfg(test)]
mod tests;
