use super::*;
use crate::stats::binomial::mass;
use crate::stats::golden::golden;
use crate::stats::{beta_cdf, normal_cdf};

/// Returns the greatest distance between the distribution functions of the sample and of `cdf` (Kolmogorov).
fn distance(mut sample: Vec<f64>, cdf: impl Fn(f64) -> f64) -> f64 {
    sample.sort_by(f64::total_cmp);
    let n = sample.len() as f64;
    let at = |(i, x): (usize, &f64)| (cdf(*x) - i as f64 / n).abs().max((cdf(*x) - (i + 1) as f64 / n).abs());
    sample.iter().enumerate().map(at).fold(0.0, f64::max)
}

/// Returns a distance that a correct sampler exceeds for one in a million seeds: sqrt(ln(2e6) / 2n).
fn limit(n: usize) -> f64 {
    (2e6_f64.ln() / (2.0 * n as f64)).sqrt()
}

#[test]
fn the_generator_gives_the_published_stream() {
    let golden = golden();
    let mut generator = SplitMix64::new(golden["splitmix64"]["seed"].as_u64().unwrap());
    for expected in golden["splitmix64"]["first"].as_array().unwrap() {
        assert_eq!(generator.next_u64().to_string(), expected.as_str().unwrap());
    }
    // The stream of seed 1234567, which commonly verifies implementations of splitmix64.
    let mut known = SplitMix64::new(1_234_567);
    assert_eq!(known.next_u64(), 6_457_827_717_110_365_317);
    assert_eq!(known.next_u64(), 3_203_168_211_198_807_973);
}

#[test]
fn uniform_and_normal_values_are_distributed_so() {
    let mut generator = SplitMix64::new(1);
    let uniform: Vec<f64> = (0..20_000).map(|_| generator.uniform()).collect();
    assert!(uniform.iter().all(|value| (0.0..1.0).contains(value)));
    assert!(distance(uniform, |x| x) < limit(20_000));
    let normal = (0..20_000).map(|_| generator.normal()).collect();
    assert!(distance(normal, normal_cdf) < limit(20_000));
}

#[test]
fn beta_values_are_distributed_so() {
    for (a, b) in [(0.5, 0.5), (0.01, 0.02), (1.0, 1.0), (2.5, 100.5), (3000.5, 0.5), (400.0, 700.0)] {
        let mut generator = SplitMix64::new(7);
        let sample = (0..20_000).map(|_| beta_sample(&mut generator, a, b).unwrap()).collect();
        let found = distance(sample, |x| beta_cdf(x, a, b).unwrap());
        // With tiny shapes nearly all values round to 0 or 1, where the distribution function has no jump.
        assert!(found < limit(20_000) || a < 0.1, "{a} {b} {found}");
    }
    assert_eq!(beta_sample(&mut SplitMix64::new(1), 0.0, 1.0), None);
    assert_eq!(beta_sample(&mut SplitMix64::new(1), 1.0, f64::NAN), None);
}

#[test]
fn binomial_values_are_distributed_so() {
    for (n, p) in [(1, 0.3), (20, 0.5), (25, 0.9), (300, 0.02), (1000, 0.3), (10_000, 0.97), (100_000, 0.4)] {
        let mut generator = SplitMix64::new(11);
        let mut counts = vec![0_usize; n + 1];
        for _ in 0..20_000 {
            counts[binomial_sample(&mut generator, n, p).unwrap()] += 1;
        }
        let (mut found, mut expected, mut worst) = (0.0, 0.0, 0.0_f64);
        for (k, count) in counts.into_iter().enumerate() {
            found += count as f64 / 20_000.0;
            expected += mass(k as f64, (n - k) as f64, p, 1.0 - p);
            worst = worst.max((found - expected).abs());
        }
        assert!(worst < limit(20_000), "{n} {p} {worst}");
    }
}

#[test]
fn certain_outcomes_and_no_probabilities() {
    let generator = &mut SplitMix64::new(1);
    assert_eq!((binomial_sample(generator, 50, 0.0), binomial_sample(generator, 50, 1.0)), (Some(0), Some(50)));
    assert_eq!(binomial_sample(generator, 0, 0.5), Some(0));
    for p in [-0.1, 1.1, f64::NAN] {
        assert_eq!(binomial_sample(generator, 5, p), None);
    }
}
