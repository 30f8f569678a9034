//! MPT (MosaicML 2023): norms without bias that subtract the mean, one map for queries, keys and values, a feed-forward
//! half without a gate, ALiBi instead of rotary positions, and a head that is the embedding.

use anyhow::{Result, bail, ensure};
use serde_json::json;

use super::config::{DecoderConfig, Defaults, PositionsConfig};
use super::families::TextFamily;
use crate::model::checkpoint::config::Config;

/// The family's entry in [`FAMILIES`](super::families::FAMILIES).
pub(super) const FAMILY: TextFamily = TextFamily { model_types: &["mpt"], about: "MPT", read };

const DEFAULTS: Defaults = Defaults {
    size: 2048,
    n_hidden: 8192,
    n_layers: 24,
    n_heads: 16,
    n_kv_heads: None,
    head_size: None,
    vocabulary_size: 50_368,
    n_positions: 2048,
    epsilon: 1e-5,
    activation: "gelu",
    is_tied: true,
};

fn read(config: &Config) -> Result<DecoderConfig> {
    let place = config.place();
    let size = config.positive_or("d_model", DEFAULTS.size)?;
    let n_hidden = size.saturating_mul(config.positive_or("expansion_ratio", 4)?);
    // The same sizes under the names that all other families use.
    let renamed = json!({
        "hidden_size": size,
        "intermediate_size": n_hidden,
        "num_hidden_layers": config.positive_or("n_layers", DEFAULTS.n_layers)?,
        "num_attention_heads": config.positive_or("n_heads", DEFAULTS.n_heads)?,
        "max_position_embeddings": config.positive_or("max_seq_len", DEFAULTS.n_positions)?,
        "vocab_size": config.positive_or("vocab_size", DEFAULTS.vocabulary_size)?,
        "tie_word_embeddings": config.bool_or("tie_word_embeddings", true)?,
    });
    let read = DecoderConfig::read(&Config::new(&renamed, place), &DEFAULTS)?;
    ensure!(read.is_tied, "{place}: tie_word_embeddings is false, but MPT's head is its embedding");
    ensure!(config.bool_or("no_bias", true)?, "{place}: no_bias is false, which is not supported");
    let norm = config.str_or("norm_type", "low_precision_layernorm")?;
    if !matches!(norm, "low_precision_layernorm" | "layernorm") {
        bail!("{place}: norm_type `{norm}` is not supported; hint: low_precision_layernorm, layernorm");
    }
    if let Some(scale) = config.get("logit_scale") {
        bail!("{place}: logit_scale {scale} is not supported; hint: MPT's published checkpoints have none");
    }
    let attention = config.section("attn_config");
    let bias_max = attention.as_ref().map_or(Ok(8.0), |attention| alibi(attention))?;
    Ok(DecoderConfig {
        positions: PositionsConfig::Alibi { alibi_bias_max: bias_max },
        has_joined_maps: true,
        is_mpt: true,
        ..read
    })
}

/// Reads `attn_config`, and returns the exponent of the smallest slope.
fn alibi(config: &Config) -> Result<f64> {
    let place = config.place();
    ensure!(config.bool_or("alibi", true)?, "{place}: alibi is false, and MPT without it is not supported");
    for key in ["qk_ln", "prefix_lm", "attn_uses_sequence_id"] {
        ensure!(!config.bool_or(key, false)?, "{place}: {key} is true, which is not supported");
    }
    for key in ["clip_qkv", "softmax_scale"] {
        if let Some(value) = config.get(key) {
            bail!("{place}: {key} {value} is not supported; hint: MPT's published checkpoints of 7B have none");
        }
    }
    let kind = config.str_or("attn_type", "multihead_attention")?;
    ensure!(kind == "multihead_attention", "{place}: attn_type `{kind}` is not supported");
    config.f64_or("alibi_bias_max", 8.0)
}
