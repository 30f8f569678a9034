//! Affine maps: frozen, frozen with a trained low-rank update, and fully trained.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::super::dropout::{Mask, N_AT_ONCE};
use super::super::fused;
use super::{borrowed, floats, last, output, with_last};
use crate::model::kernels::{self, Kernels, PackedWeight, Part, Right, Term};

/// A map that does not train.
#[derive(Clone, Debug)]
pub(in super::super) struct FrozenMap {
    /// `(out, in)`.
    pub weight: Arc<PackedWeight>,
    /// `(out)`.
    pub bias: Option<Arc<[f32]>>,
}

impl FrozenMap {
    fn part(&self) -> Part<'_> {
        Part { weight: &self.weight, bias: self.bias.as_deref() }
    }

    fn check(&self, n_in: usize) -> Result<()> {
        if n_in != self.weight.n_in() {
            bail!("a map of {} inputs does not fit rows of {n_in}", self.weight.n_in());
        }
        Ok(())
    }
}

/// Computes `x W^T + b` of `x` `(…, in)`: `(…, out)`.
pub(in super::super) fn frozen_linear(x: &Tensor, map: FrozenMap) -> Result<Tensor> {
    x.contiguous()?.apply_op1(FrozenLinear(map))
}

struct FrozenLinear(FrozenMap);

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.0.check(last(layout))?;
        let y = kernels::linear(floats(storage, layout)?, &[self.0.part()], None, None);
        Ok(output(y, with_last(layout.dims(), self.0.weight.n_out())))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let of_dy = borrowed(&dy)?;
        let weight = &self.0.weight;
        let term = Term { left: of_dy.get()?, right: Right::Weight(weight), n_steps: weight.n_out() };
        let n_rows = x.elem_count() / weight.n_in();
        let dx = kernels::product(weight.kernels(), &[term], [n_rows, weight.n_in()], 1.0, None);
        fused::tensor(dx, x.shape()).map(Some)
    }
}

/// Computes `x W^T + b + scale (mask x) A^T B^T` of `x` `(…, in)`, `a` `(rank, in)` and `b` `(out, rank)`: `(…, out)`.
pub(in super::super) fn low_rank_linear(
    x: &Tensor,
    map: FrozenMap,
    [a, b]: [&Tensor; 2],
    scale: f64,
    dropout: Option<Mask>,
) -> Result<Tensor> {
    let operation = LowRankLinear { map, scale: scale as f32, dropout, narrow: OnceLock::new() };
    x.contiguous()?.apply_op3(&a.contiguous()?, &b.contiguous()?, operation)
}

struct LowRankLinear {
    map: FrozenMap,
    scale: f32,
    dropout: Option<Mask>,
    /// `scale (mask x) A^T` `(rows, rank)`, kept for the backward pass.
    narrow: OnceLock<Vec<f32>>,
}

impl LowRankLinear {
    /// Returns `x` after dropout, as the update reads it.
    fn dropped<'a>(&self, x: &'a [f32], memory: &'a mut Vec<f32>) -> &'a [f32] {
        match &self.dropout {
            Some(mask) => {
                *memory = mask.applied(x);
                memory
            }
            None => x,
        }
    }
}

