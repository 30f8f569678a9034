//! An affine map, with the update of an adapter where it has one.

use anyhow::{Result, ensure};
use candle_core::Tensor;

use super::low_rank::{LowRank, merged, merged_bias};
use super::{Loader, gradients, needs_gradient};
use crate::model::overlay::LowRankUpdate;

/// `x W^T + b`, the weight as stored: `(out, in)`.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    update: Option<LowRank>,
}

impl Linear {
    /// Reads `name.weight` `(n_out, n_in)` and, where `has_bias`, `name.bias` `(n_out)`.
    pub fn load(loader: &mut Loader, name: &str, n_in: usize, n_out: usize, has_bias: bool) -> Result<Self> {
        let mut here = loader.at(name);
        let weight = here.tensor("weight", &[n_out, n_in])?;
        let bias = if has_bias { Some(here.tensor("bias", &[n_out])?) } else { None };
        Self::updated(&mut here, weight, bias)
    }

    /// The map of tensors that were read from `here`, with the adapter's update of `here`.
    pub fn updated(here: &mut Loader, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let Some(update) = here.take_update() else { return Ok(Self::from_tensors(weight, bias)) };
        check_shapes(&update, &weight, here.prefix())?;
        if !here.is_merged() {
            let update = Some(LowRank::new(update, &weight)?);
            return Ok(Self { weight, bias, update });
        }
        let bias = match (bias, merged_bias(&update)?) {
            (Some(bias), Some(added)) => Some((bias + added)?),
            (bias, added) => bias.or(added),
        };
        Ok(Self::from_tensors(merged(&update, &weight)?, bias))
    }

    /// A map from tensors that are there already, such as a tied head.
    pub fn from_tensors(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias, update: None }
    }

    /// `(…, in)` to `(…, out)`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let n_in = shape.pop().unwrap_or(0);
        // One two-dimensional product: candle would otherwise multiply the batch's matrices one after the other.
        let x = x.reshape(((), n_in))?;
        let trains_input = needs_gradient(&[&x]) && !needs_gradient(&[&self.weight]);
        let y = if trains_input && gradients::serves(&x) {
            gradients::frozen_product(&x, &self.weight)?
        } else {
            x.matmul(&self.weight.t()?)?
        };
        let y = match &self.update {
            Some(update) => update.forward(&x, &y)?,
            None => y,
        };
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        shape.push(self.weight.dim(0)?);
        y.reshape(shape)
    }
}

/// `A` `(rank, in)`, `B` `(out, rank)` and, with DoRA, magnitudes `(out)`.
pub(super) fn check_shapes(update: &LowRankUpdate, weight: &Tensor, module: &str) -> Result<()> {
    let (n_out, n_in) = weight.dims2()?;
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
        weight.dims()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
    }

    fn update(magnitude: Option<Tensor>) -> LowRankUpdate {
        LowRankUpdate {
            a: tensor(&[1.0, -1.0, 2.0], &[1, 3]),
            b: tensor(&[0.5, 2.0], &[2, 1]),
            scale: 2.0,
            b_bias: Some(tensor(&[0.1, -0.2], &[2])),
            magnitude,
            dropout: None,
        }
    }

    #[test]
    fn an_update_beside_its_weight_equals_the_merged_weight() {
        let weight = tensor(&[1.0, 2.0, 3.0, -1.0, 0.5, 0.25], &[2, 3]);
        let x = tensor(&[0.3, -0.7, 1.1, 2.0, 0.0, -1.0], &[2, 3]);
        for magnitude in [None, Some(tensor(&[1.5, 0.75], &[2]))] {
            let update = LowRankUpdate { b_bias: None, ..update(magnitude) };
            let base = x.matmul(&weight.t().unwrap()).unwrap();
            let beside = LowRank::new(update.clone(), &weight).unwrap().forward(&x, &base).unwrap();
            let inside = x.matmul(&merged(&update, &weight).unwrap().t().unwrap()).unwrap();
            let difference = (beside - inside).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(difference < 1e-5, "{difference}");
        }
    }

    #[test]
    fn an_update_of_other_sizes_is_refused_by_name() {
        let error = check_shapes(&update(None), &tensor(&[0.0; 8], &[2, 4]), "layers.7.q_proj").unwrap_err();
        assert!(error.to_string().contains("layers.7.q_proj"), "{error}");
    }
}
