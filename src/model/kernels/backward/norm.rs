//! The backward passes of norms.

use super::super::memory::{Shared, written};
use super::super::simd::{Number, Simd, Task};
use super::super::{Kernels, for_each};

/// Rows per thread at once. Sums over rows are first made of this many rows, whatever the number of threads.
const N_ROWS_AT_ONCE: usize = 16;

/// Returns the gradient of `x` from the gradient `dy` of its norm: a layer norm if `is_centred`, otherwise a
/// root-mean-square norm.
///
/// # Panics
/// `x` is not whole rows of as many numbers as `weight` has, or `dy` is of another length.
pub fn norm_backward(
    kernels: Kernels,
    x: &[f32],
    dy: &[f32],
    weight: &[f32],
    epsilon: f32,
    is_centred: bool,
) -> Vec<f32> {
    check(x, dy, weight.len());
    // Safety: the pieces cover all rows.
    unsafe {
        written(x.len(), |dx| {
            in_pieces(x, dy, weight.len(), |start, x, dy| {
                kernels.run(ToInput { x, dy, weight, epsilon, is_centred, start, dx });
            });
        })
    }
}

/// Returns the gradients of the norm's weight and, if it has one, its bias, both `(size)`, from the gradient `dy`.
///
/// # Panics
/// As for [`norm_backward`].
pub fn norm_weight_backward(
    kernels: Kernels,
    x: &[f32],
    dy: &[f32],
    size: usize,
    epsilon: f32,
    is_centred: bool,
) -> [Vec<f32>; 2] {
    check(x, dy, size);
    let n_pieces = x.len().div_ceil(size.max(1) * N_ROWS_AT_ONCE);
    let mut sums = vec![0.0; 2 * size * n_pieces];
    let to = Shared::new(&mut sums);
    in_pieces(x, dy, size, |start, x, dy| {
        let to = to.at(start / (size * N_ROWS_AT_ONCE) * 2 * size);
        kernels.run(ToWeight { x, dy, size, epsilon, is_centred, to });
    });
    let mut total = vec![0.0; 2 * size];
    for sums in sums.chunks_exact(2 * size.max(1)) {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
    let of_bias = total.split_off(size);
    [total, of_bias]
}

fn check(x: &[f32], dy: &[f32], size: usize) {
    assert_eq!(x.len() % size.max(1), 0, "x is whole rows");
    assert_eq!(x.len(), dy.len(), "a gradient has the shape of what it is of");
}

fn in_pieces(x: &[f32], dy: &[f32], size: usize, task: impl Fn(usize, &[f32], &[f32]) + Send + Sync) {
    let n_numbers = size.max(1) * N_ROWS_AT_ONCE;
    // A number costs about as much as eight multiply-adds.
    for_each(x.len().div_ceil(n_numbers), 8 * x.len(), |piece| {
        let range = piece * n_numbers..x.len().min((piece + 1) * n_numbers);
        task(range.start, &x[range.clone()], &dy[range]);
    });
}

struct ToInput<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    is_centred: bool,
    /// The place in the result where the rows begin.
    start: usize,
    dx: Shared<f32>,
}

impl Task for ToInput<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let size = self.weight.len();
        for (index, (x, dy)) in self.x.chunks_exact(size).zip(self.dy.chunks_exact(size)).enumerate() {
            let (mean, inverse) = moments(simd, x, self.epsilon, self.is_centred);
            // The mean of the gradient at the normalised numbers, and the mean of their product.
            let of_gradient = |place: usize, n: usize| {
                // Safety: `n` numbers from `place` on are within the row and the weight.
                unsafe { simd.multiply(f32::load(simd, dy[place..].as_ptr(), n), load(simd, self.weight, place, n)) }
            };
            let along = total(simd, size, |place, n| {
                let centred = simd.subtract(load(simd, x, place, n), simd.splat(mean));
                // After the end of the row the gradient is 0.
                simd.multiply(of_gradient(place, n), centred)
            });
            let along = simd.splat(along * inverse * inverse / size as f32);
            let level = match self.is_centred {
                true => simd.splat(total(simd, size, of_gradient) / size as f32),
                false => simd.splat(0.0),
            };
            let to = self.dx.at(self.start + index * size);
            for place in (0..size).step_by(S::LANES) {
                let n = S::LANES.min(size - place);
                let centred = simd.subtract(load(simd, x, place, n), simd.splat(mean));
                let pulled = simd.multiply(centred, along);
                let dx = simd.subtract(simd.subtract(of_gradient(place, n), level), pulled);
                // Safety: this is the row's place in the result.
                unsafe { f32::store(simd, to.add(place), simd.multiply(dx, simd.splat(inverse)), n) };
            }
        }
    }
}

