//! The decoder that all text families share: LLaMA (Touvron et al. 2023) with the additions of others, as configured.

use std::ops::Range;

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use serde::Serialize;

use super::cross::{CrossConfig, CrossLayer, CrossPass, CrossSizes};
use super::families::FAMILIES;
use super::{DecoderState, LanguageModel, Pass};
use crate::domain::closest;
use crate::model::checkpoint::config::Config;
use crate::model::layers::{
    Activation, Alibi, Attention, AttentionContext, AttentionNames, AttentionShape, Embedding, FeedForward, GatedMlp,
    LayerNorm, LayerWatch, Linear, Loader, Mlp, ModalityCalibration, MultimodalRotary, MultimodalRotaryConfig, Norm,
    PassShape, RmsNorm, Rotary, RotaryConfig, Site, VirtualKeys, load_vocabulary, tokens_at,
};

/// The maximum number of positions. Tables of angles cover all positions, and a larger table would fill the memory.
const N_POSITIONS_MAX: usize = 1 << 20;

/// Sizes and kinds of a decoder's parts, under the names of `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecoderConfig {
    #[serde(rename = "hidden_size")]
    pub(super) size: usize,
    #[serde(rename = "intermediate_size")]
    pub(super) n_hidden: usize,
    #[serde(rename = "num_hidden_layers")]
    pub(super) n_layers: usize,
    #[serde(rename = "num_attention_heads")]
    pub(super) n_heads: usize,
    #[serde(rename = "num_key_value_heads")]
    pub(super) n_kv_heads: usize,
    #[serde(rename = "head_dim")]
    pub(super) head_size: usize,
    /// Rows of the embedding.
    #[serde(rename = "vocab_size")]
    pub vocabulary_size: usize,
    /// The number of positions that can be computed: those that the model was trained for, or fewer for the reason in
    /// `limit`.
    #[serde(skip)]
    pub n_positions: usize,
    /// Why there are fewer positions than the model was trained for.
    #[serde(skip)]
    pub(super) limit: Option<String>,
    #[serde(rename = "rms_norm_eps")]
    pub(super) epsilon: f64,
    #[serde(rename = "hidden_act")]
    pub(super) activation: Activation,
    #[serde(rename = "rope_parameters")]
    pub(super) positions: PositionsConfig,
    #[serde(rename = "query_key_value_bias")]
    pub(super) qkv_bias: bool,
    pub(super) output_bias: bool,
    pub(super) mlp_bias: bool,
    /// Whether each head of queries and keys is normalised.
    pub(super) has_head_norms: bool,
    /// Whether norms multiply by 1 plus their weight, as Gemma's do.
    pub(super) has_offset_norms: bool,
    /// Whether queries, keys and values are one map, and gate and up another, as in Phi-3.
    pub(super) has_joined_maps: bool,
    /// The factor of token embeddings, if they are scaled, as in Gemma.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) embedding_scale: Option<f64>,
    /// Whether norms subtract the mean and the feed-forward half has no gate, as in MPT.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_mpt: bool,
    /// The layers that attend to images beside the text.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) cross: Option<CrossConfig>,
    /// Rows of the embedding after those of the head's tokens.
    #[serde(skip)]
    pub(super) n_more_embedded: usize,
    #[serde(skip)]
    pub(super) is_tied: bool,
}

/// How positions rotate heads.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum PositionsConfig {
    /// One position per token.
    Flat(RotaryConfig),
    /// Time, row and column.
    Multimodal(MultimodalRotaryConfig),
    /// No rotation: scores fall with the distance.
    Alibi {
        /// The exponent of the smallest slope.
        alibi_bias_max: f64,
    },
}

/// The defaults of a class of transformers.
pub(super) struct Defaults {
    pub size: usize,
    pub n_hidden: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    /// `None` means the number of heads.
    pub n_kv_heads: Option<usize>,
    /// `None` means the width divided by the number of heads.
    pub head_size: Option<usize>,
    pub vocabulary_size: usize,
    pub n_positions: usize,
    pub epsilon: f64,
    pub activation: &'static str,
    pub is_tied: bool,
}

