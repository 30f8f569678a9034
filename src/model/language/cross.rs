//! Layers of a language model that attend to images beside the text: in place of some of its own layers
//! (Llama-3.2-Vision), or before some of them (Flamingo; Alayrac et al. 2022).

use std::ops::Range;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use super::{DecoderState, TokenInput};
use crate::model::layers::{
    Activation, CrossAttention, CrossShape, FeedForward, GatedMlp, KvCache, LayerNorm, LayerWatch, Loader, Mask, Mlp,
    Norm, RmsNorm, Site, tokens_at,
};

/// What a token sees of the images beside the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The positions among the images to which it attends.
    pub attends: Range<usize>,
    /// Whether an image is at the token or before it. Other tokens may still attend to something, as they were trained
    /// to.
    pub sees: bool,
}

impl View {
    /// The view of a token that attends to nothing.
    pub const NOTHING: Self = Self { attends: 0..0, sees: false };
}

/// Features of images beside the text of a batch.
#[derive(Clone, Debug)]
pub struct Media {
    /// `(batch, positions, width)`, padded on the right.
    pub features: Tensor,
    /// By row and token.
    pub views: Vec<View>,
}

/// Where a decoder attends to images, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CrossConfig {
    /// The kind of these layers.
    #[serde(rename = "cross_attention_kind")]
    pub kind: CrossKind,
    /// The indices of the layers, ascending.
    #[serde(rename = "cross_attention_layers")]
    pub layers: Vec<usize>,
    /// Width of the images' features.
    #[serde(rename = "cross_attention_width")]
    pub width: usize,
}

/// How layers attend to images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CrossKind {
    /// They take the place of layers that attend to the text (Llama-3.2-Vision).
    Llama,
    /// They come before layers that attend to the text (Flamingo, Otter).
    Flamingo,
}

impl CrossKind {
    /// Whether such a layer takes the place of one that attends to the text.
    pub fn replaces(self) -> bool {
        self == Self::Llama
    }
}

/// Sizes that a layer shares with the decoder.
pub(super) struct CrossSizes {
    pub size: usize,
    pub n_hidden: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_size: usize,
    pub epsilon: f64,
    pub activation: Activation,
}

/// Flamingo's layers have these sizes in the code, and not in any file.
const FLAMINGO_HEADS: usize = 8;
const FLAMINGO_HEAD_SIZE: usize = 64;
const FLAMINGO_EPSILON: f64 = 1e-5;

/// A gated layer that attends to images.
pub(super) struct CrossLayer {
    kind: CrossKind,
    attention_norm: Norm,
    attention: CrossAttention,
    attention_gate: Tensor, // (1)
    mlp_norm: Norm,
    mlp: FeedForward,
    mlp_gate: Tensor, // (1)
}

impl CrossLayer {
    /// Reads the layer below `loader`, which is the decoder's layer.
    pub(super) fn load(loader: &mut Loader, kind: CrossKind, width: usize, sizes: &CrossSizes) -> Result<Self> {
        match kind {
            CrossKind::Llama => Self::load_llama(loader, width, sizes),
            CrossKind::Flamingo => Self::load_flamingo(&mut loader.at("gated_cross_attn_layer"), width, sizes.size),
        }
    }

    fn load_llama(loader: &mut Loader, width: usize, sizes: &CrossSizes) -> Result<Self> {
        let &CrossSizes { size, n_hidden, n_heads, n_kv_heads, head_size, epsilon, activation } = sizes;
        let shape = CrossShape { size, n_attended: width, n_heads, n_kv_heads, head_size };
        let norm = |loader: &mut Loader, name| RmsNorm::load(loader, name, size, epsilon).map(Norm::Rms);
        Ok(Self {
            kind: CrossKind::Llama,
            attention_norm: norm(loader, "input_layernorm")?,
            attention: CrossAttention::load_normed(&mut loader.at("cross_attn"), shape, epsilon)?,
            attention_gate: loader.tensor("cross_attn_attn_gate", &[1])?,
            mlp_norm: norm(loader, "post_attention_layernorm")?,
            mlp: FeedForward::Gated(GatedMlp::load(&mut loader.at("mlp"), size, n_hidden, activation, false)?),
            mlp_gate: loader.tensor("cross_attn_mlp_gate", &[1])?,
        })
    }

