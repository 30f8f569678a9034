//! The summary of one run: `emt.summary/1`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{Computing, EncoderRelation, JudgeSpec, ProbeClassifier, TowerChange};

/// The schema that this version writes.
pub const SCHEMA: &str = "emt.summary/1";

/// A 95% two-sided interval, `[low, high]`.
pub type Interval = [f64; 2];

/// `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`SCHEMA`].
    pub schema: String,
    /// The run's name, which is its folder's name.
    pub run: String,
    /// The evaluated model.
    pub model: ModelHeading,
    /// The encoder that it is compared with.
    pub encoder: EncoderHeading,
    /// The judges; the deciding judge is last.
    pub judge: JudgeHeading,
    /// One entry per dataset, in evaluation order.
    pub datasets: Vec<DatasetSummary>,
    /// The fine-tuned datasets whose labels give the code `leak`; if none is known, no answer has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tuned_on: Vec<String>,
}

/// The model, as headings show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelHeading {
    /// The checkpoint's name.
    pub name: String,
    /// Its family.
    pub family: String,
    /// Its adapter's hash, if any.
    pub adapter: Option<String>,
    /// Where and with which number type it computes.
    #[serde(flatten)]
    pub computing: Computing,
    /// How often a server's answers changed when repeated; only for a served model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_flips: Option<ServerFlips>,
}

/// The changes in samples that a server was asked again at the end of a run. No comparison of its models can resolve
/// less than this noise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerFlips {
    /// Samples that were asked again and answered.
    pub n_repeated: usize,
    /// Repeated samples with another text.
    pub n_answers_changed: usize,
    /// Repeated samples with another outcome: right, an error code, or unscored.
    pub n_outcomes_changed: usize,
    /// Changed texts over repeated samples, 0 to 1.
    pub answer_flip_rate: Option<f64>,
    /// Changed outcomes over repeated samples, 0 to 1.
    pub outcome_flip_rate: Option<f64>,
}

impl ServerFlips {
    /// Computes the rates of these counts; they are `None` without a repeated sample.
    pub fn new(n_repeated: usize, n_answers_changed: usize, n_outcomes_changed: usize) -> Self {
        let rate = |n: usize| (n_repeated > 0).then(|| n as f64 / n_repeated as f64);
        Self {
            n_repeated,
            n_answers_changed,
            n_outcomes_changed,
            answer_flip_rate: rate(n_answers_changed),
            outcome_flip_rate: rate(n_outcomes_changed),
        }
    }
}

/// The encoder or its replacement, the probe, as headings show it. With a probe the relation is that of the model's own
/// tower, which has no name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderHeading {
    /// Its relation to the model's tower.
    pub relation: EncoderRelation,
    /// `zero_shot`, `probe` or `none`.
    pub comparator: String,
    /// Whether the tower's tensors are equal; `None` without an encoder.
    pub tower_equal: Option<bool>,
    /// The checkpoint's name.
    pub name: Option<String>,
    /// Its family.
    pub family: Option<String>,
    /// How far the model's tower differs from it, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tower_change: Option<TowerChange>,
    /// The probe, if one replaces the encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeHeading>,
}

/// A probe, as headings show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeHeading {
    /// How it classifies.
    pub classifier: ProbeClassifier,
    /// Training images per class: one number, or several ascending ones if datasets differ.
    pub shots: Vec<usize>,
}

/// The judges, as headings show them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeHeading {
    /// The judge that decides: `rules`, `llm` or `rules+llm`.
    pub name: String,
    /// All judges.
    pub judges: Vec<JudgeSpec>,
    /// The share of scored model answers on which the rules were not certain.
    pub uncertain_share: Option<f64>,
}

/// One dataset of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetSummary {
    /// Its name.
    pub dataset: String,
    /// The split that was evaluated.
    pub split: String,
    /// Whether that split is a training split; every report shows it.
    #[serde(default)]
    pub is_training_split: bool,
    /// Samples that were evaluated.
    pub n_samples: usize,
    /// Classes of the label set.
    pub n_classes: usize,
    /// The model's generated answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<SubjectSummary>,
    /// The model's label scoring, if it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_score: Option<SubjectSummary>,
    /// The encoder, if it ran.
    pub encoder: Option<SubjectSummary>,
    /// Model accuracy over encoder accuracy, on the pairs scored on both sides.
    pub retention: Option<f64>,
    /// The interval of the retention.
    pub retention_interval: Option<Interval>,
    /// Model against encoder, image by image.
    pub pairs: Option<EncoderPairs>,
    /// The text that more than half of the model's scored answers share, with its share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant_answer: Option<ConstantAnswer>,
}

/// Counts and rates of one subject on one dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubjectSummary {
    /// All trials.
    pub n_trials: usize,
    /// Correct trials.
    pub n_correct: usize,
    /// Incorrect trials.
    pub n_incorrect: usize,
    /// Unscored trials.
    pub n_unscored: usize,
    /// Correct over scored.
    pub accuracy: Option<f64>,
    /// Wilson's interval.
    pub accuracy_interval: Option<Interval>,
    /// The accuracy with every unscored trial as wrong, then as right.
    pub accuracy_bounds: Option<Interval>,
    /// The mean over classes of correct over scored trials.
    pub balanced_accuracy: Option<f64>,
    /// For label scoring, the accuracy of the choices without the model's prior, over the trials that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior_corrected_accuracy: Option<f64>,
    /// Wilson's interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior_corrected_interval: Option<Interval>,
    /// For a probe, training images per class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shots: Option<usize>,
    /// For a probe, the accuracies with fewer training images, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fewer_shots: Vec<ShotsAccuracy>,
    /// Incorrect trials by kind; every kind is listed.
    pub kinds: BTreeMap<String, usize>,
    /// Incorrect trials by code; only codes that occur are listed.
    pub codes: BTreeMap<String, usize>,
    /// Unscored trials by reason; only reasons that occur are listed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unscored: BTreeMap<String, usize>,
}

/// The accuracy of a probe with fewer shots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShotsAccuracy {
    /// Training images per class.
    pub shots: usize,
    /// Correct over scored.
    pub accuracy: Option<f64>,
    /// Wilson's interval.
    pub accuracy_interval: Option<Interval>,
}

/// Model and encoder on the same images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncoderPairs {
    /// Both right.
    pub both_correct: usize,
    /// Only the encoder is right.
    pub only_encoder: usize,
    /// Only the model is right.
    pub only_model: usize,
    /// Both wrong.
    pub both_wrong: usize,
    /// Pairs in which either side is unscored.
    pub unscored: usize,
}

/// One answer that a subject gives to most images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConstantAnswer {
    /// The answer, trimmed.
    pub answer: String,
    /// Its share of the scored answers.
    pub share: f64,
}

/// What a summary needs of a run in addition to its spec and trials.
#[derive(Clone, Copy, Debug)]
pub struct SummaryInput<'a> {
    /// The run's name.
    pub run: &'a str,
    /// The share of scored model answers on which the rules were not certain; `None` if no rules judged.
    pub uncertain_share: Option<f64>,
    /// The changes in samples that a server was asked again, if there is a server.
    pub server_flips: Option<ServerFlips>,
}
