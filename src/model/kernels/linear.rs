//! Affine maps with packed weights, and the operations that follow them in the same pass.

use std::borrow::Cow;
use std::marker::PhantomData;

use super::int8::{Int8Dots, Int8Weights, widened as widened_from_int8, widened_to_pairs};
use super::memory::{Shared, with_scratch, written};
use super::packed::{PackedWeight, Panels};
use super::pointwise::widened;
use super::simd::{Number, Simd, Task};
use super::tile::{Bf16Dots, Bf16Weights, Floats, HalfWeights, N_ROWS_OF_A_TILE, Operands, Product};
use super::{Activation, Kernels, for_each};

/// One of several maps that are computed together from the same inputs.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The weight.
    pub weight: &'a PackedWeight,
    /// The bias, one number per output.
    pub bias: Option<&'a [f32]>,
}

/// Computes `activation(x W^T + b) + residual` of rows `x` `(rows, n_in)`. The outputs of all `parts` are concatenated:
/// `(rows, sum of n_out)`, which is also the shape of `residual`.
///
/// # Panics
/// Sizes disagree: the parts' inputs, kernels or biases, the numbers of `x` or of the residual.
pub fn linear<T: Number>(x: &[T], parts: &[Part], activation: Option<Activation>, residual: Option<&[T]>) -> Vec<T> {
    let columns: Vec<[Column; 1]> = {
        let mut start = 0;
        let of_part = parts.iter().flat_map(|part| {
            let columns = Column::all(part, start);
            start += part.weight.n_out();
            columns
        });
        of_part.map(|column| [column]).collect()
    };
    let n_out = parts.iter().map(|part| part.weight.n_out()).sum();
    Map { x, parts, n_out, activation, residual }.compute(&columns)
}

/// Computes `activation(x G^T + g) * (x U^T + u)` of rows `x` `(rows, n_in)`: `(rows, n_out)`.
///
/// # Panics
/// Sizes disagree, as in [`linear`], or the two parts have different numbers of outputs.
pub fn gated<T: Number>(x: &[T], gate: Part, up: Part, activation: Activation) -> Vec<T> {
    let n_out = gate.weight.n_out();
    assert_eq!(n_out, up.weight.n_out(), "gate and up have the same outputs");
    let columns: Vec<[Column; 2]> =
        Column::all(&gate, 0).zip(Column::all(&up, 0)).map(|(gate, up)| [gate, up]).collect();
    Map { x, parts: &[gate, up], n_out, activation: Some(activation), residual: None }.compute(&columns)
}

/// A panel of a part, and the place of its outputs.
#[derive(Clone, Copy)]
struct Column<'a> {
    part: Part<'a>,
    panel: usize,
    /// The first of the panel's columns in the result.
    start: usize,
    n_columns: usize,
}

impl<'a> Column<'a> {
    fn all(part: &Part<'a>, start: usize) -> impl Iterator<Item = Self> + use<'a> {
        let part = *part;
        let (width, _) = part.weight.kernels().panel_and_lanes();
        let n_out = part.weight.n_out();
        (0..n_out.div_ceil(width)).map(move |panel| Self {
            part,
            panel,
            start: start + panel * width,
            n_columns: width.min(n_out - panel * width),
        })
    }
}

struct Map<'a, T> {
    x: &'a [T],
    parts: &'a [Part<'a>],
    n_out: usize,
    activation: Option<Activation>,
    residual: Option<&'a [T]>,
}

/// Rows that a thread computes at once. Their numbers for a block of steps stay in the L2 cache while panels pass over
/// them.
const N_ROWS_OF_A_BLOCK: usize = 192;
/// Outputs that a thread computes at once, if there are enough for all threads. The rows are read once for all of them.
const N_COLUMNS_OF_A_BLOCK: usize = 128;
/// Enough that no thread waits long for the last task.
const N_TASKS_OF_A_THREAD: usize = 8;
/// Steps along the inputs between which sums are stored, so that this part of a panel stays in the cache.
const N_STEPS_OF_A_BLOCK: usize = 192;

