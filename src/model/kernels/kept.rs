//! The number types of kept keys and values, and of the rows that are multiplied by them.

use std::marker::PhantomData;

use half::bf16;

use super::kv_buffer::HeadTo;
use super::memory::{Aligned, Plain};
use super::simd::{Number, Simd};
use super::tile::{Bf16Dots, Bf16Weights, Floats, Operands, Product};

/// A number type of keys and values: f32, or bf16, which halves what attention reads and is the input of the
/// processor's bf16 products.
pub trait Kept: Number + Plain {
    /// Steps along the shared dimension that are stored together.
    const TOGETHER: usize;

    /// Writes the first `n` lanes to place `offset` of a row that is multiplied by keys or values, whose memory begins
    /// at `row`.
    ///
    /// # Safety
    /// `row` is valid for reads and writes of `offset + n` numbers of f32.
    unsafe fn store_left<S: Simd>(simd: S, row: *mut f32, offset: usize, x: S::V, n: usize);

    /// Writes 0 to places `start..end` of such a row.
    ///
    /// # Safety
    /// `row` is valid for writes of `end` numbers of f32.
    unsafe fn clear_left<S: Simd>(row: *mut f32, start: usize, end: usize);

    /// Multiplies such rows by keys or values.
    ///
    /// # Safety
    /// The pointers are valid for the rows, steps and vectors of `product`.
    unsafe fn multiply<S: Simd>(simd: S, product: RowsByKept<Self>);

    /// Returns the contents of a buffer for such numbers.
    ///
    /// # Panics
    /// The buffer is for another type.
    fn of_buffer(buffer: &KvNumbers) -> &KeptNumbers<Self>;

    /// The mutable form of [`of_buffer`](Self::of_buffer).
    ///
    /// # Panics
    /// As above.
    fn of_buffer_mut(buffer: &mut KvNumbers) -> &mut KeptNumbers<Self>;

    /// Wraps numbers of this type as a buffer's.
    fn into_buffer(numbers: KeptNumbers<Self>) -> KvNumbers;
}

/// A row that is multiplied by keys or values.
#[derive(Clone, Copy)]
pub(super) struct LeftRow<K> {
    pub(super) row: *mut f32,
    pub(super) kept: PhantomData<K>,
}

impl<K: Kept> HeadTo for LeftRow<K> {
    #[inline(always)]
    unsafe fn store<S: Simd>(self, simd: S, offset: usize, x: S::V, n: usize) {
        // Safety: guaranteed by the caller.
        unsafe { K::store_left(simd, self.row, offset, x, n) }
    }
}

/// Keys and values of all heads.
pub struct KeptNumbers<K> {
    pub(super) keys: Aligned<K>,
    pub(super) values: Aligned<K>,
}

/// Keys and values of either number type.
pub enum KvNumbers {
    /// Keys and values of models that compute in f32 or f16.
    F32(KeptNumbers<f32>),
    /// Keys and values of models that compute in bf16.
    Bf16(KeptNumbers<bf16>),
}

/// The fields of [`Product`], for rows that [`Kept::store_left`] wrote.
pub struct RowsByKept<K> {
    /// The rows, `left_stride` f32 numbers apart.
    pub(super) left: *const f32,
    pub(super) left_stride: usize,
    pub(super) n_rows: usize,
    pub(super) n_steps: usize,
    pub(super) right: *const K,
    pub(super) right_stride: usize,
    pub(super) n_vectors: usize,
    pub(super) result: *mut f32,
    pub(super) result_stride: usize,
    pub(super) accumulates: bool,
}

