//! The product of some rows and a panel of columns, the building block of every larger product.
//!
//! Each number of the result is one chain of multiply-adds over the shared dimension, in order. So it does not depend
//! on how many rows are computed with it.
#![expect(clippy::needless_range_loop, reason = "with iterators the compiler keeps some of the sums in memory")]

use std::marker::PhantomData;

use super::simd::{Simd, Task};

/// Rows of a tile. Times the vectors of a panel, they give as many sums as registers hold.
pub(super) const N_ROWS_OF_A_TILE: usize = 6;

/// How the two sides of a product are stored.
pub(super) trait Operands: 'static {
    /// An element of the left side.
    type Left: Copy;
    /// An element of the right side.
    type Right: Copy;
    /// Steps along the shared dimension that are stored together on the right side.
    const STEPS: usize;

    /// Adds to `sums` the products of `STEPS` steps.
    /// # Safety
    /// `left` is valid for reads of `STEPS` elements in each of `M` rows that are `stride` apart, `right` for `N`
    /// vectors of `STEPS` steps.
    unsafe fn add<S: Simd, const M: usize, const N: usize>(
        simd: S,
        sums: &mut [[S::V; N]; M],
        left: *const Self::Left,
        stride: usize,
        right: *const Self::Right,
    );

    /// Like [`add`](Self::add) for only the first of `STEPS` steps, when the shared dimension ends within them. Never
    /// called if `STEPS` is 1.
    /// # Safety
    /// As for [`add`](Self::add), but for one element of the left side.
    #[inline(always)]
    unsafe fn add_last<S: Simd, const M: usize, const N: usize>(
        _: S,
        _: &mut [[S::V; N]; M],
        _: *const Self::Left,
        _: usize,
        _: *const Self::Right,
    ) {
    }
}

/// f32 times f32.
pub(super) struct Floats;
/// f32 times f16.
pub(super) struct HalfWeights;
/// f32 times pairs of bf16.
pub(super) struct Bf16Weights;
/// bf16 times pairs of bf16.
pub(super) struct Bf16Dots;

/// Adds `left * right` to the sums; `$load` reads the right vectors.
macro_rules! add_step {
    ($simd:ident, $sums:ident, $left:expr, $stride:ident, |$vector:ident| $load:expr) => {{
        let mut right = [$simd.splat(0.0); N];
        for $vector in 0..N {
            right[$vector] = $load;
        }
        for row in 0..M {
            let left = $simd.splat(*$left.add(row * $stride));
            for vector in 0..N {
                $sums[row][vector] = $simd.multiply_add(left, right[vector], $sums[row][vector]);
            }
        }
    }};
}

impl Operands for Floats {
    type Left = f32;
    type Right = f32;
    const STEPS: usize = 1;

    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize, const N: usize>(
        simd: S,
        sums: &mut [[S::V; N]; M],
        left: *const f32,
        stride: usize,
        right: *const f32,
    ) {
        // Safety: guaranteed by the caller.
        unsafe { add_step!(simd, sums, left, stride, |vector| simd.load(right.add(vector * S::LANES))) }
    }
}

impl Operands for HalfWeights {
    type Left = f32;
    type Right = u16;
    const STEPS: usize = 1;

    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize, const N: usize>(
        simd: S,
        sums: &mut [[S::V; N]; M],
        left: *const f32,
        stride: usize,
        right: *const u16,
    ) {
        // Safety: guaranteed by the caller.
        unsafe { add_step!(simd, sums, left, stride, |vector| simd.load_f16(right.add(vector * S::LANES))) }
    }
}

impl Operands for Bf16Weights {
    type Left = f32;
    type Right = u16;
    const STEPS: usize = 2;

    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize, const N: usize>(
        simd: S,
        sums: &mut [[S::V; N]; M],
        left: *const f32,
        stride: usize,
        right: *const u16,
    ) {
        // Safety: guaranteed by the caller.
        unsafe {
            Self::add_last::<S, M, N>(simd, sums, left, stride, right);
            // Read twice: both halves at once would not fit the registers.
            add_step!(simd, sums, left.add(1), stride, |vector| {
                simd.load_bf16_second_of_pairs(right.add(2 * vector * S::LANES))
            });
        }
    }

    #[inline(always)]
    unsafe fn add_last<S: Simd, const M: usize, const N: usize>(
        simd: S,
        sums: &mut [[S::V; N]; M],
        left: *const f32,
        stride: usize,
        right: *const u16,
    ) {
        // Safety: guaranteed by the caller.
        unsafe {
            add_step!(simd, sums, left, stride, |vector| {
                simd.load_bf16_first_of_pairs(right.add(2 * vector * S::LANES))
            });
        }
    }
}

