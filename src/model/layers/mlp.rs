//! Feed-forward halves of transformer blocks.

use anyhow::Result;
use candle_core::Tensor;

use super::{Activation, Linear, Loader, gradients, needs_gradient};

/// `fc2(act(fc1(x)))`.
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Mlp {
    /// Reads `fc1` and `fc2`, both with bias.
    pub fn load(loader: &mut Loader, size: usize, n_hidden: usize, activation: Activation) -> Result<Self> {
        Ok(Self {
            fc1: Linear::load(loader, "fc1", size, n_hidden, true)?,
            fc2: Linear::load(loader, "fc2", n_hidden, size, true)?,
            activation,
        })
    }

    /// `(…, size)` to the same shape.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.fc2.forward(&self.activation.forward(&self.fc1.forward(x)?)?)
    }
}

/// `down(act(gate(x)) * up(x))`.
pub struct GatedMlp {
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl GatedMlp {
    /// Reads `gate_proj`, `up_proj` and `down_proj`.
    pub fn load(
        loader: &mut Loader,
        size: usize,
        n_hidden: usize,
        activation: Activation,
        has_bias: bool,
    ) -> Result<Self> {
        Ok(Self {
            gate: Linear::load(loader, "gate_proj", size, n_hidden, has_bias)?,
            up: Linear::load(loader, "up_proj", size, n_hidden, has_bias)?,
            down: Linear::load(loader, "down_proj", n_hidden, size, has_bias)?,
            activation,
        })
    }

    /// `(…, size)` to the same shape.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (gate, up) = (self.gate.forward(x)?, self.up.forward(x)?);
        if self.activation == Activation::Silu && needs_gradient(&[&gate, &up]) && gradients::serves(x) {
            return self.down.forward(&gradients::silu_gate(&gate, &up)?);
        }
        self.down.forward(&(self.activation.forward(&gate)? * up)?)
    }
}
