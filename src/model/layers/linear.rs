//! An affine map, with the adapter's update if there is one.

use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

use super::gradients::{self, FrozenMap};
use super::low_rank::{LowRank, merged, merged_bias};
use super::{Activation, Dropout, Loader, fused, needs_gradient};
use crate::model::checkpoint::overlay::{LowRankUpdate, rounded};
use crate::model::kernels::{PackedWeight, Part};

/// `x W^T + b`, multiplied by a factor if there is one.
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    update: Option<Box<LowRank>>,
    /// One number per output, which multiplies it (layer scale). `(out)`
    factor: Option<Tensor>,
}

/// A weight `(out, in)`.
enum Weight {
    /// As stored: for gradients, and for devices with their own matrix products.
    Plain(Tensor),
    /// For the kernels.
    Packed {
        weight: Arc<PackedWeight>,
        /// The map's bias in f32, for the kernels.
        bias: Option<Arc<[f32]>>,
        /// The type in which the map computes.
        dtype: DType,
    },
}

impl Linear {
    /// Reads `name.weight` `(n_out, n_in)` and, if `has_bias`, `name.bias` `(n_out)`.
    pub fn load(loader: &mut Loader, name: &str, n_in: usize, n_out: usize, has_bias: bool) -> Result<Self> {
        Self::load_shaped(loader, name, &[n_out, n_in], has_bias)
    }

    /// Reads a weight `(n_out, …)` as the matrix `(n_out, n_in)`.
    pub fn load_shaped(loader: &mut Loader, name: &str, shape: &[usize], has_bias: bool) -> Result<Self> {
        let mut here = loader.at(name);
        let n_out = shape.first().copied().unwrap_or(0);
        let Some(weight) = here.packed("weight", shape)? else {
            let weight = here.tensor("weight", shape)?.flatten_from(1)?;
            let bias = if has_bias { Some(here.tensor("bias", &[n_out])?) } else { None };
            return Self::updated(&mut here, weight, bias);
        };
        let bias = if has_bias { Some(here.tensor("bias", &[n_out])?) } else { None };
        let dtype = here.placement().dtype;
        let Some(update) = here.take_update() else { return Ok(Self::of_packed(weight, bias, dtype)?) };
        check_shapes(&update, [weight.n_out(), weight.n_in()], here.prefix())?;
        if here.is_merged() {
            return Self::merged((&update, here.merged_type()), &fused::unpacked(&weight, dtype)?, bias, Some(dtype));
        }
        let update = LowRank::new(update, || fused::unpacked(&weight, dtype))?.packed()?;
        Ok(Self { update: Some(Box::new(update)), ..Self::of_packed(weight, bias, dtype)? })
    }

    /// Builds the map from tensors that were read at `here`, with the adapter's update of `here`.
    pub fn updated(here: &mut Loader, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let packed_as = (here.packs() && !needs_gradient(&[&weight])).then_some(here.placement().dtype);
        let Some(update) = here.take_update() else { return Ok(Self::new(weight, bias, packed_as)?) };
        check_shapes(&update, weight.dims2()?.into(), here.prefix())?;
        let dtype = here.placement().dtype;
        if here.is_merged() {
            return Self::merged((&update, here.merged_type()), &weight.to_dtype(dtype)?, bias, packed_as);
        }
        let update = LowRank::new(update, || weight.to_dtype(dtype))?;
        let update = if packed_as.is_some() { update.packed()? } else { update };
        Ok(Self { update: Some(Box::new(update)), ..Self::new(weight, bias, packed_as)? })
    }

    /// Adds the update to the weight, and rounds the sum if a type is given with it.
    fn merged(
        (update, rounding): (&LowRankUpdate, Option<DType>),
        weight: &Tensor,
        bias: Option<Tensor>,
        packed_as: Option<DType>,
    ) -> Result<Self> {
        let bias = match (bias, merged_bias(update)?) {
            (Some(bias), Some(added)) => Some((bias + added)?),
            (bias, added) => bias.or(added),
        };
        Ok(Self::new(rounded(&merged(update, weight)?, rounding)?, bias, packed_as)?)
    }