impl DecoderConfig {
    /// Reads a `text_config` of any of the text families. `is_tied_outside` is the `tie_word_embeddings` of the
    /// enclosing section.
    pub fn from_config(config: &Config, is_tied_outside: bool) -> Result<Self> {
        let kind = config.str_or("model_type", "llama")?;
        let Some(family) = FAMILIES.iter().find(|family| family.model_types.contains(&kind)) else {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.about).collect();
            let types: Vec<&str> = FAMILIES.iter().flat_map(|family| family.model_types).copied().collect();
            bail!(
                "the language model `{kind}` in {} is not supported; hint: {}emt reads {} here",
                config.place(),
                closest(kind, &types),
                known.join(", ")
            );
        };
        let read = (family.read)(config)?;
        Ok(Self { is_tied: read.is_tied || is_tied_outside, ..read })
    }

    /// Reads the keys that all classes have.
    pub(super) fn read(config: &Config, defaults: &Defaults) -> Result<Self> {
        Self::read_with(config, defaults, |_, _| RotaryConfig::from_config(config))
    }

    /// Like [`read`](Self::read), with the family's own `rotary`, which is given the width of a head and the number of
    /// positions.
    pub(super) fn read_with(
        config: &Config,
        defaults: &Defaults,
        rotary: impl FnOnce(usize, usize) -> Result<RotaryConfig>,
    ) -> Result<Self> {
        let size = config.positive_or("hidden_size", defaults.size)?;
        let n_heads = config.positive_or("num_attention_heads", defaults.n_heads)?;
        let n_kv_heads = config.positive_or("num_key_value_heads", defaults.n_kv_heads.unwrap_or(n_heads))?;
        let n_positions = config.positive_or("max_position_embeddings", defaults.n_positions)?;
        if n_positions > N_POSITIONS_MAX {
            bail!(
                "`max_position_embeddings` in {} is {n_positions}, more than {N_POSITIONS_MAX}; hint: check the file \
                 for a slip",
                config.place()
            );
        }
        if !n_heads.is_multiple_of(n_kv_heads) {
            bail!(
                "{}: num_attention_heads {n_heads} is not a multiple of num_key_value_heads {n_kv_heads}",
                config.place()
            );
        }
        let head_size = config.positive_or("head_dim", defaults.head_size.unwrap_or((size / n_heads).max(1)))?;
        Ok(Self {
            size,
            n_hidden: config.positive_or("intermediate_size", defaults.n_hidden)?,
            n_layers: config.positive_or("num_hidden_layers", defaults.n_layers)?,
            n_heads,
            n_kv_heads,
            head_size,
            vocabulary_size: config.positive_or("vocab_size", defaults.vocabulary_size)?,
            n_positions,
            limit: None,
            epsilon: config.f64_or("rms_norm_eps", defaults.epsilon)?,
            activation: Activation::from_name(config.str_or("hidden_act", defaults.activation)?)?,
            positions: PositionsConfig::Flat(rotary(head_size, n_positions)?),
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            has_head_norms: false,
            has_offset_norms: false,
            has_joined_maps: false,
            embedding_scale: None,
            is_mpt: false,
            cross: None,
            n_more_embedded: 0,
            is_tied: config.bool_or("tie_word_embeddings", defaults.is_tied)?,
        })
    }

    /// Gives all four maps of attention a bias if `attention_bias` is set.
    pub(super) fn with_attention_bias(self, config: &Config) -> Result<Self> {
        let has_bias = config.bool_or("attention_bias", false)?;
        Ok(Self { qkv_bias: has_bias, output_bias: has_bias, ..self })
    }

    /// Limits the model to `n_positions` positions, if it has more. `why` gives the reason.
    pub(super) fn limited(self, n_positions: usize, why: impl FnOnce() -> String) -> Self {
        match n_positions < self.n_positions {
            true => Self { n_positions, limit: Some(why()), ..self },
            false => self,
        }
    }

    /// Limits the model to a sliding window of this many positions, if there is one. Within the window, all tokens
    /// attend to all earlier ones; beyond it, nothing is computed here.
    pub(super) fn within_window(self, n_positions: Option<usize>) -> Self {
        match n_positions {
            None => self,
            Some(n) => self.limited(n, || format!("its sliding window has {n}, and longer inputs are not supported")),
        }
    }

    /// Why there are fewer positions than the model was trained for, if there are.
    pub fn limit(&self) -> Option<&str> {
        self.limit.as_deref()
    }

    /// The factor of token embeddings, if they are scaled.
    pub fn embedding_scale(&self) -> Option<f64> {
        self.embedding_scale
    }

    /// The number of decoder layers.
    pub fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// The heads of queries, and of keys and values.
    pub fn n_heads(&self) -> [usize; 2] {
        [self.n_heads, self.n_kv_heads]
    }

    /// The width of the residual stream.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Adds `n` tokens after those that the configuration has. If the head is not the embedding, it has no rows for them,
    /// unless the files do.
    pub fn with_more_tokens(self, n: usize) -> Self {
        match self.is_tied {
            true => Self { vocabulary_size: self.vocabulary_size + n, ..self },
            false => Self { n_more_embedded: n, ..self },
        }
    }

    /// Adds layers that attend to images.
    pub fn with_cross(self, cross: CrossConfig) -> Self {
        Self { cross: Some(cross), ..self }
    }

    /// Loads a norm of the residual stream.
    fn norm(&self, loader: &mut Loader, name: &str) -> Result<Norm> {
        Ok(match (self.is_mpt, self.has_offset_norms) {
            (true, _) => Norm::Layer(LayerNorm::load_unbiased(loader, name, self.size, self.epsilon)?),
            (false, true) => Norm::Rms(RmsNorm::load_offset(loader, name, self.size, self.epsilon)?),
            (false, false) => Norm::Rms(RmsNorm::load(loader, name, self.size, self.epsilon)?),
        })
    }

    /// Loads the feed-forward half of a layer.
    fn feed_forward(&self, loader: &mut Loader) -> Result<FeedForward> {
        let &Self { size, n_hidden, activation, mlp_bias, .. } = self;
        Ok(match (self.is_mpt, self.has_joined_maps) {
            (true, _) => {
                let names = ["up_proj", "down_proj"];
                FeedForward::Plain(Mlp::load_unbiased(loader, names, [size, n_hidden, size], activation)?)
            }
            (false, true) => FeedForward::Gated(GatedMlp::load_joined(loader, size, n_hidden, activation, mlp_bias)?),
            (false, false) => FeedForward::Gated(GatedMlp::load(loader, size, n_hidden, activation, mlp_bias)?),
        })
    }

    /// Whether layer `index` attends to images instead of the text.
    fn is_replaced(&self, index: usize) -> bool {
        self.cross.as_ref().is_some_and(|cross| cross.kind.replaces() && cross.layers.contains(&index))
    }

    /// Loads the layers that attend to images, by the index of the layer that they replace or precede.
    fn load_cross(&self, loader: &mut Loader) -> Result<Vec<Option<CrossLayer>>> {
        let Some(cross) = &self.cross else { return Ok((0..self.n_layers).map(|_| None).collect()) };
        let &Self { size, n_hidden, n_heads, n_kv_heads, head_size, epsilon, activation, .. } = self;
        let sizes = CrossSizes { size, n_hidden, n_heads, n_kv_heads, head_size, epsilon, activation };
        let load = |index: usize| {
            let mut here = loader.at(&format!("language_model.layers.{index}"));
            let is_cross = cross.layers.contains(&index);
            is_cross.then(|| CrossLayer::load(&mut here, cross.kind, cross.width, &sizes)).transpose()
        };
        (0..self.n_layers).map(load).collect()
    }

    /// Takes the adapter's keys and values for all layers, if it has some.
    fn virtual_keys(&self, loader: &mut Loader) -> Result<Option<Vec<VirtualKeys>>> {
        let keys = VirtualKeys::load(loader, self.n_layers, [self.n_kv_heads, self.head_size])?;
        let is_flat = matches!(self.positions, PositionsConfig::Flat(_));
        ensure!(
            keys.is_none() || is_flat,
            "prefix tuning is not supported for a model whose positions are not those of one sequence that rotates heads; hint: \
             prompt tuning is"
        );
        ensure!(
            keys.is_none() || self.cross.is_none(),
            "prefix tuning is not supported for a model whose layers attend to images; hint: prompt tuning is"
        );
        Ok(keys)
    }

    /// The number of values that a row of `n_tokens` positions holds for `n_beside` positions of images beside them:
    /// features, keys and values, and the scores of one layer.
    pub fn n_numbers_beside(&self, n_beside: usize, n_tokens: usize) -> usize {
        let Some(cross) = &self.cross else { return 0 };
        let keys = (2 * cross.layers.len()).saturating_mul(self.n_kv_heads).saturating_mul(self.head_size);
        n_beside.saturating_mul(cross.width.saturating_add(keys).saturating_add(self.n_heads.saturating_mul(n_tokens)))
    }

    /// The number of values that a row of `n_tokens` positions holds: keys and values of all layers, activations of
    /// one.
    pub fn n_numbers_per_row(&self, n_tokens: usize) -> usize {
        // A configuration may claim any size. A size that overflows does not fit either.
        let cache = (2 * self.n_layers).saturating_mul(self.n_kv_heads).saturating_mul(self.head_size);
        let activations = 8 * self.size + 3 * self.n_hidden + 2 * self.n_heads.saturating_mul(n_tokens);
        n_tokens.saturating_mul(cache.saturating_add(activations))
    }
}

