//! Mistral (Jiang et al. 2023): LLaMA with fewer key and value heads and a sliding window.

use super::config::{DecoderConfig, Defaults};
use super::families::TextFamily;

/// The family's entry in [`FAMILIES`](super::families::FAMILIES).
pub(super) const FAMILY: TextFamily = TextFamily {
    model_types: &["mistral"],
    about: "Mistral",
    read: |config| {
        // A missing key means the default of the class; null means no window.
        let window = if config.has("sliding_window") { None } else { Some(4096) };
        let window = config.positive_or_none("sliding_window")?.or(window);
        Ok(DecoderConfig::read(config, &DEFAULTS)?.within_window(window))
    },
};

const DEFAULTS: Defaults = Defaults {
    size: 4096,
    n_hidden: 14336,
    n_layers: 32,
    n_heads: 32,
    n_kv_heads: Some(8),
    head_size: None,
    vocabulary_size: 32000,
    n_positions: 131_072,
    epsilon: 1e-6,
    activation: "silu",
    is_tied: false,
};