    fn load_flamingo(loader: &mut Loader, width: usize, size: usize) -> Result<Self> {
        let (n_heads, head_size) = (FLAMINGO_HEADS, FLAMINGO_HEAD_SIZE);
        let shape = CrossShape { size, n_attended: width, n_heads, n_kv_heads: n_heads, head_size };
        let norm = |loader: &mut Loader, name| LayerNorm::load(loader, name, size, FLAMINGO_EPSILON).map(Norm::Layer);
        let widths = [size, 4 * size, size];
        Ok(Self {
            kind: CrossKind::Flamingo,
            attention_norm: norm(&mut loader.at("attn"), "norm")?,
            attention: CrossAttention::load_joined(&mut loader.at("attn"), shape)?,
            attention_gate: loader.tensor("attn_gate", &[1])?,
            mlp_norm: norm(&mut loader.at("feed_forward"), "0")?,
            mlp: FeedForward::Plain(Mlp::load_unbiased(
                &mut loader.at("feed_forward"),
                ["1", "3"],
                widths,
                Activation::Gelu,
            )?),
            mlp_gate: loader.tensor("ff_gate", &[1])?,
        })
    }

    /// Returns the residual stream after the layer at the tokens `computed` of `x` `(batch, tokens, size)`. Without
    /// `pass` there are no images.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        computed: Range<usize>,
        pass: Option<&CrossPass<'_>>,
        cache: Option<&mut KvCache>,
        watch: &mut LayerWatch<'_>,
    ) -> candle_core::Result<Tensor> {
        let x = tokens_at(x, &computed)?;
        let Some(pass) = pass else {
            // Llama-3.2-Vision reads text as its text model does, without these layers.
            return if self.kind.replaces() { Ok(x) } else { self.fed(x, None, watch) };
        };
        let normed = self.watched(watch, Site::AttentionInput, self.attention_norm.forward(&x)?)?;
        let (keys, values) = match (pass.features, cache) {
            (Some(features), cache) => {
                let [keys, values] = self.attention.keys_and_values(features)?;
                match cache {
                    Some(cache) => cache.append(&keys, &values)?,
                    None => (keys, values),
                }
            }
            (None, Some(cache)) => cache.held()?,
            (None, None) => candle_core::bail!("a pass about images needs their features or what is kept of them"),
        };
        let mask = pass.mask.as_ref().map(|mask| mask.of_queries(computed.clone())).transpose()?;
        let taken = self.attention.forward(&normed, [&keys, &values], mask.as_ref())?;
        let taken = at_tokens(taken, pass.attending.as_ref(), &computed)?;
        let taken = self.watched(watch, Site::AttentionOutput, gated(&taken, &self.attention_gate)?)?;
        let seeing = pass.seeing.as_ref().filter(|_| self.kind == CrossKind::Llama);
        let seeing = seeing.map(|seeing| seeing.narrow(1, computed.start, computed.len())).transpose()?;
        self.fed((x + taken)?, seeing.as_ref(), watch)
    }

    /// Adds the feed-forward half to `x`, only at the tokens `seeing` if they are given.
    fn fed(&self, x: Tensor, seeing: Option<&Tensor>, watch: &mut LayerWatch<'_>) -> candle_core::Result<Tensor> {
        let normed = self.watched(watch, Site::MlpInput, self.mlp_norm.forward(&x)?)?;
        let added = self.mlp.forward(&normed)?;
        let added = match seeing {
            Some(seeing) => added.broadcast_mul(seeing)?,
            None => added,
        };
        let added = self.watched(watch, Site::MlpOutput, gated(&added, &self.mlp_gate)?)?;
        self.watched(watch, Site::Residual, (x + added)?)
    }

    /// Shows `x` to the watch, if the layer is one of the decoder's own number.
    fn watched(&self, watch: &mut LayerWatch<'_>, site: Site, x: Tensor) -> candle_core::Result<Tensor> {
        if self.kind.replaces() { watch.at(site, x) } else { Ok(x) }
    }
}