struct Layer {
    attention_norm: Norm,
    attention: Attention,
    mlp_norm: Norm,
    mlp: FeedForward,
    /// What is done to the positions of images after the layer.
    calibration: Option<ModalityCalibration>,
}

/// What images add to a layer.
#[derive(Clone, Copy)]
struct OfImages<'a> {
    /// Added after the layer, `(batch, tokens, hidden)`.
    added: Option<&'a Tensor>,
    /// Where images are, `(batch, tokens)`.
    is_image: Option<&'a Tensor>,
}

impl Layer {
    /// Returns the residual stream `(batch, tokens, hidden)` after the layer, at the tokens `computed`. `of_images` covers
    /// all tokens.
    fn forward(
        &self,
        x: &Tensor,
        computed: Range<usize>,
        context: AttentionContext<'_>,
        of_images: OfImages<'_>,
        watch: &mut LayerWatch<'_>,
    ) -> candle_core::Result<Tensor> {
        let residual = tokens_at(x, &computed)?;
        let normed = watch.at(Site::AttentionInput, self.attention_norm.forward(x)?)?;
        let x = self.attention.forward_added(&residual, &normed, computed.clone(), context, watch)?;
        let normed = watch.at(Site::MlpInput, self.mlp_norm.forward(&x)?)?;
        let x = watch.added(Site::MlpOutput, &x, |residual| self.mlp.forward_added(residual, &normed))?;
        let x = match self.calibration.as_ref().zip(of_images.is_image) {
            Some((calibration, is_image)) => {
                calibration.forward(&x, &is_image.narrow(1, computed.start, computed.len())?)?
            }
            None => x,
        };
        let x = match of_images.added {
            Some(added) => (x + tokens_at(added, &computed)?)?,
            None => x,
        };
        watch.at(Site::Residual, x)
    }
}

