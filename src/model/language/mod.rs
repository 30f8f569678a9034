//! Language models: embeddings in, logits out. One file a family.

mod llama;

use candle_core::Tensor;

use super::layers::KvCache;

pub use llama::{Llama, LlamaConfig};

/// A decoder-only language model.
pub trait LanguageModel: Send {
    /// Token embeddings `(tokens, hidden)`.
    fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor>;

    /// Hidden states after the last norm, `(batch, tokens, hidden)`, of embeddings of that shape.
    /// `positions` is `(batch, tokens)`; `mask` is added to attention scores. Without `caches` nothing is kept for later
    /// tokens, and gradients flow.
    fn forward(
        &self,
        embeddings: &Tensor,
        positions: &Tensor,
        mask: Option<&Tensor>,
        caches: Option<&mut [KvCache]>,
    ) -> candle_core::Result<Tensor>;

    /// Logits `(…, vocabulary)` of hidden states.
    fn logits(&self, hidden: &Tensor) -> candle_core::Result<Tensor>;

    /// One cache a layer, for `capacity` positions.
    fn new_caches(&self, capacity: usize) -> Vec<KvCache>;
}
