//! Operations with their own backward pass, for training on a CPU in f32.
//!
//! candle's differentiable forms are chains of passes over memory in both directions, and they also compute gradients
//! of frozen tensors. Each operation here is one forward and one backward pass of the kernels, and keeps only its
//! inputs. Other devices and types use candle's form.

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

/// Whether the operations here serve `tensors`: all are f32 on a CPU and one of them needs a gradient.
pub(super) fn serves(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|x| is_served(x)) && needs_gradient(tensors)
}

/// Whether the operations here could serve `x` if it needed a gradient.
pub(super) fn is_served(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// Returns the numbers of a contiguous storage.
pub(super) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("an operation of training needs contiguous tensors"),
    }
}

/// The borrowed numbers of a tensor.
struct Numbers<S> {
    storage: S,
    range: Range<usize>,
}

/// Borrows the numbers of a contiguous tensor.
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

/// Returns the result of a forward pass as candle takes it.
fn output(values: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), shape.into())
}

/// Returns `dims` with the last one replaced.
fn with_last(dims: &[usize], size: usize) -> Vec<usize> {
    let (_, before) = dims.split_last().unwrap_or((&0, &[]));
    before.iter().copied().chain([size]).collect()
}

fn last(layout: &Layout) -> usize {
    layout.dims().last().copied().unwrap_or(1)
}
