//! Multi-head attention, with grouped keys and values, rotary positions and a cache if a family has them.

use std::ops::Range;

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::flash_attention::FlashAttention;
use super::fused::{self, by_type};
use super::gradients::{self, AttentionInputs};
use super::rotary::rotate;
use super::visible::Visible;
use super::{Alibi, KvCache, LayerWatch, Linear, Loader, Mask, RmsNorm, Site, VirtualKeys, needs_gradient};
use crate::model::kernels::{self, Heads, Kernels, RotaryRows};

/// The names of the projections in the checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct AttentionNames {
    /// The output projection: `out_proj` or `o_proj`.
    pub output: &'static str,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// Whether queries, keys and values are one map, `qkv_proj`.
    pub is_joined: bool,
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

/// The inputs of attention in addition to its tokens.
#[derive(Default)]
pub struct AttentionContext<'a> {
    /// The mask of the tokens over all positions; without it every token attends to all positions.
    pub mask: Option<&'a Mask>,
    /// The layer's window, which `mask` already has. A watch's mask gets it here.
    pub window: Option<usize>,
    /// Cosines and sines `(batch, tokens, head_size / 2)`.
    pub rotary: Option<&'a Angles>,
    /// The positions of the tokens, u32 `(batch, tokens)`, for attention whose scores fall with the distance.
    pub positions: Option<&'a Tensor>,
    /// Keys and values of earlier positions.
    pub cache: Option<&'a mut KvCache>,
}

/// How scores are computed from queries and keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScoreRule {
    /// The factor of queries before the usual division by the root of a head's width. `None` means 1.
    pub factor: Option<f64>,
    /// The largest score: `cap tanh(score / cap)` takes the place of a score.
    pub cap: Option<f64>,
}

/// An attention layer.
pub struct Attention {
    inputs: Inputs,
    output: Linear,
    shape: AttentionShape,
    /// The norms of each query and key head, applied before the rotation.
    norms: Option<(RmsNorm, RmsNorm)>,
    /// The norms of all heads of queries together, and of keys.
    width_norms: Option<(RmsNorm, RmsNorm)>,
    /// Keys and values before those of the tokens.
    virtual_keys: Option<VirtualKeys>,
    rule: ScoreRule,
    /// The norm of what is added to the residual stream.
    norm_after: Option<RmsNorm>,
    /// How scores fall with the distance.
    alibi: Option<Alibi>,
}

/// The maps to queries, keys and values.
enum Inputs {
    Apart([Linear; 3]),
    /// One map with the three stacked.
    Joined(Linear),
}

impl Attention {
    /// Reads `q_proj`, `k_proj` and `v_proj`, or `qkv_proj` instead of them, and the output projection.
    pub fn load(loader: &mut Loader, shape: AttentionShape, names: AttentionNames) -> Result<Self> {
        let AttentionShape { size, n_heads, n_kv_heads, head_size } = shape;
        let (n_queries, n_keys) = (n_heads * head_size, n_kv_heads * head_size);
        let mut map = |name, n_out| Linear::load(loader, name, size, n_out, names.qkv_bias);
        let inputs = match names.is_joined {
            true => Inputs::Joined(map("qkv_proj", n_queries + 2 * n_keys)?),
            false => Inputs::Apart([map("q_proj", n_queries)?, map("k_proj", n_keys)?, map("v_proj", n_keys)?]),
        };
        Ok(Self {
            inputs,
            output: Linear::load(loader, names.output, n_heads * head_size, size, names.output_bias)?,
            shape,
            norms: None,
            width_norms: None,
            virtual_keys: None,
            rule: ScoreRule::default(),
            norm_after: None,
            alibi: None,
        })
    }

    /// Adds norms of each head of queries and of keys.
    pub fn with_head_norms(self, of_query: RmsNorm, of_key: RmsNorm) -> Self {
        Self { norms: Some((of_query, of_key)), ..self }
    }

    /// Sets how scores are computed.
    pub fn with_rule(self, rule: ScoreRule) -> Self {
        Self { rule, ..self }
    }

    /// Adds a norm of what the layer adds to the residual stream.
    pub fn with_norm_after(self, norm_after: Option<RmsNorm>) -> Self {
        Self { norm_after, ..self }
    }

