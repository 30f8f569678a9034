//! A low-rank update that is computed separately from its weight, or added to it.

use candle_core::{DType, Tensor};

use super::{Dropout, fused, needs_gradient};
use crate::model::checkpoint::overlay::LowRankUpdate;
use crate::model::kernels::{PackedWeight, Part};

/// An update that is computed separately from its weight.
#[derive(Debug)]
pub(super) struct LowRank {
    a: Tensor, // (rank, in)
    b: Tensor, // (out, rank)
    scale: f64,
    b_bias: Option<Tensor>,
    /// DoRA's factor of each output, `(out)`: magnitude divided by the length of the updated row.
    row_scale: Option<Tensor>,
    dropout: Option<Dropout>,
    /// `scale A` and `B` for the kernels.
    packed: Option<(PackedWeight, PackedWeight)>,
}

impl LowRank {
    /// Builds `update` of `weight` `(out, in)`, which is only computed for DoRA.
    pub fn new(
        update: LowRankUpdate,
        weight: impl FnOnce() -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Self> {
        let row_scale = match &update.magnitude {
            Some(_) => row_scale(&update, &weight()?)?,
            None => None,
        };
        let LowRankUpdate { a, b, scale, b_bias, dropout, .. } = update;
        Ok(Self { a, b, scale, b_bias, row_scale, dropout, packed: None })
    }

    /// Packs the update for the kernels, unless it trains.
    pub fn packed(self) -> candle_core::Result<Self> {
        if needs_gradient(&[&self.a, &self.b]) {
            return Ok(self);
        }
        let packed = (fused::packed(&(&self.a * self.scale)?)?, fused::packed(&self.b)?);
        Ok(Self { packed: Some(packed), ..self })
    }

    /// Returns `A`, `B`, scale and dropout if the update has nothing else and is not packed.
    pub fn plain(&self) -> Option<([&Tensor; 2], f64, Option<&Dropout>)> {
        let is_plain = self.packed.is_none() && self.b_bias.is_none() && self.row_scale.is_none();
        is_plain.then_some(([&self.a, &self.b], self.scale, self.dropout.as_ref()))
    }

    /// Returns the outputs `(rows, out)` of the updated map, given its inputs `(rows, in)` and the base's outputs
    /// without bias.
    pub fn forward(&self, x: &Tensor, base: &Tensor) -> candle_core::Result<Tensor> {
        let x = match &self.dropout {
            Some(dropout) => dropout.forward(x)?,
            None => x.clone(),
        };
        if let (Some((a, b)), None, true) = (&self.packed, &self.b_bias, fused::serves(&[&x, base])) {
            let narrow = fused::linear(&x, &[Part { weight: a, bias: None }], None, None)?;
            let y = fused::linear(&narrow, &[Part { weight: b, bias: None }], None, Some(base))?;
            return match &self.row_scale {
                Some(scale) => y.broadcast_mul(scale),
                None => Ok(y),
            };
        }
        // The narrow product is the cheaper one to scale.
        let update = (x.matmul(&self.a.t()?)? * self.scale)?.matmul(&self.b.t()?)?;
        let update = match &self.b_bias {
            Some(bias) => update.broadcast_add(&(bias * self.scale)?)?,
            None => update,
        };
        let y = (base + update)?;
        match &self.row_scale {
            Some(scale) => y.broadcast_mul(scale),
            None => Ok(y),
        }
    }
}

/// Returns the weight `(out, in)` with `update` added, computed in f32 and rounded once to the weight's type.
pub(super) fn merged(update: &LowRankUpdate, weight: &Tensor) -> candle_core::Result<Tensor> {
    let sum = updated(update, weight)?;
    let merged = match row_scale(update, weight)? {
        Some(scale) => sum.broadcast_mul(&scale.to_dtype(DType::F32)?.unsqueeze(1)?)?,
        None => sum,
    };
    merged.to_dtype(weight.dtype())
}

/// Returns what merging adds to a bias: the update's own bias, scaled.
pub(super) fn merged_bias(update: &LowRankUpdate) -> candle_core::Result<Option<Tensor>> {
    update.b_bias.as_ref().map(|bias| bias * update.scale).transpose()
}

/// Computes `W + scale B A` in f32.
fn updated(update: &LowRankUpdate, weight: &Tensor) -> candle_core::Result<Tensor> {
    let product = update.b.to_dtype(DType::F32)?.matmul(&update.a.to_dtype(DType::F32)?)?;
    weight.to_dtype(DType::F32)? + (product * update.scale)?
}

/// Returns DoRA's magnitude divided by the lengths of the updated rows, `(out)`.
fn row_scale(update: &LowRankUpdate, weight: &Tensor) -> candle_core::Result<Option<Tensor>> {
    let Some(magnitude) = &update.magnitude else { return Ok(None) };
    let lengths = updated(update, weight)?.sqr()?.sum(1)?.sqrt()?;
    Ok(Some((magnitude.to_dtype(DType::F32)? / lengths)?.to_dtype(weight.dtype())?))
}
