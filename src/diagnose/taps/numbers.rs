//! Numbers over logits and images.

use anyhow::Result;
use candle_core::{DType, Tensor};

/// The natural log-probabilities of a row of logits, in f64.
pub(super) fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - highest).exp()).sum();
    let normaliser = f64::from(highest) + sum.ln();
    logits.iter().map(|&logit| f64::from(logit) - normaliser).collect()
}

/// The log-probability of `token` in a row of logits, and its rank: 0 is the best.
pub(super) fn log_probability_and_rank(logits: &[f32], token: u32) -> (f64, usize) {
    let own = logits[token as usize];
    let rank = logits.iter().filter(|&&other| other > own).count();
    (log_softmax(logits)[token as usize], rank)
}

/// Rows of logits in f32.
pub(super) fn rows(logits: &Tensor) -> Result<Vec<Vec<f32>>> {
    Ok(logits.to_dtype(DType::F32)?.to_vec2()?)
}

/// KL(p, q) in nats, of two rows of log-probabilities.
pub(super) fn divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// The mean; `None` without values.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The normal interval of the mean, 95%; `None` with fewer than two values.
pub(super) fn interval(values: &[f64]) -> Option<[f64; 2]> {
    let n = values.len();
    let mean = mean(values).filter(|_| n > 1)?;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    let half = 1.959_963_984_540_054 * (variance / n as f64).sqrt();
    Some([mean - half, mean + half])
}

#[cfg(test)]
mod tests;
