//! Normalisation over the last dimension.

use anyhow::Result;
use candle_core::Tensor;

use super::{Loader, fused, gradients, needs_gradient};

/// Layer normalisation with scale and shift.
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl LayerNorm {
    /// Reads `name.weight` and `name.bias`, both `(size)`.
    pub fn load(loader: &mut Loader, name: &str, size: usize, epsilon: f64) -> Result<Self> {
        let mut here = loader.at(name);
        Ok(Self {
            weight: here.tensor("weight", &[size])?,
            bias: here.tensor("bias", &[size])?,
            epsilon: epsilon as f32,
        })
    }

    /// `(…, size)` to the same shape.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        if fused::serves(&[x, &self.weight, &self.bias]) {
            return fused::norm(x, &self.weight, Some(&self.bias), self.epsilon);
        }
        if gradients::serves(&[x, &self.weight, &self.bias]) {
            return gradients::layer_norm(x, &self.weight, &self.bias, self.epsilon);
        }
        if needs_gradient(&[x, &self.weight, &self.bias]) {
            return candle_nn::ops::layer_norm_slow(x, &self.weight, &self.bias, self.epsilon);
        }
        candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.epsilon)
    }
}

/// Root-mean-square normalisation with scale (Zhang and Sennrich 2019).
pub struct RmsNorm {
    weight: Tensor,
    epsilon: f32,
}

impl RmsNorm {
    /// Reads `name.weight` `(size)`.
    pub fn load(loader: &mut Loader, name: &str, size: usize, epsilon: f64) -> Result<Self> {
        Ok(Self { weight: loader.at(name).tensor("weight", &[size])?, epsilon: epsilon as f32 })
    }

    /// `(…, size)` to the same shape.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        if fused::serves(&[x, &self.weight]) {
            return fused::norm(x, &self.weight, None, self.epsilon);
        }
        if gradients::serves(&[x, &self.weight]) {
            return gradients::rms_norm(x, &self.weight, self.epsilon);
        }
        if needs_gradient(&[x, &self.weight]) {
            return candle_nn::ops::rms_norm_slow(x, &self.weight, self.epsilon);
        }
        candle_nn::ops::rms_norm(&x.contiguous()?, &self.weight, self.epsilon)
    }
}
