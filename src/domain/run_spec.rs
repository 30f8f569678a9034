//! The specification of a run: everything that decides its answers and outcomes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AnswerType, Computing, Label, LabelSet, Mode, ModelPart, ProbeSpec, Strength, Subject};

/// How the encoder in the headings relates to the model's own vision tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncoderRelation {
    /// The model's own tower: equal tensors.
    Own,
    /// The published encoder from which the model's tower descends; tensors differ.
    Ancestor,
    /// An unrelated encoder.
    Other,
    /// The same architecture under the model's name, but fine-tuning changed the tensors.
    Changed,
    /// No encoder was requested.
    None,
}

/// The model under test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// The checkpoint's name, for display; identity does not depend on it.
    pub name: String,
    /// The family, such as `llava`.
    pub family: String,
    /// Hash over all tensors' canonical names, types, shapes and bytes; `None` if a server does not report it.
    pub weights: Option<String>,
    /// Hash of the adapter, of the same kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Whether the adapter was merged into the weights.
    pub merged: bool,
    /// Hash of the tokenizer's files; `None` if a server does not report it.
    pub tokenizer: Option<String>,
    /// Hash of the chat template's text; `None` if a server does not report it.
    pub chat_template: Option<String>,
    /// The parsed preprocessing parameters; null if a server does not report them.
    pub preprocessing: Value,
    /// The settings from the configuration, by name; `None` in older runs and if a server does not report them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Value>,
    /// The `settings` in which a candidate differs from its base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_settings: Option<Value>,
    /// The generation settings that change greedy answers, by name; null if there are none.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub generation_config: Value,
    /// The specification of a served model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<ServedSpec>,
    /// The part of the candidate that a run of a diagnosis or a recovery uses; `None` is all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<ModelPart>,
}

impl ModelSpec {
    /// How much of the adapter's change is used; `None` is all.
    pub fn strength(&self) -> Option<Strength> {
        self.part.as_ref().and_then(|part| part.strength)
    }
}

/// What is known to decide the answers of a served model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServedSpec {
    /// The model's name in requests.
    pub model: String,
    /// The fields of each request that decide an answer, after corrections from the server's errors.
    pub request: Value,
    /// Tokens of a fixed prompt with a fixed image; they depend on template, beginning-of-sequence token and
    /// resolution.
    pub n_probe_tokens: Option<u32>,
    /// Hash of the answer to it; `None` if the answer varies.
    pub probe_answer: Option<String>,
    /// How labels are scored, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_scoring: Option<String>,
}

/// The encoder that the model is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderSpec {
    /// The checkpoint's name, for display.
    pub name: String,
    /// The family, such as `clip`.
    pub family: String,
    /// Hash over all tensors.
    pub weights: String,
    /// Hash of the tokenizer's files.
    pub tokenizer: String,
    /// The parsed preprocessing parameters.
    pub preprocessing: Value,
    /// Its relation to the model's tower.
    pub relation: EncoderRelation,
    /// Whether all tower tensors that both have are equal.
    pub tower_equal: bool,
    /// How far the model's tower differs from it; `None` if they were not compared or are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tower_change: Option<TowerChange>,
}

/// Relative changes of a tower's layers against the encoder's, ‖a − b‖ / ‖b‖ over the tensors of each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TowerChange {
    /// The median over layers.
    pub median: f64,
    /// The maximum over layers.
    pub largest: f64,
    /// The layer of the maximum, such as `encoder.layers.5`.
    pub largest_layer: String,
}

/// One judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeSpec {
    /// The name of a [`JudgeKind`](super::JudgeKind).
    pub judge: String,
    /// The rules' version or the language model's name.
    pub model: String,
    /// Hash of the judge's prompt, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Parameters such as temperature and token limit.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub parameters: Value,
}

/// The prompt of one subject for one dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubjectPrompt {
    /// The subject.
    pub subject: Subject,
    /// The mode.
    pub mode: Mode,
    /// The name in trials.
    pub prompt: String,
    /// The question, or the caption template.
    pub text: String,
    /// The text after the chat template, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered: Option<String>,
    /// Its token ids. An image position is `null`, so that layouts with and without an image token compare equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<Option<u32>>>,
    /// Hash of text, rendered text and ids.
    pub hash: String,
}

/// One dataset of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetSpec {
    /// Its name.
    pub dataset: String,
    /// The evaluated split.
    pub split: String,
    /// Whether that split is a training split.
    pub is_training_split: bool,
    /// Hash of the label set.
    pub label_set: String,
    /// The labels in prompt order, with the aliases that judging accepts; they allow an old run to be judged again.
    pub labels: Vec<Label>,
    /// Whether answers are numbers or objects.
    pub answer_type: AnswerType,
    /// The prompts of all subjects.
    pub prompts: Vec<SubjectPrompt>,
    /// How the orientation of images is treated, if not as in Pillow: `apply` or `ignore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exif: Option<String>,
}

impl DatasetSpec {
    /// The labels' names in prompt order.
    pub fn label_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.labels.iter().map(|label| label.name.as_str())
    }

    /// The prompt of one subject in one mode.
    pub fn prompt(&self, subject: Subject, mode: Mode) -> Option<&SubjectPrompt> {
        self.prompts.iter().find(|prompt| prompt.subject == subject && prompt.mode == mode)
    }

    /// How the comparator answers: zero-shot, or by a probe on the model's own tower; `None` if there is none.
    pub fn comparator(&self) -> Option<Mode> {
        self.prompts.iter().find(|prompt| prompt.subject == Subject::Encoder).map(|prompt| prompt.mode)
    }
}

/// What decides resuming; `record` hashes it into the run's identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The model under test.
    pub model: ModelSpec,
    /// The encoder that the model is compared with.
    pub encoder: Option<EncoderSpec>,
    /// The probe on the model's own tower, if one replaces the encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeSpec>,
    /// The datasets in evaluation order.
    pub datasets: Vec<DatasetSpec>,
    /// The seed of the sample order.
    pub sample_seed: u64,
    /// The model's modes.
    pub modes: Vec<Mode>,
    /// The most tokens that are generated.
    pub max_new_tokens: usize,
    /// Where and with which number type the model computes.
    #[serde(flatten)]
    pub computing: Computing,
    /// The judges; the deciding judge is last.
    pub judges: Vec<JudgeSpec>,
    /// The version of label scoring, which decides the chosen label. It is 1 if no labels are scored, and in runs of
    /// versions that did not write it.
    #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
    pub label_scoring_version: u32,
    /// The fine-tuned label sets by dataset name; they decide the code `leak`, never whether an answer is correct.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tuned_on: BTreeMap<String, LabelSet>,
}

fn first_version() -> u32 {
    1
}

fn is_first_version(version: &u32) -> bool {
    *version == first_version()
}

impl RunSpec {
    /// What the model is compared with on a dataset: zero-shot, a probe, or nothing.
    pub fn comparator(&self, dataset: &str) -> Option<Mode> {
        self.datasets.iter().find(|known| known.dataset == dataset)?.comparator()
    }
}
