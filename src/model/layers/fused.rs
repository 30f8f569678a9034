//! Converts tensors to and from the kernels, which compute on a CPU whatever needs no gradient.

use candle_core::{CpuStorage, DType, Device, Result, Shape, Storage, Tensor, WithDType, bail};
use rayon::prelude::*;

use super::{Activation, needs_gradient};
use crate::model::kernels::{self, Kernels, PackedWeight, Part, WeightNumbers};

/// Whether kernels serve `tensors`: all are on a CPU, in a type that the kernels have, without gradients.
pub(super) fn serves(tensors: &[&Tensor]) -> bool {
    let is_served =
        |tensor: &&Tensor| tensor.device().is_cpu() && matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16);
    tensors.iter().all(is_served) && !needs_gradient(tensors)
}

/// Calls `compute` with the numbers of a tensor, row-major.
pub(super) fn with_numbers<T: WithDType, R>(x: &Tensor, compute: impl FnOnce(&[T]) -> R) -> Result<R> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => Ok(compute(&storage.as_slice::<T>()?[start..end])),
        _ => bail!("kernels compute with contiguous tensors on a CPU"),
    }
}

/// Returns the numbers of a tensor as f32.
pub(super) fn floats(x: &Tensor) -> Result<Vec<f32>> {
    with_numbers(&x.to_dtype(DType::F32)?, <[f32]>::to_vec)
}

/// Evaluates an expression with `$number` as the type of `$tensor`'s numbers.
macro_rules! by_type {
    ($tensor:expr, $number:ident => $body:expr) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => {
                type $number = f32;
                $body
            }
            candle_core::DType::F16 => {
                type $number = half::f16;
                $body
            }
            candle_core::DType::BF16 => {
                type $number = half::bf16;
                $body
            }
            other => candle_core::bail!("kernels compute in f32, f16 and bf16, not in {other:?}"),
        }
    };
}
pub(super) use by_type;

/// Returns a kernel's result as a tensor.
pub(super) fn tensor<T: WithDType>(numbers: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(numbers, shape.into(), &Device::Cpu)
}

/// Packs a weight `(n_out, …)` as the matrix `(n_out, n_in)`.
pub(super) fn packed(weight: &Tensor) -> Result<PackedWeight> {
    packed_by(weight, PackedWeight::new)
}

/// Packs a weight rounded to 8 bits per number.
pub(super) fn rounded_to_int8(weight: &Tensor) -> Result<PackedWeight> {
    packed_by(weight, PackedWeight::rounded_to_int8)
}

fn packed_by(
    weight: &Tensor,
    pack: impl FnOnce(Kernels, WeightNumbers, usize, usize) -> Option<PackedWeight>,
) -> Result<PackedWeight> {
    let n_out = weight.dim(0)?;
    let n_in = weight.elem_count() / n_out.max(1);
    let weight = weight.contiguous()?;
    let (storage, layout) = weight.storage_and_layout();
    let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        bail!("weights are packed on a CPU")
    };
    let numbers = match storage {
        CpuStorage::F32(numbers) => WeightNumbers::F32(&numbers[start..end]),
        CpuStorage::F16(numbers) => WeightNumbers::F16(&numbers[start..end]),
        CpuStorage::BF16(numbers) => WeightNumbers::Bf16(&numbers[start..end]),
        _ => bail!("weights are packed as f32, f16 and bf16"),
    };
    match pack(Kernels::chosen(), numbers, n_out, n_in) {
        Some(packed) => Ok(packed),
        None => bail!("a weight without a number cannot be packed"),
    }
}

/// Returns the weight `(n_out, n_in)` as the kernels compute with it, in the type `dtype`.
pub(super) fn unpacked(weight: &PackedWeight, dtype: DType) -> Result<Tensor> {
    tensor(weight.unpacked(), (weight.n_out(), weight.n_in()))?.to_dtype(dtype)
}

