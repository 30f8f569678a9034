//! Gemma (Gemma Team 2024): norms multiply by 1 plus their weight, embeddings are multiplied by the square root of the
//! width, and the head is the embedding.

use super::config::{DecoderConfig, Defaults};
use super::families::TextFamily;
use crate::model::layers::Activation;

/// The family's entry in [`FAMILIES`](super::families::FAMILIES).
pub(super) const FAMILY: TextFamily = TextFamily {
    model_types: &["gemma"],
    about: "Gemma",
    read: |config| {
        let read = DecoderConfig::read(config, &DEFAULTS)?.with_attention_bias(config)?;
        // The published files say `gelu` and mean its approximation, as transformers reads them.
        let activation = if read.activation == Activation::Gelu { Activation::GeluTanh } else { read.activation };
        let embedding_scale = Some((read.size as f64).sqrt());
        Ok(DecoderConfig { activation, has_offset_norms: true, embedding_scale, scaled_images_once: true, ..read })
    },
};

const DEFAULTS: Defaults = Defaults {
    size: 3072,
    n_hidden: 24576,
    n_layers: 28,
    n_heads: 16,
    n_kv_heads: Some(16),
    head_size: Some(256),
    vocabulary_size: 256_000,
    n_positions: 8192,
    epsilon: 1e-6,
    activation: "gelu_pytorch_tanh",
    is_tied: true,
};
