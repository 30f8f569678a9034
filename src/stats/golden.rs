//! Vectors from scipy and statsmodels, written by `tests/golden/make_stats.py`.

use serde_json::Value;

pub fn golden() -> Value {
    serde_json::from_str(include_str!("../../tests/golden/stats.json")).unwrap()
}

pub fn numbers(case: &Value) -> Vec<f64> {
    case.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Whether two values are equal within `tolerance`, relative for values above 1.
pub fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * b.abs().max(1.0)
}
