//! `recovery.json`, as types.

use serde::{Deserialize, Serialize};

use crate::gate::Verdict;

/// The schema that this version writes.
pub const RECOVERY_SCHEMA: &str = "emt.recovery/1";

/// A finished recovery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// [`RECOVERY_SCHEMA`].
    pub schema: String,
    /// The base's name.
    pub model: String,
    /// The adapter's name.
    pub adapter: String,
    /// The datasets of the new task.
    pub new: Vec<String>,
    /// The datasets that must not be forgotten.
    pub old: Vec<String>,
    /// The base on the selection half.
    pub baseline: Accuracies,
    /// The points of the frontier, on the selection half.
    pub points: Vec<Point>,
    /// The half on which a point was chosen.
    pub selection: SelectionHalf,
    /// The half on which it was confirmed.
    pub confirmation: ConfirmationHalf,
    /// The chosen point; `None` if none keeps the old datasets on the selection half.
    pub chosen: Option<Chosen>,
    /// The gate's decision on the confirmation half; a fail if no point was chosen.
    pub decision: Verdict,
    /// What was decided, in a sentence.
    pub message: String,
}

/// The accuracies of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracies {
    /// The mean over the datasets of the new task.
    pub new: MeanAccuracy,
    /// The mean over the old datasets.
    pub old: MeanAccuracy,
    /// Of each dataset.
    pub datasets: Vec<DatasetAccuracy>,
}

/// The mean accuracy over datasets, each with the same weight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeanAccuracy {
    /// The mean; `None` if a dataset has no scored answer.
    pub accuracy: Option<f64>,
    /// Its 95% interval over images.
    pub interval: Option<[f64; 2]>,
}

/// The accuracy on one dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetAccuracy {
    /// Its name.
    pub dataset: String,
    /// Right answers over scored ones; `None` if none is scored.
    pub accuracy: Option<f64>,
    /// Its 95% interval.
    pub interval: Option<[f64; 2]>,
    /// Scored answers.
    pub n_scored: usize,
}

/// One point of the frontier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// `scale`, `lines` or `interpolate`.
    pub method: String,
    /// The strength.
    pub strength: f64,
    /// The component that is left as in the base, if any; several are joined by `+`.
    pub component: Option<String>,
    /// Its accuracies on the selection half.
    #[serde(flatten)]
    pub accuracies: Accuracies,
    /// What the gate says of it on the selection half; `None` for the base itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection_decision: Option<Verdict>,
    /// Whether no old dataset fell by more than its margin on the selection half; `None` for the base itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_within_margin: Option<bool>,
    /// The run's folder.
    pub run: String,
}

/// The half on which a point was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectionHalf {
    /// Its samples, of all datasets.
    pub n_samples: usize,
}

/// The half on which the chosen point was confirmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfirmationHalf {
    /// Its samples, of all datasets.
    pub n_samples: usize,
    /// The base's accuracies; `None` if no point was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Accuracies>,
    /// The chosen point's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Accuracies>,
    /// Whether the mean over the new datasets lies in the interval that the frontier shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_new_within_interval: Option<bool>,
    /// The same of the old datasets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_old_within_interval: Option<bool>,
}

/// The chosen point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// `scale`, `lines` or `interpolate`.
    pub method: String,
    /// The strength.
    pub strength: f64,
    /// The component that is left as in the base, if any.
    pub component: Option<String>,
    /// `gate` if the gate passed it on the selection half, too; `margin` if it was chosen by its estimates alone.
    pub by: String,
    /// Its mean accuracy on the new datasets minus the base's, on the selection half.
    pub gain: Option<f64>,
    /// The folder with the weights, if the gate confirmed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<String>,
}
