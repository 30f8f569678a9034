//! LLaMA (Touvron et al. 2023), and so Vicuna; Qwen2 is the same with biases on queries, keys and values, Qwen3 with norms
//! of their heads.

use anyhow::{Result, bail};
use candle_core::Tensor;

use super::{LanguageModel, TokenInput};
use crate::model::config::Config;
use crate::model::layers::{
    Activation, Attention, AttentionNames, AttentionShape, Embedding, GatedMlp, KvCache, Linear, Loader, Mask,
    MultimodalRotary, MultimodalRotaryConfig, RmsNorm, Rotary, RotaryConfig, tokens_at,
};

/// Tables of angles are made for all positions: more would be a table that fills the memory.
const N_POSITIONS_MAX: usize = 1 << 20;

/// Sizes of a LLaMA, with the defaults of transformers' LlamaConfig.
#[derive(Clone, Debug)]
pub struct LlamaConfig {
    pub(super) size: usize,
    pub(super) n_hidden: usize,
    pub(super) n_layers: usize,
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: usize,
    pub(super) head_size: usize,
    /// Rows of the embedding.
    pub vocabulary_size: usize,
    /// Positions that the model was trained for.
    pub n_positions: usize,
    pub(super) epsilon: f64,
    pub(super) activation: Activation,
    pub(super) positions: PositionsConfig,
    pub(super) qkv_bias: bool,
    pub(super) output_bias: bool,
    pub(super) mlp_bias: bool,
    /// Whether each head of queries and keys is normalised.
    pub(super) has_head_norms: bool,
    pub(super) is_tied: bool,
}

/// How positions turn heads.
#[derive(Clone, Debug)]
pub(super) enum PositionsConfig {
    /// One position a token.
    Flat(RotaryConfig),
    /// Time, row and column.
    Multimodal(MultimodalRotaryConfig),
}

impl LlamaConfig {
    /// Reads a `text_config`; `is_tied_outside` is the flag of the section around it.
    pub fn from_config(config: &Config, is_tied_outside: bool) -> Result<Self> {
        let kind = config.str_or("model_type", "llama")?;
        let is_qwen2 = kind == "qwen2";
        if !is_qwen2 && !matches!(kind, "llama" | "llava" | "llava_llama") {
            bail!(
                "the language model `{kind}` in {} is not supported; hint: emt reads LLaMA, Vicuna and Qwen2 here",
                config.place()
            );
        }
        if config.bool_or("use_sliding_window", false)? {
            bail!("{}: use_sliding_window is not supported; hint: no published checkpoint has it on", config.place());
        }
        let size = config.positive_or("hidden_size", 4096)?;
        let n_heads = config.positive_or("num_attention_heads", 32)?;
        let n_kv_heads = config.positive_or("num_key_value_heads", n_heads)?;
        let n_positions = config.positive_or("max_position_embeddings", 2048)?;
        if n_positions > N_POSITIONS_MAX {
            bail!(
                "`max_position_embeddings` in {} is {n_positions}, more than {N_POSITIONS_MAX}; hint: a slip in the file?",
                config.place()
            );
        }
        if !n_heads.is_multiple_of(n_kv_heads) {
            bail!(
                "{}: num_attention_heads {n_heads} is no multiple of num_key_value_heads {n_kv_heads}",
                config.place()
            );
        }
        Ok(Self {
            size,
            n_hidden: config.positive_or("intermediate_size", 11008)?,
            n_layers: config.positive_or("num_hidden_layers", 32)?,
            n_heads,
            n_kv_heads,
            head_size: config.positive_or("head_dim", size / n_heads)?,
            vocabulary_size: config.positive_or("vocab_size", 32000)?,
            n_positions,
            epsilon: config.f64_or("rms_norm_eps", 1e-6)?,
            activation: Activation::from_name(config.str_or("hidden_act", "silu")?)?,
            positions: PositionsConfig::Flat(RotaryConfig::from_config(config)?),
            qkv_bias: is_qwen2 || config.bool_or("attention_bias", false)?,
            output_bias: !is_qwen2 && config.bool_or("attention_bias", false)?,
            mlp_bias: config.bool_or("mlp_bias", false)?,
            has_head_norms: false,
            is_tied: config.bool_or("tie_word_embeddings", false)? || is_tied_outside,
        })
    }

