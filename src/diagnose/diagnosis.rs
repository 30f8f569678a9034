//! `diagnosis.json` and `images.jsonl`, as types. What a probe did not compute is absent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::{Cause, CauseShare};

/// The schema of `diagnosis.json`.
pub const DIAGNOSIS_SCHEMA: &str = "emt.diagnosis/1";

/// `diagnosis.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// `emt.diagnosis/1`.
    pub schema: String,
    /// The model before fine-tuning.
    pub baseline: Diagnosed,
    /// The model after it; absent if one checkpoint was diagnosed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Diagnosed>,
    /// The probes that ran.
    pub probes: Vec<String>,
    /// The settings in which the candidate differs from its base.
    pub setup: Vec<SetupDifference>,
    /// The changed weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightChanges>,
    /// How far images are from texts in the language model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mir: Option<ModalityIntegration>,
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Right over all images, after; absent without a candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate_accuracy: Option<f64>,
    /// The base chooses the label: of all labels' deciding tokens, its own is the likeliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice_accuracy_baseline: Option<f64>,
    /// The candidate chooses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice_accuracy_candidate: Option<f64>,
    /// One entry per changed component, then one per layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub swap: Vec<SwapShare>,
    /// One entry per state of the residual stream: the embeddings, then the output of each layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerDiagnosis>,
    /// The first state at which the lenses of base and candidate part for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parting_layer: Option<usize>,
    /// Linear CKA of base and candidate at the tower's output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity_tower: Option<f64>,
    /// One entry per position of the base's answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<PositionDrift>,
    /// How much the answers depend on the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reliance: Option<Reliance>,
    /// Accuracy with fewer positions of the image from a layer on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation: Option<Truncation>,
    /// Accuracy if positions of the image attend to themselves only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub composite: Option<Composite>,
    /// Answers of the candidate with merged weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merge: Vec<MergedAnswers>,
    /// How alike the gradient maps of base and candidate are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cam: Vec<MapSimilarity>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Accuracy>,
}

/// Accuracy with and without the image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// With the image.
    pub accuracy: f64,
    /// Without it.
    pub blind_accuracy: f64,
}

/// What was read at one state of the residual stream. State 0 is the embeddings; state `k` is the output of layer `k - 1`.
///
/// Log-probabilities are natural and of the label, averaged over the images. They are read twice: *first* is the label's first
/// token after the prompt, and *decision* is the first token that tells the label from the other labels, after the tokens that
/// all labels share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerDiagnosis {
    /// The state, from 0.
    pub layer: usize,
    /// The lens of the base: the last norm and the head over this state, at *first*.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lens_baseline: Option<f64>,
    /// The lens of the candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lens_candidate: Option<f64>,
    /// Its interval over images, 95%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lens_baseline_interval: Option<[f64; 2]>,
    /// Its interval over images, 95%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lens_candidate_interval: Option<[f64; 2]>,
    /// The mean rank of the token in the base's lens; 0 is the best of the vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_baseline: Option<f64>,
    /// The mean rank in the candidate's lens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_candidate: Option<f64>,
    /// The lens of the base at *decision*.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision_baseline: Option<f64>,
    /// The lens of the candidate at *decision*.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision_candidate: Option<f64>,
    /// The candidate's log-probability at *first* if this state is the base's at the positions of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_image: Option<f64>,
    /// The same if this state is the base's at the last position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_last: Option<f64>,
    /// As `patch_image`, at *decision*.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_image_decision: Option<f64>,
    /// As `patch_last`, at *decision*.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_last_decision: Option<f64>,
    /// The base's log-probability at *first* if the last position cannot attend to the image in the layers from this one on
    /// that [`knockout_layers`](Self::knockout_layers) counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knockout_baseline: Option<f64>,
    /// The candidate's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knockout_candidate: Option<f64>,
    /// As `knockout_baseline`, at *decision*.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knockout_baseline_decision: Option<f64>,
    /// As `knockout_candidate`, at *decision*.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knockout_candidate_decision: Option<f64>,
    /// The number of layers that a knockout cuts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knockout_layers: Option<usize>,
    /// The base's attention in this layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_baseline: Option<FlowShares>,
    /// The candidate's attention in this layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_candidate: Option<FlowShares>,
    /// Linear CKA of base and candidate at the mean over the positions of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity_image: Option<f64>,
    /// Linear CKA at the last position of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity_last: Option<f64>,
}

/// Shares of attention. Renormalised ones sum to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowShares {
    /// To the begin token and the text before the image.
    pub system: f64,
    /// To the image.
    pub image: f64,
    /// To the text after the image.
    pub user: f64,
}

