//! Multi-head attention, with grouped keys and values, rotary positions and a cache where a family has them.

use anyhow::Result;
use candle_core::Tensor;

use super::flash_attention::FlashAttention;
use super::fused::{self, by_type};
use super::gradients::{self, AttentionInputs};
use super::rotary::rotate;
use super::visible::Visible;
use super::{KvCache, Linear, Loader, Mask, RmsNorm, needs_gradient};
use crate::model::kernels::{self, Heads, Kernels, RotaryRows};

/// What the projections are called in the checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct AttentionNames {
    /// The output projection: `out_proj` or `o_proj`.
    pub output: &'static str,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the output has one.
    pub output_bias: bool,
}

/// Sizes of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Width of the residual stream.
    pub size: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_size: usize,
}

/// An attention layer.
pub struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    shape: AttentionShape,
    /// Of the heads of queries and of keys, before they turn.
    norms: Option<(RmsNorm, RmsNorm)>,
}

impl Attention {
    /// Reads `q_proj`, `k_proj`, `v_proj` and the output projection.
    pub fn load(loader: &mut Loader, shape: AttentionShape, names: AttentionNames) -> Result<Self> {
        let AttentionShape { size, n_heads, n_kv_heads, head_size } = shape;
        Ok(Self {
            query: Linear::load(loader, "q_proj", size, n_heads * head_size, names.qkv_bias)?,
            key: Linear::load(loader, "k_proj", size, n_kv_heads * head_size, names.qkv_bias)?,
            value: Linear::load(loader, "v_proj", size, n_kv_heads * head_size, names.qkv_bias)?,
            output: Linear::load(loader, names.output, n_heads * head_size, size, names.output_bias)?,
            shape,
            norms: None,
        })
    }

    /// The same with `q_norm` and `k_norm`, which normalise each head of queries and keys.
    pub fn with_head_norms(self, loader: &mut Loader, epsilon: f64) -> Result<Self> {
        let head_size = self.shape.head_size;
        let query = RmsNorm::load(loader, "q_norm", head_size, epsilon)?;
        let key = RmsNorm::load(loader, "k_norm", head_size, epsilon)?;
        Ok(Self { norms: Some((query, key)), ..self })
    }

    /// `x` `(batch, tokens, size)` to the same shape. `mask` is of its tokens and of all positions; `rotary` are cosines and sines `(batch, tokens, head_size / 2)`.
    pub fn forward(
        &self,
        x: &Tensor,
        mask: Option<&Mask>,
        rotary: Option<&(Tensor, Tensor)>,
        cache: Option<&mut KvCache>,
    ) -> candle_core::Result<Tensor> {
        self.forward_added(None, x, mask, rotary, cache)
    }

    /// The same added to `residual`, where there is one.
    pub fn forward_added(
        &self,
        residual: Option<&Tensor>,
        x: &Tensor,
        mask: Option<&Mask>,
        rotary: Option<&(Tensor, Tensor)>,
        cache: Option<&mut KvCache>,
    ) -> candle_core::Result<Tensor> {
        let (batch, n_tokens, _) = x.dims3()?;
        let is_of_kernels = cache.as_ref().is_none_or(|cache| !cache.holds_tensors());
        // Norms of queries and keys come between the projections and the positions.
        let is_of_kernels = is_of_kernels && self.norms.is_none() && fused::serves(&[x]);
        let projected = self.projected(x, is_of_kernels)?;
        if is_of_kernels && fused::serves(&projected.tensors()) {
            let mixed = self.mixed(&projected, mask, rotary, cache)?;
            return self.output.forward_with(&mixed, None, residual);
        }
        let Projected::Apart([query, key, value]) = projected else {
            candle_core::bail!("what the kernels have projected they also mix")
        };
        if cache.is_none() && gradients::serves(&[&query, &key, &value]) {
            let mixed = self.mixed_with_gradients([query, key, value], mask, rotary)?;
            return self.output.forward_with(&mixed, None, residual);
        }
        let heads = |y: Tensor, n_heads: usize| {
            y.reshape((batch, n_tokens, n_heads, self.shape.head_size))?.transpose(1, 2)?.contiguous()
        };
        let mut query = heads(query, self.shape.n_heads)?; // (batch, heads, tokens, head size)
        let mut key = heads(key, self.shape.n_kv_heads)?;
        let value = heads(value, self.shape.n_kv_heads)?;
        if let Some((of_query, of_key)) = &self.norms {
            query = of_query.forward(&query)?;
            key = of_key.forward(&key)?;
        }
        if let Some((cos, sin)) = rotary {
            query = rotate(&query, cos, sin)?;
            key = rotate(&key, cos, sin)?;
        }
        let (key, value) = match cache {
            Some(cache) => cache.append(&key, &value)?,
            None => (key, value),
        };
        let mixed = mix(&query, &key, &value, mask)?;
        let mixed = mixed.transpose(1, 2)?.reshape((batch, n_tokens, self.shape.n_heads * self.shape.head_size))?;
        self.output.forward_with(&mixed, None, residual)
    }