impl<T: Number> Map<'_, T> {
    fn kernels(&self) -> Kernels {
        self.parts.first().map_or_else(Kernels::chosen, |part| part.weight.kernels())
    }

    fn check(&self, n_in: usize, n_rows: usize) {
        for part in self.parts {
            assert_eq!(part.weight.n_in(), n_in, "all parts have the same inputs");
            assert_eq!(part.weight.kernels().name(), self.kernels().name(), "all parts are packed for one set");
            assert!(part.bias.is_none_or(|bias| bias.len() == part.weight.n_out()), "a bias is one number an output");
        }
        assert_eq!(self.x.len(), n_rows * n_in, "x is whole rows");
        assert!(self.residual.is_none_or(|residual| residual.len() == n_rows * self.n_out), "a residual an output");
    }

    /// Computes one column of the result for each of `columns`: each takes one panel of all parts together, or panels
    /// of one part after the other.
    fn compute<const P: usize>(&self, columns: &[[Column; P]]) -> Vec<T> {
        let n_in = self.parts.first().map_or(1, |part| part.weight.n_in());
        let n_rows = self.x.len() / n_in;
        self.check(n_in, n_rows);
        let kernels = self.kernels();
        let left = Left::new(self.x, self.parts, kernels);
        let n_blocks = n_rows.div_ceil(N_ROWS_OF_A_BLOCK);
        let n_rows_of_block = n_rows.div_ceil(n_blocks.max(1)).next_multiple_of(N_ROWS_OF_A_TILE);
        let n_blocks = n_rows.div_ceil(n_rows_of_block.max(1));
        let (panel, _) = kernels.panel_and_lanes();
        let n_groups_wanted = (N_TASKS_OF_A_THREAD * rayon::current_num_threads()).div_ceil(n_blocks.max(1));
        let n_together = (columns.len() / n_groups_wanted).clamp(1, N_COLUMNS_OF_A_BLOCK / (P * panel));
        let n_groups = columns.len().div_ceil(n_together);
        let is_narrow = self.parts.iter().any(|part| part.weight.scales().is_some());
        let n_wide = if is_narrow { N_STEPS_OF_A_BLOCK * panel } else { 0 };
        // Safety: the blocks cover all rows, the groups cover all columns, and each pair of them writes its own places.
        unsafe {
            written(n_rows * self.n_out, |result| {
                for_each(n_blocks * n_groups, n_rows * n_in * self.n_out, |task| {
                    let first_row = task / n_groups * n_rows_of_block;
                    let n_rows = n_rows_of_block.min(n_rows - first_row);
                    let first = task % n_groups * n_together;
                    let columns = &columns[first..columns.len().min(first + n_together)];
                    let block = Block { map: self, left: &left, columns, first_row, n_rows, result };
                    with_scratch(n_wide + columns.len() * P * n_rows * panel, |scratch| {
                        let (wide, sums) = scratch.split_at_mut(n_wide);
                        kernels.run(BlockIn { block, wide, sums });
                    });
                });
            })
        }
    }
}

/// The inputs in the types that the products of the parts take.
struct Left<'a> {
    n_in: usize,
    floats: Cow<'a, [f32]>,
    bf16: &'a [u16],
}

impl<'a> Left<'a> {
    fn new<T: Number>(x: &'a [T], parts: &[Part], kernels: Kernels) -> Self {
        let n_in = parts.first().map_or(1, |part| part.weight.n_in());
        let bf16 = T::as_bf16(x).filter(|_| kernels.dots_bf16()).unwrap_or(&[]);
        let is_all_dots = !x.is_empty() && !bf16.is_empty() && parts.iter().all(|part| part.weight.meets_bf16());
        let floats = match T::as_floats(x) {
            Some(floats) => Cow::Borrowed(floats),
            None if is_all_dots => Cow::Borrowed(&[][..]),
            None => Cow::Owned(widened(kernels, x)),
        };
        Self { n_in, floats, bf16 }
    }
}

/// Some rows of the outputs of some groups of `P` panels, each of which becomes one output panel.
struct Block<'a, T, const P: usize> {
    map: &'a Map<'a, T>,
    left: &'a Left<'a>,
    columns: &'a [[Column<'a>; P]],
    first_row: usize,
    n_rows: usize,
    result: Shared<T>,
}

/// A block with memory for the sums, and for steps of a panel if they are multiplied in another type than they are
/// stored in.
struct BlockIn<'a, T, const P: usize> {
    block: Block<'a, T, P>,
    wide: &'a mut [f32],
    sums: &'a mut [f32],
}

impl<T: Number, const P: usize> Task for BlockIn<'_, T, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { block, wide, sums } = self;
        let n_numbers = block.n_rows * S::PANEL;
        let n_in = block.left.n_in;
        for first in (0..n_in).step_by(N_STEPS_OF_A_BLOCK) {
            let steps = [first, n_in.min(first + N_STEPS_OF_A_BLOCK)];
            for (column, sums) in block.columns.iter().flatten().zip(sums.chunks_exact_mut(n_numbers)) {
                block.multiply(simd, column, steps, wide, sums);
            }
        }
        for (columns, sums) in block.columns.iter().zip(sums.chunks_exact(P * n_numbers)) {
            block.finish(simd, columns, sums);
        }
    }
}

