//! The beta distribution.

use super::binomial::mass;

/// Enough for shapes up to about 1e7: the number of steps grows with the square root of the larger shape.
const N_STEPS_MAX: usize = 20_000;

/// Returns the probability that a Beta(`a`, `b`) variable is below `x`: the regularised incomplete beta function.
///
/// The continued fraction of DLMF 8.17.22, evaluated by Lentz's method (Thompson and Barnett 1986, Journal of
/// Computational Physics 64, 490-509). `None` unless both shapes are finite and above 0, or if `x` is NaN.
pub fn cdf(x: f64, a: f64, b: f64) -> Option<f64> {
    (are_shapes(a, b) && !x.is_nan()).then(|| lower(x, a, b))
}

/// Returns the value below which a Beta(`a`, `b`) variable is with probability `p`, to 1e-10 or better.
///
/// Newton's method within shrinking bounds. `None` unless both shapes are finite and above 0, and 0 <= p <= 1.
pub fn quantile(p: f64, a: f64, b: f64) -> Option<f64> {
    if !(are_shapes(a, b) && (0.0..=1.0).contains(&p)) {
        return None;
    }
    if p == 0.0 || p == 1.0 {
        return Some(p);
    }
    let (mut low, mut high) = (0.0, 1.0);
    let mut x = a / (a + b);
    for _ in 0..200 {
        let excess = lower(x, a, b) - p;
        if excess > 0.0 {
            high = x;
        } else {
            low = x;
        }
        let newton = x - excess * x * (1.0 - x) / front(x, a, b);
        let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
        if (next - x).abs() <= 2.0 * f64::EPSILON * x {
            break;
        }
        x = next;
    }
    Some(x)
}

fn are_shapes(a: f64, b: f64) -> bool {
    a > 0.0 && b > 0.0 && a.is_finite() && b.is_finite()
}

fn lower(x: f64, a: f64, b: f64) -> f64 {
    match x {
        _ if x <= 0.0 => 0.0,
        _ if x >= 1.0 => 1.0,
        // The fraction converges fast only below the mean.
        _ if x < (a + 1.0) / (a + b + 2.0) => front(x, a, b) * fraction(x, a, b) / a,
        _ => 1.0 - front(x, a, b) * fraction(1.0 - x, b, a) / b,
    }
}

/// Returns x^a (1 - x)^b divided by the complete beta function.
fn front(x: f64, a: f64, b: f64) -> f64 {
    mass(a, b, x, 1.0 - x) * a / (a + b) * b
}

fn fraction(x: f64, a: f64, b: f64) -> f64 {
    // A denominator of 0 would end the recurrence; Lentz replaces it by a tiny number.
    let away_from_0 = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_0(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for m in 1..N_STEPS_MAX {
        let m = m as f64;
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / away_from_0(1.0 + even * d);
        c = away_from_0(1.0 + even / c);
        value *= c * d;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / away_from_0(1.0 + odd * d);
        c = away_from_0(1.0 + odd / c);
        value *= c * d;
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests;
