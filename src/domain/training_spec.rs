//! The specification of a training: everything that decides the final weights.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which tensors train.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Method {
    /// Only the projector.
    Linear,
    /// Low-rank updates of the language model's linear maps, except its head, and the projector.
    Lora,
    /// The language model and the projector.
    Full,
}

impl Method {
    /// All methods.
    pub const ALL: [Self; 3] = [Self::Linear, Self::Lora, Self::Full];

    /// The name in flags and files.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|method| method.name() == text);
        found.ok_or_else(|| format!("unknown method `{text}`; hint: {names}"))
    }
}

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
    /// Only for the method [`Method::Lora`].
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
    /// Hash of the label set.
    pub label_set: String,
    /// The number of chosen samples.
    pub n_samples: usize,
    /// Hash of their ids, in order.
    pub samples: String,
    /// The rendered prompt.
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
    fn an_unknown_method_is_refused_with_the_choices() {
        let error = "qlora".parse::<Method>().unwrap_err();
        assert!(error.contains("qlora") && error.contains("lora, full"), "{error}");
        assert_eq!("linear".parse(), Ok(Method::Linear));
    }

    #[test]
    fn recorded_specifications_are_written_as_they_are_read() {
        let recorded = [
            (include_str!("../../tests/golden/training/lora.json"), Method::Lora),
            (include_str!("../../tests/golden/training/linear.json"), Method::Linear),
        ];
        for (text, method) in recorded {
            let spec: TrainingSpec = serde_json::from_str(text).unwrap();
            assert_eq!((spec.method, spec.hyperparameters.lora.is_some()), (method, method == Method::Lora));
            assert_eq!(serde_json::to_string_pretty(&spec).unwrap(), text.trim_end());
        }
    }
}
