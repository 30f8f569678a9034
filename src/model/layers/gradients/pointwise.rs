//! Activations and gates.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::super::{Activation, fused};
use super::{borrowed, floats, output};
use crate::model::kernels::{self, Kernels};

/// Computes `activation(x)`.
pub(in super::super) fn activated(x: &Tensor, activation: Activation) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Activate(activation))
}

/// Computes `activation(gate) * up` of two tensors of one shape.
pub(in super::super) fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, Activate(activation))
}

struct Activate(Activation);

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = kernels::activated(Kernels::chosen(), floats(storage, layout)?, self.0, None);
        Ok(output(y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (of_x, of_dy) = (borrowed(x)?, borrowed(&dy)?);
        let dx = kernels::activated_backward(Kernels::chosen(), of_x.get()?, self.0, of_dy.get()?);
        fused::tensor(dx, x.shape()).map(Some)
    }
}

impl CustomOp2 for Activate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        if l1.dims() != l2.dims() {
            bail!("a gate has the shape of what it opens");
        }
        let y = kernels::activated(Kernels::chosen(), floats(s1, l1)?, self.0, Some(floats(s2, l2)?));
        Ok(output(y, l1.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (of_gate, of_up, of_dy) = (borrowed(gate)?, borrowed(up)?, borrowed(&dy)?);
        let [of_gate, of_up] =
            kernels::gated_backward(Kernels::chosen(), of_gate.get()?, of_up.get()?, self.0, of_dy.get()?);
        Ok((Some(fused::tensor(of_gate, gate.shape())?), Some(fused::tensor(of_up, up.shape())?)))
    }
}
