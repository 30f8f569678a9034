//! Qwen2, which is LLaMA with biases on queries, keys and values, and Qwen3, which has head norms instead. Both exist
//! on their own and, with positions in three dimensions, in Qwen's vision-language models.

use anyhow::{Result, bail};

use super::config::{DecoderConfig, Defaults, PositionsConfig};
use super::families::TextFamily;
use crate::model::checkpoint::config::Config;
use crate::model::layers::{Activation, MultimodalRotaryConfig, Sections};

/// Qwen2's entry in [`FAMILIES`](super::families::FAMILIES).
pub(super) const QWEN2: TextFamily = TextFamily {
    model_types: &["qwen2"],
    about: "Qwen2",
    read: |config| {
        let read = DecoderConfig::read(config, &DEFAULTS)?.within_window(window(config)?);
        Ok(DecoderConfig { qkv_bias: true, ..read })
    },
};

/// Qwen3's entry in [`FAMILIES`](super::families::FAMILIES).
pub(super) const QWEN3: TextFamily = TextFamily {
    model_types: &["qwen3"],
    about: "Qwen3",
    read: |config| {
        let defaults = Defaults { head_size: Some(128), ..DEFAULTS };
        let read = DecoderConfig::read(config, &defaults)?.with_attention_bias(config)?.within_window(window(config)?);
        Ok(DecoderConfig { has_head_norms: true, ..read })
    },
};

const DEFAULTS: Defaults = Defaults {
    size: 4096,
    n_hidden: 22016,
    n_layers: 32,
    n_heads: 32,
    n_kv_heads: Some(32),
    head_size: None,
    vocabulary_size: 151_936,
    n_positions: 32_768,
    epsilon: 1e-6,
    activation: "silu",
    is_tied: false,
};

/// Returns the sliding window, if some layer uses it.
fn window(config: &Config) -> Result<Option<usize>> {
    if !config.bool_or("use_sliding_window", false)? {
        return Ok(None);
    }
    let slides = match config.get("layer_types").and_then(|types| types.as_array()) {
        Some(types) => types.iter().any(|kind| kind == "sliding_attention"),
        None => config.usize_or("max_window_layers", 28)? < config.positive_or("num_hidden_layers", 32)?,
    };
    let default = if config.has("sliding_window") { None } else { Some(4096) };
    Ok(config.positive_or_none("sliding_window")?.or(default).filter(|_| slides))
}

/// The language model of a vision-language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QwenText {
    /// That of Qwen2-VL and Qwen2.5-VL.
    Qwen2,
    /// That of Qwen3-VL.
    Qwen3,
}

impl DecoderConfig {
    /// Reads a `text_config`, with the defaults of the classes of transformers. `is_tied_outside` is the
    /// `tie_word_embeddings` of the enclosing section.
    pub fn of_qwen_vl(kind: QwenText, config: &Config, is_tied_outside: bool) -> Result<Self> {
        if config.bool_or("use_sliding_window", false)? {
            bail!("{}: use_sliding_window is not supported; hint: no published checkpoint has it on", config.place());
        }
        let is_qwen2 = kind == QwenText::Qwen2;
        let default = |of_qwen2: usize, of_qwen3: usize| if is_qwen2 { of_qwen2 } else { of_qwen3 };
        let size = config.positive_or("hidden_size", default(8192, 4096))?;
        let n_heads = config.positive_or("num_attention_heads", default(64, 32))?;
        let n_kv_heads = config.positive_or("num_key_value_heads", default(8, 32))?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            bail!(
                "{}: num_attention_heads {n_heads} is not a multiple of num_key_value_heads {n_kv_heads}",
                config.place()
            );
        }
        let head_size = config.positive_or("head_dim", default(size / n_heads, 128))?;
        let (layout, theta, sections) = match kind {
            QwenText::Qwen2 => (Sections::InRuns, 1e6, [16, 24, 24]),
            QwenText::Qwen3 => (Sections::Interleaved, 5e5, [24, 20, 20]),
        };
        let rotary = MultimodalRotaryConfig::from_config(config, head_size, layout, theta, sections)?;
        let attention_bias = config.bool_or("attention_bias", false)?;
        Ok(Self {
            size,
            n_hidden: config.positive_or("intermediate_size", default(29568, 22016))?,
            n_layers: config.positive_or("num_hidden_layers", default(80, 32))?,
            n_heads,
            n_kv_heads,
            head_size,
            vocabulary_size: config.positive_or("vocab_size", default(152_064, 151_936))?,
            n_positions: config.positive_or("max_position_embeddings", default(32_768, 128_000))?,
            limit: None,
            epsilon: config.f64_or("rms_norm_eps", if is_qwen2 { 1e-5 } else { 1e-6 })?,
            activation: Activation::from_name(config.str_or("hidden_act", "silu")?)?,
            positions: PositionsConfig::Multimodal(rotary),
            qkv_bias: is_qwen2 || attention_bias,
            output_bias: !is_qwen2 && attention_bias,
            mlp_bias: false,
            has_head_norms: !is_qwen2,
            has_offset_norms: false,
            has_joined_maps: false,
            embedding_scale: None,
            scaled_images_once: false,
            gemma: None,
            is_mpt: false,
            cross: None,
            n_more_embedded: 0,
            is_tied: config.bool_or("tie_word_embeddings", false)? || is_tied_outside,
        })
    }
}
