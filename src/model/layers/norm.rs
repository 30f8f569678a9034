//! Normalisation over the last dimension.

use anyhow::Result;
use candle_core::{DType, Tensor};

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

    /// Reads `name.weight` of a norm without shift.
    pub fn load_unbiased(loader: &mut Loader, name: &str, size: usize, epsilon: f64) -> Result<Self> {
        let weight = loader.at(name).tensor("weight", &[size])?;
        Ok(Self { bias: weight.zeros_like()?, weight, epsilon: epsilon as f32 })
    }

    /// Maps `(…, size)` to the same shape.
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
    /// Whether 1 is added to the weight in each pass, because the weight's values change while it trains.
    adds_one: bool,
    epsilon: f32,
}

impl RmsNorm {
    /// Reads `name.weight` `(size)`.
    pub fn load(loader: &mut Loader, name: &str, size: usize, epsilon: f64) -> Result<Self> {
        Ok(Self { weight: loader.at(name).tensor("weight", &[size])?, adds_one: false, epsilon: epsilon as f32 })
    }

    /// Reads a norm that multiplies by 1 plus its weight, as Gemma's does. The sum is kept in f32, as in transformers.
    pub fn load_offset(loader: &mut Loader, name: &str, size: usize, epsilon: f64) -> Result<Self> {
        let weight = loader.at(name).tensor("weight", &[size])?;
        let is_trained = needs_gradient(&[&weight]);
        let weight = if is_trained { weight } else { (weight.to_dtype(DType::F32)? + 1.0)? };
        Ok(Self { weight, adds_one: is_trained, epsilon: epsilon as f32 })
    }

    /// Maps `(…, size)` to the same shape.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let weight = &if self.adds_one { (&self.weight + 1.0)? } else { self.weight.clone() };
        if fused::serves(&[x, weight]) {
            return fused::norm(x, weight, None, self.epsilon);
        }
        let weight = &weight.to_dtype(x.dtype())?;
        if gradients::serves(&[x, weight]) {
            return gradients::rms_norm(x, weight, self.epsilon);
        }
        if needs_gradient(&[x, weight]) {
            return candle_nn::ops::rms_norm_slow(x, weight, self.epsilon);
        }
        candle_nn::ops::rms_norm(&x.contiguous()?, weight, self.epsilon)
    }

    /// Like [`forward`](Self::forward), and adds `residual` if there is one.
    pub fn forward_added(&self, residual: Option<&Tensor>, x: &Tensor) -> candle_core::Result<Tensor> {
        let normed = self.forward(x)?;
        match residual {
            Some(residual) => residual + normed,
            None => Ok(normed),
        }
    }
}

/// A norm of either kind.
pub enum Norm {
    /// By the root of the mean square.
    Rms(RmsNorm),
    /// By mean and variance.
    Layer(LayerNorm),
}

impl Norm {
    /// Maps `(…, size)` to the same shape.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Rms(norm) => norm.forward(x),
            Self::Layer(norm) => norm.forward(x),
        }
    }
}
