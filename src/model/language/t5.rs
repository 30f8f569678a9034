//! T5 (Raffel et al. 2020) in its versions 1.0 and 1.1, which Flan-T5 has: an encoder reads the prompt, and a decoder
//! that attends to it writes the answer.

use std::ops::Range;

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};
use serde::Serialize;

use super::{DecoderState, LanguageModel, Pass, TokenInput, scaled};
use crate::model::checkpoint::config::Config;
use crate::model::layers::{
    Activation, Embedding, HeadAttention, HeadAttentionNames, HeadAttentionShape, KvCache, LayerWatch, Linear, Loader,
    PassShape, RelativeBias, RelativeBiasShape, RmsNorm, Site, Watched, load_vocabulary, tokens_at,
};

/// Finite even in f16, and far below every score.
const MASKED: f32 = -60_000.0;

/// Sizes and kinds of a T5's parts, under the names of `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct T5Config {
    #[serde(rename = "d_model")]
    size: usize,
    #[serde(rename = "d_kv")]
    head_size: usize,
    #[serde(rename = "d_ff")]
    n_hidden: usize,
    #[serde(rename = "num_layers")]
    n_encoder_layers: usize,
    #[serde(rename = "num_decoder_layers")]
    n_decoder_layers: usize,
    #[serde(rename = "num_heads")]
    n_heads: usize,
    #[serde(rename = "vocab_size")]
    vocabulary_size: usize,
    #[serde(rename = "relative_attention_num_buckets")]
    n_buckets: usize,
    #[serde(rename = "relative_attention_max_distance")]
    max_distance: usize,
    #[serde(rename = "layer_norm_epsilon")]
    epsilon: f64,
    #[serde(rename = "dense_act_fn")]
    activation: Activation,
    #[serde(rename = "is_gated_act")]
    is_gated: bool,
    #[serde(rename = "tie_word_embeddings")]
    is_tied: bool,
    /// Whether the decoder's states are divided by the root of their width before the head.
    #[serde(rename = "scale_decoder_outputs")]
    scales_output: bool,
    /// The token before every answer.
    #[serde(rename = "decoder_start_token_id")]
    start_id: u32,
}

impl T5Config {
    /// Reads the configuration of a `T5ForConditionalGeneration`, with the defaults of transformers.
    ///
    /// # Errors
    /// A setting has no meaning or is not supported.
    pub fn from_config(config: &Config) -> Result<Self> {
        let n_encoder_layers = config.positive_or("num_layers", 6)?;
        let projection = config.str_or("feed_forward_proj", "relu")?;
        let (activation, is_gated) = match projection.strip_prefix("gated-") {
            // The name means the approximation here, and only here.
            Some("gelu") => ("gelu_new", true),
            Some(activation) => (activation, true),
            None => (projection, false),
        };
        let is_tied = config.bool_or("tie_word_embeddings", true)?;
        let this = Self {
            size: config.positive_or("d_model", 512)?,
            head_size: config.positive_or("d_kv", 64)?,
            n_hidden: config.positive_or("d_ff", 2048)?,
            n_encoder_layers,
            n_decoder_layers: config.positive_or("num_decoder_layers", n_encoder_layers)?,
            n_heads: config.positive_or("num_heads", 8)?,
            vocabulary_size: config.positive_or("vocab_size", 32128)?,
            n_buckets: config.positive_or("relative_attention_num_buckets", 32)?,
            max_distance: config.positive_or("relative_attention_max_distance", 128)?,
            epsilon: config.f64_or("layer_norm_epsilon", 1e-6)?,
            activation: Activation::from_name(activation)?,
            is_gated,
            is_tied,
            // Version 4 of transformers has no key of its own: it scales where the head is tied.
            scales_output: config.bool_or("scale_decoder_outputs", is_tied)?,
            start_id: config.usize_or("decoder_start_token_id", config.usize_or("pad_token_id", 0)?)? as u32,
        };
        ensure!(
            this.n_buckets >= 4
                && this.max_distance > this.n_buckets / 2
                && (this.start_id as usize) < this.vocabulary_size,
            "{}: relative_attention_num_buckets {} must be at least 4, relative_attention_max_distance {} more than half \
             of it, and decoder_start_token_id {} a token of {}",
            config.place(),
            this.n_buckets,
            this.max_distance,
            this.start_id,
            this.vocabulary_size
        );
        Ok(this)
    }

