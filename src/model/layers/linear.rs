//! An affine map.

use anyhow::Result;
use candle_core::Tensor;

use super::Loader;

/// `x W^T + b`, the weight as stored: `(out, in)`.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Reads `name.weight` `(n_out, n_in)` and, where `has_bias`, `name.bias` `(n_out)`.
    pub fn load(loader: &mut Loader, name: &str, n_in: usize, n_out: usize, has_bias: bool) -> Result<Self> {
        let mut here = loader.at(name);
        let weight = here.tensor("weight", &[n_out, n_in])?;
        let bias = if has_bias { Some(here.tensor("bias", &[n_out])?) } else { None };
        Ok(Self { weight, bias })
    }

    /// A map from tensors that are there already, such as a tied head.
    pub fn from_tensors(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// `(…, in)` to `(…, out)`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let n_in = shape.pop().unwrap_or(0);
        // One two-dimensional product: candle would otherwise multiply the batch's matrices one after the other.
        let y = x.reshape(((), n_in))?.matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        shape.push(self.weight.dim(0)?);
        y.reshape(shape)
    }
}