impl<T: Number, const P: usize> Block<'_, T, P> {
    /// Writes the products of the rows and some steps of one panel to `sums` `(rows, panel)`; adds them unless the
    /// steps are the first.
    #[inline(always)]
    fn multiply<S: Simd>(&self, simd: S, column: &Column, steps: [usize; 2], wide: &mut [f32], sums: &mut [f32]) {
        let weight = column.part.weight;
        let floats = self.left.floats.as_ptr();
        let dots = self.left.bf16.as_ptr();
        let is_dots = !self.left.bf16.is_empty();
        let start = column.panel * weight.panel_len(S::PANEL) + steps[0] * S::PANEL;
        match &weight.panels {
            Panels::F32(panels) => {
                self.product::<S, Floats>(simd, column, steps, floats, &panels.as_slice()[start..], sums);
            }
            Panels::F16(panels) => {
                self.product::<S, HalfWeights>(simd, column, steps, floats, &panels.as_slice()[start..], sums);
            }
            // The constant comes first, so that this product is not compiled for other sets.
            Panels::Bf16(panels) if S::DOTS_BF16 && is_dots => {
                self.product::<S, Bf16Dots>(simd, column, steps, dots, &panels.as_slice()[start..], sums);
            }
            Panels::Bf16(panels) => {
                self.product::<S, Bf16Weights>(simd, column, steps, floats, &panels.as_slice()[start..], sums);
            }
            Panels::Int8(panels) => {
                let n_numbers = (steps[1] - steps[0]).next_multiple_of(2) * S::PANEL;
                let panel = &panels.numbers.as_slice()[start..][..n_numbers];
                // One tile reads each number once; more tiles would widen it repeatedly.
                let is_one_tile = self.n_rows <= N_ROWS_OF_A_TILE;
                if S::DOTS_BF16 && is_dots {
                    if is_one_tile {
                        self.product::<S, Int8Dots>(simd, column, steps, dots, panel, sums);
                    } else {
                        let pairs = widened_to_pairs(simd, panel, wide);
                        self.product::<S, Bf16Dots>(simd, column, steps, dots, pairs, sums);
                    }
                } else if is_one_tile {
                    self.product::<S, Int8Weights>(simd, column, steps, floats, panel, sums);
                } else {
                    let panel = widened_from_int8(simd, panel, wide);
                    self.product::<S, Floats>(simd, column, steps, floats, panel, sums);
                }
            }
        }
    }

    /// Like `multiply`, with the panel's steps as `right`.
    #[inline(always)]
    fn product<S: Simd, O: Operands>(
        &self,
        simd: S,
        column: &Column,
        [first, last]: [usize; 2],
        left: *const O::Left,
        right: &[O::Right],
        sums: &mut [f32],
    ) {
        let n_in = self.left.n_in;
        let product = Product::<O> {
            // `Map::check` verified that x is whole rows; blocks begin at whole steps.
            left: left.wrapping_add(self.first_row * n_in + first),
            left_stride: n_in,
            n_rows: self.n_rows,
            n_steps: last - first,
            right: right.as_ptr(),
            right_stride: S::PANEL,
            n_vectors: column.n_columns.div_ceil(S::LANES),
            result: sums.as_mut_ptr(),
            result_stride: S::PANEL,
            accumulates: first > 0,
            operands: PhantomData,
        };
        // Safety: `Map::check` verified that `x` is whole rows and that the panels belong to the weight; `sums` has a
        // panel for each row of the block.
        unsafe { product.run(simd) };
    }

    /// Applies bias, activation, gate and residual, and converts to the type of the result. `sums` are by panel,
    /// `(rows, panel)`.
    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, columns: &[Column; P], sums: &[f32]) {
        let Self { map, first_row, n_rows, result, .. } = self;
        let n_columns = columns[0].n_columns;
        for row in 0..*n_rows {
            let place = (first_row + row) * map.n_out + columns[0].start;
            let mut offset = 0;
            while offset < n_columns {
                let n = S::LANES.min(n_columns - offset);
                // Safety: the row and `n` columns from `offset` on are within sums, biases, residual and result, whose
                // sizes `Map::check` compared. No other block writes them.
                unsafe {
                    let value = |part: usize| {
                        let sum = sums.as_ptr().add((part * n_rows + row) * S::PANEL + offset);
                        let mut sum = simd.load(sum);
                        if let Some(scales) = columns[part].part.weight.scales() {
                            let scales = scales.as_ptr().add(columns[part].panel * S::PANEL + offset);
                            sum = simd.multiply(sum, simd.load_first(scales, n));
                        }
                        match columns[part].part.bias {
                            Some(bias) => {
                                let bias = bias.as_ptr().add(columns[part].panel * S::PANEL + offset);
                                simd.add(sum, simd.load_first(bias, n))
                            }
                            None => sum,
                        }
                    };
                    let mut y = value(0);
                    if let Some(activation) = map.activation {
                        y = activation.of(simd, y);
                    }
                    if P > 1 {
                        y = simd.multiply(y, value(1));
                    }
                    if let Some(residual) = map.residual {
                        y = simd.add(y, T::load(simd, residual.as_ptr().add(place + offset), n));
                    }
                    T::store(simd, result.at(place + offset), y, n);
                }
                offset += n;
            }
        }
    }
}
