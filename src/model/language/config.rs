//! What decides a decoder, under the names of `config.json`.

use anyhow::{Result, bail};
use serde::Serialize;

use super::cross::CrossConfig;
use super::families::FAMILIES;
use crate::domain::closest;
use crate::model::checkpoint::config::Config;
use crate::model::layers::{Activation, MultimodalRotaryConfig, RotaryConfig, ScoreRule};

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
    /// Whether transformers before 5.4 also scaled the images among the tokens.
    #[serde(skip)]
    pub(super) scaled_images_once: bool,
    /// What Gemma 2 and Gemma 3 add. `None` in other families.
    #[serde(flatten)]
    pub(super) gemma: Option<GemmaParts>,
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

/// What the second and third Gemma add to the first, under the names of `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct GemmaParts {
    /// Scores are divided by the root of this instead of a head's width.
    pub query_pre_attn_scalar: f64,
    /// The largest score of attention.
    pub attn_logit_softcapping: Option<f64>,
    /// The largest logit.
    pub final_logit_softcapping: Option<f64>,
    /// How many positions a query of a sliding layer sees, its own included.
    #[serde(rename = "sliding_window")]
    pub window: usize,
    /// By layer, whether it slides.
    pub slides: Vec<bool>,
}

/// How positions rotate heads.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum PositionsConfig {
    /// One position per token.
    Flat(RotaryConfig),
    /// Time, row and column.
    Multimodal(MultimodalRotaryConfig),
    /// One position per token, which rotates heads of sliding layers in another way than those of others.
    ByLayer {
        /// In layers that see all positions.
        #[serde(rename = "full_attention")]
        full: RotaryConfig,
        /// In sliding layers.
        #[serde(rename = "sliding_attention")]
        sliding: RotaryConfig,
    },
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
            scaled_images_once: false,
            gemma: None,
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

    /// The factor by which transformers before 5.4 multiplied images among the tokens, if it did.
    pub fn old_image_scale(&self) -> Option<f64> {
        self.embedding_scale.filter(|_| self.scaled_images_once)
    }

    /// The largest logit, if logits are capped.
    pub fn logit_cap(&self) -> Option<f64> {
        self.gemma.as_ref().and_then(|gemma| gemma.final_logit_softcapping)
    }

    /// The same without a cap of logits.
    pub fn without_logit_cap(self) -> Self {
        let gemma = self.gemma.map(|gemma| GemmaParts { final_logit_softcapping: None, ..gemma });
        Self { gemma, ..self }
    }

    /// How many positions a query of layer `layer` sees, if that is limited.
    pub(super) fn window(&self, layer: usize) -> Option<usize> {
        let gemma = self.gemma.as_ref()?;
        gemma.slides[layer].then_some(gemma.window)
    }

    /// How scores are computed.
    pub(super) fn score_rule(&self) -> ScoreRule {
        let Some(gemma) = &self.gemma else { return ScoreRule::default() };
        let factor = (self.head_size as f64 / gemma.query_pre_attn_scalar).sqrt();
        ScoreRule { factor: Some(factor).filter(|factor| *factor != 1.0), cap: gemma.attn_logit_softcapping }
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