    /// The width of the residual stream.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The number of decoder layers.
    pub fn n_layers(&self) -> usize {
        self.n_decoder_layers
    }

    /// The number of heads.
    pub fn n_heads(&self) -> usize {
        self.n_heads
    }

    /// The number of values that a prompt of `n_tokens` positions holds: its keys and values in all layers, and one
    /// layer's activations and scores.
    pub fn n_numbers_per_row(&self, n_tokens: usize) -> usize {
        let cache = (2 * self.n_decoder_layers).saturating_mul(self.n_heads).saturating_mul(self.head_size);
        let activations = 8 * self.size + 3 * self.n_hidden + 3 * self.n_heads.saturating_mul(n_tokens);
        n_tokens.saturating_mul(cache.saturating_add(activations))
    }

    fn bias_shape(&self, is_bidirectional: bool) -> RelativeBiasShape {
        let Self { n_buckets, max_distance, n_heads, .. } = *self;
        RelativeBiasShape { n_buckets, max_distance, n_heads, is_bidirectional }
    }
}

/// The feed-forward half.
struct FeedForward {
    /// The map that is activated.
    first: Linear,
    /// The map that is multiplied with it.
    gate: Option<Linear>,
    last: Linear,
    activation: Activation,
}

impl FeedForward {
    fn load(loader: &mut Loader, config: &T5Config) -> Result<Self> {
        let mut map = |name: &str| Linear::load(loader, name, config.size, config.n_hidden, false);
        let (first, gate) = match config.is_gated {
            true => (map("wi_0")?, Some(map("wi_1")?)),
            false => (map("wi")?, None),
        };
        let last = Linear::load(loader, "wo", config.n_hidden, config.size, false)?;
        Ok(Self { first, gate, last, activation: config.activation })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let first = self.activation.forward(&self.first.forward(x)?)?;
        let hidden = match &self.gate {
            Some(gate) => (first * gate.forward(x)?)?,
            None => first,
        };
        self.last.forward(&hidden)
    }
}

/// A layer of encoder or decoder.
struct Layer {
    attention_norm: RmsNorm,
    attention: HeadAttention,
    /// The decoder's attention to the encoder's states, with its norm.
    cross: Option<(RmsNorm, HeadAttention)>,
    mlp_norm: RmsNorm,
    mlp: FeedForward,
}

impl Layer {
    fn load(loader: &mut Loader, config: &T5Config, is_decoder: bool) -> Result<Self> {
        let (size, n_heads, head_size) = (config.size, config.n_heads, config.head_size);
        let shape = HeadAttentionShape { size, context_size: size, n_heads, head_size };
        let names = HeadAttentionNames { inputs: ["q", "k", "v"], output: "o", has_bias: false };
        let norm = |here: &mut Loader| RmsNorm::load(here, "layer_norm", size, config.epsilon);
        let mut own = loader.at("layer.0");
        let (attention_norm, attention) =
            (norm(&mut own)?, HeadAttention::load(&mut own.at("SelfAttention"), shape, names)?);
        let cross = match is_decoder {
            true => {
                let mut here = loader.at("layer.1");
                Some((norm(&mut here)?, HeadAttention::load(&mut here.at("EncDecAttention"), shape, names)?))
            }
            false => None,
        };
        let mut last = loader.at(if is_decoder { "layer.2" } else { "layer.1" });
        let mlp_norm = norm(&mut last)?;
        let mlp = FeedForward::load(&mut last.at("DenseReluDense"), config)?;
        Ok(Self { attention_norm, attention, cross, mlp_norm, mlp })
    }
}

/// The layers of encoder or decoder, with the norm after them.
struct Stack {
    bias: RelativeBias,
    layers: Vec<Layer>,
    norm: RmsNorm,
}