impl CustomOp3 for LowRankLinear {
    fn name(&self) -> &'static str {
        "low-rank-linear"
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
        let (x, a, b) = (floats(s1, l1)?, floats(s2, l2)?, floats(s3, l3)?);
        let (rank, n_in) = l2.shape().dims2()?;
        let n_out = l3.shape().dims2()?.0;
        self.map.check(last(l1))?;
        let n_rows = x.len() / n_in;
        let kernels = self.map.weight.kernels();
        let mut memory = Vec::new();
        let term = Term { left: self.dropped(x, &mut memory), right: Right::Columns(a), n_steps: n_in };
        let narrow = kernels::product(kernels, &[term], [n_rows, rank], self.scale, None);
        let term = Term { left: &narrow, right: Right::Columns(b), n_steps: rank };
        let update = kernels::product(kernels, &[term], [n_rows, n_out], 1.0, None);
        let y = kernels::linear(x, &[self.map.part()], None, Some(&update));
        // `set` cannot fail: one operation computes its forward pass only once.
        let _ = self.narrow.set(narrow);
        Ok(output(y, with_last(l1.dims(), n_out)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(narrow) = self.narrow.get() else { bail!("a map goes back before it went there") };
        let weight = &self.map.weight;
        let (kernels, n_out, n_in, rank) = (weight.kernels(), weight.n_out(), weight.n_in(), a.dim(0)?);
        let dy = dy.contiguous()?;
        let (of_x, of_a, of_b, of_dy) = (borrowed(x)?, borrowed(a)?, borrowed(b)?, borrowed(&dy)?);
        let (numbers, dy) = (of_x.get()?, of_dy.get()?);
        let n_rows = numbers.len() / n_in;
        let term = Term { left: dy, right: Right::Rows(of_b.get()?), n_steps: n_out };
        let d_narrow = kernels::product(kernels, &[term], [n_rows, rank], self.scale, None);

        // Each product over rows transposes its narrow side.
        let across = kernels::transposed(kernels, narrow, rank);
        let term = Term { left: &across, right: Right::Rows(dy), n_steps: n_rows };
        let db = kernels::transposed(kernels, &kernels::product(kernels, &[term], [rank, n_out], 1.0, None), n_out);
        let mut memory = Vec::new();
        let across = kernels::transposed(kernels, &d_narrow, rank);
        let term = Term { left: &across, right: Right::Rows(self.dropped(numbers, &mut memory)), n_steps: n_rows };
        let da = kernels::product(kernels, &[term], [rank, n_in], 1.0, None);
        let (da, db) = (fused::tensor(da, (rank, n_in))?, fused::tensor(db, (n_out, rank))?);
        if !x.track_op() {
            return Ok((None, Some(da), Some(db)));
        }
        let of_map = Term { left: dy, right: Right::Weight(weight), n_steps: n_out };
        let of_update = Term { left: &d_narrow, right: Right::Rows(of_a.get()?), n_steps: rank };
        let dx = match &self.dropout {
            None => kernels::product(kernels, &[of_map, of_update], [n_rows, n_in], 1.0, None),
            Some(mask) => {
                let mut dx = kernels::product(kernels, &[of_map], [n_rows, n_in], 1.0, None);
                let update = kernels::product(kernels, &[of_update], [n_rows, n_in], 1.0, None);
                dx.par_iter_mut()
                    .zip(mask.applied(&update))
                    .with_min_len(N_AT_ONCE)
                    .for_each(|(dx, update)| *dx += update);
                dx
            }
        };
        Ok((Some(fused::tensor(dx, x.shape())?), Some(da), Some(db)))
    }
}

/// Computes `x W^T + b` of `x` `(…, in)`, a weight `(out, in)` and a bias `(out)`, all of which may train: `(…, out)`.
pub(in super::super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, Linear),
        None => x.apply_op2(&weight, Linear),
    }
}

struct Linear;

impl Linear {
    fn forward(
        (s1, l1): (&CpuStorage, &Layout),
        (s2, l2): (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let (n_out, n_in) = l2.shape().dims2()?;
        let x = floats(s1, l1)?;
        if last(l1) != n_in || bias.is_some_and(|bias| bias.len() != n_out) {
            bail!("a map ({n_out}, {n_in}) does not fit {:?}", l1.dims());
        }
        let term = Term { left: x, right: Right::Columns(floats(s2, l2)?), n_steps: n_in };
        let y = kernels::product(Kernels::chosen(), &[term], [x.len() / n_in.max(1), n_out], 1.0, bias);
        Ok(output(y, with_last(l1.dims(), n_out)))
    }

    /// Returns the gradients of `x` and of the weight, each only if it is tracked.
    fn backward(x: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let kernels = Kernels::chosen();
        let (n_out, n_in) = weight.dims2()?;
        let n_rows = x.elem_count() / n_in.max(1);
        let (of_x, of_weight, of_dy) = (borrowed(x)?, borrowed(weight)?, borrowed(dy)?);
        let mut gradients = [None, None];
        if x.track_op() {
            let term = Term { left: of_dy.get()?, right: Right::Rows(of_weight.get()?), n_steps: n_out };
            let dx = kernels::product(kernels, &[term], [n_rows, n_in], 1.0, None);
            gradients[0] = Some(fused::tensor(dx, x.shape())?);
        }
        if weight.track_op() {
            let across = kernels::transposed(kernels, of_dy.get()?, n_out);
            let term = Term { left: &across, right: Right::Rows(of_x.get()?), n_steps: n_rows };
            let dw = kernels::product(kernels, &[term], [n_out, n_in], 1.0, None);
            gradients[1] = Some(fused::tensor(dw, (n_out, n_in))?);
        }
        Ok(gradients)
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        Self::forward((s1, l1), (s2, l2), None)
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dw] = Self::backward(x, weight, &dy.contiguous()?)?;
        Ok((dx, dw))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        Self::forward((s1, l1), (s2, l2), Some(floats(s3, l3)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let [dx, dw] = Self::backward(x, weight, &dy)?;
        let db = match bias.track_op() {
            true => Some(fused::tensor(kernels::column_sums(borrowed(&dy)?.get()?, weight.dim(0)?), bias.shape())?),
            false => None,
        };
        Ok((dx, dw, db))
    }
}