    /// Adds norms that normalise all heads of queries together, and of keys. Maps that are joined have none.
    pub fn with_width_norms(self, of_query: RmsNorm, of_key: RmsNorm) -> Self {
        Self { width_norms: Some((of_query, of_key)), ..self }
    }

    /// Multiplies what the layer adds to the residual stream by `factor` `(size)`.
    pub fn times(self, factor: Tensor) -> Self {
        Self { output: self.output.times(factor), ..self }
    }

    /// Adds keys and values that come before those of the tokens.
    pub fn with_virtual_keys(self, virtual_keys: Option<VirtualKeys>) -> Self {
        Self { virtual_keys, ..self }
    }

    /// Makes scores fall with the distance.
    pub fn with_alibi(self, alibi: Alibi) -> Self {
        Self { alibi: Some(alibi), ..self }
    }

    /// Computes attention of the tokens `queries` of `x` `(batch, tokens, size)` over all of them and adds it to the
    /// `residual` of the queries `(batch, queries, size)`. The result has that shape.
    pub fn forward_added(
        &self,
        residual: &Tensor,
        x: &Tensor,
        queries: Range<usize>,
        context: AttentionContext<'_>,
        watch: &mut LayerWatch<'_>,
    ) -> candle_core::Result<Tensor> {
        let AttentionContext { mask, window, rotary, positions, cache } = context;
        let asks_all = queries == (0..x.dim(1)?);
        let own_mask = match (watch.mask()?, window) {
            (Some(mask), Some(window)) => Some(mask.windowed(window)),
            (mask, _) => mask,
        };
        let mask = match own_mask.as_ref().or(mask) {
            Some(mask) if !asks_all => Some(mask.of_queries(queries.clone())?),
            mask => mask.cloned(),
        };
        let mask = mask.as_ref();
        let rotary = match rotary {
            Some((cos, sin)) => Some(Rotaries {
                queries: (tokens_at(cos, &queries)?, tokens_at(sin, &queries)?),
                keys: (cos.clone(), sin.clone()),
            }),
            None => None,
        };
        let rotary = rotary.as_ref();
        let is_of_kernels = cache.as_ref().is_none_or(|cache| !cache.holds_tensors());
        // Head norms come between projections and rotation, and kernels rotate only whole heads.
        let turns_a_part = rotary.is_some_and(|rotary| rotary.n_turned() < self.shape.head_size);
        let is_of_kernels = is_of_kernels && self.norms.is_none() && !turns_a_part && fused::serves(&[x]);
        // Kernels and operations with their own backward pass keep no probabilities.
        let is_plain = !watch.wants_weights() && self.virtual_keys.is_none();
        let is_plain = is_plain && self.rule.cap.is_none() && self.alibi.is_none();
        let is_of_kernels = is_of_kernels && is_plain;
        let projected = self.projected(x, &queries, is_of_kernels)?;
        let mixed = match projected {
            projected if is_of_kernels && fused::serves(&projected.tensors()) => {
                self.mixed(&projected, mask, rotary, cache)
            }
            Projected::Apart(inputs)
                if cache.is_none()
                    && asks_all
                    && !turns_a_part
                    && is_plain
                    && gradients::serves(&inputs.each_ref()) =>
            {
                self.mixed_with_gradients(inputs, mask, rotary)
            }
            Projected::Apart(inputs) => self.mixed_by_heads(inputs, mask, (rotary, positions), cache, watch),
            Projected::Joined(_) => candle_core::bail!("what the kernels have projected they also mix"),
        };
        let mixed = mixed?;
        watch.added(Site::AttentionOutput, residual, |residual| match &self.norm_after {
            None => self.output.forward_with(&mixed, None, residual),
            Some(norm) => norm.forward_added(residual, &self.output.forward(&mixed)?),
        })
    }

