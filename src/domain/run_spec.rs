//! What a run is a run of: everything that decides its answers and outcomes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AnswerType, Computing, Label, LabelSet, Mode, ProbeSpec, Subject};

/// How the encoder in the headings relates to the model's own vision tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncoderRelation {
    /// The model's own tower: equal tensors.
    Own,
    /// The published encoder from which the model's tower descends; tensors differ.
    Ancestor,
    /// Another encoder.
    Other,
    /// The same architecture under the model's name, but fine-tuning changed the tensors.
    Changed,
    /// No encoder was asked for.
    None,
}

/// The model under test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// The checkpoint's name, for people (identity does not depend on it).
    pub name: String,
    /// The family, such as `llava`.
    pub family: String,
    /// Hash over all tensors' canonical names, types, shapes and bytes; `None` where a server does not tell.
    pub weights: Option<String>,
    /// The same for an adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Whether the adapter was merged into the weights.
    pub merged: bool,
    /// Hash of the tokenizer's files; `None` where a server does not tell.
    pub tokenizer: Option<String>,
    /// Hash of the chat template's text; `None` where a server does not tell.
    pub chat_template: Option<String>,
    /// The parsed preprocessing parameters; null where a server does not tell.
    pub preprocessing: Value,
    /// What the configuration decides, under its names; `None` in older runs and where a server does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Value>,
    /// Those of `settings` in which a candidate differs from the base that it was evaluated over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_settings: Option<Value>,
    /// The settings of its generation configuration that change greedy answers, by name; null where there are none.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub generation_config: Value,
    /// What is known of a served model instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<ServedSpec>,
}

/// What decides the answers of a model behind a server, as far as that shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServedSpec {
    /// The model's name in requests.
    pub model: String,
    /// The fields of each request that decide an answer, after what the server's errors taught.
    pub request: Value,
    /// Tokens of a fixed prompt with a fixed image: they tell of template, beginning-of-sequence token and resolution.
    pub n_probe_tokens: Option<u32>,
    /// Hash of the answer to it; `None` where the same question gets another answer each time.
    pub probe_answer: Option<String>,
    /// How labels are scored, where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_scoring: Option<String>,
}

/// The encoder beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderSpec {
    /// The checkpoint's name, for people.
    pub name: String,
    /// The family, such as `clip`.
    pub family: String,
    /// Hash over all tensors.
    pub weights: String,
    /// Hash of the tokenizer's files.
    pub tokenizer: String,
    /// The parsed preprocessing parameters.
    pub preprocessing: Value,
    /// How it relates to the model's tower.
    pub relation: EncoderRelation,
    /// Whether all tower tensors that both have are equal.
    pub tower_equal: bool,
    /// How far the model's tower lies from it, where their tensors were compared and are not equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tower_change: Option<TowerChange>,
}

/// Relative changes of a tower's layers against the encoder's, ‖a − b‖ / ‖b‖ over the tensors of each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TowerChange {
    /// The layers' median.
    pub median: f64,
    /// The largest.
    pub largest: f64,
    /// Its layer, such as `encoder.layers.5`.
    pub largest_layer: String,
}

/// One judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeSpec {
    /// The name of a [`JudgeKind`](super::JudgeKind).
    pub judge: String,
    /// The rules' version or the language model's name.
    pub model: String,
    /// Hash of the judge's prompt, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Temperature, token limit and the like.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub parameters: Value,
}

/// The prompt of one subject for one dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubjectPrompt {
    /// Who is asked.
    pub subject: Subject,
    /// How.
    pub mode: Mode,
    /// The name that trials carry.
    pub prompt: String,
    /// The question, or the caption template.
    pub text: String,
    /// The text after the chat template, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered: Option<String>,
    /// Its token ids; an image position is `null`, so that layouts with and without an image token compare equal.
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
    /// The split that is evaluated.
    pub split: String,
    /// Whether that split is one to train on.
    pub is_training_split: bool,
    /// Hash of the label set.
    pub label_set: String,
    /// The labels in prompt order, with the aliases that judging accepts: an old run can be judged again from this.
    pub labels: Vec<Label>,
    /// Whether answers are numbers or objects.
    pub answer_type: AnswerType,
    /// What each subject is asked.
    pub prompts: Vec<SubjectPrompt>,
    /// What becomes of the orientation that images carry, where it is not as Pillow has it: `apply` or `ignore`.
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

    /// How the encoder answers: zero-shot, or by a probe on the model's own tower; `None` where nothing is compared with.
    pub fn comparator(&self) -> Option<Mode> {
        self.prompts.iter().find(|prompt| prompt.subject == Subject::Encoder).map(|prompt| prompt.mode)
    }
}

/// What decides resume; `record` hashes it into the run's identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The model under test.
    pub model: ModelSpec,
    /// The encoder beside it.
    pub encoder: Option<EncoderSpec>,
    /// The probe on the model's own tower, where it stands in the encoder's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeSpec>,
    /// The datasets in evaluation order.
    pub datasets: Vec<DatasetSpec>,
    /// The seed of the order of samples.
    pub sample_seed: u64,
    /// The model's modes.
    pub modes: Vec<Mode>,
    /// Generation stops after as many tokens.
    pub max_new_tokens: usize,
    /// Where, and in which numbers, the model computes.
    #[serde(flatten)]
    pub computing: Computing,
    /// The judges, the deciding one last.
    pub judges: Vec<JudgeSpec>,
    /// The version of label scoring that decides which label is chosen; 1 where no labels are scored, and in runs of
    /// versions that did not write it.
    #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
    pub label_scoring_version: u32,
    /// The fine-tuned label sets by dataset name, which decide the code `leak` but never an outcome.
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
