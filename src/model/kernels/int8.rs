//! Weights of 8 bits: whole numbers, and a scale per output.
//!
//! Symmetric and per output channel (Jacob et al. 2018, section 2.1, with a zero point of 0; as LLM.int8(), Dettmers et
//! al. 2022, stores weights). Only weights are narrow. Whole numbers up to 127 are exact in f32 and in bf16, so
//! products are those of the activations' type, and the scale is applied after the sum.
#![expect(clippy::needless_range_loop, reason = "with iterators the compiler keeps some of the sums in memory")]

use rayon::prelude::*;

use super::Kernels;
use super::memory::{Aligned, split_off};
use super::packed::WeightNumbers;
use super::simd::{LANES_MAX, Simd};
use super::tile::Operands;

/// A weight's numbers in panels, and a scale per output.
///
/// Two inputs of as many outputs as a vector has lanes are stored together, first all outputs of one input: a panel is
/// `(n_in / 2, vectors, 2, lanes)`.
pub(super) struct Int8Panels {
    pub(super) numbers: Aligned<i8>,
    pub(super) scales: Vec<f32>,
}

/// The widths of a panel and of a vector.
#[derive(Clone, Copy)]
pub(super) struct Widths {
    pub(super) panel: usize,
    pub(super) lanes: usize,
}

impl Widths {
    pub(super) fn of(kernels: Kernels) -> Self {
        let (panel, lanes) = kernels.panel_and_lanes();
        Self { panel, lanes }
    }

    /// Returns the place of the number of `input` and `column` in a panel.
    #[inline(always)]
    pub(super) fn place(self, input: usize, column: usize) -> usize {
        let Self { panel, lanes } = self;
        (input / 2 * panel + column / lanes * lanes) * 2 + input % 2 * lanes + column % lanes
    }
}

/// The greatest absolute number of a weight.
const HIGHEST: f32 = 127.0;

impl Int8Panels {
    /// Rounds `(n_out, n_in)` to the nearest multiples of the outputs' scales. Each scale makes the output's greatest
    /// number 127.
    ///
    /// An output that contains NaN has a NaN scale, so that all its results are NaN.
    pub(super) fn new(kernels: Kernels, weight: WeightNumbers, n_in: usize) -> Self {
        let widths = Widths::of(kernels);
        let n_out = weight.len() / n_in;
        let panel_len = n_in.next_multiple_of(2) * widths.panel;
        let mut numbers = Aligned::zeros(n_out.div_ceil(widths.panel) * panel_len);
        let mut scales = vec![0.0; n_out];
        let panels = numbers.as_mut_slice().par_chunks_mut(panel_len).zip(scales.par_chunks_mut(widths.panel));
        panels.enumerate().for_each(|(index, (panel, scales))| {
            let mut row = vec![0.0; n_in];
            for (column, scale) in scales.iter_mut().enumerate() {
                weight.widen(index * widths.panel + column, &mut row);
                *scale = scale_of(&row);
                for (input, x) in row.iter().enumerate() {
                    // The cast turns NaN (from 0 / 0 or the input) into 0.
                    panel[widths.place(input, column)] = (x / *scale).round_ties_even() as i8;
                }
            }
        });
        Self { numbers, scales }
    }

    /// Returns the weight `(n_out, n_in)` as kernels compute with it.
    pub(super) fn unpacked(&self, kernels: Kernels, n_in: usize) -> Vec<f32> {
        let widths = Widths::of(kernels);
        let panel_len = n_in.next_multiple_of(2) * widths.panel;
        let mut values = vec![0.0; self.scales.len() * n_in];
        values.par_chunks_mut(n_in).enumerate().for_each(|(output, row)| {
            let panel = &self.numbers.as_slice()[output / widths.panel * panel_len..];
            for (input, value) in row.iter_mut().enumerate() {
                *value = f32::from(panel[widths.place(input, output % widths.panel)]) * self.scales[output];
            }
        });
        values
    }
}

fn scale_of(row: &[f32]) -> f32 {
    let is_of_numbers = row.iter().all(|x| x.is_finite());
    let highest = row.iter().fold(0f32, |highest, x| highest.max(x.abs()));
    if is_of_numbers { highest / HIGHEST } else { f32::NAN }
}

/// f32 times int8.
pub(super) struct Int8Weights;
/// bf16 times int8.
pub(super) struct Int8Dots;

impl Operands for Int8Weights {
    type Left = f32;
    type Right = i8;
    const STEPS: usize = 2;

    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize, const N: usize>(
        simd: S,
        sums: &mut [[S::V; N]; M],
        left: *const f32,
        stride: usize,
        right: *const i8,
    ) {
        // Safety: guaranteed by the caller.
        unsafe {
            add_step(simd, sums, left, stride, right);
            add_step(simd, sums, left.add(1), stride, right.add(S::LANES));
        }
    }