impl Operands for Bf16Dots {
    type Left = u16;
    type Right = u16;
    const STEPS: usize = 2;

    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize, const N: usize>(
        simd: S,
        sums: &mut [[S::V; N]; M],
        left: *const u16,
        stride: usize,
        right: *const u16,
    ) {
        for row in 0..M {
            // Safety: guaranteed by the caller.
            unsafe {
                let pair = left.add(row * stride).cast::<[u16; 2]>().read_unaligned();
                for vector in 0..N {
                    let sum = &mut sums[row][vector];
                    *sum = simd.dot_bf16(*sum, pair, right.add(2 * vector * S::LANES));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add_last<S: Simd, const M: usize, const N: usize>(
        simd: S,
        sums: &mut [[S::V; N]; M],
        left: *const u16,
        stride: usize,
        right: *const u16,
    ) {
        for (row, sums) in sums.iter_mut().enumerate() {
            // Safety: guaranteed by the caller.
            unsafe {
                let pair = [*left.add(row * stride), 0];
                for (vector, sum) in sums.iter_mut().enumerate() {
                    *sum = simd.dot_bf16(*sum, pair, right.add(2 * vector * S::LANES));
                }
            }
        }
    }
}

/// Computes `result = left * right`, or adds to `result` if `accumulates`.
pub(super) struct Product<O: Operands> {
    pub(super) left: *const O::Left,
    /// The distance from row to row in elements.
    pub(super) left_stride: usize,
    pub(super) n_rows: usize,
    /// The shared dimension.
    pub(super) n_steps: usize,
    pub(super) right: *const O::Right,
    /// The distance from step to step in columns; each column has as many elements as steps are stored together.
    pub(super) right_stride: usize,
    /// The columns, counted in vectors.
    pub(super) n_vectors: usize,
    pub(super) result: *mut f32,
    pub(super) result_stride: usize,
    pub(super) accumulates: bool,
    pub(super) operands: PhantomData<O>,
}

/// A product in progress; only [`Product::run`] creates one.
struct Running<'a, O: Operands>(&'a Product<O>);

impl<O: Operands> Task for Running<'_, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self(product) = self;
        let mut first = 0;
        while first < product.n_vectors {
            let n = S::VECTORS.min(product.n_vectors - first);
            // Safety: the caller of `run` guarantees the pointers.
            unsafe {
                match n {
                    4.. => product.columns::<S, 4>(simd, first),
                    3 => product.columns::<S, 3>(simd, first),
                    2 => product.columns::<S, 2>(simd, first),
                    _ => product.columns::<S, 1>(simd, first),
                }
            }
            first += n;
        }
    }
}

impl<O: Operands> Product<O> {
    /// Computes the product.
    ///
    /// # Safety
    /// The pointers are valid for the rows, steps and vectors of the product.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(&self, simd: S) {
        simd.vectorise(Running(self));
    }

    /// Computes all rows of the `N` vectors from `first` on.
    /// # Safety
    /// The pointers are valid for the rows, steps and vectors of the product, and `first + N <= n_vectors`.
    #[inline(always)]
    unsafe fn columns<S: Simd, const N: usize>(&self, simd: S, first: usize) {
        let mut row = 0;
        let mut n_tiles = self.n_rows.div_ceil(N_ROWS_OF_A_TILE);
        while row < self.n_rows {
            // Tiles have nearly equal numbers of rows, because tiles of few rows leave execution units idle.
            let n = (self.n_rows - row).div_ceil(n_tiles);
            n_tiles -= 1;
            // Safety: as in `run`.
            unsafe {
                match n {
                    6.. => self.tile::<S, 6, N>(simd, row, first),
                    5 => self.tile::<S, 5, N>(simd, row, first),
                    4 => self.tile::<S, 4, N>(simd, row, first),
                    3 => self.tile::<S, 3, N>(simd, row, first),
                    2 => self.tile::<S, 2, N>(simd, row, first),
                    _ => self.tile::<S, 1, N>(simd, row, first),
                }
            }
            row += n;
        }
    }

    /// Computes `M` rows of `N` vectors.
    /// # Safety
    /// As for [`columns`](Self::columns), and `row + M <= n_rows`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const N: usize>(&self, simd: S, row: usize, first: usize) {
        let column = first * S::LANES;
        // Safety: as in `run`; rows, steps and columns are within the product's.
        unsafe {
            let result = self.result.add(row * self.result_stride + column);
            let mut sums = [[simd.splat(0.0); N]; M];
            if self.accumulates {
                for row in 0..M {
                    for vector in 0..N {
                        sums[row][vector] = simd.load(result.add(row * self.result_stride + vector * S::LANES));
                    }
                }
            }
            let mut left = self.left.add(row * self.left_stride);
            let mut right = self.right.add(column * O::STEPS);
            for _ in 0..self.n_steps / O::STEPS {
                O::add::<S, M, N>(simd, &mut sums, left, self.left_stride, right);
                left = left.add(O::STEPS);
                right = right.add(self.right_stride * O::STEPS);
            }
            if !self.n_steps.is_multiple_of(O::STEPS) {
                O::add_last::<S, M, N>(simd, &mut sums, left, self.left_stride, right);
            }
            for row in 0..M {
                for vector in 0..N {
                    simd.store(result.add(row * self.result_stride + vector * S::LANES), sums[row][vector]);
                }
            }
        }
    }
}
