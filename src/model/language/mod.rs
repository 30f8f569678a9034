//! Language models, which turn embeddings into logits. They share one decoder; each family has a file that reads its
//! configuration.

mod config;
mod cross;
mod decoder;
mod families;
mod gemma;
mod gemma2;
mod llama;
mod mistral;
mod mllama;
mod mpt;
mod phi3;
mod qwen;
mod state;
mod t5;

use std::ops::Range;

use candle_core::Tensor;

use super::layers::{Mask, Watched};

pub use config::DecoderConfig;
pub use cross::{CrossConfig, CrossKind, Media, View};
pub use decoder::{Decoder, scaled};
pub use mllama::read_mllama;
pub use qwen::QwenText;
pub use state::DecoderState;
pub use t5::{Encoded, T5, T5Config};

/// Embedded tokens with their positions.
#[derive(Clone, Debug)]
pub struct TokenInput {
    /// `(batch, tokens, hidden)`.
    pub embeddings: Tensor,
    /// u32: `(batch, tokens)`, or `(3, batch, tokens)` of time, row and column.
    pub positions: Tensor,
    /// Each `(batch, tokens, hidden)`, zero outside images. The first is added after the first layer, and so on.
    pub deepstack: Vec<Tensor>,
    /// u8 `(batch, tokens)`: 1 where a token is a feature of an image. `None` if there are no images.
    pub is_image: Option<Tensor>,
    /// Features of images beside the text, for layers that attend to them.
    pub media: Option<Media>,
    /// The number of last tokens that are wanted. The other tokens are their context. `None` means all.
    pub n_wanted: Option<usize>,
}

impl TokenInput {
    /// Tokens without later additions. All are wanted.
    pub fn new(embeddings: Tensor, positions: Tensor) -> Self {
        Self { embeddings, positions, deepstack: Vec::new(), is_image: None, media: None, n_wanted: None }
    }

    /// Returns the range of wanted tokens.
    pub fn wanted(&self) -> candle_core::Result<Range<usize>> {
        let n_tokens = self.embeddings.dim(1)?;
        Ok(n_tokens - self.n_wanted.map_or(n_tokens, |n_wanted| n_wanted.min(n_tokens))..n_tokens)
    }
}

/// The input of one forward pass of a language model.
pub struct Pass<'a> {
    /// The tokens.
    pub input: &'a TokenInput,
    /// The positions that each token may attend to. Without a mask, every token attends to all positions.
    pub mask: Option<&'a Mask>,
    /// The caches of earlier passes, which this pass extends. Without them, nothing is kept for later tokens, and
    /// gradients flow.
    pub state: Option<&'a mut DecoderState>,
    /// The watch on the layers.
    pub watch: Watched<'a>,
}

impl<'a> Pass<'a> {
    /// A pass over tokens that all attend to each other, without caches or a watch.
    pub fn new(input: &'a TokenInput) -> Self {
        Self { input, mask: None, state: None, watch: Watched::by_none() }
    }

    /// Adds a `mask`.
    pub fn masked(self, mask: &'a Mask) -> Self {
        Self { mask: Some(mask), ..self }
    }

    /// Continues after the positions of `state`, and adds its own.
    pub fn after(self, state: &'a mut DecoderState) -> Self {
        Self { state: Some(state), ..self }
    }

    /// Adds a watch.
    pub fn watched(self, watch: &'a mut Watched<'_>) -> Self {
        Self { watch: watch.again(), ..self }
    }
}

/// A language model that continues what it has read, token by token.
pub trait LanguageModel: Send {
    /// Returns token embeddings `(tokens, hidden)`.
    fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor>;

    /// Returns hidden states of the wanted tokens after the last norm, `(batch, wanted, hidden)`.
    fn forward(&self, pass: Pass<'_>) -> candle_core::Result<Tensor>;

    /// Returns logits `(…, vocabulary)` of hidden states.
    fn logits(&self, hidden: &Tensor) -> candle_core::Result<Tensor>;

    /// Returns logits `(…, vocabulary)` of a residual stream `(…, hidden)`: the last norm and the head.
    fn lens(&self, residual: &Tensor) -> candle_core::Result<Tensor>;

    /// The number of layers.
    fn n_layers(&self) -> usize;

    /// Returns the floating-point operations of reading `n_image` positions of images and `n_text` others, two per
    /// multiplication with addition: as trained, and if positions of images attend to themselves only and compute no queries
    /// (EE-MLLM).
    fn n_operations(&self, n_image: usize, n_text: usize) -> [f64; 2];

    /// Returns an empty state for `capacity` positions.
    fn new_state(&self, capacity: usize) -> DecoderState;
}

#[cfg(test)]
mod tests;
