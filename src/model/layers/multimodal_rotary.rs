//! Rotary positions in two and three dimensions: of patches in a vision tower, and of tokens around images (M-RoPE,
//! Wang et al. 2024, "Qwen2-VL").

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

use crate::model::Placement;
use crate::model::checkpoint::config::Config;

/// Time, row and column.
const N_AXES: usize = 3;

/// How the frequencies of a head are divided among the three axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sections {
    /// One run of frequencies per axis.
    InRuns,
    /// The axes alternate while rows and columns have frequencies left; time takes the rest.
    Interleaved,
}

/// How three positions turn into angles.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct MultimodalRotaryConfig {
    #[serde(rename = "rope_theta")]
    theta: f64,
    /// The axis of each frequency.
    #[serde(rename = "mrope_axes")]
    axes: Vec<usize>,
}

impl MultimodalRotaryConfig {
    /// Reads `rope_theta` with `rope_scaling` (transformers 4) or `rope_parameters` (5) for heads of `head_size`;
    /// `theta` and `sections` are the class's defaults.
    pub fn from_config(
        config: &Config,
        head_size: usize,
        layout: Sections,
        theta: f64,
        sections: [usize; N_AXES],
    ) -> Result<Self> {
        let parameters = config.section("rope_scaling").or_else(|| config.section("rope_parameters"));
        let outer_theta = config.f64_or("rope_theta", theta)?;
        let (theta, sections) = match &parameters {
            None => (outer_theta, sections),
            Some(parameters) => {
                let kind = match parameters.str_or("rope_type", "")? {
                    "" => parameters.str_or("type", "default")?,
                    kind => kind,
                };
                ensure!(
                    matches!(kind, "default" | "mrope"),
                    "the rope type `{kind}` in {} is not supported; hint: default and mrope are in this family",
                    parameters.place()
                );
                (parameters.f64_or("rope_theta", outer_theta)?, sections_of(parameters, sections)?)
            }
        };
        ensure!(
            sections.iter().sum::<usize>() == head_size / 2,
            "`mrope_section` in {} is {sections:?}, and its sum must be half the head's width, {}",
            config.place(),
            head_size / 2
        );
        Ok(Self { theta, axes: axes_of(sections, layout) })
    }
}

fn sections_of(parameters: &Config, default: [usize; N_AXES]) -> Result<[usize; N_AXES]> {
    let Some(value) = parameters.get("mrope_section") else { return Ok(default) };
    let sections: Vec<usize> = value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|n| n.as_u64().filter(|&n| n < 1 << 16))
        .map(|n| n as usize)
        .collect();
    let sections = <[usize; N_AXES]>::try_from(sections).ok();
    sections.ok_or_else(|| {
        anyhow::anyhow!("`mrope_section` in {} must be three counts, but is {value}", parameters.place())
    })
}

fn axes_of(sections: [usize; N_AXES], layout: Sections) -> Vec<usize> {
    match layout {
        Sections::InRuns => (0..N_AXES).flat_map(|axis| std::iter::repeat_n(axis, sections[axis])).collect(),
        Sections::Interleaved => (0..sections.iter().sum())
            .map(|index| if index / N_AXES < sections[index % N_AXES] { index % N_AXES } else { 0 })
            .collect(),
    }
}

/// The frequencies of each axis; zero if the frequency belongs to another axis.
pub struct MultimodalRotary {
    frequencies: Vec<Tensor>, // three tensors (head size / 2), f32
    dtype: DType,
}

impl MultimodalRotary {
    /// Builds the frequencies on the placement's device.
    pub fn new(config: &MultimodalRotaryConfig, placement: &Placement) -> Result<Self> {
        let n_frequencies = config.axes.len();
        let frequencies = frequencies(config.theta, n_frequencies);
        let of_axis = |axis: usize| {
            let values: Vec<f32> =
                frequencies.iter().zip(&config.axes).map(|(f, &own)| if own == axis { *f } else { 0.0 }).collect();
            Tensor::from_vec(values, n_frequencies, &placement.device)
        };
        let frequencies = (0..N_AXES).map(of_axis).collect::<candle_core::Result<_>>()?;
        Ok(Self { frequencies, dtype: placement.dtype })
    }

    /// Returns cosines and sines `(batch, tokens, head size / 2)` of `positions` `(3, batch, tokens)`, or `(batch,
    /// tokens)` if the three axes are equal.
    pub fn rows(&self, positions: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let positions = positions.to_dtype(DType::F32)?;
        let mut angles: Option<Tensor> = None;
        for (axis, frequencies) in self.frequencies.iter().enumerate() {
            let positions = if positions.rank() == 2 { positions.clone() } else { positions.get(axis)? };
            // Each frequency is zero in all axes but its own. The sum is therefore exact.
            let part = positions.unsqueeze(2)?.broadcast_mul(frequencies)?;
            angles = Some(match angles {
                None => part,
                Some(sum) => (sum + part)?,
            });
        }
        let Some(angles) = angles else { candle_core::bail!("rotary positions without an axis") };
        Ok((angles.cos()?.to_dtype(self.dtype)?, angles.sin()?.to_dtype(self.dtype)?))
    }
}

/// Returns cosines and sines `(1, patches, head size / 2)` in f32 of patches at `places` (row, column). The first half
/// of a head's frequencies encodes rows, the second columns.
pub fn patch_rotary(
    places: &[(usize, usize)],
    head_size: usize,
    theta: f64,
    device: &Device,
) -> candle_core::Result<(Tensor, Tensor)> {
    let frequencies = frequencies(theta, head_size / 4);
    let angles: Vec<f32> = places
        .iter()
        .flat_map(|&(row, column)| [row, column])
        .flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * frequency))
        .collect();
    let angles = Tensor::from_vec(angles, (1, places.len(), head_size / 4 * 2), device)?;
    Ok((angles.cos()?, angles.sin()?))
}

fn frequencies(theta: f64, n: usize) -> Vec<f32> {
    (0..n).map(|i| theta.powf(-(i as f64) / n as f64) as f32).collect()
}

#[cfg(test)]
mod tests;