impl<K> RowsByKept<K> {
    /// Runs the product over numbers as `O` reads them.
    ///
    /// # Safety
    /// Rows and kept numbers have these types, and the pointers are valid for the rows, steps and vectors.
    #[inline(always)]
    unsafe fn run<S: Simd, O: Operands>(self, simd: S) {
        let product = Product::<O> {
            left: self.left.cast(),
            left_stride: self.left_stride * size_of::<f32>() / size_of::<O::Left>(),
            n_rows: self.n_rows,
            n_steps: self.n_steps,
            right: self.right.cast(),
            right_stride: self.right_stride,
            n_vectors: self.n_vectors,
            result: self.result,
            result_stride: self.result_stride,
            accumulates: self.accumulates,
            operands: PhantomData,
        };
        // Safety: guaranteed by the caller.
        unsafe { product.run(simd) };
    }
}

impl Kept for f32 {
    const TOGETHER: usize = 1;

    #[inline(always)]
    unsafe fn store_left<S: Simd>(simd: S, row: *mut f32, offset: usize, x: S::V, n: usize) {
        // Safety: guaranteed by the caller.
        unsafe { Self::store(simd, row.add(offset), x, n) }
    }

    #[inline(always)]
    unsafe fn clear_left<S: Simd>(row: *mut f32, start: usize, end: usize) {
        // Safety: guaranteed by the caller.
        unsafe { row.add(start).write_bytes(0, end - start) }
    }

    fn of_buffer(buffer: &KvNumbers) -> &KeptNumbers<Self> {
        match buffer {
            KvNumbers::F32(numbers) => numbers,
            _ => panic!("a buffer serves the type that it was made for"),
        }
    }

    fn of_buffer_mut(buffer: &mut KvNumbers) -> &mut KeptNumbers<Self> {
        match buffer {
            KvNumbers::F32(numbers) => numbers,
            _ => panic!("a buffer serves the type that it was made for"),
        }
    }

    fn into_buffer(numbers: KeptNumbers<Self>) -> KvNumbers {
        KvNumbers::F32(numbers)
    }

    #[inline(always)]
    unsafe fn multiply<S: Simd>(simd: S, product: RowsByKept<Self>) {
        // Safety: guaranteed by the caller.
        unsafe { product.run::<S, Floats>(simd) };
    }
}

impl Kept for bf16 {
    const TOGETHER: usize = 2;

    /// Narrow numbers are at the front of the row's memory.
    #[inline(always)]
    unsafe fn store_left<S: Simd>(simd: S, row: *mut f32, offset: usize, x: S::V, n: usize) {
        // Safety: guaranteed by the caller; a narrow number ends before a wide one of the same place.
        unsafe {
            if S::DOTS_BF16 {
                Self::store(simd, row.cast::<Self>().add(offset), x, n);
            } else {
                f32::store(simd, row.add(offset), x, n);
            }
        }
    }

    #[inline(always)]
    unsafe fn clear_left<S: Simd>(row: *mut f32, start: usize, end: usize) {
        // Safety: as above.
        unsafe {
            if S::DOTS_BF16 {
                row.cast::<Self>().add(start).write_bytes(0, end - start);
            } else {
                row.add(start).write_bytes(0, end - start);
            }
        }
    }

    fn of_buffer(buffer: &KvNumbers) -> &KeptNumbers<Self> {
        match buffer {
            KvNumbers::Bf16(numbers) => numbers,
            _ => panic!("a buffer serves the type that it was made for"),
        }
    }

    fn of_buffer_mut(buffer: &mut KvNumbers) -> &mut KeptNumbers<Self> {
        match buffer {
            KvNumbers::Bf16(numbers) => numbers,
            _ => panic!("a buffer serves the type that it was made for"),
        }
    }

    fn into_buffer(numbers: KeptNumbers<Self>) -> KvNumbers {
        KvNumbers::Bf16(numbers)
    }

    #[inline(always)]
    unsafe fn multiply<S: Simd>(simd: S, product: RowsByKept<Self>) {
        // Safety: guaranteed by the caller; `store_left` writes narrow numbers under the same condition.
        unsafe {
            if S::DOTS_BF16 {
                product.run::<S, Bf16Dots>(simd);
            } else {
                product.run::<S, Bf16Weights>(simd);
            }
        }
    }
}