    #[inline(always)]
    unsafe fn add_last<S: Simd, const M: usize, const N: usize>(
        simd: S,
        sums: &mut [[S::V; N]; M],
        left: *const f32,
        stride: usize,
        right: *const i8,
    ) {
        // Safety: guaranteed by the caller.
        unsafe { add_step(simd, sums, left, stride, right) }
    }
}

/// Adds the products of one step, whose numbers are two vectors apart.
///
/// # Safety
/// `left` is valid for reads of an element in each of `M` rows that are `stride` apart, `right` for `N` such vectors.
#[inline(always)]
unsafe fn add_step<S: Simd, const M: usize, const N: usize>(
    simd: S,
    sums: &mut [[S::V; N]; M],
    left: *const f32,
    stride: usize,
    right: *const i8,
) {
    for vector in 0..N {
        // Safety: guaranteed by the caller.
        unsafe {
            let right = simd.load_i8(right.add(2 * vector * S::LANES));
            for row in 0..M {
                let left = simd.splat(*left.add(row * stride));
                sums[row][vector] = simd.multiply_add(left, right, sums[row][vector]);
            }
        }
    }
}

impl Operands for Int8Dots {
    type Left = u16;
    type Right = i8;
    const STEPS: usize = 2;

    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize, const N: usize>(
        simd: S,
        sums: &mut [[S::V; N]; M],
        left: *const u16,
        stride: usize,
        right: *const i8,
    ) {
        // Safety: guaranteed by the caller.
        unsafe { add_dots(simd, sums, right, |row| left.add(row * stride).cast::<[u16; 2]>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn add_last<S: Simd, const M: usize, const N: usize>(
        simd: S,
        sums: &mut [[S::V; N]; M],
        left: *const u16,
        stride: usize,
        right: *const i8,
    ) {
        // Safety: guaranteed by the caller.
        unsafe { add_dots(simd, sums, right, |row| [*left.add(row * stride), 0]) }
    }
}

/// Adds the products of the pair of each row.
///
/// # Safety
/// `right` is valid for reads of `N` vectors of two steps.
#[inline(always)]
unsafe fn add_dots<S: Simd, const M: usize, const N: usize>(
    simd: S,
    sums: &mut [[S::V; N]; M],
    right: *const i8,
    pair: impl Fn(usize) -> [u16; 2],
) {
    for vector in 0..N {
        let mut wide = [0u16; 2 * LANES_MAX];
        // Safety: guaranteed by the caller; `wide` has room for a vector's pairs.
        unsafe { simd.widen_i8_pairs(right.add(2 * vector * S::LANES), wide.as_mut_ptr()) };
        for row in 0..M {
            // Safety: `wide` holds a vector's pairs.
            sums[row][vector] = unsafe { simd.dot_bf16(sums[row][vector], pair(row), wide.as_ptr()) };
        }
    }
}

/// Returns some steps of a panel as f32, `(steps, panel)`.
///
/// # Panics
/// `to` is too short.
#[inline(always)]
pub(super) fn widened<'a, S: Simd>(simd: S, panel: &[i8], to: &'a mut [f32]) -> &'a [f32] {
    let to = &mut to[..panel.len()];
    for (steps, to) in panel.chunks_exact(2 * S::PANEL).zip(to.chunks_exact_mut(2 * S::PANEL)) {
        for column in (0..S::PANEL).step_by(S::LANES) {
            // Safety: both hold two steps of a panel, which is whole vectors.
            unsafe {
                let pair = steps[2 * column..].as_ptr();
                simd.store(to[column..].as_mut_ptr(), simd.load_i8(pair));
                simd.store(to[S::PANEL + column..].as_mut_ptr(), simd.load_i8(pair.add(S::LANES)));
            }
        }
    }
    to
}

/// Returns some steps of a panel as pairs of bf16, `(steps / 2, panel, 2)`, in memory of f32.
///
/// # Panics
/// `to` is too short.
#[inline(always)]
pub(super) fn widened_to_pairs<'a, S: Simd>(simd: S, panel: &[i8], to: &'a mut [f32]) -> &'a [u16] {
    let (to, _) = split_off::<u16>(to, panel.len());
    for (pairs, to) in panel.chunks_exact(2 * S::LANES).zip(to.chunks_exact_mut(2 * S::LANES)) {
        // Safety: both hold a vector's pairs.
        unsafe { simd.widen_i8_pairs(pairs.as_ptr(), to.as_mut_ptr()) };
    }
    to
}