    /// Computes attention by candle's operations on queries, keys and values `(batch, tokens, heads * head size)`.
    fn mixed_by_heads(
        &self,
        [query, key, value]: [Tensor; 3],
        mask: Option<&Mask>,
        (rotary, positions): (Option<&Rotaries>, Option<&Tensor>),
        cache: Option<&mut KvCache>,
        watch: &mut LayerWatch<'_>,
    ) -> candle_core::Result<Tensor> {
        let (batch, n_queries, width) = query.dims3()?;
        let heads = |y: Tensor, n_heads: usize| {
            y.reshape((batch, (), n_heads, self.shape.head_size))?.transpose(1, 2)?.contiguous()
        };
        let mut query = heads(query, self.shape.n_heads)?; // (batch, heads, queries, head size)
        let mut key = heads(key, self.shape.n_kv_heads)?;
        let mut value = heads(value, self.shape.n_kv_heads)?;
        if let Some((of_query, of_key)) = &self.norms {
            query = of_query.forward(&query)?;
            key = of_key.forward(&key)?;
            // Norms undo a factor before them.
            if let Some(factor) = self.rule.factor {
                query = (query * factor)?;
            }
        }
        if let Some(Rotaries { queries, keys }) = rotary {
            query = rotate(&query, &queries.0, &queries.1)?;
            key = rotate(&key, &keys.0, &keys.1)?;
        }
        if let Some(alibi) = &self.alibi {
            let positions = positions.ok_or_else(|| candle_core::Error::msg("ALiBi needs the tokens' positions"))?;
            [query, key, value] = alibi.widened([&query, &key, &value], positions)?;
        }
        let (key, value) = match cache {
            Some(cache) => cache.append(&key, &value)?,
            None => (key, value),
        };
        let inputs = [&query, &key, &value];
        let mixed = match &self.virtual_keys {
            None => mix_watched(inputs, mask, self.rule.cap, watch)?,
            Some(virtual_keys) => mix_after(virtual_keys, inputs, mask, self.rule.cap, watch)?,
        };
        let mixed = if self.alibi.is_some() { Alibi::narrowed(&mixed)? } else { mixed };
        mixed.transpose(1, 2)?.reshape((batch, n_queries, width))
    }

    /// Computes attention as one operation with its own backward pass on queries, keys and values `(batch, tokens,
    /// heads * head size)`.
    fn mixed_with_gradients(
        &self,
        [mut query, mut key, value]: [Tensor; 3],
        mask: Option<&Mask>,
        rotary: Option<&Rotaries>,
    ) -> candle_core::Result<Tensor> {
        let AttentionShape { n_heads, n_kv_heads, head_size, .. } = self.shape;
        if let Some((of_query, of_key)) = &self.norms {
            let normed = |norm: &RmsNorm, x: Tensor| {
                let (batch, n_tokens, width) = x.dims3()?;
                norm.forward(&x.reshape((batch, n_tokens, (), head_size))?)?.reshape((batch, n_tokens, width))
            };
            (query, key) = (normed(of_query, query)?, normed(of_key, key)?);
            if let Some(factor) = self.rule.factor {
                query = (query * factor)?;
            }
        }
        let (batch, n_tokens, _) = query.dims3()?;
        check_mask(mask, batch, n_tokens, n_tokens)?;
        let shape = kernels::HeadShape { n_heads, n_kv_heads, head_size };
        let rotary = rotary.map(|rotary| rotary.keys.clone());
        let inputs = AttentionInputs { shape, mask: mask.cloned(), rotary };
        gradients::attention([&query, &key, &value], inputs)
    }

    /// Projects the tokens `queries` of `x` to queries and all tokens to keys and values. This is one pass if
    /// `may_join`, `queries` is all tokens and the kernels can compute all three maps.
    fn projected(&self, x: &Tensor, queries: &Range<usize>, may_join: bool) -> candle_core::Result<Projected> {
        let is_direct = self.width_norms.is_none() && self.rule.factor.is_none();
        let may_join = may_join && *queries == (0..x.dim(1)?) && is_direct;
        let [query, key, value] = match &self.inputs {
            Inputs::Apart(maps) => maps,
            Inputs::Joined(map) => {
                let rows = map.forward(x)?;
                return if may_join { Ok(Projected::Joined(rows)) } else { self.parted(&rows, queries) };
            }
        };
        if let (true, [Some(query), Some(key), Some(value)]) = (may_join, [query, key, value].map(|map| map.part(x))) {
            return Ok(Projected::Joined(fused::linear(x, &[query, key, value], None, None)?));
        }
        let (mut query, mut key) = (query.forward(&tokens_at(x, queries)?)?, key.forward(x)?);
        if let Some((of_query, of_key)) = &self.width_norms {
            (query, key) = (of_query.forward(&query)?, of_key.forward(&key)?);
        }
        Ok(Projected::Apart([self.factored(query)?, key, value.forward(x)?]))
    }