    /// Decoder layers.
    pub fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// Width of the residual stream.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Numbers that a row of `n_tokens` positions holds: keys and values of all layers, activations of one.
    pub fn n_numbers_per_row(&self, n_tokens: usize) -> usize {
        // A configuration may claim any size: what overflows does not fit either.
        let cache = (2 * self.n_layers).saturating_mul(self.n_kv_heads).saturating_mul(self.head_size);
        let activations = 8 * self.size + 3 * self.n_hidden + 2 * self.n_heads.saturating_mul(n_tokens);
        n_tokens.saturating_mul(cache.saturating_add(activations))
    }
}

struct Layer {
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    mlp: GatedMlp,
}

/// Angles by position.
enum Positions {
    Flat(Rotary),
    Multimodal(MultimodalRotary),
}

/// The decoder.
pub struct Llama {
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
    positions: Positions,
}

impl Llama {
    /// Reads `language_model.*` and `lm_head` by their canonical names.
    pub fn load(loader: &mut Loader, config: LlamaConfig) -> Result<Self> {
        let embedding = Embedding::load(loader, "language_model.embed_tokens", config.vocabulary_size, config.size)?;
        // The stored head wins over the flag; without either there is no head to use.
        let head = if loader.has("lm_head.weight") {
            Linear::load(loader, "lm_head", config.size, config.vocabulary_size, false)?
        } else if config.is_tied {
            Linear::updated(&mut loader.at("lm_head"), embedding.weight().clone(), None)?
        } else {
            bail!("lm_head.weight is missing, and config.json does not tie it to the embedding")
        };
        let shape = AttentionShape {
            size: config.size,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_size: config.head_size,
        };
        let names = AttentionNames { output: "o_proj", qkv_bias: config.qkv_bias, output_bias: config.output_bias };
        let mut layers = Vec::new();
        for i in 0..config.n_layers {
            let mut here = loader.at(&format!("language_model.layers.{i}"));
            let mut attention = Attention::load(&mut here.at("self_attn"), shape, names)?;
            if config.has_head_norms {
                attention = attention.with_head_norms(&mut here.at("self_attn"), config.epsilon)?;
            }
            layers.push(Layer {
                attention_norm: RmsNorm::load(&mut here, "input_layernorm", config.size, config.epsilon)?,
                attention,
                mlp_norm: RmsNorm::load(&mut here, "post_attention_layernorm", config.size, config.epsilon)?,
                mlp: GatedMlp::load(
                    &mut here.at("mlp"),
                    config.size,
                    config.n_hidden,
                    config.activation,
                    config.mlp_bias,
                )?,
            });
        }
        let norm = RmsNorm::load(&mut loader.at("language_model"), "norm", config.size, config.epsilon)?;
        let placement = loader.placement();
        let positions = match &config.positions {
            PositionsConfig::Flat(rotary) => {
                Positions::Flat(Rotary::new(rotary, config.head_size, config.n_positions, placement)?)
            }
            PositionsConfig::Multimodal(rotary) => Positions::Multimodal(MultimodalRotary::new(rotary, placement)?),
        };
        Ok(Self { embedding, layers, norm, head, positions })
    }
}

impl LanguageModel for Llama {
    fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        self.embedding.forward(ids)
    }

    fn forward(
        &self,
        input: &TokenInput,
        mask: Option<&Mask>,
        caches: Option<&mut [KvCache]>,
    ) -> candle_core::Result<Tensor> {
        let rotary = match &self.positions {
            Positions::Flat(rotary) => rotary.rows(&input.positions)?,
            Positions::Multimodal(rotary) => rotary.rows(&input.positions)?,
        };
        let mut x = input.embeddings.clone(); // (batch, tokens, hidden)
        let mut caches = caches.map(|caches| caches.iter_mut());
        for (index, layer) in self.layers.iter().enumerate() {
            let cache = caches.as_mut().and_then(Iterator::next);
            // After the last layer nothing looks at the tokens that are not wanted.
            let computed = if index + 1 == self.layers.len() { input.wanted()? } else { 0..x.dim(1)? };
            let (residual, normed) = (tokens_at(&x, &computed)?, layer.attention_norm.forward(&x)?);
            x = layer.attention.forward_added(&residual, &normed, computed.clone(), mask, Some(&rotary), cache)?;
            x = layer.mlp.forward_added(Some(&x), &layer.mlp_norm.forward(&x)?)?;
            if let Some(added) = input.deepstack.get(index) {
                x = (x + tokens_at(added, &computed)?)?;
            }
        }
        self.norm.forward(&x)
    }

    fn logits(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
        self.head.forward(hidden)
    }

    fn new_caches(&self, capacity: usize) -> Vec<KvCache> {
        self.layers.iter().map(|_| KvCache::new(capacity)).collect()
    }
}
