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
    /// The run's name (its folder's name).
    pub run: String,
    /// Who was tested.
    pub model: ModelHeading,
    /// Beside which encoder.
    pub encoder: EncoderHeading,
    /// Who judged, the deciding judge last.
    pub judge: JudgeHeading,
    /// One entry a dataset, in evaluation order.
    pub datasets: Vec<DatasetSummary>,
    /// The fine-tuned datasets whose labels have the code `leak`; where none is known, no answer has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tuned_on: Vec<String>,
}

/// The model in headings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelHeading {
    /// The checkpoint's name.
    pub name: String,
    /// Its family.
    pub family: String,
    /// Its adapter's hash, if any.
    pub adapter: Option<String>,
    /// Where, and in which numbers, it computes.
    #[serde(flatten)]
    pub computing: Computing,
    /// How often a server answered another thing when it was asked again; only of a served model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_flips: Option<ServerFlips>,
}

/// What became of samples that a server was asked about again at the end of a run: the noise that no comparison of its
/// models can be below.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerFlips {
    /// Samples that were asked about again, and answered.
    pub n_repeated: usize,
    /// Of them, those with another text.
    pub n_answers_changed: usize,
    /// Of them, those that count otherwise: right, wrong of a code, or unscored.
    pub n_outcomes_changed: usize,
    /// Changed texts over repeated samples, 0 to 1.
    pub answer_flip_rate: Option<f64>,
    /// Changed outcomes over repeated samples, 0 to 1.
    pub outcome_flip_rate: Option<f64>,
}

impl ServerFlips {
    /// The rates of these counts; without a repeated sample there are none.
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

/// The encoder in headings, or the probe in its place: then the relation is that of the model's own tower, which has no
/// name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderHeading {
    /// How it relates to the model's tower.
    pub relation: EncoderRelation,
    /// `zero_shot`, `probe` or `none`.
    pub comparator: String,
    /// Whether the tower's tensors are equal; `None` without an encoder.
    pub tower_equal: Option<bool>,
    /// The checkpoint's name.
    pub name: Option<String>,
    /// Its family.
    pub family: Option<String>,
    /// How far the model's tower lies from it, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tower_change: Option<TowerChange>,
    /// What the probe is, where one stands in the encoder's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeHeading>,
}

/// A probe in headings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeHeading {
    /// How it classifies.
    pub classifier: ProbeClassifier,
    /// Training images a class: one number, or rising ones where datasets have not equally many.
    pub shots: Vec<usize>,
}

/// The judges in headings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeHeading {
    /// The judge that decides: `rules`, `llm` or `rules+llm`.
    pub name: String,
    /// All of them.
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
    /// Whether that split is one to train on; every report says so.
    #[serde(default)]
    pub is_training_split: bool,
    /// Samples that were evaluated.
    pub n_samples: usize,
    /// Classes of the label set.
    pub n_classes: usize,
    /// The model's generated answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<SubjectSummary>,
    /// The model's label scoring, where it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_score: Option<SubjectSummary>,
    /// The encoder, where it ran.
    pub encoder: Option<SubjectSummary>,
    /// Model accuracy over encoder accuracy, on the pairs scored on both sides.
    pub retention: Option<f64>,
    /// Its interval.
    pub retention_interval: Option<Interval>,
    /// Model against encoder, image by image.
    pub pairs: Option<EncoderPairs>,
    /// The share of the model's scored answers that are one same text, where above one half, with the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant_answer: Option<ConstantAnswer>,
}

/// Counts and rates of one subject on one dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubjectSummary {
    /// All trials.
    pub n_trials: usize,
    /// Correct ones.
    pub n_correct: usize,
    /// Incorrect ones.
    pub n_incorrect: usize,
    /// Trials that count neither way.
    pub n_unscored: usize,
    /// Correct over scored.
    pub accuracy: Option<f64>,
    /// Wilson's interval.
    pub accuracy_interval: Option<Interval>,
    /// With every unscored trial as wrong, and as right.
    pub accuracy_bounds: Option<Interval>,
    /// The mean over classes of correct over scored.
    pub balanced_accuracy: Option<f64>,
    /// Of label scoring, the accuracy of the choices without the model's prior, over the trials that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior_corrected_accuracy: Option<f64>,
    /// Wilson's interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior_corrected_interval: Option<Interval>,
    /// Of a probe, training images a class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shots: Option<usize>,
    /// Of a probe, the same with fewer of them, rising.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fewer_shots: Vec<ShotsAccuracy>,
    /// Incorrect trials by kind; every kind stands in it.
    pub kinds: BTreeMap<String, usize>,
    /// Incorrect trials by code; only codes that occur.
    pub codes: BTreeMap<String, usize>,
    /// Unscored trials by reason; only reasons that occur.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unscored: BTreeMap<String, usize>,
}

/// The accuracy of a probe with fewer shots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShotsAccuracy {
    /// Training images a class.
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
    /// The encoder knows, the model does not say.
    pub only_encoder: usize,
    /// The model knows more than its encoder.
    pub only_model: usize,
    /// Both wrong.
    pub both_wrong: usize,
    /// Either side is unscored.
    pub unscored: usize,
}

/// A subject that answers one thing to most images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConstantAnswer {
    /// The answer, trimmed.
    pub answer: String,
    /// Its share of the scored answers.
    pub share: f64,
}

/// What a summary needs of a run beside its spec and trials.
#[derive(Clone, Copy, Debug)]
pub struct SummaryInput<'a> {
    /// The run's name.
    pub run: &'a str,
    /// The share of scored model answers on which the rules were not certain; `None` where rules did not judge.
    pub uncertain_share: Option<f64>,
    /// What became of samples that a server was asked about again, where there is one.
    pub server_flips: Option<ServerFlips>,
}
