//! Norms over the last dimension.

use super::memory::{Shared, written};
use super::simd::{Number, Simd, Task, first_lanes};
use super::{Kernels, for_each};

/// Computes layer normalisation of rows as long as `weight` and `bias`.
///
/// # Panics
/// `x` is not whole rows, or bias and weight differ in length.
pub fn layer_norm<T: Number>(kernels: Kernels, x: &[T], weight: &[f32], bias: &[f32], epsilon: f32) -> Vec<T> {
    assert_eq!(weight.len(), bias.len(), "a norm has as many shifts as scales");
    normed(kernels, x, weight, Some(bias), epsilon)
}

/// Computes root-mean-square normalisation of rows as long as `weight`.
///
/// # Panics
/// `x` is not whole rows.
pub fn rms_norm<T: Number>(kernels: Kernels, x: &[T], weight: &[f32], epsilon: f32) -> Vec<T> {
    normed(kernels, x, weight, None, epsilon)
}

const N_ROWS_AT_ONCE: usize = 8;

fn normed<T: Number>(kernels: Kernels, x: &[T], weight: &[f32], bias: Option<&[f32]>, epsilon: f32) -> Vec<T> {
    let size = weight.len().max(1);
    assert_eq!(x.len() % size, 0, "x is whole rows");
    let n_numbers = size * N_ROWS_AT_ONCE;
    // Safety: the pieces cover all rows.
    unsafe {
        written(x.len(), |result| {
            // A number costs about as much as four multiply-adds.
            for_each(x.len().div_ceil(n_numbers), 4 * x.len(), |piece| {
                let start = piece * n_numbers;
                let rows = &x[start..x.len().min(start + n_numbers)];
                kernels.run(Norm { rows, weight, bias, epsilon, start, result });
            });
        })
    }
}

struct Norm<'a, T> {
    rows: &'a [T],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    epsilon: f32,
    /// The place in the result where the rows begin.
    start: usize,
    result: Shared<T>,
}

impl<T: Number> Task for Norm<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let size = self.weight.len();
        for (index, row) in self.rows.chunks_exact(size).enumerate() {
            let mean = match self.bias {
                Some(_) => total(simd, row, |x, _| x) / size as f32,
                None => 0.0,
            };
            let mean = simd.splat(mean);
            let squares = total(simd, row, |x, lanes| {
                // Lanes after the row's end are 0 before the mean is subtracted, and must be 0 after it.
                let centred = simd.subtract(x, mean);
                let squared = simd.multiply(centred, centred);
                if lanes == S::LANES { squared } else { first_lanes(simd, squared, lanes) }
            });
            let inverse = simd.splat(1.0 / (squares / size as f32 + self.epsilon).sqrt());
            let to = self.result.at(self.start + index * size);
            for offset in (0..size).step_by(S::LANES) {
                let n = S::LANES.min(size - offset);
                // Safety: `n` numbers from `offset` on are within the row, the weight, the bias and the row's place in
                // the result.
                unsafe {
                    let x = T::load(simd, row.as_ptr().add(offset), n);
                    let y = simd.multiply(simd.subtract(x, mean), inverse);
                    let weight = f32::load(simd, self.weight.as_ptr().add(offset), n);
                    let y = match self.bias {
                        Some(bias) => simd.multiply_add(y, weight, f32::load(simd, bias.as_ptr().add(offset), n)),
                        None => simd.multiply(y, weight),
                    };
                    T::store(simd, to.add(offset), y, n);
                }
            }
        }
    }
}

/// Returns the sum over a row of `f` of its vectors and their number of lanes.
#[inline(always)]
fn total<S: Simd, T: Number>(simd: S, row: &[T], f: impl Fn(S::V, usize) -> S::V) -> f32 {
    // Several chains, so that additions need not wait for each other.
    let mut sums = [simd.splat(0.0); 4];
    for (index, offset) in (0..row.len()).step_by(S::LANES).enumerate() {
        let n = S::LANES.min(row.len() - offset);
        // Safety: `n` numbers from `offset` on are within the row.
        let x = unsafe { T::load(simd, row.as_ptr().add(offset), n) };
        sums[index % 4] = simd.add(sums[index % 4], f(x, n));
    }
    simd.sum(simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3])))
}
