//! AVX2 with FMA, and AVX-512.
//!
//! An intrinsic needs an instruction set. A value of the type proves that the processor has it, because only `detect`
//! creates one.

use std::arch::x86_64::*;

use super::simd::{Simd, Task};

/// AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

/// AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

/// AVX-512 with bf16 products.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512Bf16(Avx512);

impl Avx2 {
    /// Returns `None` if the processor lacks it.
    pub(super) fn detect() -> Option<Self> {
        let is_there =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        is_there.then_some(Self(()))
    }
}

impl Avx512 {
    /// Returns `None` if the processor lacks it.
    pub(super) fn detect() -> Option<Self> {
        let is_there = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        is_there.then_some(Self(()))
    }
}

impl Avx512Bf16 {
    /// Returns `None` if the processor lacks it.
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx512bf16").then(Avx512::detect).flatten().map(Self)
    }
}

/// The arithmetic that takes one intrinsic.
macro_rules! arithmetic {
    ($($name:ident($($argument:ident),+) = $intrinsic:ident;)+) => {
        $(
            #[inline(always)]
            fn $name(self, $($argument: Self::V),+) -> Self::V {
                // Safety: `self` proves that the processor has the instructions.
                unsafe { $intrinsic($($argument),+) }
            }
        )+
    };
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl Avx2 {
    /// Sets all bits in the first `n` lanes.
    #[inline(always)]
    fn mask(self, n: usize) -> __m256i {
        // Safety: `self` proves that the processor has the instructions.
        unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
    }
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const VECTORS: usize = 2;

    #[inline(always)]
    fn vectorise<T: Task>(self, task: T) -> T::Output {
        /// # Safety
        /// The processor has the instructions, as `simd` proves.
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<T: Task>(simd: Avx2, task: T) -> T::Output {
            task.run(simd)
        }
        // Safety: `self` proves that the processor has the instructions.
        unsafe { compiled(self, task) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // Safety: `self` proves that the processor has the instructions.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, n: usize) -> __m256 {
        // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
        unsafe { _mm256_maskload_ps(from, self.mask(n)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: __m256) {
        // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
        unsafe { _mm256_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, x: __m256, n: usize) {
        // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
        unsafe { _mm256_maskstore_ps(to, self.mask(n), x) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m256 {
        // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, x: __m256) {
        // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
        unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> __m256 {
        // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> __m256 {
        // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, x: __m256) {
        // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
        unsafe {
            let bits = _mm256_castps_si256(x);
            // Rounds to nearest, ties to even.
            let is_odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(is_odd, _mm256_set1_epi32(0x7fff)));
            // Rounding could turn a NaN into an infinity.
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
            let high = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, is_nan));
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(high, high));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_first_of_pairs(self, from: *const u16) -> __m256 {
        // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_loadu_si256(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_bf16_second_of_pairs(self, from: *const u16) -> __m256 {
        // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
        unsafe {
            let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(from.cast()), high))
        }
    }

    arithmetic! {
        add(a, b) = _mm256_add_ps;
        subtract(a, b) = _mm256_sub_ps;
        multiply(a, b) = _mm256_mul_ps;
        divide(a, b) = _mm256_div_ps;
        multiply_add(a, b, c) = _mm256_fmadd_ps;
        max(a, b) = _mm256_max_ps;
        min(a, b) = _mm256_min_ps;
    }

    #[inline(always)]
    fn round(self, x: __m256) -> __m256 {
        // Safety: `self` proves that the processor has the instructions.
        unsafe { _mm256_round_ps::<NEAREST>(x) }
    }

    #[inline(always)]
    fn times_power_of_two(self, x: __m256, n: __m256) -> __m256 {
        // Safety: `self` proves that the processor has the instructions.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }

    #[inline(always)]
    fn select_not_less(self, a: __m256, b: __m256, then: __m256, otherwise: __m256) -> __m256 {
        // Safety: `self` proves that the processor has the instructions.
        unsafe { _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps::<_CMP_GE_OQ>(a, b)) }
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const u32, from_stride: usize, to: *mut u32, to_stride: usize) {
        // Safety: guaranteed by the caller.
        unsafe {
            let mut fours: [__m256; 8] = std::array::from_fn(|row| self.load(from.add(row * from_stride).cast()));
            // In each half, one column of four rows.
            for four in 0..2 {
                let [a, b, c, d] = std::array::from_fn(|row| fours[4 * four + row]);
                let ab = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
                let ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
                let cd = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
                let cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
                fours[4 * four] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd));
                fours[4 * four + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd));
                fours[4 * four + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high));
                fours[4 * four + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high));
            }
            for column in 0..4 {
                let (a, b) = (fours[column], fours[4 + column]);
                self.store(to.add(column * to_stride).cast(), _mm256_permute2f128_ps::<0x20>(a, b));
                self.store(to.add((4 + column) * to_stride).cast(), _mm256_permute2f128_ps::<0x31>(a, b));
            }
        }
    }

    #[inline(always)]
    fn sum(self, x: __m256) -> f32 {
        // Safety: `self` proves that the processor has the instructions.
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }

    #[inline(always)]
    fn highest(self, x: __m256) -> f32 {
        // Safety: `self` proves that the processor has the instructions.
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }
    }
}

