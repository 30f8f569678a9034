//! The specification of a probe on the model's own tower.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a probe classifies the tower's features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeClassifier {
    /// The class whose mean is nearest by cosine. It has no parameters to choose, so it suits a gate best.
    NearestMean,
    /// The nearest examples by cosine, weighted.
    Knn,
    /// Multinomial logistic regression with an L2 penalty.
    Logistic,
}

impl ProbeClassifier {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::NearestMean => "nearest class mean",
            Self::Knn => "k nearest neighbours",
            Self::Logistic => "logistic regression",
        }
    }
}

/// What decides the probe's answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeSpec {
    /// How it classifies.
    pub classifier: ProbeClassifier,
    /// Hash over the tensors of the tower that it uses, including an adapter's changes. It follows from
    /// weights and adapter, so identity does not depend on it.
    pub tower: String,
    /// Its shots by dataset; a dataset without training images has none and no probe.
    pub datasets: BTreeMap<String, ProbeShots>,
}

/// The labelled training images of a probe for one dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeShots {
    /// The training split that they come from.
    pub split: String,
    /// Images per class, ascending. Trials use the last; the others are reported in addition.
    pub shots: Vec<usize>,
    /// Hash over the labels, each with the contents of its images in their order.
    pub content: String,
}

impl ProbeShots {
    /// Images per class in the trials.
    pub fn n_shots(&self) -> usize {
        self.shots.last().copied().unwrap_or(0)
    }
}
