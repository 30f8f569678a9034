//! Attention of a vision tower with one map for queries, keys and values, within segments of the tokens.

use anyhow::Result;
use candle_core::Tensor;

use super::attention::{mix, mix_watched};
use super::flash_attention::FlashAttention;
use super::rotary::rotate;
use super::{LayerWatch, Linear, Loader};

/// The most scores computed at once, unless one token has more. All scores of a large image would take gibibytes.
const N_SCORES_MAX: usize = 1 << 24;

/// An attention layer without mask or cache.
pub struct FusedAttention {
    qkv: Linear,
    output: Linear,
    n_heads: usize,
}

impl FusedAttention {
    /// Reads `qkv` `(3 * size, size)` and `proj`, both with bias.
    pub fn load(loader: &mut Loader, size: usize, n_heads: usize) -> Result<Self> {
        Ok(Self {
            qkv: Linear::load(loader, "qkv", size, 3 * size, true)?,
            output: Linear::load(loader, "proj", size, size, true)?,
            n_heads,
        })
    }

    /// Maps `x` `(tokens, size)` to the same shape. `rotary` are cosines and sines `(1, tokens, head size / 2)` in f32.
    /// Tokens attend within their own segment; segment lengths are given in order.
    pub fn forward(
        &self,
        x: &Tensor,
        rotary: &(Tensor, Tensor),
        segments: &[usize],
        watch: &mut LayerWatch<'_>,
    ) -> candle_core::Result<Tensor> {
        let (n_tokens, size) = x.dims2()?;
        let fused = self.qkv.forward(x)?.reshape((n_tokens, 3, self.n_heads, size / self.n_heads))?;
        let heads = |which: usize| fused.narrow(1, which, 1)?.squeeze(1)?.transpose(0, 1)?.unsqueeze(0)?.contiguous();
        // As in transformers, angles are applied in f32 in any type.
        let turned = |y: Tensor| {
            let dtype = y.dtype();
            rotate(&y.to_dtype(candle_core::DType::F32)?, &rotary.0, &rotary.1)?.to_dtype(dtype)
        };
        let (query, key, value) = (turned(heads(0)?)?, turned(heads(1)?)?, heads(2)?); // (1, heads, tokens, head size)
        if let Some(mask) = watch.mask()? {
            let mixed = mix_watched([&query, &key, &value], Some(&mask), None, watch)?;
            return self.output.forward(&mixed.transpose(1, 2)?.reshape((n_tokens, size))?);
        }
        let mut mixed = Vec::new();
        let mut start = 0;
        for run in segments.chunk_by(|a, b| a == b) {
            let (n_segments, length) = (run.len(), run[0]);
            let batch = |y: &Tensor| batch_of(&y.narrow(2, start, n_segments * length)?, n_segments);
            let (query, key, value) = (batch(&query)?, batch(&key)?, batch(&value)?);
            let part = match watch.wants_weights() {
                true => mix_watched([&query, &key, &value], None, None, watch)?,
                false => mix_in_parts(&query, &key, &value)?,
            };
            mixed.push(part.transpose(1, 2)?.reshape((n_segments * length, size))?);
            start += n_segments * length;
        }
        self.output.forward(&Tensor::cat(&mixed, 0)?)
    }
}

/// Turns segments of equal length into rows of a batch: `(1, heads, segments * length, head size)` to `(segments,
/// heads, length, head size)`.
fn batch_of(x: &Tensor, n_segments: usize) -> candle_core::Result<Tensor> {
    let (_, n_heads, n_tokens, head_size) = x.dims4()?;
    x.reshape((n_heads, n_segments, n_tokens / n_segments, head_size))?.transpose(0, 1)?.contiguous()
}

/// Computes attention for a few queries at a time. Each query attends to all keys, so the parts are independent.
fn mix_in_parts(query: &Tensor, key: &Tensor, value: &Tensor) -> candle_core::Result<Tensor> {
    let (batch, n_heads, n_queries, _) = query.dims4()?;
    let n_at_once = (N_SCORES_MAX / (batch * n_heads * key.dim(2)?)).clamp(1, n_queries);
    if n_at_once == n_queries || FlashAttention::serving([query, key, value], None).is_some() {
        return mix(query, key, value, None);
    }
    let parts: Vec<Tensor> = (0..n_queries)
        .step_by(n_at_once)
        .map(|start| {
            let part = query.narrow(2, start, n_at_once.min(n_queries - start))?.contiguous()?;
            mix(&part, key, value, None)
        })
        .collect::<candle_core::Result<_>>()?;
    Tensor::cat(&parts, 2)
}

/// The most numbers that attention over `n_tokens` holds in addition to its inputs.
pub fn n_attention_numbers(n_heads: usize, n_tokens: usize) -> usize {
    let per_query = n_heads.saturating_mul(n_tokens);
    2 * per_query.saturating_mul(n_tokens).min(N_SCORES_MAX.max(per_query))
}

#[cfg(test)]
mod tests;