impl Avx512 {
    #[inline(always)]
    fn mask(n: usize) -> __mmask16 {
        ((1u32 << n) - 1) as __mmask16
    }
}

/// What `Avx512` and `Avx512Bf16` share.
macro_rules! avx512 {
    () => {
        type V = __m512;
        const LANES: usize = 16;
        const VECTORS: usize = 4;

        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            // Safety: `self` proves that the processor has the instructions.
            unsafe { _mm512_set1_ps(x) }
        }

        #[inline(always)]
        unsafe fn load(self, from: *const f32) -> __m512 {
            // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn load_first(self, from: *const f32, n: usize) -> __m512 {
            // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
            unsafe { _mm512_maskz_loadu_ps(Avx512::mask(n), from) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32, x: __m512) {
            // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
            unsafe { _mm512_storeu_ps(to, x) }
        }

        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, x: __m512, n: usize) {
            // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
            unsafe { _mm512_mask_storeu_ps(to, Avx512::mask(n), x) }
        }

        #[inline(always)]
        unsafe fn load_f16(self, from: *const u16) -> __m512 {
            // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        }

        #[inline(always)]
        unsafe fn store_f16(self, to: *mut u16, x: __m512) {
            // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
            unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<NEAREST>(x)) }
        }

        #[inline(always)]
        unsafe fn load_i8(self, from: *const i8) -> __m512 {
            // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn widen_i8_pairs(self, from: *const i8, to: *mut u16) {
            // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointers.
            unsafe {
                let first = _mm512_castps_si512(self.load_i8(from));
                let second = _mm512_castps_si512(self.load_i8(from.add(16)));
                // 8-bit numbers leave the lower half of their f32 empty.
                _mm512_storeu_si512(to.cast(), _mm512_or_si512(_mm512_srli_epi32::<16>(first), second));
            }
        }

        #[inline(always)]
        unsafe fn load_bf16(self, from: *const u16) -> __m512 {
            // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }

        #[inline(always)]
        unsafe fn store_bf16(self, to: *mut u16, x: __m512) {
            // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
            unsafe {
                let bits = _mm512_castps_si512(x);
                // Rounds to nearest, ties to even.
                let is_odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(is_odd, _mm512_set1_epi32(0x7fff)));
                // Rounding could turn a NaN into an infinity.
                let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
                let chosen = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x40_0000));
                _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(chosen)));
            }
        }

        #[inline(always)]
        unsafe fn load_bf16_first_of_pairs(self, from: *const u16) -> __m512 {
            // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
            unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn load_bf16_second_of_pairs(self, from: *const u16) -> __m512 {
            // Safety: `self` proves that the processor has the instructions; the caller guarantees the pointer.
            unsafe {
                let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
                _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(from.cast()), high))
            }
        }

        arithmetic! {
            add(a, b) = _mm512_add_ps;
            subtract(a, b) = _mm512_sub_ps;
            multiply(a, b) = _mm512_mul_ps;
            divide(a, b) = _mm512_div_ps;
            multiply_add(a, b, c) = _mm512_fmadd_ps;
            max(a, b) = _mm512_max_ps;
            min(a, b) = _mm512_min_ps;
            times_power_of_two(x, n) = _mm512_scalef_ps;
        }

        #[inline(always)]
        fn round(self, x: __m512) -> __m512 {
            // Safety: `self` proves that the processor has the instructions.
            unsafe { _mm512_roundscale_ps::<NEAREST>(x) }
        }

        #[inline(always)]
        fn select_not_less(self, a: __m512, b: __m512, then: __m512, otherwise: __m512) -> __m512 {
            // Safety: `self` proves that the processor has the instructions.
            unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b), otherwise, then) }
        }

        #[inline(always)]
        unsafe fn transpose(self, from: *const u32, from_stride: usize, to: *mut u32, to_stride: usize) {
            // Safety: guaranteed by the caller.
            unsafe {
                let mut fours: [__m512; 16] = std::array::from_fn(|row| self.load(from.add(row * from_stride).cast()));
                // In each quarter, one column of four rows.
                for four in 0..4 {
                    let [a, b, c, d] = std::array::from_fn(|row| fours[4 * four + row]);
                    let ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
                    let ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
                    let cd = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
                    let cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
                    fours[4 * four] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
                    fours[4 * four + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
                    fours[4 * four + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high));
                    fours[4 * four + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high));
                }
                for column in 0..4 {
                    let [a, b, c, d] = std::array::from_fn(|four| fours[4 * four + column]);
                    // Quarters 0 and 2, and 1 and 3.
                    let (ab, ab_odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                    let (cd, cd_odd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                    let to = |quarter: usize| to.add((4 * quarter + column) * to_stride).cast();
                    self.store(to(0), _mm512_shuffle_f32x4::<0x88>(ab, cd));
                    self.store(to(1), _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd));
                    self.store(to(2), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
                    self.store(to(3), _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd));
                }
            }
        }

        #[inline(always)]
        fn sum(self, x: __m512) -> f32 {
            // Safety: `self` proves that the processor has the instructions.
            unsafe { _mm512_reduce_add_ps(x) }
        }

        #[inline(always)]
        fn highest(self, x: __m512) -> f32 {
            // Safety: `self` proves that the processor has the instructions.
            unsafe { _mm512_reduce_max_ps(x) }
        }
    };
}

