//! Products whose right side is packed during the computation, one slab at a time.

use std::marker::PhantomData;

use half::{bf16, f16};

use super::super::int8::Widths;
use super::super::memory::{Shared, with_scratch, written};
use super::super::packed::{PackedWeight, Panels};
use super::super::simd::{Number, PANEL_MAX, Simd, Task};
use super::super::tile::{Floats, N_ROWS_OF_A_TILE, Product};
use super::super::transpose::transpose_at;
use super::super::{Kernels, for_each};

/// The right side of a product, `(steps, columns)`.
#[derive(Clone, Copy, Debug)]
pub enum Right<'a> {
    /// Row-major.
    Rows(&'a [f32]),
    /// Transposed: `(columns, steps)`, row-major.
    Columns(&'a [f32]),
    /// A weight `(n_out, n_in)`: its outputs are the steps, its inputs the columns.
    Weight(&'a PackedWeight),
}

/// One product of a sum of products.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// `(rows, steps)`, row-major.
    pub left: &'a [f32],
    /// `(steps, columns)`.
    pub right: Right<'a>,
    /// The shared dimension.
    pub n_steps: usize,
}

/// Computes `scale (left_1 right_1 + left_2 right_2 + …) + bias`: `(n_rows, n_columns)`.
///
/// # Panics
/// Sizes disagree: the numbers of a side, or those of the bias.
pub fn product(
    kernels: Kernels,
    terms: &[Term],
    [n_rows, n_columns]: [usize; 2],
    scale: f32,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    for Term { left, right, n_steps } in terms {
        assert_eq!(left.len(), n_rows * n_steps, "a left side is rows of steps");
        let n = match right {
            Right::Rows(numbers) | Right::Columns(numbers) => numbers.len(),
            Right::Weight(weight) => {
                assert_eq!((weight.n_out(), weight.n_in()), (*n_steps, n_columns), "a weight is steps of columns");
                assert_eq!(weight.kernels().name(), kernels.name(), "a weight is packed for the kernels that compute");
                n_steps * n_columns
            }
        };
        assert_eq!(n, n_steps * n_columns, "a right side is steps of columns");
    }
    assert!(bias.is_none_or(|bias| bias.len() == n_columns), "a bias is one number a column");
    let (panel, _) = kernels.panel_and_lanes();
    let n_panels = n_columns.div_ceil(panel);
    let n_blocks = n_rows.div_ceil(N_ROWS_OF_A_BLOCK);
    let n_threads = rayon::current_num_threads();
    let are_few = n_blocks * n_panels < N_TASKS_OF_A_THREAD * n_threads;
    let n_blocks = if are_few { n_blocks.next_multiple_of(n_threads) } else { n_blocks };
    let n_rows_of_block = n_rows.div_ceil(n_blocks.max(1)).next_multiple_of(N_ROWS_OF_A_TILE);
    let n_blocks = n_rows.div_ceil(n_rows_of_block.max(1));
    let n_steps: usize = terms.iter().map(|term| term.n_steps).sum();
    // Safety: the blocks cover all rows, the panels cover all columns, and each pair of them writes its own places.
    unsafe {
        written(n_rows * n_columns, |result| {
            for_each(n_blocks * n_panels, n_rows * n_columns * n_steps, |task| {
                let first_row = task / n_panels * n_rows_of_block;
                let first_column = task % n_panels * panel;
                let block = Block {
                    terms,
                    n_columns_of_all: n_columns,
                    rows: [first_row, n_rows.min(first_row + n_rows_of_block)],
                    columns: [first_column, n_columns.min(first_column + panel)],
                    scale,
                    bias,
                    result,
                };
                let n_scratch = (n_rows_of_block + N_STEPS_OF_A_SLAB) * PANEL_MAX;
                with_scratch(n_scratch, |scratch| kernels.run(BlockIn { block, scratch }));
            });
        })
    }
}

/// Rows that pass over a slab: enough that packing it costs little compared with the product.
const N_ROWS_OF_A_BLOCK: usize = 384;
/// With fewer tasks per thread, blocks are divided evenly, so that no thread waits for the last.
const N_TASKS_OF_A_THREAD: usize = 8;
/// Steps packed at once: whole panels of every instruction set.
const N_STEPS_OF_A_SLAB: usize = 256;

/// Some rows of some columns of the result.
struct Block<'a> {
    terms: &'a [Term<'a>],
    n_columns_of_all: usize,
    /// The first row, and the one after the last.
    rows: [usize; 2],
    /// The first column, and the one after the last; at most one panel.
    columns: [usize; 2],
    scale: f32,
    bias: Option<&'a [f32]>,
    result: Shared<f32>,
}

