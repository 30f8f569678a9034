//! Probes that have learnt.

use anyhow::{Context, Result};

use super::Shots;
use crate::domain::{ProbeClassifier, ScoredLabel};
use crate::stats::Probe;

/// The probes of one dataset on one tower, by their number of shots.
#[derive(Clone, Debug)]
pub(in crate::eval) struct FittedProbe {
    /// Rising; the last is that of the trials.
    by_shots: Vec<(usize, Probe)>,
}

/// What the probes say of one image.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::eval) struct ProbeChoice {
    /// Of the most shots: each class with its score, best first.
    pub ranking: Vec<(usize, f64)>,
    /// Of fewer shots, rising: the chosen class.
    pub fewer: Vec<(usize, usize)>,
}

impl FittedProbe {
    /// Learns from `features`, one row an image in the order of the shots' positions.
    ///
    /// # Errors
    /// A feature is zero or no number.
    pub fn fit(classifier: ProbeClassifier, shots: &Shots, features: &[Vec<f32>]) -> Result<Self> {
        let n_all = shots.spec.n_shots();
        let fit = |&n_shots: &usize| {
            let of_class = |class: usize| features[class * n_all..][..n_shots].iter().map(Vec::as_slice).collect();
            let examples: Vec<Vec<&[f32]>> = (0..shots.n_classes()).map(of_class).collect();
            let probe = Probe::fit(classifier, &examples).context(
                "the tower's features of a training image are zero or not finite; hint: weights out of range for this \
                 --dtype, try --dtype f32",
            )?;
            Ok((n_shots, probe))
        };
        Ok(Self { by_shots: shots.spec.shots.iter().map(fit).collect::<Result<_>>()? })
    }

    /// The choice for an image; `None` where its features are zero or not finite.
    pub fn choose(&self, features: &[f32]) -> Option<ProbeChoice> {
        let ((_, last), fewer) = self.by_shots.split_last()?;
        let scores = last.scores(features)?;
        let fewer = fewer.iter().map(|(n_shots, probe)| Some((*n_shots, ranked(&probe.scores(features)?)[0])));
        Some(ProbeChoice {
            fewer: fewer.collect::<Option<_>>()?,
            ranking: ranked(&scores).into_iter().map(|class| (class, scores[class])).collect(),
        })
    }
}

impl ProbeChoice {
    /// The best labels, best first.
    pub fn scores(&self, labels: &[&str]) -> Vec<ScoredLabel> {
        let scored = |&(class, score): &(usize, f64)| ScoredLabel {
            label: labels[class].to_owned(),
            score: score as f32,
            share: None,
        };
        self.ranking.iter().take(N_SCORES_KEPT).map(scored).collect()
    }
}

/// So many labels of a ranking are kept.
const N_SCORES_KEPT: usize = 5;

/// Classes by falling score; of equal ones the earlier first.
fn ranked(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}
