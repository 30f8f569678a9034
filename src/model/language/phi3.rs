//! Phi-3 (Abdin et al. 2024): LLaMA with joined maps, a sliding window, and heads that may be rotated only in part.

use anyhow::{Result, ensure};

use super::config::{DecoderConfig, Defaults};
use super::families::TextFamily;
use crate::model::checkpoint::config::Config;
use crate::model::layers::RotaryConfig;

/// The family's entry in [`FAMILIES`](super::families::FAMILIES).
pub(super) const FAMILY: TextFamily = TextFamily { model_types: &["phi3"], about: "Phi-3", read };

const DEFAULTS: Defaults = Defaults {
    size: 3072,
    n_hidden: 8192,
    n_layers: 32,
    n_heads: 32,
    n_kv_heads: None,
    head_size: None,
    vocabulary_size: 32064,
    n_positions: N_ORIGINAL_POSITIONS,
    epsilon: 1e-5,
    activation: "silu",
    is_tied: false,
};

const N_ORIGINAL_POSITIONS: usize = 4096;

fn read(config: &Config) -> Result<DecoderConfig> {
    let parameters = config.section("rope_parameters").or_else(|| config.section("rope_scaling"));
    let outside = config.f64_or("partial_rotary_factor", 1.0)?;
    let fraction = match &parameters {
        Some(parameters) => parameters.f64_or("partial_rotary_factor", outside)?,
        None => outside,
    };
    ensure!(
        fraction > 0.0 && fraction <= 1.0,
        "`partial_rotary_factor` in {} must be above 0 and at most 1, but is {fraction}",
        config.place()
    );
    // The key outside the scaling takes precedence over the one within it, as in transformers.
    let n_original = config.positive_or("original_max_position_embeddings", N_ORIGINAL_POSITIONS)?;
    let mut is_long = false;
    let read = DecoderConfig::read_with(config, &DEFAULTS, |head_size, n_positions| {
        let n_turned = (head_size as f64 * fraction) as usize;
        let rotary = RotaryConfig::of_phi3(config, n_turned, n_original, n_positions)?;
        is_long = rotary.is_long();
        Ok(rotary)
    })?;
    let read =
        DecoderConfig { has_joined_maps: true, ..read }.within_window(config.positive_or_none("sliding_window")?);
    Ok(match is_long {
        true => read.limited(n_original, || {
            format!(
                "inputs longer than its `original_max_position_embeddings`, {n_original}, need other rotary \
                 frequencies, which are not supported"
            )
        }),
        false => read,
    })
}