impl Stack {
    fn load(loader: &mut Loader, config: &T5Config, is_decoder: bool) -> Result<Self> {
        let n_layers = if is_decoder { config.n_decoder_layers } else { config.n_encoder_layers };
        let name = "block.0.layer.0.SelfAttention.relative_attention_bias";
        let bias = RelativeBias::load(loader, name, config.bias_shape(!is_decoder))?;
        let layers = (0..n_layers)
            .map(|index| Layer::load(&mut loader.at(&format!("block.{index}")), config, is_decoder))
            .collect::<Result<_>>()?;
        Ok(Self { bias, layers, norm: RmsNorm::load(loader, "final_layer_norm", config.size, config.epsilon)? })
    }
}

/// What an encoder has read.
pub struct Encoded {
    /// `(batch, positions, size)`.
    pub states: Tensor,
    /// Added to the scores of each row's padding `(batch, 1, 1, positions)`. `None` if no row is padded.
    padding: Option<Tensor>,
}

/// A T5.
pub struct T5 {
    embedding: Embedding,
    head: Linear,
    encoder: Stack,
    decoder: Stack,
    /// The factor of the decoder's states before the head.
    output_scale: Option<f64>,
    start_id: u32,
    /// The widths of the residual stream, of all heads, and inside the feed-forward half; its number of maps.
    widths: [usize; 4],
}

impl T5 {
    /// Loads `language_model.*` and `lm_head` by their canonical names.
    ///
    /// # Errors
    /// A tensor is missing or of another shape.
    pub fn load(loader: &mut Loader, config: &T5Config) -> Result<Self> {
        let (embedding, head) = load_vocabulary(loader, [config.vocabulary_size, 0], config.size, config.is_tied)?;
        Ok(Self {
            embedding,
            head,
            encoder: Stack::load(&mut loader.at("language_model.encoder"), config, false)?,
            decoder: Stack::load(&mut loader.at("language_model.decoder"), config, true)?,
            output_scale: config.scales_output.then(|| (config.size as f64).powf(-0.5)),
            start_id: config.start_id,
            widths: [
                config.size,
                config.n_heads * config.head_size,
                config.n_hidden,
                if config.is_gated { 3 } else { 2 },
            ],
        })
    }

    /// The token before every answer.
    pub fn start_id(&self) -> u32 {
        self.start_id
    }

    /// Reads rows of embeddings, each `(tokens, size)`, with the encoder.
    ///
    /// # Errors
    /// A row has another width.
    pub fn encode(&self, rows: &[&Tensor]) -> candle_core::Result<Encoded> {
        let lengths = rows.iter().map(|row| row.dim(0)).collect::<candle_core::Result<Vec<_>>>()?;
        let n_tokens = lengths.iter().copied().max().unwrap_or(0);
        let padded = rows.iter().zip(&lengths).map(|(row, length)| row.pad_with_zeros(0, 0, n_tokens - length));
        let mut x = Tensor::stack(&padded.collect::<candle_core::Result<Vec<_>>>()?, 0)?; // (batch, tokens, size)
        let is_padded = lengths.iter().any(|&length| length < n_tokens);
        let padding = match is_padded {
            true => {
                let of_row = |&length: &usize| (0..n_tokens).map(move |at| if at < length { 0f32 } else { MASKED });
                let added: Vec<f32> = lengths.iter().flat_map(of_row).collect();
                Some(Tensor::from_vec(added, (rows.len(), 1, 1, n_tokens), x.device())?.to_dtype(x.dtype())?)
            }
            false => None,
        };
        let positions: Vec<u32> = (0..n_tokens as u32).collect();
        let bias = self.encoder.bias.forward(&positions, &positions)?;
        let added = match &padding {
            Some(padding) => bias.broadcast_add(padding)?,
            None => bias,
        };
        for layer in &self.encoder.layers {
            let normed = layer.attention_norm.forward(&x)?;
            let [keys, values] = layer.attention.keys_and_values(&normed)?;
            x = (x + layer.attention.forward_unscaled(&normed, [&keys, &values], Some(&added))?)?;
            x = (&x + layer.mlp.forward(&layer.mlp_norm.forward(&x)?)?)?;
        }
        Ok(Encoded { states: self.encoder.norm.forward(&x)?, padding })
    }

