//! Conversion of one image's tower features to bytes and back.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;

use crate::model::Placement;
use crate::model::families::Seen;

/// The tower features of one image.
#[derive(Clone, Debug, Default)]
pub struct TowerFeatures {
    /// By tower, in the order of [`Subjects::towers`](super::subjects::Subjects::towers): the projector's input.
    /// Unknown entries are `None` or missing at the end.
    pub seen: Vec<Option<Seen>>,
    /// The embedding that the encoder compares with captions.
    pub embedding: Option<ImageVector>,
}

impl TowerFeatures {
    /// Returns the features from tower number `tower`, if they are known.
    pub(in crate::model) fn of_tower(&self, tower: usize) -> Option<&Seen> {
        self.seen.get(tower)?.as_ref()
    }

    /// Stores the features from tower number `tower`.
    pub fn set_tower(&mut self, tower: usize, seen: Seen) {
        if self.seen.len() <= tower {
            self.seen.resize_with(tower + 1, || None);
        }
        self.seen[tower] = Some(seen);
    }
}

/// An encoder's unit-length embedding of one image.
#[derive(Clone, Debug)]
pub struct ImageVector(pub(in crate::model) Tensor);

/// Identifies everything except the image that decides a tower's output: the `tower` (its weights and configuration),
/// the image `preparation`, the device and compute type, and the kernels (none on a CPU if `is_differentiable`).
pub fn computed_by(
    tower: &str,
    preparation: &serde_json::Value,
    placement: &Placement,
    is_differentiable: bool,
) -> String {
    let instructions = match &placement.device {
        Device::Cpu if !is_differentiable => crate::model::kernels_name(),
        Device::Cuda(_) if cfg!(feature = "flash-attn") => "flash attention",
        _ => "none",
    };
    format!(
        "emt {}, {tower}, {preparation}, {} on {}, {instructions}, {}",
        env!("CARGO_PKG_VERSION"),
        placement.dtype.as_str(),
        placement.device_kind(),
        std::env::consts::ARCH
    )
}

const GRID: &str = "grid";
const ORIGINAL_SIZE: &str = "original_size";

impl Seen {
    /// Serialises all fields, in the types in which they were computed.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let pair = |(a, b): (String, String)| format!("{a} {b}");
        let ((rows, columns), (height, width)) = (self.grid, self.original_size);
        let header = HashMap::from([
            (GRID.to_owned(), pair((rows.to_string(), columns.to_string()))),
            (ORIGINAL_SIZE.to_owned(), pair((height.to_string(), width.to_string()))),
        ]);
        let states = self.states.iter().enumerate().map(|(index, state)| (index.to_string(), state));
        Ok(safetensors::serialize(states, Some(header))?)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, onto the device of `placement`.
    ///
    /// # Errors
    /// `bytes` were not written by `to_bytes`.
    pub fn from_bytes(bytes: &[u8], placement: &Placement) -> Result<Self> {
        let stored = SafeTensors::deserialize(bytes)?;
        let (_, metadata) = SafeTensors::read_metadata(bytes)?;
        let header = metadata.metadata().as_ref().context("features lack their header")?;
        let (rows, columns) = pair(header, GRID)?;
        let (height, width) = pair(header, ORIGINAL_SIZE)?;
        let state = |index: usize| Ok(stored.tensor(&index.to_string())?.load(&placement.device)?);
        Ok(Self {
            states: (0..stored.len()).map(state).collect::<Result<_>>()?,
            grid: (usize::try_from(rows)?, usize::try_from(columns)?),
            original_size: (height, width),
        })
    }
}

fn pair(header: &HashMap<String, String>, name: &str) -> Result<(u32, u32)> {
    match header.get(name).and_then(|text| text.split_once(' ')) {
        Some((a, b)) => Ok((a.parse()?, b.parse()?)),
        None => bail!("features lack `{name}`"),
    }
}

impl ImageVector {
    /// Serialises the vector, in the type in which it was computed.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(safetensors::serialize([("embedding", &self.0)], None)?)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, onto the device of `placement`.
    ///
    /// # Errors
    /// `bytes` were not written by `to_bytes`.
    pub fn from_bytes(bytes: &[u8], placement: &Placement) -> Result<Self> {
        Ok(Self(SafeTensors::deserialize(bytes)?.tensor("embedding")?.load(&placement.device)?))
    }
}

#[cfg(test)]
mod tests;
