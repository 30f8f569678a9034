//! The specification of a training: everything that decides the final weights.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::{IntoStaticStr, VariantArray};

use super::Method;

/// How the learning rate decreases after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Half a cosine down to 0.
    Cosine,
    /// It stays constant.
    Constant,
}

/// Low-rank updates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraShape {
    /// Rows of A.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f64,
    /// The share of the update's inputs that a step drops.
    pub dropout: f64,
}

/// Which of the language model's linear maps an arm trains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Targets {
    /// All maps of the layers; with `full` also embeddings, norms and head.
    #[default]
    All,
    /// The maps of attention.
    Attention,
    /// The maps into the feed-forward half: gate and up.
    GateUp,
    /// The maps whose canonical name (`language_model.layers.0.self_attn.q_proj`) the regular expression finds.
    Matching(String),
}

impl Targets {
    /// Whether nothing is left out.
    pub fn is_all(&self) -> bool {
        *self == Self::All
    }
}

impl From<String> for Targets {
    fn from(text: String) -> Self {
        match text.as_str() {
            "all" => Self::All,
            "attention" => Self::Attention,
            "gate-up" => Self::GateUp,
            _ => Self::Matching(text),
        }
    }
}

impl From<Targets> for String {
    fn from(targets: Targets) -> Self {
        match targets {
            Targets::All => "all".to_owned(),
            Targets::Attention => "attention".to_owned(),
            Targets::GateUp => "gate-up".to_owned(),
            Targets::Matching(pattern) => pattern,
        }
    }
}

/// From what virtual tokens start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VirtualTokenStart {
    /// The embedded tokens of a text, cut or repeated.
    Text(String),
    /// Embedded tokens that are drawn from the vocabulary.
    Vocabulary,
    /// Normally distributed numbers.
    Random,
}

/// The network of P-tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum EncoderKind {
    /// Three linear maps.
    Mlp,
    /// An LSTM that reads both ways, and two linear maps.
    Lstm,
}

/// The shape of virtual tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualTokenSettings {
    /// How many there are.
    pub n_tokens: usize,
    /// From what they start, with `prompt`.
    pub start: VirtualTokenStart,
    /// The network of `p-tuning`.
    pub encoder: EncoderKind,
    /// The width inside the network; `None` is the language model's.
    pub encoder_size: Option<usize>,
    /// The layers of an LSTM.
    pub n_encoder_layers: usize,
}

impl Default for VirtualTokenSettings {
    fn default() -> Self {
        let start = VirtualTokenStart::Text("Look at the image and answer the question about it.".to_owned());
        Self { n_tokens: 20, start, encoder: EncoderKind::Mlp, encoder_size: None, n_encoder_layers: 2 }
    }
}

/// How the features of two towers become one image (Tong et al. 2024, "Eyes Wide Shut?", section 4).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Mixing {
    /// The features of each tower pass a projector of their own, and take turns (I-MoF).
    Interleaved,
    /// One projector reads the sum of both, of which the second tower has this share (A-MoF).
    Additive(f64),
}

impl FromStr for Mixing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "interleaved" {
            return Ok(Self::Interleaved);
        }
        let share = text.strip_prefix("additive:").and_then(|share| share.parse::<f64>().ok());
        match share.filter(|share| *share > 0.0 && *share <= 1.0) {
            Some(share) => Ok(Self::Additive(share)),
            None => Err(format!(
                "unknown mixing `{text}`; hint: interleaved, or additive:SHARE with the second tower's share above 0 and at most 1"
            )),
        }
    }
}

impl TryFrom<String> for Mixing {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mixing> for String {
    fn from(mixing: Mixing) -> Self {
        match mixing {
            Mixing::Interleaved => "interleaved".to_owned(),
            Mixing::Additive(share) => format!("additive:{share}"),
        }
    }
}

/// A second tower whose features are mixed with the first one's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MixtureSettings {
    /// How.
    pub mixing: Mixing,
    /// Hash over the second tower's tensors.
    pub second_tower: String,
}

