//! Rotary position embedding (Su et al. 2021), with LLaMA's half-split layout.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{D, DType, Tensor};
use serde::Serialize;

use super::needs_gradient;
use crate::model::Placement;
use crate::model::checkpoint::config::Config;

/// How positions turn into angles.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RotaryConfig {
    #[serde(rename = "rope_theta")]
    theta: f64,
    #[serde(flatten)]
    scaling: Scaling,
    /// How many leading dimensions of each head are rotated; `None` rotates all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_turned: Option<usize>,
    /// The factor that multiplies cosines and sines.
    attention_factor: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
enum Scaling {
    #[serde(rename = "default")]
    None,
    Linear {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        n_original_positions: f64,
    },
    /// Peng et al. 2023, "YaRN".
    Yarn {
        factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        truncate: bool,
        n_original_positions: f64,
    },
    /// Ding et al. 2024, "LongRoPE": a divisor per frequency, for prompts within the original length.
    LongRope {
        short_factor: Vec<f64>,
    },
}

impl RotaryConfig {
    /// Reads `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters` (5).
    pub fn from_config(config: &Config) -> Result<Self> {
        // As in transformers 5.24, `rope_scaling` wins if both exist, and `rope_theta` outside is the fallback base.
        let parameters = config.section("rope_scaling").or_else(|| config.section("rope_parameters"));
        let outside = config.f64_or("rope_theta", 10_000.0)?;
        let theta = parameters.as_ref().map_or(Ok(outside), |parameters| parameters.f64_or("rope_theta", outside))?;
        let Some(scaling) = parameters else {
            return Ok(Self::plain(theta));
        };
        let scaling = match kind_of(&scaling)? {
            // `dynamic` scales only prompts longer than all of a model's positions.
            "default" | "dynamic" => Scaling::None,
            "linear" => Scaling::Linear { factor: scaling.f64_or("factor", 1.0)? },
            "llama3" => Scaling::Llama3 {
                factor: scaling.f64_or("factor", 8.0)?,
                low_freq_factor: scaling.f64_or("low_freq_factor", 1.0)?,
                high_freq_factor: scaling.f64_or("high_freq_factor", 4.0)?,
                n_original_positions: scaling.f64_or("original_max_position_embeddings", 8192.0)?,
            },
            "yarn" => return Self::yarn(theta, config, &scaling),
            other => {
                bail!(
                    "the rope type `{other}` in {} is not supported; hint: default, linear, dynamic, llama3, yarn",
                    config.place()
                )
            }
        };
        Ok(Self { scaling, ..Self::plain(theta) })
    }

    fn plain(theta: f64) -> Self {
        Self { theta, scaling: Scaling::None, n_turned: None, attention_factor: 1.0 }
    }

    fn yarn(theta: f64, config: &Config, scaling: &Config) -> Result<Self> {
        let n_positions = config.positive_or("max_position_embeddings", 2048)? as f64;
        let n_original_positions = scaling.f64_or("original_max_position_embeddings", n_positions)?;
        let factor = scaling.f64_or("factor", n_positions / n_original_positions)?;
        let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
        let by_default = match (scaling.f64_or("mscale", 0.0)?, scaling.f64_or("mscale_all_dim", 0.0)?) {
            (of_head, of_all) if of_head != 0.0 && of_all != 0.0 => scale(of_head) / scale(of_all),
            _ => scale(1.0),
        };
        let attention_factor = scaling.f64_or("attention_factor", by_default)?;
        let scaling = Scaling::Yarn {
            factor,
            beta_fast: scaling.f64_or("beta_fast", 32.0)?,
            beta_slow: scaling.f64_or("beta_slow", 1.0)?,
            truncate: scaling.bool_or("truncate", true)?,
            n_original_positions,
        };
        Ok(Self { scaling, attention_factor, ..Self::plain(theta) })
    }

