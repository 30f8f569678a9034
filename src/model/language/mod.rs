//! Language models: embeddings in, logits out. One decoder, and one file a family that reads its configuration.

mod decoder;
mod families;
mod gemma;
mod llama;
mod mistral;
mod phi3;
mod qwen;
mod state;

use std::ops::Range;

use candle_core::Tensor;

use super::layers::{Mask, Watched};

pub use decoder::{Decoder, DecoderConfig, scaled};
pub use qwen::QwenText;
pub use state::DecoderState;

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

/// What one forward pass of a language model reads.
pub struct Pass<'a> {
    /// The tokens.
    pub input: &'a TokenInput,
    /// What they may see; without one every token sees all positions.
    pub mask: Option<&'a Mask>,
    /// What earlier passes left, to which this one adds; without it nothing is kept for later tokens, and gradients flow.
    pub state: Option<&'a mut DecoderState>,
    /// Who looks.
    pub watch: Watched<'a>,
}

impl<'a> Pass<'a> {
    /// A pass over tokens that see each other all; nothing is kept, and nobody looks.
    pub fn new(input: &'a TokenInput) -> Self {
        Self { input, mask: None, state: None, watch: Watched::by_none() }
    }

    /// The same under `mask`.
    pub fn masked(self, mask: &'a Mask) -> Self {
        Self { mask: Some(mask), ..self }
    }

    /// The same after the positions of `state`, which keeps these, too.
    pub fn after(self, state: &'a mut DecoderState) -> Self {
        Self { state: Some(state), ..self }
    }

    /// The same with somebody who looks.
    pub fn watched(self, watch: &'a mut Watched<'_>) -> Self {
        Self { watch: watch.again(), ..self }
    }
}

/// A language model that continues what it has read, token by token.
pub trait LanguageModel: Send {
    /// Token embeddings `(tokens, hidden)`.
    fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor>;

    /// Hidden states of the wanted tokens after the last norm, `(batch, wanted, hidden)`.
    fn forward(&self, pass: Pass<'_>) -> candle_core::Result<Tensor>;

    /// Logits `(…, vocabulary)` of hidden states.
    fn logits(&self, hidden: &Tensor) -> candle_core::Result<Tensor>;

    /// An empty state for `capacity` positions.
    fn new_state(&self, capacity: usize) -> DecoderState;
}

#[cfg(test)]
mod tests;