/// How far the candidate's next-token distribution is from the base's, at one position of the base's answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PositionDrift {
    /// The position, from 0.
    pub position: usize,
    /// The answers that have this position, the terminator included.
    pub n: usize,
    /// The mean of KL(base, candidate), in nats.
    pub kl: f64,
    /// The mean of KL(candidate, base).
    pub kl_reverse: f64,
}

/// Accuracy if all tokens see only some positions of the image from a layer on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Truncation {
    /// The first layer that sees fewer; one row of the accuracies each.
    pub from_layer: Vec<usize>,
    /// The positions that are kept; one column of the accuracies each.
    pub n_kept: Vec<usize>,
    /// The base's accuracies. `None` where nothing says which positions to keep.
    pub accuracy_baseline: Vec<Vec<Option<f64>>>,
    /// The candidate's; empty without one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accuracy_candidate: Vec<Vec<Option<f64>>>,
    /// The first layer from which the base needs no image: its accuracy is within 2 points of the full one.
    pub cliff_layer_baseline: Option<usize>,
    /// The candidate's.
    pub cliff_layer_candidate: Option<usize>,
}

/// Accuracy if positions of the image attend to themselves only (EE-MLLM), and what that saves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Composite {
    /// The base's accuracy.
    pub accuracy_baseline: f64,
    /// The candidate's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy_candidate: Option<f64>,
    /// Floating-point operations of reading one prompt, two per multiplication with addition.
    pub operations_full: f64,
    /// The same if positions of the image compute no queries.
    pub operations_self: f64,
}

/// The candidate's answers if the adapter is merged into the weights, against the adapter next to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergedAnswers {
    /// The type of the merged weights.
    pub dtype: String,
    /// Equal answers.
    pub n_equal: usize,
    /// All answers.
    pub n: usize,
}

/// How alike the gradient maps of base and candidate are at one site, averaged over images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapSimilarity {
    /// `language.K` or `tower.K`.
    pub site: String,
    /// `paper` or `code`: the weighting of channels.
    pub weighting: String,
    /// The images of which both maps are not zero.
    pub n: usize,
    /// The mean of Spearman's rank correlation.
    pub rank_correlation: Option<f64>,
    /// The mean overlap of the halves above 0.5: intersection over union.
    pub overlap: Option<f64>,
}

/// Modality Integration Rate of both models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModalityIntegration {
    /// Pairs of an image and a text.
    pub n_pairs: usize,
    /// `exact` or `published`.
    pub method: String,
    /// The base's rate: the decimal logarithm of the sum over layers. `None` if the sum is not above 0.
    pub baseline: Option<f64>,
    /// The candidate's.
    pub candidate: Option<f64>,
    /// By state of the residual stream. State 0, the embeddings, is no part of the rate.
    pub layers: Vec<IntegrationOfLayer>,
}

/// The distance between images and texts at one state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntegrationOfLayer {
    /// The state, from 0.
    pub layer: usize,
    /// The base's distance.
    pub baseline: f64,
    /// The candidate's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<f64>,
    /// Squared distance of the means, trace of the images' covariance, of the texts', and the cross term.
    pub terms_baseline: [f64; 4],
    /// The candidate's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms_candidate: Option<[f64; 4]>,
}

impl DatasetDiagnosis {
    /// Takes out what is said of a candidate, of which there is none.
    pub fn without_candidate(mut self) -> Self {
        (self.candidate_accuracy, self.choice_accuracy_candidate) = (None, None);
        (self.parting_layer, self.similarity_tower) = (None, None);
        for layer in &mut self.layers {
            *layer = LayerDiagnosis {
                lens_candidate: None,
                lens_candidate_interval: None,
                rank_candidate: None,
                decision_candidate: None,
                knockout_candidate: None,
                knockout_candidate_decision: None,
                flow_candidate: None,
                ..layer.clone()
            };
        }
        self.reliance.iter_mut().for_each(|reliance| reliance.candidate = None);
        self.composite.iter_mut().for_each(|composite| composite.accuracy_candidate = None);
        if let Some(truncation) = &mut self.truncation {
            truncation.accuracy_candidate.clear();
            truncation.cliff_layer_candidate = None;
        }
        self
    }
}

/// Gradient maps of one image: by cell of a grid, row by row, each divided by its largest value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradientMaps {
    /// The site, such as `language.2`.
    pub site: String,
    /// Rows and columns of the grid.
    pub n_rows: usize,
    /// Columns of the grid.
    pub n_columns: usize,
    /// The base's map.
    pub baseline: Vec<f64>,
    /// The candidate's map.
    pub candidate: Vec<f64>,
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
    /// The candidate's answer after the first token of the base's, if the image was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_answer: Option<String>,
    /// Where base and candidate look, by the released code's weighting at the deepest layer that has a map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maps: Option<GradientMaps>,
    /// The base's answer without the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind_baseline: Option<String>,
    /// The candidate's answer without the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind_candidate: Option<String>,
}
