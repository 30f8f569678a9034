//! Multinomial logistic regression with an L2 penalty on the weights and none on the intercepts: scikit-learn's
//! `LogisticRegression`, whose `C` is the inverse strength of the penalty.

use super::lbfgs::minimise;
use super::{Rows, dot};

/// The candidate strengths, strongest penalty first. Unit vectors of one tower are close together, so weights must be
/// large.
const STRENGTHS: [f64; 6] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5];

/// With one example per class, none can be held back for the choice.
const STRENGTH_OF_ONE_SHOT: f64 = 1e2;

/// One part in this many of each class's examples is held back, at least one example.
const HELD_BACK: usize = 4;

/// Weights and intercepts.
#[derive(Clone, Debug)]
pub(super) struct Logistic {
    n_columns: usize,
    /// `(classes, columns + 1)`: a class's weights, then its intercept.
    parameters: Vec<f64>,
}

impl Logistic {
    /// Fits all examples with the strength that [`strength`](Self::strength) chooses.
    pub(super) fn fit(rows: &Rows) -> Self {
        Self::fit_at(rows, Self::strength(rows), None)
    }

    /// Returns the strength under which the last quarter of each class's examples is most probable given the others;
    /// among equals the strongest penalty.
    pub(super) fn strength(rows: &Rows) -> f64 {
        let n_held = (rows.n_shots / HELD_BACK).max(1);
        if n_held == rows.n_shots {
            return STRENGTH_OF_ONE_SHOT;
        }
        let (known, held) = (rows.part(0..rows.n_shots - n_held), rows.part(rows.n_shots - n_held..rows.n_shots));
        let mut best = (f64::INFINITY, STRENGTH_OF_ONE_SHOT);
        let mut last: Option<Self> = None;
        for strength in STRENGTHS {
            // The minimum of the stronger penalty is a close starting point.
            let fitted = Self::fit_at(&known, strength, last.as_ref());
            let loss: f64 = held.iter().map(|(class, row)| -log_probabilities(&fitted.parameters, row)[class]).sum();
            if loss < best.0 {
                best = (loss, strength);
            }
            last = Some(fitted);
        }
        best.1
    }

    /// Returns the minimum of mean log-loss + ‖weights‖² / (2 strength n), starting from `start`.
    fn fit_at(rows: &Rows, strength: f64, start: Option<&Self>) -> Self {
        let n_columns = rows.n_columns;
        let start = start.map_or_else(|| vec![0.0; rows.n_classes * (n_columns + 1)], |other| other.parameters.clone());
        let n = rows.n_rows() as f64;
        let penalty = 1.0 / (strength * n);
        let parameters = minimise(start, |parameters, gradient| {
            let mut value = 0.0;
            for (of_class, slope) in
                parameters.chunks_exact(n_columns + 1).zip(gradient.chunks_exact_mut(n_columns + 1))
            {
                let weights = &of_class[..n_columns];
                value += 0.5 * penalty * dot(weights, weights);
                slope[..n_columns].iter_mut().zip(weights).for_each(|(slope, weight)| *slope = penalty * weight);
                slope[n_columns] = 0.0;
            }
            for (class, row) in rows.iter() {
                let logs = log_probabilities(parameters, row);
                value -= logs[class] / n;
                for (other, slope) in gradient.chunks_exact_mut(n_columns + 1).enumerate() {
                    let residual = (libm::exp(logs[other]) - f64::from(u8::from(other == class))) / n;
                    slope[..n_columns].iter_mut().zip(row).for_each(|(slope, value)| *slope += residual * value);
                    slope[n_columns] += residual;
                }
            }
            value
        });
        Self { n_columns, parameters }
    }

    /// Returns the log-probability of each class.
    pub(super) fn scores(&self, features: &[f64]) -> Option<Vec<f64>> {
        (features.len() == self.n_columns).then(|| log_probabilities(&self.parameters, features))
    }

    /// Returns each class's weights and intercept.
    #[cfg(test)]
    pub(super) fn classes(&self) -> Vec<&[f64]> {
        self.parameters.chunks_exact(self.n_columns + 1).collect()
    }
}

fn log_probabilities(parameters: &[f64], row: &[f64]) -> Vec<f64> {
    let n_columns = row.len();
    let of_class = |parameters: &[f64]| dot(&parameters[..n_columns], row) + parameters[n_columns];
    let logits: Vec<f64> = parameters.chunks_exact(n_columns + 1).map(of_class).collect();
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| libm::exp(logit - largest)).sum();
    let log_sum = largest + libm::log(sum);
    logits.into_iter().map(|logit| logit - log_sum).collect()
}