    /// Returns the state of a decoder that attends to `encoded`, with room for `capacity` tokens.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn attending(&self, encoded: &Encoded, capacity: usize) -> candle_core::Result<DecoderState> {
        let n_positions = encoded.states.dim(1)?;
        let mut state = self.new_state(capacity);
        for layer in &self.decoder.layers {
            let Some((_, cross)) = &layer.cross else { continue };
            let [keys, values] = cross.keys_and_values(&encoded.states)?;
            let mut cache = KvCache::new(n_positions);
            cache.append(&keys, &values)?;
            state.cross.push(cache);
        }
        state.cross_added = encoded.padding.clone();
        Ok(state)
    }

    /// Returns the decoder's states `(batch, tokens, size)` after the last norm, for a batch of `ids` of equal lengths
    /// that begin with the start token, without caches: gradients flow.
    ///
    /// # Errors
    /// The rows are not those of `encoded`.
    pub fn decode(&self, encoded: &Encoded, ids: &[Vec<u32>], watch: &mut Watched<'_>) -> candle_core::Result<Tensor> {
        let rows = ids.iter().map(|row| self.embed(row)).collect::<candle_core::Result<Vec<_>>>()?;
        let x = Tensor::stack(&rows, 0)?;
        let (n_rows, n_tokens, _) = x.dims3()?;
        let positions: Vec<u32> = (0..n_tokens as u32).collect();
        let hidden = positions.iter().flat_map(|query| positions.iter().map(move |key| key > query));
        let hidden: Vec<f32> = hidden.map(|is_hidden| if is_hidden { MASKED } else { 0.0 }).collect();
        let causal = Tensor::from_vec(hidden, (1, 1, n_tokens, n_tokens), x.device())?.to_dtype(x.dtype())?;
        let added = self.decoder.bias.forward(&positions, &positions)?.broadcast_add(&causal)?;
        watch.begins(PassShape { n_rows, n_tokens, n_positions: n_tokens });
        let mut x = watch.layer(0).at(Site::Embeddings, x)?;
        for (index, layer) in self.decoder.layers.iter().enumerate() {
            let own = |normed: &Tensor| layer.attention.keys_and_values(normed);
            let cross = match &layer.cross {
                Some((_, cross)) => Some(cross.keys_and_values(&encoded.states)?),
                None => None,
            };
            let cross = cross.as_ref().map(|[keys, values]| ([keys, values], encoded.padding.as_ref()));
            x = step(layer, (&x, 0..n_tokens), own, &added, cross, &mut watch.layer(index))?;
        }
        watch.layer(self.decoder.layers.len()).at(Site::FinalNorm, self.decoder.norm.forward(&x)?)
    }
}

/// Keys and values of the encoder's states, and what is added to their scores.
type Cross<'a> = ([&'a Tensor; 2], Option<&'a Tensor>);

/// Returns the residual stream after a layer of the decoder, at some of the tokens of `x`. `own` returns keys and values
/// of all positions, given the normed tokens.
fn step(
    layer: &Layer,
    (x, computed): (&Tensor, Range<usize>),
    own: impl FnOnce(&Tensor) -> candle_core::Result<[Tensor; 2]>,
    added: &Tensor,
    cross: Option<Cross<'_>>,
    watch: &mut LayerWatch<'_>,
) -> candle_core::Result<Tensor> {
    if watch.mask()?.is_some() || watch.wants_weights() {
        candle_core::bail!("attention of an encoder-decoder model cannot be read or masked by layer")
    }
    let residual = tokens_at(x, &computed)?;
    let normed = watch.at(Site::AttentionInput, layer.attention_norm.forward(x)?)?;
    let [keys, values] = own(&normed)?;
    let queries = tokens_at(&normed, &computed)?;
    let added = added.narrow(2, computed.start, computed.len())?;
    let mixed = layer.attention.forward_unscaled(&queries, [&keys, &values], Some(&added))?;
    let mixed = watch.at(Site::AttentionOutput, mixed)?;
    let mut x = (residual + mixed)?;
    if let (Some((norm, attention)), Some((states, padding))) = (&layer.cross, cross) {
        x = (&x + attention.forward_unscaled(&norm.forward(&x)?, states, padding)?)?;
    }
    let normed = watch.at(Site::MlpInput, layer.mlp_norm.forward(&x)?)?;
    let mlp = watch.at(Site::MlpOutput, layer.mlp.forward(&normed)?)?;
    watch.at(Site::Residual, (x + mlp)?)
}

