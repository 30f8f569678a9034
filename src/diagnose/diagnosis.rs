//! `diagnosis.json` and `images.jsonl`, as types. What a probe did not compute is absent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::causes::Cause;

/// The schema of `diagnosis.json`.
pub const DIAGNOSIS_SCHEMA: &str = "emt.diagnosis/1";

/// `diagnosis.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// `emt.diagnosis/1`.
    pub schema: String,
    /// The model before fine-tuning.
    pub baseline: Diagnosed,
    /// The model after it.
    pub candidate: Diagnosed,
    /// The probes that ran.
    pub probes: Vec<String>,
    /// The settings in which the candidate differs from its base.
    pub setup: Vec<SetupDifference>,
    /// The changed weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightChanges>,
    /// One entry per dataset.
    pub datasets: Vec<DatasetDiagnosis>,
}

/// One of the two models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosed {
    /// The name of its run.
    pub run: String,
    /// The run's identity.
    pub identity: String,
    /// The folder of the run, relative to the diagnosis.
    pub dir: String,
}

/// A setting in which the candidate differs from its base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetupDifference {
    /// The setting.
    pub field: String,
    /// The base's value.
    pub baseline: Value,
    /// The candidate's value.
    pub candidate: Value,
}

/// The changed weights, by module and by component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WeightChanges {
    /// One entry per changed module.
    pub modules: Vec<ModuleChange>,
    /// One entry per changed component.
    pub components: Vec<ComponentChange>,
}

/// The change of one module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModuleChange {
    /// The canonical name.
    pub module: String,
    /// The component.
    pub component: String,
    /// The layer of the language model, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// The Frobenius norm of the change over that of the base's weight; `None` if that is zero.
    pub relative_change: Option<f64>,
    /// The effective rank of the change; `None` if it was not computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_rank: Option<f64>,
}

/// The change of one component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComponentChange {
    /// The component.
    pub component: String,
    /// The norm of all its changes over the norm of the changed weights; `None` if that is zero.
    pub relative_change: Option<f64>,
}

/// What was found on one dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetDiagnosis {
    /// The dataset.
    pub dataset: String,
    /// The images that every variant answered.
    pub n_images: usize,
    /// Of them, right before and not after.
    pub n_lost: usize,
    /// Right after and not before.
    pub n_gained: usize,
    /// Right over all images, before.
    pub baseline_accuracy: f64,
    /// Right over all images, after.
    pub candidate_accuracy: f64,
    /// One entry per changed component, then one per layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub swap: Vec<SwapShare>,
    /// How much the answers depend on the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reliance: Option<Reliance>,
    /// The causes of lost images. Their `n` sum to `n_lost`.
    pub causes: Vec<CauseShare>,
    /// The causes of the fall as a whole; empty if the fall is within noise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub named: Vec<Cause>,
}

/// What a component or layer gives back and takes away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwapShare {
    /// `projector`, `attention`, …, or `layer.K`, or a block of layers, `layers.A-B`.
    pub component: String,
    /// The candidate with the base's component.
    pub restore: Restore,
    /// The base with only the candidate's component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// The Shapley value as a share of the fall; the shares of all components sum to
    /// 1, or to less if the candidate has settings of its own. `None` if nothing fell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shapley: Option<f64>,
}

/// The candidate with one component of the base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restore {
    /// Its accuracy.
    pub accuracy: f64,
    /// The share of the fall that comes back; `None` if nothing fell.
    pub recovered: Option<f64>,
    /// Its interval over images, 95%.
    pub recovered_interval: Option<[f64; 2]>,
}

/// The base with one component of the candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Keep {
    /// Its accuracy.
    pub accuracy: f64,
    /// The share of the fall that appears; `None` if nothing fell.
    pub caused: Option<f64>,
    /// Its interval over images, 95%.
    pub caused_interval: Option<[f64; 2]>,
}

/// How much answers depend on the image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reliance {
    /// Of the model before.
    pub baseline: Accuracy,
    /// Of the model after.
    pub candidate: Accuracy,
}

/// Accuracy with and without the image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// With the image.
    pub accuracy: f64,
    /// Without it.
    pub blind_accuracy: f64,
}

/// A cause with its share of the lost images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CauseShare {
    /// The cause.
    pub cause: Cause,
    /// Lost images with this cause.
    pub n: usize,
    /// Their share of all lost images.
    pub share: f64,
    /// Its interval, 95%, by Wilson's method.
    pub share_interval: Option<[f64; 2]>,
    /// What supports it.
    pub evidence: String,
    /// What to try.
    pub mend: String,
}

/// A line of `images.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageDiagnosis {
    /// The dataset.
    pub dataset: String,
    /// The sample.
    pub sample: String,
    /// `blake3:…` of its pixels.
    pub content: String,
    /// The label.
    pub label: String,
    /// The answer before.
    pub baseline_answer: String,
    /// The answer after.
    pub candidate_answer: String,
    /// Whether it was right before and is not after.
    pub lost: bool,
    /// The cause, if it was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// By component or layer: whether restoring it makes the answer right.
    pub restored: BTreeMap<String, bool>,
    /// The candidate's choice among the labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_choice: Option<String>,
    /// The base's answer without the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind_baseline: Option<String>,
    /// The candidate's answer without the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind_candidate: Option<String>,
}