    /// Multiplies queries by the rule's factor.
    fn factored(&self, query: Tensor) -> candle_core::Result<Tensor> {
        match self.rule.factor.filter(|_| self.norms.is_none()) {
            Some(factor) => query * factor,
            None => Ok(query),
        }
    }

    /// Splits joined `rows` into queries of the tokens `queries`, keys and values.
    fn parted(&self, rows: &Tensor, queries: &Range<usize>) -> candle_core::Result<Projected> {
        let AttentionShape { n_heads, n_kv_heads, head_size, .. } = self.shape;
        let (n_queries, n_keys) = (n_heads * head_size, n_kv_heads * head_size);
        let part = |start, width| rows.narrow(2, start, width)?.contiguous();
        let query = self.factored(tokens_at(&part(0, n_queries)?, queries)?)?;
        Ok(Projected::Apart([query, part(n_queries, n_keys)?, part(n_queries + n_keys, n_keys)?]))
    }

    /// Computes attention by the kernels: `(batch, queries, heads * head size)`.
    fn mixed(
        &self,
        projected: &Projected,
        mask: Option<&Mask>,
        rotary: Option<&Rotaries>,
        cache: Option<&mut KvCache>,
    ) -> candle_core::Result<Tensor> {
        let AttentionShape { n_heads, n_kv_heads, head_size, .. } = self.shape;
        let shape = kernels::HeadShape { n_heads, n_kv_heads, head_size };
        let (first, n_keys) = (projected.tensors()[0], projected.n_keys()?);
        let (batch, n_queries, _) = first.dims3()?;
        let n_before = cache.as_ref().map_or(0, |cache| cache.n_positions());
        check_mask(mask, batch, n_queries, n_before + n_keys)?;
        let visible = Visible::of(mask);
        let floats = |(cos, sin): &Angles| Ok::<_, candle_core::Error>([fused::floats(cos)?, fused::floats(sin)?]);
        let of_keys = rotary.map(|rotary| floats(&rotary.keys)).transpose()?;
        // Usually `queries` is all tokens, and queries and keys share the angles.
        let of_queries = rotary.filter(|_| n_queries != n_keys).map(|rotary| floats(&rotary.queries)).transpose()?;
        let rotary = of_keys
            .as_ref()
            .map(|of_keys| [of_queries.as_ref().unwrap_or(of_keys), of_keys].map(|[cos, sin]| RotaryRows { cos, sin }));
        by_type!(first, T => {
            let mut buffer = match cache {
                Some(cache) => Some(cache.buffer::<T>(batch, shape, n_keys)?),
                None => None,
            };
            let mut compute = |[queries, keys, values]: [Heads<T>; 3]| match &mut buffer {
                Some(buffer) => {
                    buffer.append(keys, values, rotary.map(|[_, of_keys]| of_keys));
                    kernels::attention(queries, rotary.map(|[of_queries, _]| of_queries), visible.borrowed(), buffer)
                }
                None => {
                    let heads = [queries, keys, values];
                    kernels::attention_within(Kernels::chosen(), batch, shape, heads, rotary, visible.borrowed())
                }
            };
            let mixed = match projected {
                Projected::Joined(rows) => {
                    fused::with_numbers(rows, |rows| compute(Heads::side_by_side(rows, n_keys, shape)))?
                }
                Projected::Apart([queries, keys, values]) => fused::with_numbers(queries, |queries| {
                    fused::with_numbers(keys, |keys| {
                        fused::with_numbers(values, |values| {
                            let of_keys = |rows| Heads::of_rows(rows, n_keys, n_kv_heads, head_size);
                            let queries = Heads::of_rows(queries, n_queries, n_heads, head_size);
                            compute([queries, of_keys(keys), of_keys(values)])
                        })
                    })
                })???,
            };
            fused::tensor(mixed, (batch, n_queries, n_heads * head_size))
        })
    }
}

/// Cosines and sines, each `(batch, tokens, head size / 2)`.
pub type Angles = (Tensor, Tensor);

/// The angles by which queries and keys are rotated.
struct Rotaries {
    queries: Angles,
    keys: Angles,
}