/// What arms train, beyond their defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmSettings {
    /// The maps that `lora` updates.
    #[serde(default, skip_serializing_if = "Targets::is_all")]
    pub lora_targets: Targets,
    /// The maps that `full` trains.
    #[serde(default, skip_serializing_if = "Targets::is_all")]
    pub full_targets: Targets,
    /// The layers of the language model, from the bottom, in which nothing trains. If there are some, embeddings, the last norm
    /// and the head do not train either.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub n_frozen_layers: usize,
    /// The virtual tokens, if an arm has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_tokens: Option<VirtualTokenSettings>,
    /// The second tower, if an arm adds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixture: Option<MixtureSettings>,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// What holds a training back from forgetting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Restraints {
    /// The weight of the divergence from the base's answers (Li and Hoiem 2016, "Learning without Forgetting").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_base: Option<f64>,
    /// The weight of elastic weight consolidation (Kirkpatrick et al. 2017), and what it is measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ewc: Option<ElasticWeights>,
    /// The weight of the squared distance from the base's weights (Li et al. 2018, "L2-SP").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l2_sp: Option<f64>,
    /// Datasets of earlier tasks, mixed into each batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replay: Vec<ReplaySpec>,
    /// The weight of the loss on earlier tasks; `None` takes one mean over all tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_weight: Option<f64>,
    /// The answer to train earlier tasks on, with `{label}`; present if there are earlier tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_answer_template: Option<String>,
}

impl Restraints {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Elastic weight consolidation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ElasticWeights {
    /// Its weight.
    pub weight: f64,
    /// The earlier tasks on which the weights' importance is measured.
    pub datasets: Vec<TrainingDatasetSpec>,
}

/// An earlier task in each batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplaySpec {
    /// The dataset.
    pub dataset: TrainingDatasetSpec,
    /// Its samples in each batch.
    pub n_per_batch: usize,
}

/// The hyperparameters of a training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingNumbers {
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Samples per optimizer step.
    pub batch_size: usize,
    /// Passes over the training samples.
    pub n_epochs: usize,
    /// The share of all steps in which the learning rate rises from 0.
    pub warmup_ratio: f64,
    /// How it decreases afterwards.
    pub schedule: Decay,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The norm over all tensors to which gradients are scaled down; `None` disables it.
    pub max_grad_norm: Option<f64>,
    /// Only for the arm `lora`.
    #[serde(flatten)]
    pub lora: Option<LoraShape>,
}

/// One dataset to train on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingDatasetSpec {
    /// Its name.
    pub dataset: String,
    /// The training split.
    pub split: String,
    /// Hash of the label set; empty for texts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label_set: String,
    /// The number of chosen samples.
    pub n_samples: usize,
    /// Hash of their ids, in order.
    pub samples: String,
    /// The rendered prompt; empty for texts, each of which has its own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prompt: String,
}

/// What decides the final weights. A training is only resumed with an equal specification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingSpec {
    /// Hash over the base's tensors.
    pub base: String,
    /// Hash of the adapter that it continues from.
    pub from_adapter: Option<String>,
    /// Which tensors train.
    pub method: Method,
    /// Whether the projector trains.
    pub trains_projector: bool,
    /// What the arms train.
    #[serde(flatten)]
    pub settings: ArmSettings,
    /// What holds the training back from forgetting.
    #[serde(default, skip_serializing_if = "Restraints::is_none")]
    pub restraints: Restraints,
    /// The hyperparameters.
    pub hyperparameters: TrainingNumbers,
    /// Samples per forward and backward pass.
    pub micro_batch_size: usize,
    /// The seed of initial values, sample order and dropout.
    pub seed: u64,
    /// The training datasets.
    pub datasets: Vec<TrainingDatasetSpec>,
    /// The answer to train on, with `{label}`.
    pub answer_template: String,
    /// Hash of the tokenizer's files.
    pub tokenizer: String,
    /// Hash of the chat template's text.
    pub chat_template: String,
    /// The parsed preprocessing parameters.
    pub preprocessing: Value,
    /// `cpu`, `cuda` or `metal`.
    pub device_kind: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixing_is_written_as_it_is_read() {
        for text in ["interleaved", "additive:0.75", "additive:1"] {
            assert_eq!(String::from(text.parse::<Mixing>().unwrap()), text);
        }
        for wrong in ["", "additive", "additive:", "additive:0", "additive:1.5", "additive:NaN", "Interleaved"] {
            assert!(wrong.parse::<Mixing>().unwrap_err().contains("hint: interleaved"), "{wrong}");
        }
    }

    #[test]
    fn recorded_specifications_are_written_as_they_are_read() {
        let recorded = [
            (include_str!("../../tests/golden/training/lora.json"), Method::LORA),
            (include_str!("../../tests/golden/training/linear.json"), Method::LINEAR),
        ];
        for (text, method) in recorded {
            let spec: TrainingSpec = serde_json::from_str(text).unwrap();
            assert_eq!((spec.method, spec.hyperparameters.lora.is_some()), (method, method == Method::LORA));
            assert_eq!(serde_json::to_string_pretty(&spec).unwrap(), text.trim_end());
        }
    }
}
