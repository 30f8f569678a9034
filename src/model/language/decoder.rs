//! The decoder that all text families share: LLaMA (Touvron et al. 2023) with the additions of others, as configured.

use std::ops::Range;

use anyhow::{Result, ensure};
use candle_core::Tensor;

use super::config::{DecoderConfig, PositionsConfig};
use super::cross::{CrossLayer, CrossPass, CrossSizes};
use super::{DecoderState, LanguageModel, Pass};
use crate::model::Placement;
use crate::model::layers::{
    Alibi, Angles, Attention, AttentionContext, AttentionNames, AttentionShape, Embedding, FeedForward, GatedMlp,
    LayerNorm, LayerWatch, Linear, Loader, Mask, Mlp, ModalityCalibration, MultimodalRotary, Norm, PassShape, RmsNorm,
    Rotary, Site, VirtualKeys, capped, load_vocabulary, tokens_at,
};

impl DecoderConfig {
    /// Loads a norm of `size` numbers by the root of their mean square.
    fn rms_norm(&self, loader: &mut Loader, name: &str, size: usize) -> Result<RmsNorm> {
        match self.has_offset_norms {
            true => RmsNorm::load_offset(loader, name, size, self.epsilon),
            false => RmsNorm::load(loader, name, size, self.epsilon),
        }
    }