    /// Attention as one operation with its way back, of queries, keys and values `(batch, tokens, heads * head size)`.
    fn mixed_with_gradients(
        &self,
        [mut query, mut key, value]: [Tensor; 3],
        mask: Option<&Mask>,
        rotary: Option<&(Tensor, Tensor)>,
    ) -> candle_core::Result<Tensor> {
        let AttentionShape { n_heads, n_kv_heads, head_size, .. } = self.shape;
        if let Some((of_query, of_key)) = &self.norms {
            let normed = |norm: &RmsNorm, x: Tensor| {
                let (batch, n_tokens, width) = x.dims3()?;
                norm.forward(&x.reshape((batch, n_tokens, (), head_size))?)?.reshape((batch, n_tokens, width))
            };
            (query, key) = (normed(of_query, query)?, normed(of_key, key)?);
        }
        let (batch, n_tokens, _) = query.dims3()?;
        check_mask(mask, batch, n_tokens, n_tokens)?;
        let shape = kernels::AttentionShape { n_heads, n_kv_heads, head_size };
        let inputs = AttentionInputs { shape, mask: mask.map(Mask::added).cloned(), rotary: rotary.cloned() };
        gradients::attention([&query, &key, &value], inputs)
    }

    /// Queries, keys and values of `x`; in one pass where `may_join` and the kernels compute all three.
    fn projected(&self, x: &Tensor, may_join: bool) -> candle_core::Result<Projected> {
        let maps = [&self.query, &self.key, &self.value];
        if let (true, [Some(query), Some(key), Some(value)]) = (may_join, maps.map(|map| map.part(x))) {
            return Ok(Projected::Joined(fused::linear(x, &[query, key, value], None, None)?));
        }
        let [query, key, value] = maps.map(|map| map.forward(x));
        Ok(Projected::Apart([query?, key?, value?]))
    }

    /// Attention by the kernels: `(batch, tokens, heads * head size)`.
    fn mixed(
        &self,
        projected: &Projected,
        mask: Option<&Mask>,
        rotary: Option<&(Tensor, Tensor)>,
        cache: Option<&mut KvCache>,
    ) -> candle_core::Result<Tensor> {
        let AttentionShape { n_heads, n_kv_heads, head_size, .. } = self.shape;
        let shape = kernels::AttentionShape { n_heads, n_kv_heads, head_size };
        let first = projected.tensors()[0];
        let (batch, n_tokens, _) = first.dims3()?;
        let n_before = cache.as_ref().map_or(0, |cache| cache.n_positions());
        check_mask(mask, batch, n_tokens, n_before + n_tokens)?;
        let visible = Visible::of(mask.map(Mask::added))?;
        let angles = match rotary {
            Some((cos, sin)) => Some((fused::floats(cos)?, fused::floats(sin)?)),
            None => None,
        };
        let rotary = angles.as_ref().map(|(cos, sin)| RotaryRows { cos, sin });
        by_type!(first, T => {
            let mut buffer = match cache {
                Some(cache) => Some(cache.buffer::<T>(batch, shape, n_tokens)?),
                None => None,
            };
            let mut compute = |[queries, keys, values]: [Heads<T>; 3]| match &mut buffer {
                Some(buffer) => {
                    buffer.append(keys, values, rotary);
                    kernels::attention(queries, rotary, visible.borrowed(), buffer)
                }
                None => {
                    let heads = [queries, keys, values];
                    kernels::attention_within(Kernels::chosen(), batch, shape, heads, rotary, visible.borrowed())
                }
            };
            let mixed = match projected {
                Projected::Joined(rows) => {
                    fused::with_numbers(rows, |rows| compute(Heads::side_by_side(rows, n_tokens, shape)))?
                }
                Projected::Apart([queries, keys, values]) => fused::with_numbers(queries, |queries| {
                    fused::with_numbers(keys, |keys| {
                        fused::with_numbers(values, |values| {
                            let of = |rows, n| Heads::of_rows(rows, n_tokens, n, head_size);
                            compute([of(queries, n_heads), of(keys, n_kv_heads), of(values, n_kv_heads)])
                        })
                    })
                })???,
            };
            fused::tensor(mixed, (batch, n_tokens, n_heads * head_size))
        })
    }
}