    /// Builds a map from loaded tensors, such as a part of a larger one.
    pub fn from_tensors(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight: Weight::Plain(weight), bias, update: None, factor: None }
    }

    /// Multiplies the outputs by `factor` `(out)`.
    pub fn times(self, factor: Tensor) -> Self {
        Self { factor: Some(factor), ..self }
    }

    /// Builds a map packed for the kernels in the type `packed_as`, or from the tensor itself if that is `None`.
    fn new(weight: Tensor, bias: Option<Tensor>, packed_as: Option<DType>) -> candle_core::Result<Self> {
        match packed_as {
            Some(dtype) => Self::of_packed(Arc::new(fused::packed(&weight)?), bias, dtype),
            None => Ok(Self::from_tensors(weight, bias)),
        }
    }

    fn of_packed(weight: Arc<PackedWeight>, bias: Option<Tensor>, dtype: DType) -> candle_core::Result<Self> {
        let floats = bias.as_ref().map(fused::floats).transpose()?.map(Arc::from);
        Ok(Self { weight: Weight::Packed { weight, bias: floats, dtype }, bias, update: None, factor: None })
    }

    /// Maps `(…, in)` to `(…, out)`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.forward_with(x, None, None)
    }

    /// Computes `activation(x W^T + b) + residual`.
    pub(super) fn forward_with(
        &self,
        x: &Tensor,
        activation: Option<Activation>,
        residual: Option<&Tensor>,
    ) -> candle_core::Result<Tensor> {
        match &self.factor {
            None => self.unscaled_with(x, activation, residual),
            Some(factor) => {
                let y = self.unscaled_with(x, None, None)?;
                let y = match activation {
                    Some(activation) => activation.forward(&scaled(&y, factor, None)?)?,
                    None => return scaled(&y, factor, residual),
                };
                match residual {
                    Some(residual) => residual + y,
                    None => Ok(y),
                }
            }
        }
    }

    /// Computes `activation(x W^T + b) + residual`, without the factor.
    fn unscaled_with(
        &self,
        x: &Tensor,
        activation: Option<Activation>,
        residual: Option<&Tensor>,
    ) -> candle_core::Result<Tensor> {
        let is_without_gradient = residual.is_none_or(|residual| fused::serves(&[residual]));
        if let (Some(part), true) = (self.unscaled_part(x), is_without_gradient) {
            return fused::linear(x, &[part], activation, residual);
        }
        let y = match self.forward_with_gradients(x)? {
            Some(y) => y,
            None => self.forward_in_steps(x)?,
        };
        let y = match activation {
            Some(activation) => activation.forward(&y)?,
            None => y,
        };
        match residual {
            Some(residual) => residual + y,
            None => Ok(y),
        }
    }

    /// Returns the map's parts for the kernels, if they can compute all of it.
    pub(super) fn part(&self, x: &Tensor) -> Option<Part<'_>> {
        self.unscaled_part(x).filter(|_| self.factor.is_none())
    }

    fn unscaled_part(&self, x: &Tensor) -> Option<Part<'_>> {
        match &self.weight {
            Weight::Packed { weight, bias, .. }
                if self.update.is_none() && fused::serves(&[x]) && !self.trains_bias() =>
            {
                Some(Part { weight, bias: bias.as_deref() })
            }
            Weight::Packed { .. } | Weight::Plain(_) => None,
        }
    }

    fn trains_bias(&self) -> bool {
        self.bias.as_ref().is_some_and(|bias| needs_gradient(&[bias]))
    }

    /// Computes the map as one operation with its own backward pass, if there is one.
    fn forward_with_gradients(&self, x: &Tensor) -> candle_core::Result<Option<Tensor>> {
        match (&self.weight, &self.update) {
            (Weight::Packed { .. }, _) if self.trains_bias() => Ok(None),
            (Weight::Packed { weight, bias, .. }, update) => {
                let map = || FrozenMap { weight: weight.clone(), bias: bias.clone() };
                let Some(update) = update else {
                    return gradients::serves(&[x]).then(|| gradients::frozen_linear(x, map())).transpose();
                };
                match update.plain() {
                    Some(([a, b], scale, dropout)) if gradients::serves(&[x, a, b]) => {
                        let mask = dropout.map(Dropout::mask);
                        gradients::low_rank_linear(x, map(), [a, b], scale, mask).map(Some)
                    }
                    _ => Ok(None),
                }
            }
            (Weight::Plain(weight), None) => {
                let bias = self.bias.as_ref();
                let is_served = gradients::serves(&[x, weight, bias.unwrap_or(x)]);
                is_served.then(|| gradients::linear(x, weight, bias)).transpose()
            }
            (Weight::Plain(_), Some(_)) => Ok(None),
        }
    }

    fn forward_in_steps(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let n_in = shape.pop().unwrap_or(0);
        // One two-dimensional product: candle would otherwise multiply the matrices of the batch one at a time.
        let x = x.reshape(((), n_in))?;
        let y = self.product(&x)?;
        let y = match &self.update {
            Some(update) => update.forward(&x, &y)?,
            None => y,
        };
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        shape.push(y.dim(1)?);
        y.reshape(shape)
    }

    /// Computes the rows `x W^T`.
    fn product(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let weight = match &self.weight {
            Weight::Packed { weight, .. } if fused::serves(&[x]) => {
                return fused::linear(x, &[Part { weight, bias: None }], None, None);
            }
            Weight::Packed { weight, .. } if gradients::serves(&[x]) => {
                return gradients::frozen_linear(x, FrozenMap { weight: weight.clone(), bias: None });
            }
            Weight::Packed { weight, dtype, .. } => &fused::unpacked(weight, *dtype)?,
            Weight::Plain(weight) => weight,
        };
        x.matmul(&weight.t()?)
    }
}

/// Computes `y * factor + residual`.
fn scaled(y: &Tensor, factor: &Tensor, residual: Option<&Tensor>) -> candle_core::Result<Tensor> {
    if let Some(residual) = residual
        && fused::serves(&[y, factor, residual])
    {
        return fused::scaled_added(y, factor, residual);
    }
    let y = y.broadcast_mul(factor)?;
    match residual {
        Some(residual) => residual + y,
        None => Ok(y),
    }
}

/// Checks `A` `(rank, in)`, `B` `(out, rank)` and, with DoRA, magnitudes `(out)` against a weight `(out, in)`.
pub(super) fn check_shapes(update: &LowRankUpdate, [n_out, n_in]: [usize; 2], module: &str) -> Result<()> {
    let rank = update.a.dim(0)?;
    let is_vector = |tensor: &Option<Tensor>| tensor.as_ref().is_none_or(|tensor| tensor.dims() == [n_out]);
    ensure!(
        update.a.dims() == [rank, n_in]
            && update.b.dims() == [n_out, rank]
            && is_vector(&update.magnitude)
            && is_vector(&update.b_bias),
        "the adapter's update of `{module}` has the shapes {:?} and {:?}, and the base model's weight {:?}; hint: it is \
         an adapter of another base",
        update.a.dims(),
        update.b.dims(),
        [n_out, n_in]
    );
    Ok(())
}

#[cfg(test)]
mod tests;