/// Angles by position.
enum Positions {
    Flat(Rotary),
    Multimodal(MultimodalRotary),
    /// Attention itself accounts for them.
    Alibi,
}

/// The decoder.
pub struct Decoder {
    embedding: Embedding,
    embedding_scale: Option<f64>,
    /// `None` where a layer attends to images instead.
    layers: Vec<Option<Layer>>,
    /// What attends to images before or instead of each layer.
    cross: Vec<Option<CrossLayer>>,
    norm: Norm,
    head: Linear,
    positions: Positions,
    /// The widths of the residual stream, of all queries, of all keys, and inside the MLP.
    widths: [usize; 4],
}

impl Decoder {
    /// Loads `language_model.*` and `lm_head` by their canonical names.
    pub fn load(loader: &mut Loader, config: DecoderConfig) -> Result<Self> {
        let (embedding, head) =
            load_vocabulary(loader, [config.vocabulary_size, config.n_more_embedded], config.size, config.is_tied)?;
        let cross = config.load_cross(loader)?;
        let shape = AttentionShape {
            size: config.size,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_size: config.head_size,
        };
        let names = AttentionNames {
            output: "o_proj",
            qkv_bias: config.qkv_bias,
            output_bias: config.output_bias,
            is_joined: config.has_joined_maps,
        };
        let mut layers = Vec::new();
        let mut virtual_keys = config.virtual_keys(loader)?.into_iter().flatten();
        for i in 0..config.n_layers {
            if config.is_replaced(i) {
                layers.push(None);
                continue;
            }
            let mut here = loader.at(&format!("language_model.layers.{i}"));
            let mut attention = Attention::load(&mut here.at("self_attn"), shape, names)?;
            if config.has_head_norms {
                attention = attention.with_head_norms(&mut here.at("self_attn"), config.epsilon)?;
            }
            if let &PositionsConfig::Alibi { alibi_bias_max } = &config.positions {
                attention = attention.with_alibi(Alibi::new(config.n_heads, alibi_bias_max));
            }
            attention = attention.with_virtual_keys(virtual_keys.next());
            let calibration = ModalityCalibration::load(&mut here, config.size)?;
            layers.push(Some(Layer {
                attention_norm: config.norm(&mut here, "input_layernorm")?,
                attention,
                mlp_norm: config.norm(&mut here, "post_attention_layernorm")?,
                mlp: config.feed_forward(&mut here.at("mlp"))?,
                calibration,
            }));
        }
        let norm = config.norm(&mut loader.at("language_model"), "norm")?;
        let placement = loader.placement();
        let positions = match &config.positions {
            PositionsConfig::Flat(rotary) => {
                Positions::Flat(Rotary::new(rotary, config.head_size, config.n_positions, placement)?)
            }
            PositionsConfig::Multimodal(rotary) => Positions::Multimodal(MultimodalRotary::new(rotary, placement)?),
            PositionsConfig::Alibi { .. } => Positions::Alibi,
        };
        let widths =
            [config.size, config.n_heads * config.head_size, config.n_kv_heads * config.head_size, config.n_hidden];
        Ok(Self { embedding, embedding_scale: config.embedding_scale, layers, cross, norm, head, positions, widths })
    }
}