/// A block with memory for sums and slab.
struct BlockIn<'a> {
    block: Block<'a>,
    scratch: &'a mut [f32],
}

impl Task for BlockIn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { block, scratch } = self;
        let n_rows = block.rows[1] - block.rows[0];
        let n_columns = block.columns[1] - block.columns[0];
        let (slab, sums) = scratch.split_at_mut(N_STEPS_OF_A_SLAB * S::PANEL);
        let mut accumulates = false;
        for term in block.terms {
            for first in (0..term.n_steps).step_by(N_STEPS_OF_A_SLAB) {
                let n_steps = N_STEPS_OF_A_SLAB.min(term.n_steps - first);
                if n_columns < S::PANEL {
                    slab.fill(0.0);
                }
                term.right.pack(simd, [first, n_steps], block.columns, block.n_columns_of_all, term.n_steps, slab);
                let product = Product::<Floats> {
                    left: term.left[block.rows[0] * term.n_steps + first..].as_ptr(),
                    left_stride: term.n_steps,
                    n_rows,
                    n_steps,
                    right: slab.as_ptr(),
                    right_stride: S::PANEL,
                    n_vectors: n_columns.div_ceil(S::LANES),
                    result: sums.as_mut_ptr(),
                    result_stride: S::PANEL,
                    accumulates,
                    operands: PhantomData,
                };
                // Safety: `left` holds the rows of the block, the slab a panel for each step, and `sums` a panel for
                // each row.
                unsafe { product.run(simd) };
                accumulates = true;
            }
        }
        if !accumulates {
            sums.fill(0.0);
        }
        block.finish(simd, sums);
    }
}

impl Block<'_> {
    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, sums: &[f32]) {
        let [first, end] = self.columns;
        let scale = simd.splat(self.scale);
        for (sums, row) in sums.chunks_exact(S::PANEL).zip(self.rows[0]..self.rows[1]) {
            for column in (first..end).step_by(S::LANES) {
                let n = S::LANES.min(end - column);
                // Safety: `n` columns from `column` on are within the sums, the bias and the row of the result.
                unsafe {
                    let mut y = simd.multiply(simd.load(sums[column - first..].as_ptr()), scale);
                    if let Some(bias) = self.bias {
                        y = simd.add(y, f32::load(simd, bias[column..].as_ptr(), n));
                    }
                    f32::store(simd, self.result.at(row * self.n_columns_of_all + column), y, n);
                }
            }
        }
    }
}

impl Right<'_> {
    /// Writes `n_steps` steps from `first` on of `columns` to `slab` `(steps, panel)`.
    #[inline(always)]
    fn pack<S: Simd>(
        &self,
        simd: S,
        [first, n_steps]: [usize; 2],
        columns: [usize; 2],
        n_columns_of_all: usize,
        n_steps_of_all: usize,
        slab: &mut [f32],
    ) {
        let n_columns = columns[1] - columns[0];
        match self {
            Self::Rows(numbers) => {
                for (step, row) in slab.chunks_exact_mut(S::PANEL).take(n_steps).enumerate() {
                    let start = (first + step) * n_columns_of_all + columns[0];
                    row[..n_columns].copy_from_slice(&numbers[start..start + n_columns]);
                }
            }
            Self::Columns(numbers) => {
                let numbers = &numbers[columns[0] * n_steps_of_all + first..];
                transpose(simd, numbers, n_steps_of_all, [n_columns, n_steps], slab, S::PANEL);
            }
            Self::Weight(weight) => unpack(simd, weight, [first, n_steps], columns, slab),
        }
    }
}

