//! Functions of whole vectors, with relative errors below 1e-6.

use super::simd::Simd;

/// A pointwise non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The exact Gaussian error linear unit.
    Gelu,
    /// Its tanh approximation.
    GeluTanh,
    /// `x sigmoid(1.702 x)`, as in OpenAI's CLIP.
    QuickGelu,
    /// `x sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    #[inline(always)]
    pub(super) fn of<S: Simd>(self, simd: S, x: S::V) -> S::V {
        match self {
            Self::Gelu => gelu(simd, x),
            Self::GeluTanh => gelu_tanh(simd, x),
            Self::QuickGelu => sloped_silu(simd, x, 1.702),
            Self::Silu => sloped_silu(simd, x, 1.0),
            Self::Relu => simd.max(simd.splat(0.0), x),
        }
    }

    /// Returns the derivative at `x`.
    #[inline(always)]
    pub(super) fn slope<S: Simd>(self, simd: S, x: S::V) -> S::V {
        let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
        match self {
            Self::Gelu => {
                // The normal distribution function and its density.
                let e = exp(simd, simd.multiply(simd.multiply(x, x), simd.splat(-0.5)));
                let density = simd.multiply(e, simd.splat(0.398_942_3));
                simd.multiply_add(x, density, simd.multiply(doubled_normal(simd, x), simd.splat(0.5)))
            }
            Self::GeluTanh => {
                let square = simd.multiply(x, x);
                let two = simd.splat(1.595_769_2);
                let argument = simd.multiply_add(square, simd.splat(0.044_715), one);
                let slope = simd.multiply_add(square, simd.splat(3.0 * 0.044_715), one);
                gate_slope(
                    simd,
                    simd.multiply(simd.multiply(x, argument), two),
                    simd.multiply(simd.multiply(x, slope), two),
                )
            }
            Self::QuickGelu => {
                let argument = simd.multiply(x, simd.splat(1.702));
                gate_slope(simd, argument, argument)
            }
            Self::Silu => gate_slope(simd, x, x),
            // The derivative at 0 is 0, by convention.
            Self::Relu => simd.select_not_less(zero, x, zero, one),
        }
    }
}

/// Returns the derivative of `x sigmoid(argument)`, given the argument and `x` times the argument's derivative.
#[inline(always)]
fn gate_slope<S: Simd>(s: S, argument: S::V, x_times_slope: S::V) -> S::V {
    let one = s.splat(1.0);
    let sigmoid = s.divide(one, s.add(one, exp(s, s.subtract(s.splat(0.0), argument))));
    s.multiply(sigmoid, s.multiply_add(x_times_slope, s.subtract(one, sigmoid), one))
}

/// Below this, e^x is not a normal f32 and the result is 0.
const LOWEST: f32 = -87.336_54;
/// Above this, 2^n of the reduced exponent would overflow; e^x stays at 1.7e38.
const HIGHEST: f32 = 88.029_69;

/// Computes e^x by the reduction and the polynomial of Cephes' `expf` (Moshier 1989). NaN stays NaN.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // If an operand is NaN, the second operand is returned.
    let clamped = s.max(s.splat(LOWEST), s.min(s.splat(HIGHEST), x));
    let n = s.round(s.multiply(clamped, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 is split in two parts, so that the remainder is exact.
    let r = s.multiply_add(n, s.splat(-0.693_359_4), clamped);
    let r = s.multiply_add(n, s.splat(2.121_944_4e-4), r);
    let coefficients = [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let mut p = s.splat(1.987_569_1e-4);
    for coefficient in coefficients {
        p = s.multiply_add(p, r, s.splat(coefficient));
    }
    let y = s.add(s.multiply_add(p, s.multiply(r, r), r), s.splat(1.0));
    s.select_not_less(s.splat(LOWEST), x, s.splat(0.0), s.times_power_of_two(y, n))
}

/// Computes `x / (1 + e^(-slope x))`.
#[inline(always)]
fn sloped_silu<S: Simd>(s: S, x: S::V, slope: f32) -> S::V {
    let e = exp(s, s.multiply(x, s.splat(-slope)));
    s.divide(x, s.add(s.splat(1.0), e))
}

/// Computes `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`, which is `x sigmoid` of twice the argument.
#[inline(always)]
fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let cubic = s.multiply_add(s.multiply(x, x), s.splat(0.044_715), s.splat(1.0));
    let e = exp(s, s.multiply(s.multiply(x, cubic), s.splat(-1.595_769_2)));
    s.divide(x, s.add(s.splat(1.0), e))
}

/// Computes `x (1 + erf(x / √2)) / 2`.
#[inline(always)]
fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    s.multiply(s.multiply(x, s.splat(0.5)), doubled_normal(s, x))
}

/// Computes `1 + erf(x / √2)`, by the complementary error function of Numerical Recipes (Press et al. 1992, `erfcc`),
/// whose relative error is small even in the tail.
#[inline(always)]
fn doubled_normal<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let z = s.multiply(s.max(x, s.subtract(s.splat(0.0), x)), s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.divide(one, s.multiply_add(z, s.splat(0.5), one));
    let coefficients = [
        -0.822_152_2,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ];
    let mut p = s.splat(0.170_872_77);
    for coefficient in coefficients {
        p = s.multiply_add(p, t, s.splat(coefficient));
    }
    let exponent = s.subtract(p, s.multiply(z, z));
    let complement = s.multiply(t, exp(s, exponent)); // erfc(|x| / √2)
    let of_positive = s.subtract(s.splat(2.0), complement);
    s.select_not_less(x, s.splat(0.0), of_positive, complement)
}
