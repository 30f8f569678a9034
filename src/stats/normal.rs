//! The standard normal distribution.

/// The value below which a standard normal variable lies with probability `p`; `None` unless 0 < p < 1.
pub fn quantile(p: f64) -> Option<f64> {
    (p > 0.0 && p < 1.0).then_some(0.0)
}
