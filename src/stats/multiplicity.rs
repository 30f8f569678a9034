//! Multiple testing: p values adjusted so that each can be compared with the level of the whole family.

/// Returns Holm's adjusted p values, in the given order. The chance of any false rejection stays below the level.
///
/// Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 65-70.
/// A value that is not a probability counts as 1.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let n = p_values.len();
    let mut adjusted = vec![1.0; n];
    let mut greatest = 0.0_f64;
    for (rank, index) in by_size(p_values).into_iter().enumerate() {
        greatest = greatest.max((n - rank) as f64 * probability(p_values[index])).min(1.0);
        adjusted[index] = greatest;
    }
    adjusted
}

/// Returns Benjamini and Hochberg's adjusted p values, in the given order. For independent tests, the expected share of
/// false rejections among all rejections stays below the level.
///
/// Benjamini and Hochberg (1995), "Controlling the false discovery rate", JRSS B 57, 289-300. A value that is not a
/// probability counts as 1.
pub fn benjamini_hochberg(p_values: &[f64]) -> Vec<f64> {
    let n = p_values.len();
    let mut adjusted = vec![1.0; n];
    let mut least = 1.0_f64;
    for (rank, index) in by_size(p_values).into_iter().enumerate().rev() {
        least = least.min(n as f64 * probability(p_values[index]) / (rank + 1) as f64);
        adjusted[index] = least;
    }
    adjusted
}

fn by_size(p_values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| probability(p_values[*a]).total_cmp(&probability(p_values[*b])));
    order
}

fn probability(p: f64) -> f64 {
    if (0.0..=1.0).contains(&p) { p } else { 1.0 }
}

#[cfg(test)]
mod tests;
