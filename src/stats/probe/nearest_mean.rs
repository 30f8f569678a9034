//! Nearest class mean by cosine, the classifier of prototypes (Snell, Swersky and Zemel 2017, NeurIPS) on unit vectors.

use super::{Rows, dot, normalise};

/// The means of unit vectors, scaled to unit length.
#[derive(Clone, Debug)]
pub(super) struct NearestMean {
    n_columns: usize,
    /// `(classes, columns)`.
    means: Vec<f64>,
}

impl NearestMean {
    /// Returns `None` if the examples of a class cancel out.
    pub(super) fn fit(rows: &Rows) -> Option<Self> {
        let mut means = vec![0.0; rows.n_classes * rows.n_columns];
        for (class, row) in rows.iter() {
            let mean = &mut means[class * rows.n_columns..(class + 1) * rows.n_columns];
            mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        means.chunks_exact_mut(rows.n_columns).all(normalise).then_some(Self { n_columns: rows.n_columns, means })
    }

    /// Returns the cosine to each class's mean.
    pub(super) fn scores(&self, features: &[f64]) -> Option<Vec<f64>> {
        (features.len() == self.n_columns)
            .then(|| self.means.chunks_exact(self.n_columns).map(|mean| dot(mean, features)).collect())
    }
}
