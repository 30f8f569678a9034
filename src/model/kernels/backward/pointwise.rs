//! The backward passes of activations and gates.

use super::super::memory::{Shared, written};
use super::super::simd::{Number, Simd, Task};
use super::super::{Activation, Kernels, for_each};

/// Numbers that one thread computes at once.
const N_AT_ONCE: usize = 1 << 13;

/// Returns the gradient of `x` from the gradient `dy` of `activation(x)`.
///
/// # Panics
/// `x` and `dy` differ in length.
pub fn activated_backward(kernels: Kernels, x: &[f32], activation: Activation, dy: &[f32]) -> Vec<f32> {
    assert_eq!(x.len(), dy.len(), "a gradient has the shape of what it is of");
    // Safety: the pieces cover all numbers.
    unsafe {
        written(x.len(), |dx| {
            in_pieces(x.len(), |range| kernels.run(Backward { x, factor: None, dy, activation, range, dx, df: dx }));
        })
    }
}

/// Returns the gradients of `gate` and `up` from the gradient `dy` of `activation(gate) * up`.
///
/// # Panics
/// They differ in length.
pub fn gated_backward(kernels: Kernels, gate: &[f32], up: &[f32], activation: Activation, dy: &[f32]) -> [Vec<f32>; 2] {
    assert!(gate.len() == up.len() && gate.len() == dy.len(), "a gradient has the shape of what it is of");
    let mut of_up = Vec::new();
    // Safety: the pieces cover all numbers.
    let of_gate = unsafe {
        written(gate.len(), |dx| {
            of_up = written(gate.len(), |df| {
                in_pieces(gate.len(), |range| {
                    kernels.run(Backward { x: gate, factor: Some(up), dy, activation, range, dx, df });
                });
            });
        })
    };
    [of_gate, of_up]
}

fn in_pieces(n: usize, task: impl Fn([usize; 2]) + Send + Sync) {
    // A number costs about as much as thirty multiply-adds.
    for_each(n.div_ceil(N_AT_ONCE), 30 * n, |piece| task([piece * N_AT_ONCE, n.min((piece + 1) * N_AT_ONCE)]));
}

struct Backward<'a> {
    x: &'a [f32],
    factor: Option<&'a [f32]>,
    dy: &'a [f32],
    activation: Activation,
    range: [usize; 2],
    dx: Shared<f32>,
    /// The gradient of the factor; not written if there is no factor.
    df: Shared<f32>,
}

impl Task for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let [start, end] = self.range;
        for place in (start..end).step_by(S::LANES) {
            let n = S::LANES.min(end - place);
            // Safety: `n` numbers from `place` on are within all slices and results.
            unsafe {
                let x = f32::load(simd, self.x[place..].as_ptr(), n);
                let mut dx = f32::load(simd, self.dy[place..].as_ptr(), n);
                if let Some(factor) = self.factor {
                    let of_factor = simd.multiply(dx, self.activation.of(simd, x));
                    f32::store(simd, self.df.at(place), of_factor, n);
                    dx = simd.multiply(dx, f32::load(simd, factor[place..].as_ptr(), n));
                }
                f32::store(simd, self.dx.at(place), simd.multiply(dx, self.activation.slope(simd, x)), n);
            }
        }
    }
}
