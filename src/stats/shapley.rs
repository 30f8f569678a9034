//! Shapley values of a few players.

/// Returns each player's Shapley value, given the worth of every coalition.
///
/// Shapley (1953), "A value for n-person games". `worth[mask]` is the worth of the players whose bits are set in `mask`,
/// so it has `2^n` entries. The values add up to `worth[all] - worth[none]`. `None` if the number of entries is not a
/// power of two.
pub fn shapley(worth: &[f64]) -> Option<Vec<f64>> {
    if !worth.len().is_power_of_two() {
        return None;
    }
    let n = worth.len().trailing_zeros() as usize;
    let factorial = |k: usize| (1..=k).map(|i| i as f64).product::<f64>();
    let value = |player: usize| -> f64 {
        let without = (0..worth.len()).filter(|mask| mask & (1 << player) == 0);
        without
            .map(|mask| {
                let n_before = mask.count_ones() as usize;
                let weight = factorial(n_before) * factorial(n - n_before - 1) / factorial(n);
                weight * (worth[mask | (1 << player)] - worth[mask])
            })
            .sum()
    };
    Some((0..n).map(value).collect())
}

#[cfg(test)]
mod tests;