impl Rotaries {
    /// The number of leading dimensions of each head that are rotated.
    fn n_turned(&self) -> usize {
        2 * self.keys.0.dims().last().copied().unwrap_or(0)
    }
}

/// Returns the `tokens` of `x` `(batch, tokens, width)`.
pub fn tokens_at(x: &Tensor, tokens: &Range<usize>) -> candle_core::Result<Tensor> {
    match *tokens == (0..x.dim(1)?) {
        true => Ok(x.clone()),
        false => x.narrow(1, tokens.start, tokens.len())?.contiguous(),
    }
}

/// Queries, keys and values `(batch, tokens, heads * head size)`; queries may be of fewer tokens.
enum Projected {
    /// Concatenated along the last dimension of one tensor.
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

    fn n_keys(&self) -> candle_core::Result<usize> {
        match self {
            Self::Joined(rows) => rows.dim(1),
            Self::Apart([_, key, _]) => key.dim(1),
        }
    }
}

fn check_mask(mask: Option<&Mask>, batch: usize, n_queries: usize, n_positions: usize) -> candle_core::Result<()> {
    match mask.map(Mask::dims) {
        Some(dims) if !([1, batch].contains(&dims[0]) && (dims[1], dims[2]) == (n_queries, n_positions)) => {
            candle_core::bail!(
                "a mask {dims:?} does not fit {batch} rows, {n_queries} queries and {n_positions} positions"
            )
        }
        _ => Ok(()),
    }
}

/// Computes `softmax(query key^T / √head size + mask) value` of tensors `(batch, heads, tokens, head size)`. Keys and
/// values may have fewer heads; each is then shared by several query heads.
pub(super) fn mix(query: &Tensor, key: &Tensor, value: &Tensor, mask: Option<&Mask>) -> candle_core::Result<Tensor> {
    if let Some(flash) = FlashAttention::serving([query, key, value], mask) {
        return flash.mix([query, key, value]);
    }
    if fused::serves(&[query, key, value]) {
        return mix_by_kernels(query, key, value, mask);
    }
    Ok(mix_in_steps([query, key, value], mask, None)?.0)
}

/// Like [`mix`], for a watch that may want the probabilities, which are then computed in f32, and with scores that are
/// capped if there is a `cap`.
pub(super) fn mix_watched(
    inputs: [&Tensor; 3],
    mask: Option<&Mask>,
    cap: Option<f64>,
    watch: &mut LayerWatch<'_>,
) -> candle_core::Result<Tensor> {
    match (watch.wants_weights(), cap) {
        (true, _) => {
            let (mixed, weights) = mix_in_f32(inputs, mask, cap)?;
            watch.weights(&weights)?;
            Ok(mixed)
        }
        (false, Some(_)) => mix_capped(inputs, mask, cap),
        (false, None) => mix(inputs[0], inputs[1], inputs[2], mask),
    }
}

/// Like [`mix_watched`], with keys and values before those given. A watch gets the probabilities of the given positions.
fn mix_after(
    virtual_keys: &VirtualKeys,
    [query, key, value]: [&Tensor; 3],
    mask: Option<&Mask>,
    cap: Option<f64>,
    watch: &mut LayerWatch<'_>,
) -> candle_core::Result<Tensor> {
    let n_before = virtual_keys.n_positions()?;
    let (key, value) = virtual_keys.before(key, value)?;
    let mask = mask.map(|mask| mask.after(n_before)).transpose()?;
    let inputs = [query, &key, &value];
    match (watch.wants_weights(), cap) {
        (true, _) => {
            let (mixed, weights) = mix_in_f32(inputs, mask.as_ref(), cap)?;
            watch.weights(&weights.narrow(3, n_before, weights.dim(3)? - n_before)?)?;
            Ok(mixed)
        }
        (false, Some(_)) => mix_capped(inputs, mask.as_ref(), cap),
        (false, None) => mix(query, &key, &value, mask.as_ref()),
    }
}

/// Like [`mix_in_steps`], in f32. The mixed values are in the type of the queries.
fn mix_in_f32(
    [query, key, value]: [&Tensor; 3],
    mask: Option<&Mask>,
    cap: Option<f64>,
) -> candle_core::Result<(Tensor, Tensor)> {
    let [of_query, of_key, of_value] = [query, key, value].map(|x| x.to_dtype(DType::F32));
    let (mixed, weights) = mix_in_steps([&of_query?, &of_key?, &of_value?], mask, cap)?;
    Ok((mixed.to_dtype(query.dtype())?, weights))
}