impl LanguageModel for T5 {
    fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        self.embedding.forward(ids)
    }

    /// A pass of the decoder, whose state attends to a prompt. All rows have the same positions: prompts are the
    /// encoder's, and answers begin together.
    fn forward(&self, pass: Pass<'_>) -> candle_core::Result<Tensor> {
        let Pass { input, mask, state, mut watch } = pass;
        let Some(state) = state.filter(|state| state.cross.len() == self.decoder.layers.len()) else {
            candle_core::bail!("the decoder of an encoder-decoder model needs a prompt that its encoder has read")
        };
        let positions = input.positions.get(0)?.to_vec1::<u32>()?;
        let DecoderState { own, cross, cross_added, positions: known, .. } = state;
        known.extend(&positions);
        let (n_rows, n_tokens, _) = input.embeddings.dims3()?;
        let bias = self.decoder.bias.forward(&positions, known)?; // (1, heads, tokens, positions)
        let added = match mask {
            Some(mask) => bias.broadcast_add(&mask.added()?.to_dtype(bias.dtype())?)?,
            None => bias,
        };
        watch.begins(PassShape { n_rows, n_tokens, n_positions: known.len() });
        let mut x = watch.layer(0).at(Site::Embeddings, input.embeddings.clone())?; // (batch, tokens, size)
        for (index, (layer, (own, cross))) in self.decoder.layers.iter().zip(own.iter_mut().zip(cross)).enumerate() {
            let is_last = index + 1 == self.decoder.layers.len();
            let computed = if is_last { input.wanted()? } else { 0..n_tokens };
            let append = |normed: &Tensor| -> candle_core::Result<[Tensor; 2]> {
                let [keys, values] = layer.attention.keys_and_values(normed)?;
                let (keys, values) = own.append(&keys, &values)?;
                Ok([keys, values])
            };
            let (keys, values) = cross.held()?;
            let cross = Some(([&keys, &values], cross_added.as_ref()));
            x = step(layer, (&x, computed), append, &added, cross, &mut watch.layer(index))?;
        }
        watch.layer(self.decoder.layers.len()).at(Site::FinalNorm, self.decoder.norm.forward(&x)?)
    }

    fn logits(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
        match self.output_scale {
            Some(scale) => self.head.forward(&scaled(hidden, scale)?),
            None => self.head.forward(hidden),
        }
    }

    fn lens(&self, residual: &Tensor) -> candle_core::Result<Tensor> {
        self.logits(&self.decoder.norm.forward(residual)?)
    }

    fn n_layers(&self) -> usize {
        self.decoder.layers.len()
    }

    fn n_operations(&self, n_image: usize, n_text: usize) -> [f64; 2] {
        let [size, inner, hidden, n_maps] = self.widths.map(|width| width as f64);
        let all = (n_image + n_text) as f64;
        let of = |n_queries: f64| {
            4.0 * n_queries * size * inner
                + 4.0 * all * size * inner
                + 4.0 * n_queries * all * inner
                + 2.0 * n_maps * all * size * hidden
        };
        [of(all), of(n_text as f64)].map(|of_layer| of_layer * self.encoder.layers.len() as f64)
    }

    fn new_state(&self, capacity: usize) -> DecoderState {
        DecoderState::new(self.decoder.layers.len(), capacity)
    }
}

impl T5 {
    /// Reads the start token of every row of `state`. Returns the hidden states `(batch, 1, size)` that predict the
    /// first tokens of answers.
    ///
    /// # Errors
    /// The state is not of this model.
    pub fn start(
        &self,
        n_rows: usize,
        state: &mut DecoderState,
        watch: &mut Watched<'_>,
    ) -> candle_core::Result<Tensor> {
        let embeddings = self.embed(&[self.start_id])?.unsqueeze(0)?.repeat((n_rows, 1, 1))?;
        let positions = Tensor::zeros((n_rows, 1), DType::U32, embeddings.device())?;
        self.forward(Pass::new(&TokenInput::new(embeddings, positions)).after(state).watched(watch))
    }
}