/// Computes `activation(x W^T + b) + residual` of all `parts` concatenated: `(…, in)` to `(…, sum of out)`.
pub(super) fn linear(
    x: &Tensor,
    parts: &[Part],
    activation: Option<Activation>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let n_in = check_inputs(x, parts)?;
    let n_out = parts.iter().map(|part| part.weight.n_out()).sum();
    let shape = with_last(x, n_out)?;
    if residual
        .is_some_and(|residual| residual.dtype() != x.dtype() || residual.elem_count() * n_in != x.elem_count() * n_out)
    {
        bail!("a residual has the shape and the type of what it is added to");
    }
    by_type!(x, T => {
        let compute = |x: &[T]| match residual {
            Some(residual) => with_numbers(residual, |residual| kernels::linear(x, parts, activation, Some(residual))),
            None => Ok(kernels::linear(x, parts, activation, None)),
        };
        tensor(with_numbers(x, compute)??, shape)
    })
}

/// Computes `activation(x G^T + g) * (x U^T + u)`.
pub(super) fn gated(x: &Tensor, gate: Part, up: Part, activation: Activation) -> Result<Tensor> {
    check_inputs(x, &[gate, up])?;
    let shape = with_last(x, gate.weight.n_out())?;
    by_type!(x, T => tensor(with_numbers::<T, _>(x, |x| kernels::gated(x, gate, up, activation))?, shape))
}

/// Computes `activation(x)`, multiplied by `factor` if there is one.
pub(super) fn activated(x: &Tensor, activation: Activation, factor: Option<&Tensor>) -> Result<Tensor> {
    if factor.is_some_and(|factor| factor.dims() != x.dims() || factor.dtype() != x.dtype()) {
        bail!("a factor has the shape and the type of what it is multiplied with");
    }
    let kernels = Kernels::chosen();
    by_type!(x, T => {
        let compute = |x: &[T]| match factor {
            Some(factor) => with_numbers(factor, |factor| kernels::activated(kernels, x, activation, Some(factor))),
            None => Ok(kernels::activated(kernels, x, activation, None)),
        };
        tensor(with_numbers(x, compute)??, x.shape())
    })
}

/// Computes `y * factor + residual` by rows, with one factor per number of a row.
pub(super) fn scaled_added(y: &Tensor, factor: &Tensor, residual: &Tensor) -> Result<Tensor> {
    if y.dims().last() != factor.dims().last() || y.dims() != residual.dims() || factor.rank() != 1 {
        bail!("factors of {:?} and a residual of {:?} do not fit {:?}", factor.dims(), residual.dims(), y.dims());
    }
    if y.dtype() != residual.dtype() {
        bail!("a residual has the type of what it is added to");
    }
    let factor = floats(factor)?;
    by_type!(y, T => {
        let compute = |y: &[T], residual: &[T]| {
            let mut out = residual.to_vec();
            let n = factor.len().max(1);
            out.par_chunks_mut(n).zip(y.par_chunks(n)).for_each(|(out, y)| {
                for ((out, y), factor) in out.iter_mut().zip(y).zip(&factor) {
                    *out = T::from_f64(y.to_f64() * f64::from(*factor) + out.to_f64());
                }
            });
            out
        };
        let sum = with_numbers(y, |y| with_numbers(residual, |residual| compute(y, residual)))?;
        tensor(sum?, y.shape())
    })
}

/// Computes layer normalisation, or root-mean-square normalisation if there is no `bias`.
pub(super) fn norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, epsilon: f32) -> Result<Tensor> {
    if x.dims().last() != weight.dims().last() || weight.rank() != 1 {
        bail!("a norm of {:?} does not fit {:?}", weight.dims(), x.dims());
    }
    let kernels = Kernels::chosen();
    let weight = floats(weight)?;
    let bias = bias.map(floats).transpose()?;
    by_type!(x, T => {
        let compute = |x: &[T]| match &bias {
            Some(bias) => kernels::layer_norm(kernels, x, &weight, bias, epsilon),
            None => kernels::rms_norm(kernels, x, &weight, epsilon),
        };
        tensor(with_numbers(x, compute)?, x.shape())
    })
}

fn check_inputs(x: &Tensor, parts: &[Part]) -> Result<usize> {
    let n_in = x.dims().last().copied().unwrap_or(0);
    match parts.iter().find(|part| part.weight.n_in() != n_in) {
        Some(part) => bail!("a map of {} inputs does not fit {:?}", part.weight.n_in(), x.dims()),
        None => Ok(n_in),
    }
}

fn with_last(x: &Tensor, size: usize) -> Result<Vec<usize>> {
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(last) => *last = size,
        None => bail!("a number is no row"),
    }
    Ok(shape)
}