/// The most capped scores that are held at once, unless one query has more.
const N_CAPPED_SCORES_MAX: usize = 1 << 24;

/// Like [`mix_in_steps`], for a few queries at a time, so that the scores of a long prompt are never held.
fn mix_capped([query, key, value]: [&Tensor; 3], mask: Option<&Mask>, cap: Option<f64>) -> candle_core::Result<Tensor> {
    let (batch, n_heads, n_queries, _) = query.dims4()?;
    let n_at_once = (N_CAPPED_SCORES_MAX / (batch * n_heads * key.dim(2)?).max(1)).max(1);
    let part = |start: usize| {
        let queries = start..n_queries.min(start + n_at_once);
        let mask = mask.map(|mask| mask.of_queries(queries.clone())).transpose()?;
        let query = query.narrow(2, start, queries.len())?.contiguous()?;
        candle_core::Result::Ok(mix_in_steps([&query, key, value], mask.as_ref(), cap)?.0)
    };
    let parts = (0..n_queries).step_by(n_at_once).map(part).collect::<candle_core::Result<Vec<_>>>()?;
    Tensor::cat(&parts, 2)
}

/// Like [`mix`], by candle's differentiable operations, with the probabilities `(batch, heads, queries, positions)`. If
/// there is a `cap`, scores are capped before they are masked.
pub(super) fn mix_in_steps(
    [query, key, value]: [&Tensor; 3],
    mask: Option<&Mask>,
    cap: Option<f64>,
) -> candle_core::Result<(Tensor, Tensor)> {
    let (_, n_heads, _, head_size) = query.dims4()?;
    let (key, value) = (repeat_heads(key, n_heads)?.contiguous()?, repeat_heads(value, n_heads)?.contiguous()?);
    let scale = (head_size as f64).powf(-0.5);
    let has_gradient = needs_gradient(&[query, &key, &value]);
    let scores = (query.matmul(&key.t()?)? * scale)?; // (batch, heads, tokens, positions)
    let scores = match cap {
        Some(cap) => capped(&scores, cap)?,
        None => scores,
    };
    let scores = match mask {
        Some(mask) => scores.broadcast_add(&mask.added()?.to_dtype(scores.dtype())?)?,
        None => scores,
    };
    let weights = if has_gradient {
        candle_nn::ops::softmax(&scores, candle_core::D::Minus1)?
    } else {
        candle_nn::ops::softmax_last_dim(&scores)?
    };
    Ok((weights.matmul(&value)?, weights))
}

/// Computes `cap tanh(x / cap)`, which never exceeds the cap.
pub fn capped(x: &Tensor, cap: f64) -> candle_core::Result<Tensor> {
    (x / cap)?.tanh()? * cap
}

fn mix_by_kernels(query: &Tensor, key: &Tensor, value: &Tensor, mask: Option<&Mask>) -> candle_core::Result<Tensor> {
    let (batch, n_heads, n_queries, head_size) = query.dims4()?;
    let (key, value) = (&repeat_heads(key, n_heads)?, &repeat_heads(value, n_heads)?);
    let n_keys = key.dim(2)?;
    check_mask(mask, batch, n_queries, n_keys)?;
    let visible = Visible::of(mask);
    let shape = kernels::HeadShape { n_heads, n_kv_heads: n_heads, head_size };
    by_type!(query, T => {
        fn of<T>(numbers: &[T], n_tokens: usize, shape: kernels::HeadShape) -> Heads<'_, T> {
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

/// Repeats each head of `x` `(batch, heads, positions, head size)` so that there are `n_heads`.
fn repeat_heads(x: &Tensor, n_heads: usize) -> candle_core::Result<Tensor> {
    let (batch, n_kv_heads, n_positions, head_size) = x.dims4()?;
    if n_kv_heads == n_heads {
        return Ok(x.clone());
    }
    let shape = (batch, n_kv_heads, n_heads / n_kv_heads, n_positions, head_size);
    x.unsqueeze(2)?.expand(shape)?.reshape((batch, n_heads, n_positions, head_size))
}
