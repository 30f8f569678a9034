//! Activation functions by their names in `config.json`.

use anyhow::{Result, bail};
use candle_core::Tensor;

use super::{fused, gradients};
pub use crate::model::kernels::Activation;

impl Activation {
    /// Returns the activation that transformers calls `name`.
    pub fn from_name(name: &str) -> Result<Self> {
        Ok(match name {
            "gelu" => Self::Gelu,
            "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Self::GeluTanh,
            "quick_gelu" => Self::QuickGelu,
            "silu" | "swish" => Self::Silu,
            "relu" => Self::Relu,
            other => bail!(
                "the activation `{other}` of config.json is not known; hint: gelu, gelu_pytorch_tanh, quick_gelu, silu, relu"
            ),
        })
    }

    /// Returns the name in transformers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_pytorch_tanh",
            Self::QuickGelu => "quick_gelu",
            Self::Silu => "silu",
            Self::Relu => "relu",
        }
    }

    /// Maps any shape to the same shape.
    pub fn forward(self, x: &Tensor) -> candle_core::Result<Tensor> {
        if fused::serves(&[x]) {
            return fused::activated(x, self, None);
        }
        if gradients::serves(&[x]) {
            return gradients::activated(x, self);
        }
        match self {
            Self::Gelu => x.gelu_erf(),
            Self::GeluTanh => x.gelu(),
            Self::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
            Self::Silu => x.silu(),
            Self::Relu => x.relu(),
        }
    }
}

impl serde::Serialize for Activation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