    /// Reads the same keys for Phi-3, where `n_turned` dimensions of a head are rotated. Prompts longer than
    /// `n_original` of the `n_positions` positions would need other frequencies.
    pub fn of_phi3(config: &Config, n_turned: usize, n_original: usize, n_positions: usize) -> Result<Self> {
        let parameters = config.section("rope_parameters").or_else(|| config.section("rope_scaling"));
        let outside = config.f64_or("rope_theta", 10_000.0)?;
        let theta = parameters.as_ref().map_or(Ok(outside), |parameters| parameters.f64_or("rope_theta", outside))?;
        let n_turned = n_turned - n_turned % 2;
        let plain = Self { n_turned: Some(n_turned), ..Self::plain(theta) };
        let Some(scaling) = parameters else { return Ok(plain) };
        match kind_of(&scaling)? {
            "default" => return Ok(plain),
            // Older names of `longrope`.
            "longrope" | "su" | "yarn" => {}
            other => bail!(
                "the rope type `{other}` in {} is not supported; hint: default and longrope are in this family",
                scaling.place()
            ),
        }
        let numbers = scaling.get("short_factor").and_then(|value| value.as_array());
        let short_factor: Option<Vec<f64>> = numbers.map(|numbers| numbers.iter().filter_map(|n| n.as_f64()).collect());
        let short_factor = short_factor.with_context(|| format!("{} has no `short_factor`", scaling.place()))?;
        ensure!(
            short_factor.len() == n_turned / 2,
            "`short_factor` in {} must hold {} numbers, half of the rotated width of a head, but holds {}",
            scaling.place(),
            n_turned / 2,
            short_factor.len()
        );
        let n_original = n_original as f64;
        let factor = scaling.f64_or("factor", n_positions as f64 / n_original)?;
        let by_default = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / n_original.ln()).sqrt() };
        let attention_factor = scaling.f64_or("attention_factor", by_default)?;
        Ok(Self { scaling: Scaling::LongRope { short_factor }, attention_factor, ..plain })
    }

    /// Whether frequencies depend on the prompt's length.
    pub fn is_long(&self) -> bool {
        matches!(self.scaling, Scaling::LongRope { .. })
    }

    fn inverse_frequencies(&self, head_size: usize) -> Vec<f64> {
        let n_turned = self.n_turned.unwrap_or(head_size);
        let plain = |i: usize| self.theta.powf(-((2 * i) as f64) / n_turned as f64);
        let scaled = |(i, frequency): (usize, f64)| match &self.scaling {
            Scaling::None => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, n_original_positions } => {
                let wavelength = 2.0 * std::f64::consts::PI / frequency;
                let smooth =
                    (n_original_positions / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let smooth = smooth.clamp(0.0, 1.0);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
            Scaling::Yarn { factor, beta_fast, beta_slow, truncate, n_original_positions } => {
                let turning = |n_turns: f64| {
                    let wavelength = n_original_positions / (n_turns * 2.0 * std::f64::consts::PI);
                    n_turned as f64 * wavelength.ln() / (2.0 * self.theta.ln())
                };
                let (low, high) = (turning(*beta_fast), turning(*beta_slow));
                let (low, high) = if *truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(n_turned as f64 - 1.0));
                // Equal bounds would divide by zero.
                let width = if low == high { 1e-3 } else { high - low };
                let interpolated = ((i as f64 - low) / width).clamp(0.0, 1.0);
                frequency / factor * interpolated + frequency * (1.0 - interpolated)
            }
            Scaling::LongRope { short_factor } => frequency / short_factor[i],
        };
        (0..n_turned / 2).map(plain).enumerate().map(scaled).collect()
    }
}

/// Returns `rope_type`, or `type` in older files.
fn kind_of<'a>(scaling: &Config<'a>) -> Result<&'a str> {
    match scaling.str_or("rope_type", "")? {
        "" => scaling.str_or("type", "default"),
        kind => Ok(kind),
    }
}

/// The cosines and sines of all positions of a model.
pub struct Rotary {
    cos: Tensor, // (positions, rotated dimensions / 2)
    sin: Tensor,
}

