//! Vectors of f32 as one interface over all instruction sets.
//!
//! A value of a type that implements [`Simd`] is the proof that the processor has its instructions: there is no other
//! way to a value than [`Kernels`](super::Kernels), which asked. So arithmetic is safe, and only reads and writes through
//! pointers are not.

use half::slice::HalfFloatSliceExt;

use super::kept::Kept;

/// Something to compute with one instruction set. `run` must be `#[inline(always)]`, so that it is compiled with it.
pub trait Task {
    /// What comes out.
    type Output;
    /// Computes.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set with vectors of f32.
///
/// The pointers of all methods need no alignment.
pub trait Simd: Copy + Send + Sync + 'static {
    /// `LANES` numbers.
    type V: Copy;
    /// Numbers of a vector.
    const LANES: usize;
    /// Vectors side by side in a tile of a product.
    const VECTORS: usize;
    /// Whether [`dot_bf16`](Self::dot_bf16) is an instruction.
    const DOTS_BF16: bool = false;
    /// Columns of a panel.
    const PANEL: usize = Self::LANES * Self::VECTORS;

    /// Runs `task` compiled for these instructions.
    fn vectorise<T: Task>(self, task: T) -> T::Output;

    /// All lanes equal.
    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `from` is valid for reads of `LANES` numbers.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// The other lanes are 0.
    /// # Safety
    /// `from` is valid for reads of `n` numbers, `n <= LANES`.
    unsafe fn load_first(self, from: *const f32, n: usize) -> Self::V;
    /// # Safety
    /// `to` is valid for writes of `LANES` numbers.
    unsafe fn store(self, to: *mut f32, x: Self::V);
    /// # Safety
    /// `to` is valid for writes of `n` numbers, `n <= LANES`.
    unsafe fn store_first(self, to: *mut f32, x: Self::V, n: usize);
    /// Halves, widened.
    /// # Safety
    /// `from` is valid for reads of `LANES` halves.
    unsafe fn load_f16(self, from: *const u16) -> Self::V;
    /// Rounded to halves.
    /// # Safety
    /// `to` is valid for writes of `LANES` halves.
    unsafe fn store_f16(self, to: *mut u16, x: Self::V);
    /// Whole numbers as f32.
    /// # Safety
    /// `from` is valid for reads of `LANES` numbers.
    unsafe fn load_i8(self, from: *const i8) -> Self::V;
    /// Writes `LANES` pairs of bf16 of whole numbers, all first ones of which lie before all second ones.
    /// # Safety
    /// `from` is valid for reads of `2 * LANES` numbers, `to` for writes of as many.
    #[inline(always)]
    unsafe fn widen_i8_pairs(self, from: *const i8, to: *mut u16) {
        for lane in 0..Self::LANES {
            for half in 0..2 {
                // Safety: the caller's.
                unsafe {
                    let number = half::bf16::from_f32(f32::from(*from.add(half * Self::LANES + lane)));
                    *to.add(2 * lane + half) = number.to_bits();
                }
            }
        }
    }
    /// bf16 numbers, widened.
    /// # Safety
    /// `from` is valid for reads of `LANES` numbers.
    unsafe fn load_bf16(self, from: *const u16) -> Self::V;
    /// Rounded to bf16.
    /// # Safety
    /// `to` is valid for writes of `LANES` numbers.
    unsafe fn store_bf16(self, to: *mut u16, x: Self::V);
    /// The first of each of `LANES` pairs of bf16 numbers, widened.
    /// # Safety
    /// `from` is valid for reads of `LANES` pairs.
    unsafe fn load_bf16_first_of_pairs(self, from: *const u16) -> Self::V;
    /// The second of each of `LANES` pairs of bf16 numbers, widened.
    /// # Safety
    /// `from` is valid for reads of `LANES` pairs.
    unsafe fn load_bf16_second_of_pairs(self, from: *const u16) -> Self::V;
    /// Adds to each lane of `sum` the product of the pair `a` with the lane's pair.
    /// # Safety
    /// `b` is valid for reads of `LANES` pairs.
    #[inline(always)]
    unsafe fn dot_bf16(self, sum: Self::V, a: [u16; 2], b: *const u16) -> Self::V {
        let widen = |a: u16| self.splat(f32::from_bits(u32::from(a) << 16));
        // Safety: the caller's.
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
    /// `a * b + c`, rounded once where the processor can.
    fn multiply_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater of each lane.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The lesser of each lane.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest whole number, for |x| < 2^22.
    fn round(self, x: Self::V) -> Self::V;
    /// `x * 2^n` for whole `n` in -126..=127.
    fn times_power_of_two(self, x: Self::V, n: Self::V) -> Self::V;
    /// `then` in lanes where `a >= b`, else `otherwise`.
    fn select_not_less(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V;
    /// Writes the columns of `LANES` rows of `LANES` numbers as rows. Numbers are only moved: they may be any 32 bits.
    /// # Safety
    /// `from` is valid for reads of `LANES` numbers in each of `LANES` rows that are `from_stride` apart, and `to` for
    /// writes of such rows that are `to_stride` apart.
    #[inline(always)]
    unsafe fn transpose(self, from: *const u32, from_stride: usize, to: *mut u32, to_stride: usize) {
        for row in 0..Self::LANES {
            for column in 0..Self::LANES {
                // Safety: the caller's.
                unsafe { *to.add(column * to_stride + row) = *from.add(row * from_stride + column) };
            }
        }
    }
    /// Of all lanes.
    fn sum(self, x: Self::V) -> f32;
    /// Of all lanes.
    fn highest(self, x: Self::V) -> f32;
}

/// Numbers that activations are stored in; computing is always in f32.
pub trait Number: Copy + Send + Sync + 'static {
    /// What keys and values of such numbers are kept in.
    type Kept: Kept;
    /// Up to `LANES` numbers, the other lanes 0.
    /// # Safety
    /// `from` is valid for reads of `n` numbers, `n <= LANES`.
    unsafe fn load<S: Simd>(simd: S, from: *const Self, n: usize) -> S::V;
    /// # Safety
    /// `to` is valid for writes of `n` numbers, `n <= LANES`.
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, x: S::V, n: usize);
    /// The numbers, where they are f32.
    fn as_floats(_: &[Self]) -> Option<&[f32]> {
        None
    }
    /// Their bits, where they are bf16.
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
        // Safety: the caller's.
        unsafe { if n == S::LANES { simd.load(from) } else { simd.load_first(from, n) } }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, x: S::V, n: usize) {
        // Safety: the caller's.
        unsafe { if n == S::LANES { simd.store(to, x) } else { simd.store_first(to, x, n) } }
    }
}

