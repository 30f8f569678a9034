//! Norms whose weights may train.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::super::fused;
use super::{borrowed, floats, last, output};
use crate::model::kernels::{self, Kernels};

/// Root-mean-square normalisation of `x` `(…, size)` with a weight `(size)`.
pub(in super::super) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&weight.contiguous()?, Norm { epsilon })
}

/// Layer normalisation of `x` `(…, size)` with a weight and a bias, both `(size)`.
pub(in super::super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f32) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Norm { epsilon })
}

struct Norm {
    epsilon: f32,
}

impl Norm {
    fn check(x: &Layout, others: &[&Layout]) -> Result<()> {
        match others.iter().find(|other| other.dims() != [last(x)]) {
            Some(other) => bail!("a norm of {:?} does not fit {:?}", other.dims(), x.dims()),
            None => Ok(()),
        }
    }

    /// Returns the gradients of `x`, weight and bias, each only if it is tracked.
    fn backward(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let kernels = Kernels::chosen();
        let dy = dy.contiguous()?;
        let (of_x, of_weight, of_dy) = (borrowed(x)?, borrowed(weight)?, borrowed(&dy)?);
        let (numbers, dy) = (of_x.get()?, of_dy.get()?);
        let (size, epsilon, is_centred) = (weight.elem_count(), self.epsilon, bias.is_some());
        let mut gradients = [None, None, None];
        if x.track_op() {
            let dx = kernels::norm_backward(kernels, numbers, dy, of_weight.get()?, epsilon, is_centred);
            gradients[0] = Some(fused::tensor(dx, x.shape())?);
        }
        if weight.track_op() || bias.is_some_and(Tensor::track_op) {
            let [dw, db] = kernels::norm_weight_backward(kernels, numbers, dy, size, epsilon, is_centred);
            gradients[1] = weight.track_op().then(|| fused::tensor(dw, size)).transpose()?;
            gradients[2] = bias.is_some_and(Tensor::track_op).then(|| fused::tensor(db, size)).transpose()?;
        }
        Ok(gradients)
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        Self::check(l1, &[l2])?;
        let y = kernels::rms_norm(Kernels::chosen(), floats(s1, l1)?, floats(s2, l2)?, self.epsilon);
        Ok(output(y, l1.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, _] = self.backward(x, weight, None, dy)?;
        Ok((dx, dw))
    }
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::check(l1, &[l2, l3])?;
        let (x, weight, bias) = (floats(s1, l1)?, floats(s2, l2)?, floats(s3, l3)?);
        let y = kernels::layer_norm(Kernels::chosen(), x, weight, bias, self.epsilon);
        Ok(output(y, l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, db] = self.backward(x, weight, Some(bias), dy)?;
        Ok((dx, dw, db))
    }
}