impl Rotary {
    /// Tables for positions `0..n_positions`.
    pub fn new(config: &RotaryConfig, head_size: usize, n_positions: usize, placement: &Placement) -> Result<Self> {
        let frequencies = config.inverse_frequencies(head_size);
        let table = |f: fn(f32) -> f32| -> Result<Tensor> {
            // As in transformers, position and frequency are multiplied in f32.
            let factor = config.attention_factor as f32;
            let values: Vec<f32> = (0..n_positions)
                .flat_map(|position| {
                    frequencies.iter().map(move |&frequency| factor * f(position as f32 * frequency as f32))
                })
                .collect();
            let table = Tensor::from_vec(values, (n_positions, frequencies.len()), &placement.device)?;
            Ok(table.to_dtype(placement.dtype)?)
        };
        Ok(Self { cos: table(f32::cos)?, sin: table(f32::sin)? })
    }

    /// Returns the rows for `positions` `(batch, tokens)`: cosines and sines `(batch, tokens, rotated dimensions / 2)`.
    pub fn rows(&self, positions: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (batch, n_tokens) = positions.dims2()?;
        let flat = positions.to_dtype(DType::U32)?.flatten_all()?;
        let select = |table: &Tensor| table.index_select(&flat, 0)?.reshape((batch, n_tokens, ()));
        Ok((select(&self.cos)?, select(&self.sin)?))
    }
}

/// Rotates `x` `(batch, heads, tokens, head size)` by `cos` and `sin` `(batch, tokens, head size / 2)`. If these are
/// narrower, only the leading dimensions of each head are rotated.
pub(super) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> candle_core::Result<Tensor> {
    let (head_size, n_turned) = (x.dim(D::Minus1)?, 2 * cos.dim(D::Minus1)?);
    if n_turned < head_size {
        let turned = rotate(&x.narrow(D::Minus1, 0, n_turned)?.contiguous()?, cos, sin)?;
        return Tensor::cat(&[turned, x.narrow(D::Minus1, n_turned, head_size - n_turned)?], D::Minus1);
    }
    if !needs_gradient(&[x]) {
        return candle_nn::rotary_emb::rope(x, cos, sin);
    }
    rotate_in_steps(x, cos, sin)
}

/// The same computed by candle's differentiable operations.
pub(super) fn rotate_in_steps(x: &Tensor, cos: &Tensor, sin: &Tensor) -> candle_core::Result<Tensor> {
    let n_half = x.dim(D::Minus1)? / 2;
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?); // (batch, 1, tokens, head size / 2)
    let (first, second) = (x.narrow(D::Minus1, 0, n_half)?, x.narrow(D::Minus1, n_half, n_half)?);
    let turned_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let turned_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    Tensor::cat(&[turned_first, turned_second], D::Minus1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn old_and_new_spellings_count_as_in_transformers() {
        // Expected values: what LlamaConfig of transformers 5.24 returns.
        for (json, theta, factor) in [
            (json!({}), 1e4, None),
            (json!({"rope_theta": 5e5}), 5e5, None),
            (json!({"rope_theta": 5e5, "rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}}), 7.0, None),
            (json!({"rope_theta": 9.0, "rope_parameters": {"rope_type": "default"}}), 9.0, None),
            (json!({"rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 2.0}}), 5.0, Some(2.0)),
            (
                json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0},
                    "rope_parameters": {"rope_theta": 7.0, "rope_type": "linear", "factor": 4.0}}),
                1e4,
                Some(2.0),
            ),
            (
                json!({"rope_scaling": null,
                    "rope_parameters": {"rope_theta": 7.0, "rope_type": "linear", "factor": 4.0}}),
                7.0,
                Some(4.0),
            ),
        ] {
            let read = RotaryConfig::from_config(&Config::new(&json, "config.json")).unwrap();
            let scaling = factor.map_or(Scaling::None, |factor| Scaling::Linear { factor });
            assert_eq!(read, RotaryConfig { scaling, ..RotaryConfig::plain(theta) }, "{json}");
        }
    }
}
