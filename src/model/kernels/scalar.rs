//! The instruction set that every processor has: plain Rust over short arrays, which the compiler vectorises if it can
//! (SSE2, NEON).

use half::{bf16, f16};

use super::simd::{Simd, Task};

/// No particular instructions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scalar;

const LANES: usize = 8;

type Lanes = [f32; LANES];

#[inline(always)]
fn zip(a: Lanes, b: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

/// Adding and subtracting 1.5 * 2^23 rounds to whole numbers. In between, the lowest bits hold the whole number.
const ROUNDING: f32 = 12_582_912.0;

impl Simd for Scalar {
    type V = Lanes;
    const LANES: usize = LANES;
    const VECTORS: usize = 1;

    #[inline(always)]
    fn vectorise<T: Task>(self, task: T) -> T::Output {
        task.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Lanes {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Lanes {
        // Safety: guaranteed by the caller.
        unsafe { from.cast::<Lanes>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, n: usize) -> Lanes {
        let mut x = [0.0; LANES];
        // Safety: `n <= LANES`; the caller guarantees the rest.
        unsafe { std::ptr::copy_nonoverlapping(from, x.as_mut_ptr(), n) };
        x
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Lanes) {
        // Safety: guaranteed by the caller.
        unsafe { to.cast::<Lanes>().write_unaligned(x) };
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, x: Lanes, n: usize) {
        // Safety: `n <= LANES`; the caller guarantees the rest.
        unsafe { std::ptr::copy_nonoverlapping(x.as_ptr(), to, n) };
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Lanes {
        // Safety: guaranteed by the caller.
        std::array::from_fn(|lane| widen_half(unsafe { from.add(lane).read_unaligned() }))
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, x: Lanes) {
        for (lane, x) in x.into_iter().enumerate() {
            // Safety: guaranteed by the caller.
            unsafe { to.add(lane).write_unaligned(f16::from_f32(x).to_bits()) };
        }
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Lanes {
        // Safety: guaranteed by the caller.
        std::array::from_fn(|lane| f32::from(unsafe { *from.add(lane) }))
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Lanes {
        // Safety: guaranteed by the caller.
        std::array::from_fn(|lane| widen(unsafe { from.add(lane).read_unaligned() }))
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, x: Lanes) {
        for (lane, x) in x.into_iter().enumerate() {
            // Safety: guaranteed by the caller.
            unsafe { to.add(lane).write_unaligned(bf16::from_f32(x).to_bits()) };
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_first_of_pairs(self, from: *const u16) -> Lanes {
        // Safety: guaranteed by the caller.
        std::array::from_fn(|lane| widen(unsafe { from.add(2 * lane).read_unaligned() }))
    }

    #[inline(always)]
    unsafe fn load_bf16_second_of_pairs(self, from: *const u16) -> Lanes {
        // Safety: guaranteed by the caller.
        std::array::from_fn(|lane| widen(unsafe { from.add(2 * lane + 1).read_unaligned() }))
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn subtract(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn multiply(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn divide(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn multiply_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        // Without the instruction, `mul_add` calls the C library.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
        } else {
            std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
        }
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn round(self, x: Lanes) -> Lanes {
        x.map(|x| (x + ROUNDING) - ROUNDING)
    }

    #[inline(always)]
    fn times_power_of_two(self, x: Lanes, n: Lanes) -> Lanes {
        zip(x, n, |x, n| x * f32::from_bits((n + ROUNDING).to_bits().wrapping_add(127) << 23))
    }

    #[inline(always)]
    fn select_not_less(self, a: Lanes, b: Lanes, then: Lanes, otherwise: Lanes) -> Lanes {
        std::array::from_fn(|lane| if a[lane] >= b[lane] { then[lane] } else { otherwise[lane] })
    }

    #[inline(always)]
    fn sum(self, x: Lanes) -> f32 {
        x.iter().sum()
    }

    #[inline(always)]
    fn highest(self, x: Lanes) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

#[inline(always)]
fn widen(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Like `f16::to_f32`, without a branch. The exponent bias of a half is 112 below that of f32, so one product corrects
/// it, also for subnormal numbers.
#[inline(always)]
fn widen_half(x: u16) -> f32 {
    const TWO_TO_112: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = f32::from_bits(u32::from(x & 0x7fff) << 13) * TWO_TO_112;
    // The highest exponent encodes infinities and NaN.
    let special = if magnitude >= 65_536.0 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | u32::from(x & 0x8000) << 16)
}

#[cfg(test)]
mod tests;