/// The widest vector of all instruction sets.
pub(super) const LANES_MAX: usize = 16;
/// The widest panel.
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
                    // Safety: the caller's; the type is two bytes of the same meaning.
                    return unsafe { simd.$load(from) };
                }
                let mut whole = [0u16; LANES_MAX];
                // Safety: `n <= LANES <= LANES_MAX`, and the caller's.
                unsafe {
                    std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), n);
                    simd.$load(whole.as_ptr())
                }
            }

            #[inline(always)]
            unsafe fn store<S: Simd>(simd: S, to: *mut Self, x: S::V, n: usize) {
                let to = to.cast::<u16>();
                if n == S::LANES {
                    // Safety: the caller's; the type is two bytes of the same meaning.
                    return unsafe { simd.$store(to, x) };
                }
                let mut whole = [0u16; LANES_MAX];
                // Safety: `n <= LANES <= LANES_MAX`, and the caller's.
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

/// `x` with all but the first `n` lanes 0.
#[inline(always)]
pub(super) fn first_lanes<S: Simd>(simd: S, x: S::V, n: usize) -> S::V {
    let mut lanes = [0f32; LANES_MAX];
    // Safety: `n <= LANES <= LANES_MAX`.
    unsafe {
        simd.store_first(lanes.as_mut_ptr(), x, n);
        simd.load_first(lanes.as_ptr(), n)
    }
}
