//! Classifiers on frozen features: nearest class mean, nearest neighbours, logistic regression.
//!
//! Features are first scaled to unit length, and all arithmetic is in f64 with libm's functions, so equal features give
//! equal results on every machine. Checked against scikit-learn on real features (`tests/golden/make_probe.py`).

mod lbfgs;
mod logistic;
mod nearest_mean;
mod neighbours;
#[cfg(test)]
mod tests;

use logistic::Logistic;
use nearest_mean::NearestMean;
use neighbours::Neighbours;

use crate::domain::ProbeClassifier;

/// A fitted classifier.
#[derive(Clone, Debug)]
pub struct Probe(Fitted);

#[derive(Clone, Debug)]
enum Fitted {
    NearestMean(NearestMean),
    Neighbours(Neighbours),
    Logistic(Logistic),
}

impl Probe {
    /// Fits `examples`, the features of each class's examples, with equally many per class.
    ///
    /// Returns `None` for fewer than two classes, classes without examples or of different sizes, features of different
    /// lengths, and features that are zero or not finite.
    pub fn fit(classifier: ProbeClassifier, examples: &[Vec<&[f32]>]) -> Option<Self> {
        let rows = Rows::of(examples)?;
        Some(Self(match classifier {
            ProbeClassifier::NearestMean => Fitted::NearestMean(NearestMean::fit(&rows)?),
            ProbeClassifier::Knn => Fitted::Neighbours(Neighbours::fit(rows)),
            ProbeClassifier::Logistic => Fitted::Logistic(Logistic::fit(&rows)),
        }))
    }

    /// Returns each class's score of an image with these `features`: the cosine to the class mean, the neighbours'
    /// share, or the log-probability. The chosen class has the highest score.
    ///
    /// Returns `None` if the features are zero, not finite, or not as long as those of the examples.
    pub fn scores(&self, features: &[f32]) -> Option<Vec<f64>> {
        let features = unit(features)?;
        match &self.0 {
            Fitted::NearestMean(fitted) => fitted.scores(&features),
            Fitted::Neighbours(fitted) => fitted.scores(&features),
            Fitted::Logistic(fitted) => fitted.scores(&features),
        }
    }
}

/// Examples as rows of unit length, class by class.
#[derive(Clone, Debug)]
struct Rows {
    n_classes: usize,
    /// Examples of each class.
    n_shots: usize,
    /// Numbers per row.
    n_columns: usize,
    /// `(classes, shots, columns)`.
    values: Vec<f64>,
}

impl Rows {
    fn of(examples: &[Vec<&[f32]>]) -> Option<Self> {
        let (n_shots, n_columns) = (examples.first()?.len(), examples.first()?.first()?.len());
        let mut values = Vec::with_capacity(examples.len() * n_shots * n_columns);
        for features in examples.iter().flatten() {
            values.extend(unit(features).filter(|row| row.len() == n_columns)?);
        }
        let is_balanced = examples.iter().all(|examples| examples.len() == n_shots);
        (examples.len() > 1 && is_balanced).then_some(Self { n_classes: examples.len(), n_shots, n_columns, values })
    }

    /// Returns each row with its class.
    fn iter(&self) -> impl Iterator<Item = (usize, &[f64])> {
        self.values.chunks_exact(self.n_columns).enumerate().map(|(row, values)| (row / self.n_shots, values))
    }

    fn n_rows(&self) -> usize {
        self.n_classes * self.n_shots
    }

    /// Returns the examples in `shots` of each class.
    fn part(&self, shots: std::ops::Range<usize>) -> Self {
        let of_class = |class: &[f64]| class[shots.start * self.n_columns..shots.end * self.n_columns].to_vec();
        let values = self.values.chunks_exact(self.n_shots * self.n_columns).flat_map(of_class).collect();
        Self { n_shots: shots.len(), values, ..*self }
    }
}

/// Returns `features` at unit length; `None` if that is not defined.
fn unit(features: &[f32]) -> Option<Vec<f64>> {
    let mut row: Vec<f64> = features.iter().map(|&value| f64::from(value)).collect();
    normalise(&mut row).then_some(row)
}

/// Scales to unit length; returns `false` if that is not defined.
fn normalise(row: &mut [f64]) -> bool {
    let length = dot(row, row).sqrt();
    let is_defined = length > 0.0 && length.is_finite();
    if is_defined {
        row.iter_mut().for_each(|value| *value /= length);
    }
    is_defined
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
