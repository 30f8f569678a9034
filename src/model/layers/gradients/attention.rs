//! Attention with its rotary embedding, between the input and output projections.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::super::visible::Visible;
use super::super::{Mask, fused};
use super::{borrowed, floats, output};
use crate::model::kernels::{self, HeadShape, Heads, Kernels, RotaryRows};

/// The inputs of attention in addition to queries, keys and values.
#[derive(Clone, Debug)]
pub(in super::super) struct AttentionInputs {
    /// Sizes.
    pub shape: HeadShape,
    /// `(1 or batch, 1, tokens, tokens)`.
    pub mask: Option<Mask>,
    /// Cosines and sines `(batch, tokens, head size / 2)`.
    pub rotary: Option<(Tensor, Tensor)>,
}

/// Computes `softmax(query key^T / √head size + mask) value` with rotated queries and keys. Queries, keys and values
/// are `(batch, tokens, heads * head size)`; the result has the shape of the queries.
pub(in super::super) fn attention([query, key, value]: [&Tensor; 3], inputs: AttentionInputs) -> Result<Tensor> {
    query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, inputs)
}

impl AttentionInputs {
    fn angles(&self) -> Result<Option<[Vec<f32>; 2]>> {
        let floats = |(cos, sin): &(Tensor, Tensor)| Ok([fused::floats(cos)?, fused::floats(sin)?]);
        self.rotary.as_ref().map(floats).transpose()
    }

    fn heads<'a>(&self, [queries, keys, values]: [&'a [f32]; 3], n_tokens: usize) -> [Heads<'a, f32>; 3] {
        let HeadShape { n_heads, n_kv_heads, head_size } = self.shape;
        let of = |rows, n| Heads::of_rows(rows, n_tokens, n, head_size);
        [of(queries, n_heads), of(keys, n_kv_heads), of(values, n_kv_heads)]
    }

    fn check(&self, dims: [&[usize]; 3]) -> Result<(usize, usize)> {
        let HeadShape { n_heads, n_kv_heads, head_size } = self.shape;
        let widths = [n_heads, n_kv_heads, n_kv_heads].map(|n| n * head_size);
        match dims {
            [&[batch, n_tokens, _], _, _]
                if dims.iter().zip(widths).all(|(dims, width)| **dims == [batch, n_tokens, width]) =>
            {
                Ok((batch, n_tokens))
            }
            _ => bail!("queries, keys and values {dims:?} do not fit {:?}", self.shape),
        }
    }
}

impl CustomOp3 for AttentionInputs {
    fn name(&self) -> &'static str {
        "attention"
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
        let (batch, n_tokens) = self.check([l1.dims(), l2.dims(), l3.dims()])?;
        let rows = [floats(s1, l1)?, floats(s2, l2)?, floats(s3, l3)?];
        let heads = self.heads(rows, n_tokens);
        let angles = self.angles()?;
        let rotary = angles.as_ref().map(|[cos, sin]| RotaryRows { cos, sin });
        let visible = Visible::of(self.mask.as_ref());
        let (kernels, visible) = (Kernels::chosen(), visible.borrowed());
        let rotary = rotary.map(|rotary| [rotary; 2]);
        let mixed = kernels::attention_within(kernels, batch, self.shape, heads, rotary, visible);
        Ok(output(mixed, l1.shape().clone()))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _mixed: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, n_tokens) = self.check([query.dims(), key.dims(), value.dims()])?;
        let dy = dy.contiguous()?;
        let (queries, keys, values) = (borrowed(query)?, borrowed(key)?, borrowed(value)?);
        let heads = self.heads([queries.get()?, keys.get()?, values.get()?], n_tokens);
        let angles = self.angles()?;
        let rotary = angles.as_ref().map(|[cos, sin]| RotaryRows { cos, sin });
        let visible = Visible::of(self.mask.as_ref());
        let (kernels, shape, visible) = (Kernels::chosen(), self.shape, visible.borrowed());
        let gradients = kernels::attention_backward(kernels, shape, heads, borrowed(&dy)?.get()?, rotary, visible);
        let of_query = fused::tensor(gradients.queries, query.shape())?;
        let of_key = fused::tensor(gradients.keys, key.shape())?;
        Ok((Some(of_query), Some(of_key), Some(fused::tensor(gradients.values, value.shape())?)))
    }
}
