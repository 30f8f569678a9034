//! The language models of Qwen's vision-language models: Qwen2 and Qwen3 with positions in three dimensions.

use anyhow::{Result, bail};

use super::llama::{LlamaConfig, PositionsConfig};
use crate::model::config::Config;
use crate::model::layers::{Activation, MultimodalRotaryConfig, Sections};

/// Which language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QwenText {
    /// Of Qwen2-VL and Qwen2.5-VL.
    Qwen2,
    /// Of Qwen3-VL.
    Qwen3,
}

impl LlamaConfig {
    /// Reads a `text_config`, with the defaults of the classes of transformers; `is_tied_outside` is the flag of the
    /// section around it.
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
                "{}: num_attention_heads {n_heads} is no multiple of num_key_value_heads {n_kv_heads}",
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
            epsilon: config.f64_or("rms_norm_eps", if is_qwen2 { 1e-5 } else { 1e-6 })?,
            activation: Activation::from_name(config.str_or("hidden_act", "silu")?)?,
            positions: PositionsConfig::Multimodal(rotary),
            qkv_bias: is_qwen2 || attention_bias,
            output_bias: !is_qwen2 && attention_bias,
            mlp_bias: false,
            has_head_norms: !is_qwen2,
            is_tied: config.bool_or("tie_word_embeddings", false)? || is_tied_outside,
        })
    }
}
