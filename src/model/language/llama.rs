//! LLaMA (Touvron et al. 2023), and therefore Vicuna.

use super::config::{DecoderConfig, Defaults};
use super::families::TextFamily;

/// The family's entry in [`FAMILIES`](super::families::FAMILIES).
pub(super) const FAMILY: TextFamily = TextFamily {
    // In the original repository of LLaVA, the text's keys are in the model's section.
    model_types: &["llama", "llava", "llava_llama"],
    about: "LLaMA (Vicuna)",
    read: |config| {
        let read = DecoderConfig::read(config, &DEFAULTS)?.with_attention_bias(config)?;
        Ok(DecoderConfig { mlp_bias: config.bool_or("mlp_bias", false)?, ..read })
    },
};

const DEFAULTS: Defaults = Defaults {
    size: 4096,
    n_hidden: 11008,
    n_layers: 32,
    n_heads: 32,
    n_kv_heads: None,
    head_size: None,
    vocabulary_size: 32000,
    n_positions: 2048,
    epsilon: 1e-6,
    activation: "silu",
    is_tied: false,
};