impl LanguageModel for Decoder {
    fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let rows = self.embedding.forward(ids)?;
        match self.embedding_scale {
            Some(scale) => scaled(&rows, scale),
            None => Ok(rows),
        }
    }

    fn forward(&self, pass: Pass<'_>) -> candle_core::Result<Tensor> {
        let Pass { input, mask, mut state, mut watch } = pass;
        let rotary = match &self.positions {
            Positions::Flat(rotary) => Some(rotary.rows(&input.positions)?),
            Positions::Multimodal(rotary) => Some(rotary.rows(&input.positions)?),
            Positions::Alibi => None,
        };
        let (n_rows, n_tokens, _) = input.embeddings.dims3()?;
        let n_before = state.as_ref().map_or(0, |state| state.n_positions());
        watch.begins(PassShape { n_rows, n_tokens, n_positions: n_before + n_tokens });
        let n_cross = self.cross.iter().flatten().count();
        let beside = CrossPass::of(input, state.as_deref_mut(), n_cross)?;
        let mut next_cross = 0;
        let mut x = watch.layer(0).at(Site::Embeddings, input.embeddings.clone())?; // (batch, tokens, hidden)
        for (index, layer) in self.layers.iter().enumerate() {
            // The last layer is computed only for the wanted tokens.
            let computed = if index + 1 == self.layers.len() { input.wanted()? } else { 0..n_tokens };
            if let Some(cross) = &self.cross[index] {
                let cache = state.as_mut().and_then(|state| state.cross.get_mut(next_cross));
                next_cross += 1;
                let computed = if layer.is_none() { computed.clone() } else { 0..n_tokens };
                x = cross.forward(&x, computed, beside.as_ref(), cache, &mut watch.layer(index))?;
            }
            let Some(layer) = layer else { continue };
            let cache = state.as_mut().and_then(|state| state.own.get_mut(index));
            let context = AttentionContext { mask, rotary: rotary.as_ref(), positions: Some(&input.positions), cache };
            let of_images = OfImages { added: input.deepstack.get(index), is_image: input.is_image.as_ref() };
            x = layer.forward(&x, computed, context, of_images, &mut watch.layer(index))?;
        }
        watch.layer(self.layers.len()).at(Site::FinalNorm, self.norm.forward(&x)?)
    }

    fn logits(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
        self.head.forward(hidden)
    }

    fn lens(&self, residual: &Tensor) -> candle_core::Result<Tensor> {
        self.head.forward(&self.norm.forward(residual)?)
    }

    fn n_layers(&self) -> usize {
        self.layers.len()
    }

    fn n_operations(&self, n_image: usize, n_text: usize) -> [f64; 2] {
        let [size, queries, keys, hidden] = self.widths.map(|width| width as f64);
        let all = (n_image + n_text) as f64;
        // Queries; keys and values; the output map; attention; the feed-forward half.
        let of = |n_queries: f64| {
            2.0 * n_queries * size * queries
                + 4.0 * all * size * keys
                + 2.0 * all * size * queries
                + 4.0 * n_queries * all * queries
                + 6.0 * all * size * hidden
        };
        [of(all), of(n_text as f64)].map(|of_layer| of_layer * self.layers.len() as f64)
    }

    fn new_state(&self, capacity: usize) -> DecoderState {
        DecoderState::new(self.layers.len(), capacity)
    }
}

/// Multiplies `x` by `scale`, which is first rounded to the type of `x`, as in transformers.
pub fn scaled(x: &Tensor, scale: f64) -> candle_core::Result<Tensor> {
    let scale = Tensor::new(scale as f32, x.device())?.to_dtype(x.dtype())?;
    x.broadcast_mul(&scale)
}
