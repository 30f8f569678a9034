//! Vectors of f32 behind one interface for all instruction sets.
//!
//! A value of a type that implements [`Simd`] proves that the processor has its instructions: only
//! [`Kernels`](super::Kernels) creates one, after detection. So arithmetic is safe, and only reads and writes through
//! pointers are unsafe.

use half::slice::HalfFloatSliceExt;

use super::kept::Kept;

/// A computation for one instruction set. `run` must be `#[inline(always)]` to be compiled for that set.
pub trait Task {
    /// The result.
    type Output;
    /// Runs the computation.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set with vectors of f32.
///
/// The pointers of all methods need no alignment.
pub trait Simd: Copy + Send + Sync + 'static {
    /// A vector of `LANES` numbers.
    type V: Copy;
    /// Numbers per vector.
    const LANES: usize;
    /// Vectors next to each other in a tile of a product.
    const VECTORS: usize;
    /// Whether [`dot_bf16`](Self::dot_bf16) is an instruction.
    const DOTS_BF16: bool = false;
    /// Columns of a panel.
    const PANEL: usize = Self::LANES * Self::VECTORS;

    /// Runs `task` compiled for these instructions.
    fn vectorise<T: Task>(self, task: T) -> T::Output;

    /// Sets all lanes to `x`.
    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `from` is valid for reads of `LANES` numbers.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Loads the first `n` lanes; the other lanes are 0.
    /// # Safety
    /// `from` is valid for reads of `n` numbers, `n <= LANES`.
    unsafe fn load_first(self, from: *const f32, n: usize) -> Self::V;
    /// # Safety
    /// `to` is valid for writes of `LANES` numbers.
    unsafe fn store(self, to: *mut f32, x: Self::V);
    /// # Safety
    /// `to` is valid for writes of `n` numbers, `n <= LANES`.
    unsafe fn store_first(self, to: *mut f32, x: Self::V, n: usize);
    /// Loads halves and widens them.
    /// # Safety
    /// `from` is valid for reads of `LANES` halves.
    unsafe fn load_f16(self, from: *const u16) -> Self::V;
    /// Rounds to halves.
    /// # Safety
    /// `to` is valid for writes of `LANES` halves.
    unsafe fn store_f16(self, to: *mut u16, x: Self::V);
    /// Loads whole numbers as f32.
    /// # Safety
    /// `from` is valid for reads of `LANES` numbers.
    unsafe fn load_i8(self, from: *const i8) -> Self::V;
    /// Writes `LANES` pairs of whole numbers as bf16. In `from`, all first numbers of the pairs come before all second
    /// ones.
    /// # Safety
    /// `from` is valid for reads of `2 * LANES` numbers, `to` for writes of as many.
    #[inline(always)]
    unsafe fn widen_i8_pairs(self, from: *const i8, to: *mut u16) {
        for lane in 0..Self::LANES {
            for half in 0..2 {
                // Safety: guaranteed by the caller.
                unsafe {
                    let number = half::bf16::from_f32(f32::from(*from.add(half * Self::LANES + lane)));
                    *to.add(2 * lane + half) = number.to_bits();
                }
            }
        }
    }
    /// Loads and widens bf16 numbers.
    /// # Safety
    /// `from` is valid for reads of `LANES` numbers.
    unsafe fn load_bf16(self, from: *const u16) -> Self::V;
    /// Rounds to bf16.
    /// # Safety
    /// `to` is valid for writes of `LANES` numbers.
    unsafe fn store_bf16(self, to: *mut u16, x: Self::V);
    /// Loads and widens the first of each of `LANES` pairs of bf16 numbers.
    /// # Safety
    /// `from` is valid for reads of `LANES` pairs.
    unsafe fn load_bf16_first_of_pairs(self, from: *const u16) -> Self::V;
    /// Loads and widens the second of each of `LANES` pairs of bf16 numbers.
    /// # Safety
    /// `from` is valid for reads of `LANES` pairs.
    unsafe fn load_bf16_second_of_pairs(self, from: *const u16) -> Self::V;
    /// Adds to each lane of `sum` the dot product of the pair `a` and the lane's pair.
    /// # Safety
    /// `b` is valid for reads of `LANES` pairs.
    #[inline(always)]
    unsafe fn dot_bf16(self, sum: Self::V, a: [u16; 2], b: *const u16) -> Self::V {
        let widen = |a: u16| self.splat(f32::from_bits(u32::from(a) << 16));
        // Safety: guaranteed by the caller.
        let (first, second) = unsafe { (self.load_bf16_first_of_pairs(b), self.load_bf16_second_of_pairs(b)) };
        let sum = self.multiply_add(widen(a[0]), first, sum);
        self.multiply_add(widen(a[1]), second, sum)
    }

    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn subtract(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn multiply(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn divide(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once if the processor can.
    fn multiply_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater number in each lane.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The lesser number in each lane.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Rounds to the nearest whole number, for |x| < 2^22.
    fn round(self, x: Self::V) -> Self::V;
    /// `x * 2^n` for whole `n` in -126..=127.
    fn times_power_of_two(self, x: Self::V, n: Self::V) -> Self::V;
    /// `then` in lanes where `a >= b`, else `otherwise`.
    fn select_not_less(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V;
    /// Transposes `LANES` rows of `LANES` numbers. Numbers are only moved, so they may be any 32 bits.
    /// # Safety
    /// `from` is valid for reads of `LANES` numbers in each of `LANES` rows that are `from_stride` apart, and `to` for
    /// writes of such rows that are `to_stride` apart.
    #[inline(always)]
    unsafe fn transpose(self, from: *const u32, from_stride: usize, to: *mut u32, to_stride: usize) {
        for row in 0..Self::LANES {
            for column in 0..Self::LANES {
                // Safety: guaranteed by the caller.
                unsafe { *to.add(column * to_stride + row) = *from.add(row * from_stride + column) };
            }
        }
    }
    /// The sum of all lanes.
    fn sum(self, x: Self::V) -> f32;
    /// The greatest of all lanes.
    fn highest(self, x: Self::V) -> f32;
}

/// Number types of activations; computation is always in f32.
pub trait Number: Copy + Send + Sync + 'static {
    /// The type in which keys and values of such numbers are kept.
    type Kept: Kept;
    /// Loads up to `LANES` numbers; the other lanes are 0.
    /// # Safety
    /// `from` is valid for reads of `n` numbers, `n <= LANES`.
    unsafe fn load<S: Simd>(simd: S, from: *const Self, n: usize) -> S::V;
    /// # Safety
    /// `to` is valid for writes of `n` numbers, `n <= LANES`.
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, x: S::V, n: usize);
    /// Returns the numbers if they are f32.
    fn as_floats(_: &[Self]) -> Option<&[f32]> {
        None
    }
    /// Returns the bits if the numbers are bf16.
    fn as_bf16(_: &[Self]) -> Option<&[u16]> {
        None
    }
}

impl Number for f32 {
    type Kept = Self;

    fn as_floats(x: &[Self]) -> Option<&[f32]> {
        Some(x)
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self, n: usize) -> S::V {
        // Safety: guaranteed by the caller.
        unsafe { if n == S::LANES { simd.load(from) } else { simd.load_first(from, n) } }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, x: S::V, n: usize) {
        // Safety: guaranteed by the caller.
        unsafe { if n == S::LANES { simd.store(to, x) } else { simd.store_first(to, x, n) } }
    }
}

/// The lanes of the widest vector of all instruction sets.
pub(super) const LANES_MAX: usize = 16;
/// The columns of the widest panel.
pub(super) const PANEL_MAX: usize = 64;

macro_rules! half_number {
    ($number:ty, $kept:ty, $load:ident, $store:ident, $as_bf16:expr) => {
        impl Number for $number {
            type Kept = $kept;

            fn as_bf16(x: &[Self]) -> Option<&[u16]> {
                let as_bf16: fn(&[Self]) -> Option<&[u16]> = $as_bf16;
                as_bf16(x)
            }

            #[inline(always)]
            unsafe fn load<S: Simd>(simd: S, from: *const Self, n: usize) -> S::V {
                let from = from.cast::<u16>();
                if n == S::LANES {
                    // Safety: guaranteed by the caller; the type is two bytes with the same meaning.
                    return unsafe { simd.$load(from) };
                }
                let mut whole = [0u16; LANES_MAX];
                // Safety: `n <= LANES <= LANES_MAX`; the caller guarantees the rest.
                unsafe {
                    std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), n);
                    simd.$load(whole.as_ptr())
                }
            }

            #[inline(always)]
            unsafe fn store<S: Simd>(simd: S, to: *mut Self, x: S::V, n: usize) {
                let to = to.cast::<u16>();
                if n == S::LANES {
                    // Safety: guaranteed by the caller; the type is two bytes with the same meaning.
                    return unsafe { simd.$store(to, x) };
                }
                let mut whole = [0u16; LANES_MAX];
                // Safety: `n <= LANES <= LANES_MAX`; the caller guarantees the rest.
                unsafe {
                    simd.$store(whole.as_mut_ptr(), x);
                    std::ptr::copy_nonoverlapping(whole.as_ptr(), to, n);
                }
            }
        }
    };
}

half_number!(half::f16, f32, load_f16, store_f16, |_| None);
half_number!(half::bf16, half::bf16, load_bf16, store_bf16, |x| Some(x.reinterpret_cast()));

/// Returns `x` with all but the first `n` lanes set to 0.
#[inline(always)]
pub(super) fn first_lanes<S: Simd>(simd: S, x: S::V, n: usize) -> S::V {
    let mut lanes = [0f32; LANES_MAX];
    // Safety: `n <= LANES <= LANES_MAX`.
    unsafe {
        simd.store_first(lanes.as_mut_ptr(), x, n);
        simd.load_first(lanes.as_ptr(), n)
    }
}