struct ToWeight<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    size: usize,
    epsilon: f32,
    is_centred: bool,
    /// The sums for the weight and for the bias.
    to: *mut f32,
}

impl Task for ToWeight<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { size, to, .. } = self;
        for (x, dy) in self.x.chunks_exact(size).zip(self.dy.chunks_exact(size)) {
            let (mean, inverse) = moments(simd, x, self.epsilon, self.is_centred);
            for place in (0..size).step_by(S::LANES) {
                let n = S::LANES.min(size - place);
                let dy = load(simd, dy, place, n);
                let centred = simd.subtract(load(simd, x, place, n), simd.splat(mean));
                let normed = simd.multiply(centred, simd.splat(inverse));
                // Safety: both sums are `size` numbers.
                unsafe {
                    let (of_weight, of_bias) = (to.add(place), to.add(size + place));
                    let sum = simd.multiply_add(dy, normed, f32::load(simd, of_weight, n));
                    f32::store(simd, of_weight, sum, n);
                    f32::store(simd, of_bias, simd.add(dy, f32::load(simd, of_bias, n)), n);
                }
            }
        }
    }
}

/// Returns the mean (0 if it is not subtracted) and the inverse of the deviation of a row.
#[inline(always)]
fn moments<S: Simd>(simd: S, row: &[f32], epsilon: f32, is_centred: bool) -> (f32, f32) {
    let size = row.len() as f32;
    let mean = if is_centred { total(simd, row.len(), |place, n| load(simd, row, place, n)) / size } else { 0.0 };
    (mean, 1.0 / (centred_squares(simd, row, mean) / size + epsilon).sqrt())
}

/// Returns the sum of `(x - mean)²`. Numbers after the last whole vector are added one by one, because empty lanes
/// would not be 0 after the subtraction.
#[inline(always)]
fn centred_squares<S: Simd>(simd: S, row: &[f32], mean: f32) -> f32 {
    let n_whole = row.len() / S::LANES * S::LANES;
    let whole = total(simd, n_whole, |place, n| {
        let centred = simd.subtract(load(simd, row, place, n), simd.splat(mean));
        simd.multiply(centred, centred)
    });
    row[n_whole..].iter().fold(whole, |sum, x| sum + (x - mean) * (x - mean))
}

/// Loads `n` numbers from `place` on.
#[inline(always)]
fn load<S: Simd>(simd: S, numbers: &[f32], place: usize, n: usize) -> S::V {
    // Safety: the slice holds them.
    unsafe { f32::load(simd, numbers[place..place + n].as_ptr(), n) }
}

/// Returns the sum of `f` over the vectors of `size` numbers. `f` takes the place and number of lanes of a vector and
/// is 0 in other lanes.
#[inline(always)]
fn total<S: Simd>(simd: S, size: usize, f: impl Fn(usize, usize) -> S::V) -> f32 {
    // Several chains, so that additions need not wait for each other.
    let mut sums = [simd.splat(0.0); 4];
    for (index, place) in (0..size).step_by(S::LANES).enumerate() {
        sums[index % 4] = simd.add(sums[index % 4], f(place, S::LANES.min(size - place)));
    }
    simd.sum(simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3])))
}
