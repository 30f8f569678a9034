//! Gemma 2 and Gemma 3 (Gemma Team 2024, 2025): Gemma with a norm after each half of a layer, layers that see only a
//! window, and caps of scores and logits (Gemma 2) or norms of heads and two bases of rotation (Gemma 3).

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::config::{DecoderConfig, Defaults, GemmaParts, PositionsConfig};
use super::families::TextFamily;
use crate::model::checkpoint::config::Config;
use crate::model::layers::{Activation, RotaryConfig};

/// Gemma 2's entry in [`FAMILIES`](super::families::FAMILIES).
pub(super) const GEMMA2: TextFamily = TextFamily {
    model_types: &["gemma2"],
    about: "Gemma 2",
    read: |config| {
        let read = DecoderConfig::read(config, &DEFAULTS)?;
        let caps =
            [cap(config, "attn_logit_softcapping", Some(50.0))?, cap(config, "final_logit_softcapping", Some(30.0))?];
        Ok(DecoderConfig { scaled_images_once: true, ..with_parts(read, config, caps, 2)? })
    },
};

/// Gemma 3's entry in [`FAMILIES`](super::families::FAMILIES).
pub(super) const GEMMA3: TextFamily = TextFamily {
    model_types: &["gemma3_text"],
    about: "Gemma 3",
    read: |config| {
        let defaults = Defaults { vocabulary_size: 262_208, n_positions: 131_072, ..DEFAULTS };
        let read = DecoderConfig::read_with(config, &defaults, |_, _| rotary(config, "full_attention"))?;
        let PositionsConfig::Flat(full) = read.positions.clone() else {
            bail!("{}: positions have one dimension", config.place())
        };
        let positions = PositionsConfig::ByLayer { full, sliding: rotary(config, "sliding_attention")? };
        let caps = [cap(config, "attn_logit_softcapping", None)?, cap(config, "final_logit_softcapping", None)?];
        Ok(DecoderConfig { has_head_norms: true, positions, ..with_parts(read, config, caps, 6)? })
    },
};

const DEFAULTS: Defaults = Defaults {
    size: 2304,
    n_hidden: 9216,
    n_layers: 26,
    n_heads: 8,
    n_kv_heads: Some(4),
    head_size: Some(256),
    vocabulary_size: 256_000,
    n_positions: 8192,
    epsilon: 1e-6,
    activation: "gelu_pytorch_tanh",
    is_tied: true,
};

/// Adds what both have. Every layer slides but each `period`th, unless the configuration lists them.
fn with_parts(
    read: DecoderConfig,
    config: &Config,
    [attn_logit_softcapping, final_logit_softcapping]: [Option<f64>; 2],
    period: usize,
) -> Result<DecoderConfig> {
    ensure!(
        !config.bool_or("use_bidirectional_attention", false)?,
        "{}: use_bidirectional_attention is not supported; hint: models that generate text have it false",
        config.place()
    );
    let read = read.with_attention_bias(config)?;
    let slides = slides(config, read.n_layers, period)?;
    let window = match config.has("sliding_window") {
        true => config.positive_or_none("sliding_window")?,
        false => Some(4096),
    };
    let query_pre_attn_scalar = config.f64_or("query_pre_attn_scalar", 256.0)?;
    ensure!(
        query_pre_attn_scalar > 0.0,
        "`query_pre_attn_scalar` in {} must be positive, but is {query_pre_attn_scalar}",
        config.place()
    );
    let gemma = GemmaParts {
        query_pre_attn_scalar,
        attn_logit_softcapping,
        final_logit_softcapping,
        // Without a window, sliding layers see as far as others.
        window: window.unwrap_or(read.n_positions),
        slides,
    };
    Ok(DecoderConfig {
        activation: Activation::from_name(config.str_or("hidden_activation", "gelu_pytorch_tanh")?)?,
        has_offset_norms: true,
        embedding_scale: Some((read.size as f64).sqrt()),
        gemma: Some(gemma),
        ..read
    })
}

/// Reads by layer whether it slides.
fn slides(config: &Config, n_layers: usize, period: usize) -> Result<Vec<bool>> {
    let Some(kinds) = config.get("layer_types") else {
        let period = match config.has("sliding_window_pattern") {
            true => config.positive_or("sliding_window_pattern", period)?,
            false => config.positive_or("_sliding_window_pattern", period)?,
        };
        return Ok((1..=n_layers).map(|number| number % period != 0).collect());
    };
    let slides = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => {
            bail!("`layer_types` in {} has {kind}; hint: sliding_attention and full_attention are read", config.place())
        }
    };
    let read = kinds.as_array().into_iter().flatten().map(slides).collect::<Result<Vec<bool>>>()?;
    ensure!(
        read.len() == n_layers,
        "`layer_types` in {} names {} layers, but num_hidden_layers is {n_layers}",
        config.place(),
        read.len()
    );
    Ok(read)
}

/// Reads a cap; null means none.
fn cap(config: &Config, key: &str, default: Option<f64>) -> Result<Option<f64>> {
    let cap = match (config.has(key), default) {
        (false, default) => default,
        (true, _) if config.get(key).is_none() => None,
        (true, _) => Some(config.f64_or(key, 0.0)?),
    };
    ensure!(cap.is_none_or(|cap| cap > 0.0), "`{key}` in {} must be positive or null", config.place());
    Ok(cap)
}

/// Reads how heads are rotated in layers of `kind`: from `rope_parameters` by kind (transformers 5), or `rope_theta`,
/// `rope_scaling` and `rope_local_base_freq` (4).
fn rotary(config: &Config, kind: &str) -> Result<RotaryConfig> {
    let is_full = kind == "full_attention";
    let (key, theta) = if is_full { ("rope_theta", 1e6) } else { ("rope_local_base_freq", 1e4) };
    let theta = config.f64_or(key, theta)?;
    let parameters = config.get("rope_parameters");
    let is_by_kind =
        |parameters: &Value| ["full_attention", "sliding_attention"].iter().any(|k| parameters.get(k).is_some());
    ensure!(
        parameters.is_none_or(is_by_kind),
        "`rope_parameters` in {} must be by kind of layer; hint: full_attention and sliding_attention",
        config.place()
    );
    let flat = json!({
        "rope_theta": theta,
        "rope_parameters": parameters.and_then(|parameters| parameters.get(kind)),
        "rope_scaling": config.get("rope_scaling").filter(|_| is_full),
        "max_position_embeddings": config.get("max_position_embeddings"),
    });
    RotaryConfig::from_config(&Config::new(&flat, config.place()))
}
