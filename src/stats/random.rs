//! Seeded random numbers: one generator, and the distributions drawn from it.
//!
//! Logarithms and powers come from libm instead of the platform, so that equal seeds give equal draws on every machine.

use super::binomial::stirling_error;

/// A counter-based generator: value i (from 1) mixes `seed + i * 0x9e3779b97f4a7c15` (modulo 2^64).
///
/// Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators", OOPSLA; the mixing constants are
/// Stafford's variant 13. Equal on every platform.
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// Creates the generator whose first value is that of counter 1.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns the next of 2^64 equally likely values.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a value in `0..n`, by multiplication (Lemire 2019); the bias is below n / 2^64. 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// Returns a multiple of 2^-53 in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns the logarithm of a uniform value, which is never 0.
    fn ln_uniform(&mut self) -> f64 {
        libm::log(1.0 - self.uniform())
    }

    /// Returns a standard normal value, by the polar method (Marsaglia and Bray 1964, SIAM Review 6, 260-264).
    fn normal(&mut self) -> f64 {
        loop {
            let (u, v) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let square = u * u + v * v;
            if square > 0.0 && square < 1.0 {
                return u * (-2.0 * libm::log(square) / square).sqrt();
            }
        }
    }

    /// Returns the logarithm of a Gamma(`shape`, 1) value. For small shapes the value itself would often underflow.
    ///
    /// Marsaglia and Tsang (2000), "A simple method for generating gamma variables", ACM Transactions on Mathematical
    /// Software 26(3), 363-372; below shape 1 by their section 6.
    fn ln_gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            return self.ln_gamma(shape + 1.0) + self.ln_uniform() / shape;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let root = 1.0 + c * x;
            if root <= 0.0 {
                continue;
            }
            let (v, ln_v) = (root * root * root, 3.0 * libm::log(root));
            if self.ln_uniform() < 0.5 * x * x + d - d * v + d * ln_v {
                return libm::log(d) + ln_v;
            }
        }
    }
}

/// Returns a Beta(`a`, `b`) value: X / (X + Y) of two gamma values. `None` unless both shapes are finite and above 0.
pub fn beta_sample(generator: &mut SplitMix64, a: f64, b: f64) -> Option<f64> {
    let are_shapes = a > 0.0 && b > 0.0 && a.is_finite() && b.is_finite();
    are_shapes.then(|| {
        let (x, y) = (generator.ln_gamma(a), generator.ln_gamma(b));
        1.0 / (1.0 + libm::exp(y - x))
    })
}

/// Returns a Binomial(`n`, `p`) value. `None` unless 0 <= p <= 1.
///
/// Hörmann (1993), "The generation of binomial random variates", Journal of Statistical Computation and Simulation 46,
/// 101-110: transformed rejection (BTRS), or inversion if fewer than ten successes or failures are expected.
pub fn binomial_sample(generator: &mut SplitMix64, n: usize, p: f64) -> Option<usize> {
    match p {
        _ if !(0.0..=1.0).contains(&p) => None,
        _ if p > 0.5 => binomial_sample(generator, n, 1.0 - p).map(|k| n - k),
        _ if n as f64 * p < 10.0 => Some(by_inversion(generator, n, p)),
        _ => Some(by_rejection(generator, n as f64, p)),
    }
}

fn by_inversion(generator: &mut SplitMix64, n: usize, p: f64) -> usize {
    let odds = p / (1.0 - p);
    let mut rest = generator.uniform();
    let mut term = libm::pow(1.0 - p, n as f64);
    for k in 0..n {
        if rest < term {
            return k;
        }
        rest -= term;
        term *= (n - k) as f64 / (k + 1) as f64 * odds;
    }
    n
}

fn by_rejection(generator: &mut SplitMix64, n: f64, p: f64) -> usize {
    let spread = (n * p * (1.0 - p)).sqrt();
    let b = 1.15 + 2.53 * spread;
    let a = -0.0873 + 0.0248 * b + 0.01 * p;
    let centre = n * p + 0.5;
    let odds = p / (1.0 - p);
    let alpha = (2.83 + 5.1 / b) * spread;
    let mode = ((n + 1.0) * p).floor();
    let at_mode = (mode + 0.5) * libm::log((mode + 1.0) / (odds * (n - mode + 1.0)))
        + stirling_error(mode + 1.0)
        + stirling_error(n - mode + 1.0);
    loop {
        let u = generator.uniform() - 0.5;
        let v = generator.uniform();
        let edge = 0.5 - u.abs();
        let k = ((2.0 * a / edge + b) * u + centre).floor();
        if edge >= 0.07 && v <= 0.92 - 4.2 / b {
            return k as usize;
        }
        if !(k >= 0.0 && k <= n) {
            continue;
        }
        let bound = at_mode
            + (n + 1.0) * libm::log((n - mode + 1.0) / (n - k + 1.0))
            + (k + 0.5) * libm::log(odds * (n - k + 1.0) / (k + 1.0))
            - stirling_error(k + 1.0)
            - stirling_error(n - k + 1.0);
        if libm::log(v * alpha / (a / (edge * edge) + b)) <= bound {
            return k as usize;
        }
    }
}

#[cfg(test)]
mod tests;
