//! The agreement of two graders beyond chance.

use super::normal_quantile;

/// Cohen's kappa with its asymptotic standard error and interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kappa {
    /// 1 for full agreement, 0 for agreement by chance.
    pub kappa: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// `[low, high]` within [-1, 1], by the normal limit.
    pub interval: [f64; 2],
}

/// Returns Cohen's kappa of a square table: `table[i][j]` items that the first grader put in class i and the second in
/// class j.
///
/// Cohen (1960), Educational and Psychological Measurement 20, 37-46. The standard error is that of Fleiss, Cohen and
/// Everitt (1969), Psychological Bulletin 72, 323-327, as in statsmodels. `None` for a table that is not square,
/// without items, for a confidence outside (0, 1), or if both graders use only the same single class.
pub fn cohen_kappa<Row: AsRef<[usize]>>(table: &[Row], confidence: f64) -> Option<Kappa> {
    let k = table.len();
    let is_level = confidence > 0.0 && confidence < 1.0;
    if !is_level || table.iter().any(|row| row.as_ref().len() != k) {
        return None;
    }
    let n = table.iter().flat_map(|row| row.as_ref()).sum::<usize>() as f64;
    if n == 0.0 {
        return None;
    }
    let share = |i: usize, j: usize| table[i].as_ref()[j] as f64 / n;
    let first: Vec<f64> = (0..k).map(|i| (0..k).map(|j| share(i, j)).sum()).collect();
    let second: Vec<f64> = (0..k).map(|j| (0..k).map(|i| share(i, j)).sum()).collect();
    let agreed: f64 = (0..k).map(|i| share(i, i)).sum();
    let by_chance: f64 = (0..k).map(|i| first[i] * second[i]).sum();
    // Compares whole counts, because a sum of shares may miss 1 by rounding.
    if (0..k).any(|i| table[i].as_ref()[i] as f64 == n) {
        return None;
    }
    let kappa = (agreed - by_chance) / (1.0 - by_chance);
    let disagreed = 1.0 - kappa;
    let mut variance = -(kappa - by_chance * disagreed).powi(2);
    for i in 0..k {
        variance += share(i, i) * (1.0 - (first[i] + second[i]) * disagreed).powi(2);
        for j in (0..k).filter(|j| *j != i) {
            variance += share(i, j) * ((second[i] + first[j]) * disagreed).powi(2);
        }
    }
    let standard_error = (variance.max(0.0) / n).sqrt() / (1.0 - by_chance);
    let half = normal_quantile(0.5 + confidence / 2.0)? * standard_error;
    Some(Kappa { kappa, standard_error, interval: [(kappa - half).max(-1.0), (kappa + half).min(1.0)] })
}

#[cfg(test)]
mod tests;
