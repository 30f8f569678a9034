//! A low-rank update beside a weight, or added to it.

use candle_core::{DType, Tensor};

use super::{Dropout, fused, needs_gradient};
use crate::model::checkpoint::overlay::LowRankUpdate;
use crate::model::kernels::{PackedWeight, Part};

/// An update ready to be computed beside its weight.
#[derive(Debug)]
pub(super) struct LowRank {
    a: Tensor, // (rank, in)
    b: Tensor, // (out, rank)
    scale: f64,
    b_bias: Option<Tensor>,
    /// What DoRA multiplies each output with, `(out)`: magnitude over the updated row's length.
    row_scale: Option<Tensor>,
    dropout: Option<Dropout>,
    /// `scale A` and `B` for the kernels.
    packed: Option<(PackedWeight, PackedWeight)>,
}

impl LowRank {
    /// `update` of `weight` `(out, in)`, which only DoRA asks for.
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

    /// The same for the kernels, where it does not train.
    pub fn packed(self) -> candle_core::Result<Self> {
        if needs_gradient(&[&self.a, &self.b]) {
            return Ok(self);
        }
        let packed = (fused::packed(&(&self.a * self.scale)?)?, fused::packed(&self.b)?);
        Ok(Self { packed: Some(packed), ..self })
    }

    /// `A`, `B`, scale and dropout, where the update is no more than that and is not packed.
    pub fn plain(&self) -> Option<([&Tensor; 2], f64, Option<&Dropout>)> {
        let is_plain = self.packed.is_none() && self.b_bias.is_none() && self.row_scale.is_none();
        is_plain.then_some(([&self.a, &self.b], self.scale, self.dropout.as_ref()))
    }

    /// The outputs `(rows, out)` of the updated map, of its inputs `(rows, in)` and the base's outputs without bias.
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
        // Scaled where it is narrow.
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

/// The weight `(out, in)` with `update` added; computed in f32 and rounded once to the weight's type.
pub(super) fn merged(update: &LowRankUpdate, weight: &Tensor) -> candle_core::Result<Tensor> {
    let sum = updated(update, weight)?;
    let merged = match row_scale(update, weight)? {
        Some(scale) => sum.broadcast_mul(&scale.to_dtype(DType::F32)?.unsqueeze(1)?)?,
        None => sum,
    };
    merged.to_dtype(weight.dtype())
}

/// What merging adds to a bias: the product's own, scaled.
pub(super) fn merged_bias(update: &LowRankUpdate) -> candle_core::Result<Option<Tensor>> {
    update.b_bias.as_ref().map(|bias| bias * update.scale).transpose()
}

/// `W + scale B A` in f32.
fn updated(update: &LowRankUpdate, weight: &Tensor) -> candle_core::Result<Tensor> {
    let product = update.b.to_dtype(DType::F32)?.matmul(&update.a.to_dtype(DType::F32)?)?;
    weight.to_dtype(DType::F32)? + (product * update.scale)?
}

/// DoRA's magnitude over the lengths of the updated rows, `(out)`.
fn row_scale(update: &LowRankUpdate, weight: &Tensor) -> candle_core::Result<Option<Tensor>> {
    let Some(magnitude) = &update.magnitude else { return Ok(None) };
    let lengths = updated(update, weight)?.sqr()?.sum(1)?.sqrt()?;
    Ok(Some((magnitude.to_dtype(DType::F32)? / lengths)?.to_dtype(weight.dtype())?))
}