/// Writes outputs `first..first + n_steps` of inputs `columns` of a packed weight to `slab` `(outputs, panel)`.
#[inline(always)]
fn unpack<S: Simd>(
    simd: S,
    weight: &PackedWeight,
    [first, n_steps]: [usize; 2],
    columns: [usize; 2],
    slab: &mut [f32],
) {
    let panel_len = weight.panel_len(S::PANEL);
    let n_columns = columns[1] - columns[0];
    // Slabs begin at whole panels.
    for step in (0..n_steps).step_by(S::PANEL) {
        let n = S::PANEL.min(n_steps - step);
        let start = (first + step) / S::PANEL * panel_len;
        let slab = &mut slab[step * S::PANEL..];
        match &weight.panels {
            Panels::F32(panels) => {
                let numbers = &panels.as_slice()[start + columns[0] * S::PANEL..];
                transpose(simd, numbers, S::PANEL, [n_columns, n], slab, S::PANEL);
            }
            Panels::F16(panels) => {
                let numbers = &panels.as_slice()[start + columns[0] * S::PANEL..];
                for (input, numbers) in numbers.chunks_exact(S::PANEL).take(n_columns).enumerate() {
                    for (output, &number) in numbers[..n].iter().enumerate() {
                        slab[output * S::PANEL + input] = f16::from_bits(number).to_f32();
                    }
                }
            }
            Panels::Bf16(panels) => {
                // Two inputs are stored together.
                let numbers = &panels.as_slice()[start..];
                for input in 0..n_columns {
                    let place = columns[0] + input;
                    let numbers = &numbers[place / 2 * 2 * S::PANEL + place % 2..];
                    for output in 0..n {
                        slab[output * S::PANEL + input] = bf16::from_bits(numbers[2 * output]).to_f32();
                    }
                }
            }
            Panels::Int8(panels) => {
                let widths = Widths { panel: S::PANEL, lanes: S::LANES };
                let numbers = &panels.numbers.as_slice()[start..];
                for (output, scale) in panels.scales[first + step..][..n].iter().enumerate() {
                    for input in 0..n_columns {
                        let number = f32::from(numbers[widths.place(columns[0] + input, output)]);
                        slab[output * S::PANEL + input] = number * scale;
                    }
                }
            }
        }
    }
}

/// Writes `from` `(rows, columns)`, with rows `from_stride` apart, to `to` `(columns, rows)`, with rows `to_stride`
/// apart.
#[inline(always)]
fn transpose<S: Simd>(
    simd: S,
    from: &[f32],
    from_stride: usize,
    [n_rows, n_columns]: [usize; 2],
    to: &mut [f32],
    to_stride: usize,
) {
    if n_rows > 0 && n_columns > 0 {
        assert!(
            from.len() >= (n_rows - 1) * from_stride + n_columns && to.len() >= (n_columns - 1) * to_stride + n_rows
        );
        // Safety: given that, all numbers are within the slices.
        unsafe {
            let (from, to) = (from.as_ptr().cast(), to.as_mut_ptr().cast());
            transpose_at(simd, from, from_stride, [n_rows, n_columns], to, to_stride);
        }
    }
}

/// Transposes `x` `(rows, columns)` to `(columns, rows)`.
///
/// # Panics
/// `x` is not whole rows.
pub fn transposed(kernels: Kernels, x: &[f32], n_columns: usize) -> Vec<f32> {
    assert_eq!(x.len() % n_columns.max(1), 0, "x is whole rows");
    let n_rows = x.len() / n_columns.max(1);
    // Safety: the tasks cover all rows, and each writes its own places.
    unsafe {
        written(x.len(), |result| {
            for_each(n_rows.div_ceil(N_ROWS_OF_A_TASK), x.len(), |task| {
                let first = task * N_ROWS_OF_A_TASK;
                let rows = &x[first * n_columns..n_rows.min(first + N_ROWS_OF_A_TASK) * n_columns];
                kernels.run(Transpose { rows, n_columns, to: result.at(first), to_stride: n_rows });
            });
        })
    }
}

const N_ROWS_OF_A_TASK: usize = 256;

struct Transpose<'a> {
    rows: &'a [f32],
    n_columns: usize,
    to: *mut f32,
    to_stride: usize,
}

impl Task for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { rows, n_columns, to, to_stride } = self;
        let size = [rows.len() / n_columns.max(1), n_columns];
        // Safety: the rows are whole, and the result has a place for each.
        unsafe { transpose_at(simd, rows.as_ptr().cast(), n_columns, size, to.cast(), to_stride) };
    }
}

/// Returns the sums of the columns of `x` `(rows, n_columns)`.
///
/// # Panics
/// `x` is not whole rows.
pub fn column_sums(x: &[f32], n_columns: usize) -> Vec<f32> {
    assert_eq!(x.len() % n_columns.max(1), 0, "x is whole rows");
    let mut sums = vec![0.0; n_columns];
    for row in x.chunks_exact(n_columns.max(1)) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += x;
        }
    }
    sums
}