    /// Loads a norm of the residual stream.
    fn norm(&self, loader: &mut Loader, name: &str) -> Result<Norm> {
        Ok(match self.is_mpt {
            true => Norm::Layer(LayerNorm::load_unbiased(loader, name, self.size, self.epsilon)?),
            false => Norm::Rms(self.rms_norm(loader, name, self.size)?),
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
        let is_flat = !matches!(self.positions, PositionsConfig::Multimodal(_));
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
}

struct Layer {
    attention_norm: Norm,
    attention: Attention,
    mlp_norm: Norm,
    mlp: FeedForward,
    /// The norm of what the feed-forward half adds to the residual stream.
    mlp_norm_after: Option<RmsNorm>,
    /// How many positions a query sees, if that is limited.
    window: Option<usize>,
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
    /// Loads the layer `index`.
    fn load(
        config: &DecoderConfig,
        loader: &mut Loader,
        index: usize,
        virtual_keys: Option<VirtualKeys>,
    ) -> Result<Self> {
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
        let mut here = loader.at(&format!("language_model.layers.{index}"));
        let mut attention = Attention::load(&mut here.at("self_attn"), shape, names)?;
        if config.has_head_norms {
            let mut norm = |name| config.rms_norm(&mut here.at("self_attn"), name, config.head_size);
            attention = attention.with_head_norms(norm("q_norm")?, norm("k_norm")?);
        }
        if let &PositionsConfig::Alibi { alibi_bias_max } = &config.positions {
            attention = attention.with_alibi(Alibi::new(config.n_heads, alibi_bias_max));
        }
        attention = attention.with_virtual_keys(virtual_keys).with_rule(config.score_rule());
        let calibration = ModalityCalibration::load(&mut here, config.size)?;
        // With norms after both halves, the name of the second norm means the first of these.
        let (mlp_norm, [after_attention, after_mlp]) = match config.gemma {
            None => (config.norm(&mut here, "post_attention_layernorm")?, [None, None]),
            Some(_) => {
                let mut after = |name| config.rms_norm(&mut here, name, config.size);
                let after = [after("post_attention_layernorm")?, after("post_feedforward_layernorm")?];
                (config.norm(&mut here, "pre_feedforward_layernorm")?, after.map(Some))
            }
        };
        Ok(Self {
            attention_norm: config.norm(&mut here, "input_layernorm")?,
            attention: attention.with_norm_after(after_attention),
            mlp_norm,
            mlp: config.feed_forward(&mut here.at("mlp"))?,
            mlp_norm_after: after_mlp,
            window: config.window(index),
            calibration,
        })
    }

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
        let x = watch.added(Site::MlpOutput, &x, |residual| match &self.mlp_norm_after {
            None => self.mlp.forward_added(residual, &normed),
            Some(norm) => norm.forward_added(residual, &self.mlp.forward(&normed)?),
        })?;
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
    ByLayer {
        full: Rotary,
        sliding: Rotary,
    },
    /// Attention itself accounts for them.
    Alibi,
}

impl Positions {
    fn load(config: &DecoderConfig, placement: &Placement) -> Result<Self> {
        let flat = |rotary| Rotary::new(rotary, config.head_size, config.n_positions, placement);
        Ok(match &config.positions {
            PositionsConfig::Flat(rotary) => Self::Flat(flat(rotary)?),
            PositionsConfig::Multimodal(rotary) => Self::Multimodal(MultimodalRotary::new(rotary, placement)?),
            PositionsConfig::ByLayer { full, sliding } => Self::ByLayer { full: flat(full)?, sliding: flat(sliding)? },
            PositionsConfig::Alibi { .. } => Self::Alibi,
        })
    }

    /// Returns the angles of `positions`, and those of sliding layers if they differ. `None` if heads are not rotated.
    fn rows(&self, positions: &Tensor) -> candle_core::Result<[Option<Angles>; 2]> {
        Ok(match self {
            Self::Flat(rotary) => [Some(rotary.rows(positions)?), None],
            Self::Multimodal(rotary) => [Some(rotary.rows(positions)?), None],
            Self::ByLayer { full, sliding } => [Some(full.rows(positions)?), Some(sliding.rows(positions)?)],
            Self::Alibi => [None, None],
        })
    }
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
    /// The largest logit.
    logit_cap: Option<f64>,
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
        let mut layers = Vec::new();
        let mut virtual_keys = config.virtual_keys(loader)?.into_iter().flatten();
        for index in 0..config.n_layers {
            layers.push(match config.is_replaced(index) {
                true => None,
                false => Some(Layer::load(&config, loader, index, virtual_keys.next())?),
            });
        }
        let norm = config.norm(&mut loader.at("language_model"), "norm")?;
        let positions = Positions::load(&config, loader.placement())?;
        let widths =
            [config.size, config.n_heads * config.head_size, config.n_kv_heads * config.head_size, config.n_hidden];
        let (embedding_scale, logit_cap) = (config.embedding_scale, config.logit_cap());
        Ok(Self { embedding, embedding_scale, layers, cross, norm, head, logit_cap, positions, widths })
    }
}

impl Decoder {
    /// Returns the mask of sliding layers in a pass of `[tokens, positions]`. `None` if it hides nothing more than
    /// `mask` does. All sliding layers have the same window.
    fn windowed_mask(
        &self,
        mask: Option<&Mask>,
        [n_tokens, n_positions]: [usize; 2],
        embeddings: &Tensor,
    ) -> Option<Mask> {
        let mut layers = self.layers.iter().flatten();
        let window = layers.find_map(|layer| layer.window).filter(|window| n_positions > *window)?;
        let (dtype, device) = (embeddings.dtype(), embeddings.device());
        let open = || Mask::of_ranges([1, n_tokens, n_positions], dtype, device, |_, _| 0..n_positions);
        Some(mask.map_or_else(|| open().windowed(window), |mask| mask.windowed(window)))
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
        let [rotary, of_sliding] = self.positions.rows(&input.positions)?;
        let (n_rows, n_tokens, _) = input.embeddings.dims3()?;
        let n_before = state.as_ref().map_or(0, |state| state.n_positions());
        watch.begins(PassShape { n_rows, n_tokens, n_positions: n_before + n_tokens });
        let windowed = self.windowed_mask(mask, [n_tokens, n_before + n_tokens], &input.embeddings);
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
            let (mask, rotary) = match layer.window {
                None => (mask, rotary.as_ref()),
                Some(_) => (windowed.as_ref().or(mask), of_sliding.as_ref().or(rotary.as_ref())),
            };
            let (window, positions) = (layer.window, Some(&input.positions));
            let context = AttentionContext { mask, window, rotary, positions, cache };
            let of_images = OfImages { added: input.deepstack.get(index), is_image: input.is_image.as_ref() };
            x = layer.forward(&x, computed, context, of_images, &mut watch.layer(index))?;
        }
        watch.layer(self.layers.len()).at(Site::FinalNorm, self.norm.forward(&x)?)
    }

    fn logits(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
        let logits = self.head.forward(hidden)?;
        match self.logit_cap {
            Some(cap) => capped(&logits, cap),
            None => Ok(logits),
        }
    }

    fn lens(&self, residual: &Tensor) -> candle_core::Result<Tensor> {
        self.logits(&self.norm.forward(residual)?)
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
