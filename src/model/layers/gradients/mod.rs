//! Operations with a way back of their own, for training on a CPU in f32.
//!
//! candle's differentiable forms are chains of passes over memory, each with passes of its own on the way back, and they
//! compute gradients of what does not train. Each operation here is one pass there and one back, by the kernels, and keeps
//! its inputs alone. What it does not cover (other devices and types) takes candle's form.

mod attention;
mod linear;
mod norm;
mod pointwise;
#[cfg(test)]
mod tests;

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};

pub(super) use attention::{AttentionInputs, attention};
pub(super) use linear::{FrozenMap, frozen_linear, linear, low_rank_linear};
pub(super) use norm::{layer_norm, rms_norm};
pub(super) use pointwise::{activated, gated};

use super::needs_gradient;

/// Whether the operations here compute with `tensors`: on a CPU in f32, where gradients flow to one of them.
pub(super) fn serves(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|x| is_served(x)) && needs_gradient(tensors)
}

/// Whether they could, if gradients flowed to it.
pub(super) fn is_served(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The numbers of a contiguous storage.
pub(super) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("an operation of training needs contiguous tensors"),
    }
}

/// A tensor's numbers, borrowed.
struct Numbers<S> {
    storage: S,
    range: Range<usize>,
}

/// The numbers of a contiguous tensor.
fn borrowed(x: &Tensor) -> Result<Numbers<impl Deref<Target = Storage>>> {
    let (storage, layout) = x.storage_and_layout();
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(Numbers { storage, range: start..end }),
        None => bail!("an operation of training needs contiguous tensors"),
    }
}

impl<S: Deref<Target = Storage>> Numbers<S> {
    fn get(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok(&storage.as_slice::<f32>()?[self.range.clone()]),
            _ => bail!("an operation of training computes on a CPU"),
        }
    }
}

/// What a forward pass gives to candle.
fn output(values: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), shape.into())
}

/// `dims` with the last one replaced.
fn with_last(dims: &[usize], size: usize) -> Vec<usize> {
    let (_, before) = dims.split_last().unwrap_or((&0, &[]));
    before.iter().copied().chain([size]).collect()
}

fn last(layout: &Layout) -> usize {
    layout.dims().last().copied().unwrap_or(1)
}
