//! Feed-forward halves of transformer blocks.

use anyhow::Result;
use candle_core::{D, Tensor};

use super::{Activation, Linear, Loader, fused, gradients};

/// Computes `fc2(act(fc1(x)))`.
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Mlp {
    /// Reads `fc1` and `fc2`, both with bias.
    pub fn load(loader: &mut Loader, size: usize, n_hidden: usize, activation: Activation) -> Result<Self> {
        Self::load_named(loader, ["fc1", "fc2"], [size, n_hidden, size], activation)
    }

    /// Reads the two maps by `names`, both with bias. The widths are given from first to last.
    pub fn load_named(
        loader: &mut Loader,
        names: [&str; 2],
        widths: [usize; 3],
        activation: Activation,
    ) -> Result<Self> {
        Self::load_as(loader, names, widths, activation, true)
    }

    /// Like [`load_named`](Self::load_named), for maps without bias.
    pub fn load_unbiased(
        loader: &mut Loader,
        names: [&str; 2],
        widths: [usize; 3],
        activation: Activation,
    ) -> Result<Self> {
        Self::load_as(loader, names, widths, activation, false)
    }

    fn load_as(
        loader: &mut Loader,
        names: [&str; 2],
        [size, n_hidden, n_out]: [usize; 3],
        activation: Activation,
        has_bias: bool,
    ) -> Result<Self> {
        Ok(Self {
            fc1: Linear::load(loader, names[0], size, n_hidden, has_bias)?,
            fc2: Linear::load(loader, names[1], n_hidden, n_out, has_bias)?,
            activation,
        })
    }

    /// Multiplies the outputs by `factor` `(out)`.
    pub fn times(self, factor: Tensor) -> Self {
        Self { fc2: self.fc2.times(factor), ..self }
    }

    /// Maps `(…, size)` to `(…, out)`, usually of the same width.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.forward_added(None, x)
    }

    /// Like `forward`, and adds `residual` if there is one.
    pub fn forward_added(&self, residual: Option<&Tensor>, x: &Tensor) -> candle_core::Result<Tensor> {
        self.fc2.forward_with(&self.fc1.forward_with(x, Some(self.activation), None)?, None, residual)
    }
}

/// Computes `down(act(gate(x)) * up(x))`.
pub struct GatedMlp {
    gate_up: GateUp,
    down: Linear,
    activation: Activation,
}

/// The two maps to the hidden width.
enum GateUp {
    Apart {
        gate: Linear,
        up: Linear,
    },
    /// One map with the two stacked.
    Joined(Linear),
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
            gate_up: GateUp::Apart {
                gate: Linear::load(loader, "gate_proj", size, n_hidden, has_bias)?,
                up: Linear::load(loader, "up_proj", size, n_hidden, has_bias)?,
            },
            down: Linear::load(loader, "down_proj", n_hidden, size, has_bias)?,
            activation,
        })
    }

    /// Reads `gate_up_proj`, the two maps stacked, and `down_proj`.
    pub fn load_joined(
        loader: &mut Loader,
        size: usize,
        n_hidden: usize,
        activation: Activation,
        has_bias: bool,
    ) -> Result<Self> {
        Ok(Self {
            gate_up: GateUp::Joined(Linear::load(loader, "gate_up_proj", size, 2 * n_hidden, has_bias)?),
            down: Linear::load(loader, "down_proj", n_hidden, size, has_bias)?,
            activation,
        })
    }

    /// Maps `(…, size)` to the same shape.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.forward_added(None, x)
    }

    /// Like `forward`, and adds `residual` if there is one.
    pub fn forward_added(&self, residual: Option<&Tensor>, x: &Tensor) -> candle_core::Result<Tensor> {
        self.down.forward_with(&self.gated(x)?, None, residual)
    }

    /// Computes `act(gate(x)) * up(x)`.
    fn gated(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (gate, up) = match &self.gate_up {
            GateUp::Apart { gate, up } => {
                if let (Some(gate), Some(up)) = (gate.part(x), up.part(x)) {
                    return fused::gated(x, gate, up, self.activation);
                }
                (gate.forward(x)?, up.forward(x)?)
            }
            GateUp::Joined(both) => {
                let both = both.forward(x)?;
                let (last, n_hidden) = (both.rank() - 1, both.dim(D::Minus1)? / 2);
                let half = |start| both.narrow(last, start, n_hidden)?.contiguous();
                (half(0)?, half(n_hidden)?)
            }
        };
        if fused::serves(&[&gate, &up]) {
            return fused::activated(&gate, self.activation, Some(&up));
        }
        if gradients::serves(&[&gate, &up]) {
            return gradients::gated(&gate, &up, self.activation);
        }
        self.activation.forward(&gate)? * up
    }
}

/// A feed-forward half of either kind.
pub enum FeedForward {
    /// With a gate.
    Gated(GatedMlp),
    /// Without one.
    Plain(Mlp),
}

impl FeedForward {
    /// Maps `(…, size)` to the same shape.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.forward_added(None, x)
    }

    /// Like `forward`, and adds `residual` if there is one.
    pub fn forward_added(&self, residual: Option<&Tensor>, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Gated(mlp) => mlp.forward_added(residual, x),
            Self::Plain(mlp) => mlp.forward_added(residual, x),
        }
    }
}