impl Simd for Avx512 {
    avx512!();

    #[inline(always)]
    fn vectorise<T: Task>(self, task: T) -> T::Output {
        /// # Safety
        /// The processor has the instructions, as `simd` proves.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn compiled<T: Task>(simd: Avx512, task: T) -> T::Output {
            task.run(simd)
        }
        // Safety: `self` proves that the processor has the instructions.
        unsafe { compiled(self, task) }
    }
}

impl Simd for Avx512Bf16 {
    avx512!();
    const DOTS_BF16: bool = true;

    #[inline(always)]
    fn vectorise<T: Task>(self, task: T) -> T::Output {
        /// # Safety
        /// The processor has the instructions, as `simd` proves.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
        fn compiled<T: Task>(simd: Avx512Bf16, task: T) -> T::Output {
            task.run(simd)
        }
        // Safety: `self` proves that the processor has the instructions.
        unsafe { compiled(self, task) }
    }

    #[inline(always)]
    unsafe fn dot_bf16(self, sum: __m512, a: [u16; 2], b: *const u16) -> __m512 {
        let pair = i32::from_le_bytes([a[0] as u8, (a[0] >> 8) as u8, a[1] as u8, (a[1] >> 8) as u8]);
        // Safety: both types are 512 bits of any value; the caller guarantees the rest.
        unsafe {
            let a = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair));
            let b = std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(b.cast()));
            _mm512_dpbf16_ps(sum, a, b)
        }
    }
}
