//! Weighted nearest neighbours, as used to evaluate features of self-supervised towers: Wu et al. 2018, "Unsupervised
//! feature learning via non-parametric instance discrimination", section 3.4; Caron et al. 2021 (DINO), section 4.1.

use super::{Rows, dot};

/// DINO's number of neighbours.
const N_NEIGHBOURS: usize = 20;

/// A neighbour's vote is exp(cosine / temperature).
const TEMPERATURE: f64 = 0.07;

/// All examples.
#[derive(Clone, Debug)]
pub(super) struct Neighbours {
    rows: Rows,
}

impl Neighbours {
    pub(super) fn fit(rows: Rows) -> Self {
        Self { rows }
    }

    /// Returns each class's share of the votes. Among equally near examples the earlier ones are neighbours.
    pub(super) fn scores(&self, features: &[f64]) -> Option<Vec<f64>> {
        if features.len() != self.rows.n_columns {
            return None;
        }
        let mut near: Vec<(f64, usize)> = self.rows.iter().map(|(class, row)| (dot(row, features), class)).collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        near.truncate(N_NEIGHBOURS);
        let nearest = near.first()?.0;
        let mut votes = vec![0.0; self.rows.n_classes];
        for (cosine, class) in near {
            votes[class] += libm::exp((cosine - nearest) / TEMPERATURE);
        }
        let sum: f64 = votes.iter().sum();
        Some(votes.into_iter().map(|vote| vote / sum).collect())
    }
}
