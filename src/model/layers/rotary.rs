//! Rotary position embedding (Su et al. 2021), with LLaMA's half-split layout.

use anyhow::{Result, bail};
use candle_core::{D, DType, Tensor};

use super::needs_gradient;
use crate::model::Placement;
use crate::model::config::Config;

/// How positions turn into angles.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryConfig {
    theta: f64,
    scaling: Scaling,
}

#[derive(Clone, Debug, PartialEq)]
enum Scaling {
    None,
    Linear { factor: f64 },
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, n_original_positions: f64 },
}

impl RotaryConfig {
    /// Reads `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters` (5).
    pub fn from_config(config: &Config) -> Result<Self> {
        let parameters = config.section("rope_parameters");
        let theta = match &parameters {
            Some(parameters) => parameters.f64_or("rope_theta", 10_000.0)?,
            None => config.f64_or("rope_theta", 10_000.0)?,
        };
        let Some(scaling) = parameters.or_else(|| config.section("rope_scaling")) else {
            return Ok(Self { theta, scaling: Scaling::None });
        };
        let kind = match scaling.str_or("rope_type", "")? {
            "" => scaling.str_or("type", "default")?,
            kind => kind,
        };
        let scaling = match kind {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: scaling.f64_or("factor", 1.0)? },
            "llama3" => Scaling::Llama3 {
                factor: scaling.f64_or("factor", 8.0)?,
                low_freq_factor: scaling.f64_or("low_freq_factor", 1.0)?,
                high_freq_factor: scaling.f64_or("high_freq_factor", 4.0)?,
                n_original_positions: scaling.f64_or("original_max_position_embeddings", 8192.0)?,
            },
            other => {
                bail!("the rope type `{other}` in {} is not supported; hint: default, linear, llama3", config.place())
            }
        };
        Ok(Self { theta, scaling })
    }

    fn inverse_frequencies(&self, head_size: usize) -> Vec<f64> {
        let plain = |i: usize| self.theta.powf(-((2 * i) as f64) / head_size as f64);
        (0..head_size / 2)
            .map(plain)
            .map(|frequency| match self.scaling {
                Scaling::None => frequency,
                Scaling::Linear { factor } => frequency / factor,
                Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, n_original_positions } => {
                    let wavelength = 2.0 * std::f64::consts::PI / frequency;
                    let smooth =
                        (n_original_positions / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let smooth = smooth.clamp(0.0, 1.0);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            })
            .collect()
    }
}

/// The table of cosines and sines for all positions of a model.
pub struct Rotary {
    cos: Tensor, // (positions, head_size / 2)
    sin: Tensor,
}

impl Rotary {
    /// Tables for positions `0..n_positions`.
    pub fn new(config: &RotaryConfig, head_size: usize, n_positions: usize, placement: &Placement) -> Result<Self> {
        let frequencies = config.inverse_frequencies(head_size);
        let table = |f: fn(f32) -> f32| -> Result<Tensor> {
            // transformers multiplies position and frequency in f32; so do we.
            let values: Vec<f32> = (0..n_positions)
                .flat_map(|position| frequencies.iter().map(move |&frequency| f(position as f32 * frequency as f32)))
                .collect();
            let table = Tensor::from_vec(values, (n_positions, frequencies.len()), &placement.device)?;
            Ok(table.to_dtype(placement.dtype)?)
        };
        Ok(Self { cos: table(f32::cos)?, sin: table(f32::sin)? })
    }

    /// The rows for `positions` of shape `(batch, tokens)`: cosines and sines `(batch, tokens, head_size / 2)`.
    pub fn rows(&self, positions: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (batch, n_tokens) = positions.dims2()?;
        let flat = positions.to_dtype(DType::U32)?.flatten_all()?;
        let select = |table: &Tensor| table.index_select(&flat, 0)?.reshape((batch, n_tokens, ()));
        Ok((select(&self.cos)?, select(&self.sin)?))
    }
}

/// Turns `x` `(batch, heads, tokens, head size)` by `cos` and `sin` `(batch, tokens, head size / 2)`.
pub(super) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> candle_core::Result<Tensor> {
    if !needs_gradient(&[x]) {
        return candle_nn::rotary_emb::rope(x, cos, sin);
    }
    rotate_in_steps(x, cos, sin)
}

/// The same as candle's own operations, each with its backward pass.
pub(super) fn rotate_in_steps(x: &Tensor, cos: &Tensor, sin: &Tensor) -> candle_core::Result<Tensor> {
    let n_half = x.dim(D::Minus1)? / 2;
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?); // (batch, 1, tokens, head size / 2)
    let (first, second) = (x.narrow(D::Minus1, 0, n_half)?, x.narrow(D::Minus1, n_half, n_half)?);
    let turned_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let turned_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    Tensor::cat(&[turned_first, turned_second], D::Minus1)
}