/// Queries, keys and values `(batch, tokens, heads * head size)`.
enum Projected {
    /// Side by side in one tensor.
    Joined(Tensor),
    Apart([Tensor; 3]),
}

impl Projected {
    fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Self::Joined(rows) => vec![rows],
            Self::Apart(tensors) => tensors.iter().collect(),
        }
    }
}

fn check_mask(mask: Option<&Mask>, batch: usize, n_queries: usize, n_positions: usize) -> candle_core::Result<()> {
    match mask.map(|mask| mask.added().dims()) {
        Some(dims)
            if !matches!(dims, [rows, 1, queries, positions]
            if [1, batch].contains(rows) && (*queries, *positions) == (n_queries, n_positions)) =>
        {
            candle_core::bail!(
                "a mask {dims:?} does not fit {batch} rows, {n_queries} queries and {n_positions} positions"
            )
        }
        _ => Ok(()),
    }
}

/// `softmax(query key^T / √head size + mask) value`, each `(batch, heads, tokens, head size)`; keys and values may be of fewer
/// heads, which are shared by as many of the queries'.
pub(super) fn mix(query: &Tensor, key: &Tensor, value: &Tensor, mask: Option<&Mask>) -> candle_core::Result<Tensor> {
    if let Some(flash) = FlashAttention::serving([query, key, value], mask) {
        return flash.mix([query, key, value]);
    }
    if fused::serves(&[query, key, value]) {
        return mix_by_kernels(query, key, value, mask);
    }
    mix_in_steps([query, key, value], mask)
}

/// The same by candle's operations, through which gradients flow.
pub(super) fn mix_in_steps([query, key, value]: [&Tensor; 3], mask: Option<&Mask>) -> candle_core::Result<Tensor> {
    let (_, n_heads, _, head_size) = query.dims4()?;
    let (key, value) = (repeat_heads(key, n_heads)?, repeat_heads(value, n_heads)?);
    let scale = (head_size as f64).powf(-0.5);
    let has_gradient = needs_gradient(&[query, &key, &value]);
    let scores = (query.matmul(&key.t()?)? * scale)?; // (batch, heads, tokens, positions)
    let scores = match mask {
        Some(mask) => scores.broadcast_add(mask.added())?,
        None => scores,
    };
    let weights = if has_gradient {
        candle_nn::ops::softmax(&scores, candle_core::D::Minus1)?
    } else {
        candle_nn::ops::softmax_last_dim(&scores)?
    };
    weights.matmul(&value)
}

fn mix_by_kernels(query: &Tensor, key: &Tensor, value: &Tensor, mask: Option<&Mask>) -> candle_core::Result<Tensor> {
    let (batch, n_heads, n_queries, head_size) = query.dims4()?;
    let (key, value) = (&repeat_heads(key, n_heads)?, &repeat_heads(value, n_heads)?);
    let n_keys = key.dim(2)?;
    check_mask(mask, batch, n_queries, n_keys)?;
    let visible = Visible::of(mask.map(Mask::added))?;
    let shape = kernels::AttentionShape { n_heads, n_kv_heads: n_heads, head_size };
    by_type!(query, T => {
        fn of<T>(numbers: &[T], n_tokens: usize, shape: kernels::AttentionShape) -> Heads<'_, T> {
            Heads::by_head(numbers, n_tokens, shape.n_heads, shape.head_size)
        }
        let mixed = fused::with_numbers::<T, _>(query, |query| {
            fused::with_numbers(key, |key| {
                fused::with_numbers(value, |value| {
                    let heads = [of(query, n_queries, shape), of(key, n_keys, shape), of(value, n_keys, shape)];
                    kernels::attention_within(Kernels::chosen(), batch, shape, heads, None, visible.borrowed())
                })
            })
        })???;
        fused::tensor(mixed, (batch, n_queries, n_heads, head_size))?.transpose(1, 2)
    })
}

/// `x` `(batch, heads, positions, head size)` with each head as often as makes `n_heads`.
fn repeat_heads(x: &Tensor, n_heads: usize) -> candle_core::Result<Tensor> {
    let (batch, n_kv_heads, n_positions, head_size) = x.dims4()?;
    if n_kv_heads == n_heads {
        return Ok(x.clone());
    }
    let shape = (batch, n_kv_heads, n_heads / n_kv_heads, n_positions, head_size);
    x.unsqueeze(2)?.expand(shape)?.reshape((batch, n_heads, n_positions, head_size))
}
