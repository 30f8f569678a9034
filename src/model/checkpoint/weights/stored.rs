//! One tensor as stored in a file.

use std::ops::Range;

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use super::mapped::MappedFile;

/// Elements converted by one task: enough that splitting costs nothing, and few enough to use all cores.
const ELEMENTS_PER_TASK: usize = 1 << 18;

/// The type of an element. Only the first four can be taken as weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    BF16,
    F64,
    /// Integers, booleans, packed or 8-bit floats. They are listed, so that files may contain such buffers.
    Other {
        name: &'static str,
        n_bits: usize,
    },
}

impl Element {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F64 => "F64",
            Self::Other { name, .. } => name,
        }
    }

    fn n_bits(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 16,
            Self::F32 => 32,
            Self::F64 => 64,
            Self::Other { n_bits, .. } => n_bits,
        }
    }

    /// Returns the bytes of `n_elements`. `None` on overflow, or if they do not fill whole bytes.
    pub(super) fn n_bytes(self, n_elements: usize) -> Option<usize> {
        let n_bits = n_elements.checked_mul(self.n_bits())?;
        n_bits.is_multiple_of(8).then_some(n_bits / 8)
    }
}

/// A view into a file: `shape` and `strides` in elements, counted from `offset` elements into `bytes`.
#[derive(Clone, Debug)]
pub(super) struct StoredTensor {
    /// The name in the file.
    pub(super) key: String,
    pub(super) file: MappedFile,
    /// The storage, which several tensors may share.
    pub(super) bytes: Range<usize>,
    pub(super) element: Element,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

impl StoredTensor {
    /// Checks that the view is inside its storage and its storage inside the file.
    pub(super) fn checked(self) -> anyhow::Result<Self> {
        let inside = || -> Option<bool> {
            let n_elements = self.shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side))?;
            let mut end = self.offset;
            if n_elements > 0 {
                for (&side, &stride) in self.shape.iter().zip(&self.strides) {
                    end = end.checked_add((side - 1).checked_mul(stride)?)?;
                }
                end = end.checked_add(1)?;
            }
            let n_bytes = self.element.n_bytes(end)?;
            Some(n_bytes <= self.bytes.len() && self.bytes.end <= self.file.bytes().len())
        };
        // Sizes and offsets come from the file. Element counts that no memory could hold are caught here.
        anyhow::ensure!(
            self.shape.len() == self.strides.len() && inside() == Some(true),
            "`{}` in `{}` reaches beyond its data; hint: the file is damaged, copy or download it again",
            self.key,
            self.file.path().display()
        );
        Ok(self)
    }

    pub(super) fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of the elements in view.
    pub(super) fn n_bytes(&self) -> usize {
        self.element.n_bytes(self.n_elements()).unwrap_or(0)
    }

    /// Exchanges the tensor's two axes. `None` if it does not have two.
    pub(super) fn transposed(mut self) -> Option<Self> {
        (self.shape.len() == 2).then(|| {
            self.shape.reverse();
            self.strides.reverse();
            self
        })
    }

    /// Returns part `index` of `n_parts` equal parts along the first axis. `None` if it cannot be divided.
    pub(super) fn rows(mut self, index: usize, n_parts: usize) -> Option<Self> {
        let n_rows = *self.shape.first()?;
        (n_parts > 0 && n_rows.is_multiple_of(n_parts) && index < n_parts).then(|| {
            self.shape[0] = n_rows / n_parts;
            self.offset += index * self.shape[0] * self.strides[0];
            self
        })
    }

    fn is_contiguous(&self) -> bool {
        self.strides == contiguous_strides(&self.shape)
    }

    fn storage(&self) -> &[u8] {
        &self.file.bytes()[self.bytes.clone()]
    }

    /// Returns the elements in row-major order, as little-endian bytes. Borrowed if they are stored in this form.
    pub(super) fn row_major(&self) -> anyhow::Result<std::borrow::Cow<'_, [u8]>> {
        let n_bytes = self.n_bytes();
        if self.is_contiguous() {
            let start = self.element.n_bytes(self.offset).context("the view starts within a byte")?;
            return Ok(self.storage()[start..start + n_bytes].into());
        }
        let size = self.element.n_bytes(1).context("packed elements have no strides")?;
        let storage = self.storage();
        let mut gathered = Vec::with_capacity(n_bytes);
        let mut index = vec![0usize; self.shape.len()];
        for _ in 0..self.n_elements() {
            let element = self.offset + index.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum::<usize>();
            gathered.extend_from_slice(&storage[element * size..(element + 1) * size]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Ok(gathered.into())
    }

    /// Copies the tensor to `device` as `dtype` (f32, f16 or bf16).
    pub(super) fn to_tensor(&self, dtype: DType, device: &Device) -> anyhow::Result<Tensor> {
        let bytes = self.row_major()?;
        let shape = self.shape.as_slice();
        let tensor = match dtype {
            DType::F32 => Tensor::from_vec(self.convert(&bytes, |value| value)?, shape, device)?,
            DType::F16 if self.element == Element::F16 => {
                Tensor::from_vec(map_elements(&bytes, f16::from_le_bytes), shape, device)?
            }
            DType::F16 => Tensor::from_vec(self.convert(&bytes, f16::from_f32)?, shape, device)?,
            DType::BF16 if self.element == Element::BF16 => {
                Tensor::from_vec(map_elements(&bytes, bf16::from_le_bytes), shape, device)?
            }
            DType::BF16 => Tensor::from_vec(self.convert(&bytes, bf16::from_f32)?, shape, device)?,
            other => anyhow::bail!("weights are taken as f32, f16 or bf16, not {other:?}"),
        };
        // Releases the file's memory, so that a checkpoint is not in memory twice.
        self.release();
        Ok(tensor)
    }

    /// Releases the memory of its bytes, if they can be read again.
    pub(super) fn release(&self) {
        self.file.release(self.bytes.clone());
    }

    /// Returns whether the first values differ from those of `other` by more than the rounding of the narrower type.
    pub(super) fn first_numbers_differ(&self, other: &Self) -> bool {
        const N_COMPARED: usize = 64;
        let first = |tensor: &Self| {
            let n = tensor.n_elements().min(N_COMPARED);
            let is_flat = tensor.is_contiguous();
            is_flat.then(|| Self { shape: vec![n], strides: vec![1], ..tensor.clone() }.to_f32().ok()).flatten()
        };
        // Tensors that cannot be compared count as equal.
        let (Some(own), Some(others)) = (first(self), first(other)) else { return false };
        let rounding = |element: Element| match element {
            Element::BF16 => 1.0 / 128.0,
            Element::F16 => 1.0 / 1024.0,
            _ => 1e-6,
        };
        let tolerance = match self.element == other.element {
            true => 0.0,
            false => f32::max(rounding(self.element), rounding(other.element)),
        };
        // Below f16's smallest normal number, its rounding is absolute.
        let absolute = if tolerance > 0.0 { 1e-7 } else { 0.0 };
        own.iter().zip(&others).any(|(a, b)| (a - b).abs() > a.abs().max(b.abs()) * tolerance + absolute)
    }

    /// Returns the values as f32, row-major.
    pub(super) fn to_f32(&self) -> anyhow::Result<Vec<f32>> {
        self.convert(&self.row_major()?, |value| value)
    }

    fn convert<T: Send>(&self, bytes: &[u8], narrow: impl Fn(f32) -> T + Sync) -> anyhow::Result<Vec<T>> {
        Ok(match self.element {
            Element::F32 => map_elements(bytes, |raw| narrow(f32::from_le_bytes(raw))),
            Element::F16 => map_elements(bytes, |raw| narrow(f16::from_le_bytes(raw).to_f32())),
            Element::BF16 => map_elements(bytes, |raw| narrow(bf16::from_le_bytes(raw).to_f32())),
            Element::F64 => map_elements(bytes, |raw| narrow(f64::from_le_bytes(raw) as f32)),
            Element::Other { name, .. } => anyhow::bail!(
                "`{}` in `{}` is stored as {name}, not as F32, F16 or BF16; hint: quantised checkpoints are not read, \
                 save the model in 16 bit",
                self.key,
                self.file.path().display()
            ),
        })
    }
}

/// Returns the row-major strides of `shape`.
pub(super) fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

fn map_elements<const N: usize, T: Send>(bytes: &[u8], convert: impl Fn([u8; N]) -> T + Sync) -> Vec<T> {
    let convert_chunk = |chunk: &[u8]| convert(chunk.try_into().expect("chunks_exact gives N bytes"));
    if bytes.len() / N <= ELEMENTS_PER_TASK {
        return bytes.chunks_exact(N).map(convert_chunk).collect();
    }
    bytes.par_chunks_exact(N).with_min_len(ELEMENTS_PER_TASK).map(convert_chunk).collect()
}

#[cfg(test)]
mod tests;
