//! The binomial distribution, exact to the last few digits for any number of trials.

/// ln(n!) less Stirling's approximation, for n from 1 to 15.
const STIRLING_ERRORS: [f64; 15] = [
    0.08106146679532726,
    0.0413406959554093,
    0.02767792568499834,
    0.020790672103765093,
    0.016644691189821193,
    0.013876128823070748,
    0.01189670994589177,
    0.010411265261972096,
    0.009255462182712733,
    0.00833056343336287,
    0.007573675487951841,
    0.00694284010720953,
    0.006408994188004207,
    0.0059513701127588475,
    0.005554733551962801,
];

/// Values whose probability is below this share of the mode's are left out of [`bulk`].
const NEGLIGIBLE: f64 = 1e-16;

/// Returns the probability of `x` successes and `y` failures, with probabilities `p` and `q` = 1 - `p`. `x` and `y` may
/// be fractional; factorials are then gamma functions.
///
/// Loader (2000), "Fast and accurate computation of binomial probabilities": avoids the cancellation of large numbers
/// in differences of log-factorials.
pub fn mass(x: f64, y: f64, p: f64, q: f64) -> f64 {
    let power = |n: f64, share: f64, rest: f64| (n * if rest < 0.5 { (-rest).ln_1p() } else { share.ln() }).exp();
    let n = x + y;
    match (x, y) {
        (0.0, 0.0) => 1.0,
        (0.0, _) => power(n, q, p),
        (_, 0.0) => power(n, p, q),
        _ if p <= 0.0 || q <= 0.0 => 0.0,
        _ => {
            let errors = stirling_error(n) - stirling_error(x) - stirling_error(y);
            let exponent = errors - deviance(x, n * p) - deviance(y, n * q);
            exponent.exp() * (n / (std::f64::consts::TAU * x * y)).sqrt()
        }
    }
}

/// Returns P(X <= `k`) for X of Binomial(`n`, `p`).
pub fn lower_tail(k: usize, n: usize, p: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    // The tail without the mean: its terms fall as fast as a geometric series.
    if (k as f64) < n as f64 * p { tail(k, n, p) } else { 1.0 - tail(n - k - 1, n, 1.0 - p) }
}

/// Returns P(X <= `k`) for `k` below the mean.
fn tail(k: usize, n: usize, p: f64) -> f64 {
    let odds = (1.0 - p) / p;
    let mut term = mass(k as f64, (n - k) as f64, p, 1.0 - p);
    let mut sum = term;
    for k in (1..=k).rev() {
        term *= odds * k as f64 / (n - k + 1) as f64;
        sum += term;
        if term <= NEGLIGIBLE * sum {
            break;
        }
    }
    sum
}

/// Returns the probabilities of the values of Binomial(`n`, `p`), except for a mass of about 1e-15, and the first of
/// these values.
pub fn bulk(n: usize, p: f64) -> (usize, Vec<f64>) {
    let mode = (((n + 1) as f64 * p) as usize).min(n);
    let peak = mass(mode as f64, (n - mode) as f64, p, 1.0 - p);
    let odds = p / (1.0 - p);
    let mut below = Vec::new();
    let mut term = peak;
    for k in (1..=mode).rev() {
        term *= k as f64 / ((n - k + 1) as f64 * odds);
        if term < NEGLIGIBLE * peak {
            break;
        }
        below.push(term);
    }
    let first = mode - below.len();
    let mut masses: Vec<f64> = below.into_iter().rev().collect();
    masses.push(peak);
    term = peak;
    for k in mode..n {
        term *= (n - k) as f64 / (k + 1) as f64 * odds;
        if term < NEGLIGIBLE * peak {
            break;
        }
        masses.push(term);
    }
    (first, masses)
}

/// Returns ln(gamma(`n` + 1)) less Stirling's approximation, for `n` above 0.
pub fn stirling_error(n: f64) -> f64 {
    if n > 15.0 {
        let square = n * n;
        return (1.0 / 12.0
            - (1.0 / 360.0 - (1.0 / 1260.0 - (1.0 / 1680.0 - 1.0 / 1188.0 / square) / square) / square) / square)
            / n;
    }
    if n >= 1.0 && n.fract() == 0.0 {
        return STIRLING_ERRORS[n as usize - 1];
    }
    libm::lgamma(n + 1.0) - (n + 0.5) * n.ln() + n - 0.5 * std::f64::consts::TAU.ln()
}

/// Returns x ln(x / mean) + mean - x, which is 0 at x = mean, without cancellation near it.
fn deviance(x: f64, mean: f64) -> f64 {
    if (x - mean).abs() >= 0.1 * (x + mean) {
        return x * (x / mean).ln() + mean - x;
    }
    let v = (x - mean) / (x + mean);
    let mut sum = (x - mean) * v;
    let mut term = 2.0 * x * v;
    for j in 1..1000 {
        term *= v * v;
        let next = sum + term / (2 * j + 1) as f64;
        if next == sum {
            break;
        }
        sum = next;
    }
    sum
}

#[cfg(test)]
mod tests;
