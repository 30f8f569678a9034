//! Operations on single numbers.

use super::memory::{Shared, written};
use super::simd::{Number, Simd, Task};
use super::{Activation, Kernels, for_each};

/// Numbers that one thread computes at once.
const N_AT_ONCE: usize = 1 << 13;

/// Computes `activation(x)`, multiplied by `factor` if there is one.
///
/// # Panics
/// `x` and `factor` differ in length.
pub fn activated<T: Number>(kernels: Kernels, x: &[T], activation: Activation, factor: Option<&[T]>) -> Vec<T> {
    assert!(factor.is_none_or(|factor| factor.len() == x.len()), "there is a factor for every number");
    // Safety: the pieces cover all numbers.
    unsafe {
        written(x.len(), |result| {
            // A number costs about as much as sixteen multiply-adds.
            for_each(x.len().div_ceil(N_AT_ONCE), 16 * x.len(), |piece| {
                let range = [piece * N_AT_ONCE, x.len().min((piece + 1) * N_AT_ONCE)];
                kernels.run(Activate { x, activation, factor, range, result });
            });
        })
    }
}

struct Activate<'a, T> {
    x: &'a [T],
    activation: Activation,
    factor: Option<&'a [T]>,
    range: [usize; 2],
    result: Shared<T>,
}

impl<T: Number> Task for Activate<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let [start, end] = self.range;
        for place in (start..end).step_by(S::LANES) {
            let n = S::LANES.min(end - place);
            // Safety: `n` numbers from `place` on are within x, the factor and the result.
            unsafe {
                let mut y = self.activation.of(simd, T::load(simd, self.x.as_ptr().add(place), n));
                if let Some(factor) = self.factor {
                    y = simd.multiply(y, T::load(simd, factor.as_ptr().add(place), n));
                }
                T::store(simd, self.result.at(place), y, n);
            }
        }
    }
}

/// Returns `x` as f32.
pub(super) fn widened<T: Number>(kernels: Kernels, x: &[T]) -> Vec<f32> {
    // Safety: the pieces cover all numbers.
    unsafe {
        written(x.len(), |result| {
            for_each(x.len().div_ceil(N_AT_ONCE), x.len(), |piece| {
                let range = [piece * N_AT_ONCE, x.len().min((piece + 1) * N_AT_ONCE)];
                kernels.run(Widen { x, range, result });
            });
        })
    }
}

struct Widen<'a, T> {
    x: &'a [T],
    range: [usize; 2],
    result: Shared<f32>,
}

impl<T: Number> Task for Widen<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let [start, end] = self.range;
        for place in (start..end).step_by(S::LANES) {
            let n = S::LANES.min(end - place);
            // Safety: `n` numbers from `place` on are within x and the result.
            unsafe {
                let x = T::load(simd, self.x.as_ptr().add(place), n);
                f32::store(simd, self.result.at(place), x, n);
            }
        }
    }
}