fn gated(x: &Tensor, gate: &Tensor) -> candle_core::Result<Tensor> {
    x.broadcast_mul(&gate.tanh()?)
}

/// Multiplies `x` by `flags` of the tokens `computed`, if there are some.
fn at_tokens(x: Tensor, flags: Option<&Tensor>, computed: &Range<usize>) -> candle_core::Result<Tensor> {
    match flags {
        Some(flags) => x.broadcast_mul(&flags.narrow(1, computed.start, computed.len())?),
        None => Ok(x),
    }
}

/// What all layers of a pass share.
pub(super) struct CrossPass<'a> {
    /// `(batch, positions, width)`, unless their keys and values are kept already.
    features: Option<&'a Tensor>,
    /// Which positions each token attends to. `None` if each attends to all.
    mask: Option<Mask>,
    /// `(batch, tokens, 1)`: 0 where a token attends to nothing. `None` if there is no such token.
    attending: Option<Tensor>,
    /// `(batch, tokens, 1)`: 0 where a token sees no image. `None` if there is no such token.
    seeing: Option<Tensor>,
}

impl<'a> CrossPass<'a> {
    /// Prepares a pass through `n_layers` layers that attend to images. `None` if there are no images. The `state`
    /// remembers what later tokens see.
    pub(super) fn of(
        input: &'a TokenInput,
        state: Option<&mut DecoderState>,
        n_layers: usize,
    ) -> candle_core::Result<Option<Self>> {
        let (n_rows, n_tokens, _) = input.embeddings.dims3()?;
        let (features, n_positions, views) = match (&input.media, state) {
            (Some(Media { features, views }), state) => {
                let n_positions = features.dim(1)?;
                if let Some(state) = state {
                    state.cross = (0..n_layers).map(|_| KvCache::new(n_positions)).collect();
                    state.views = views.chunks_exact(n_tokens).filter_map(|row| row.last().cloned()).collect();
                }
                (Some(features), n_positions, views.clone())
            }
            (None, Some(state)) if !state.views.is_empty() => {
                let n_positions = state.cross.first().map_or(0, KvCache::n_positions);
                let of_row = |view: &View| std::iter::repeat_n(view.clone(), n_tokens);
                (None, n_positions, state.views.iter().flat_map(of_row).collect())
            }
            (None, _) => return Ok(None),
        };
        if views.len() != n_rows * n_tokens {
            candle_core::bail!("{} views are not those of {n_rows} rows of {n_tokens} tokens", views.len());
        }
        let (dtype, device) = (input.embeddings.dtype(), input.embeddings.device());
        let view = |row: usize, token: usize| &views[row * n_tokens + token];
        let sees_all = views.iter().all(|view| view.attends == (0..n_positions));
        let mask = (!sees_all).then(|| {
            // A query that attends to nothing needs one position, so that its probabilities are numbers.
            let seen = |row, token| match &view(row, token).attends {
                attends if attends.is_empty() => 0..1,
                attends => attends.clone(),
            };
            Mask::of_ranges([n_rows, n_tokens, n_positions], dtype, device, seen)
        });
        let flags = |of: fn(&View) -> bool| flags(&views, of, (n_rows, n_tokens, 1), dtype, device);
        Ok(Some(Self {
            features,
            mask,
            attending: flags(|view| !view.attends.is_empty())?,
            seeing: flags(|view| view.sees)?,
        }))
    }
}

/// Returns 1 where `of` is true and 0 elsewhere. `None` if it is true everywhere.
fn flags(
    views: &[View],
    of: fn(&View) -> bool,
    shape: (usize, usize, usize),
    dtype: DType,
    device: &Device,
) -> candle_core::Result<Option<Tensor>> {
    if views.iter().all(of) {
        return Ok(None);
    }
    let flags: Vec<f32> = views.iter().map(|view| f32::from(u8::from(of(view)))).collect();
    Tensor::from_vec(flags, shape, device)?.to_dtype(dtype).map(Some)
}
