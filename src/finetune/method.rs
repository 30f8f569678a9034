//! The methods, which decide what trains, with their default hyperparameters.

use crate::domain::TrainingNumbers;
pub use crate::domain::{Decay, LoraShape, Method};

/// The prefix of the canonical names of a projector's tensors.
pub(super) const PROJECTOR: &str = "multi_modal_projector.";

/// The numeric settings of a training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyperparameters {
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Samples per optimizer step.
    pub batch_size: usize,
    /// Passes over the training samples.
    pub n_epochs: usize,
    /// The share of all steps in which the rate rises from 0.
    pub warmup_ratio: f64,
    /// The decay of the rate after the warm-up.
    pub decay: Decay,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm over all tensors; `None` leaves them unchanged.
    pub max_grad_norm: Option<f64>,
    /// The shape of updates with `lora`.
    pub lora: LoraShape,
}

impl Hyperparameters {
    /// Returns the values of published recipes.
    pub fn of(method: Method) -> Self {
        let (learning_rate, batch_size) = match method {
            Method::Linear => (2e-3, 128),
            Method::Lora => (2e-4, 32),
            Method::Full => (2e-5, 32),
        };
        Self {
            learning_rate,
            batch_size,
            n_epochs: 3,
            warmup_ratio: 0.03,
            decay: Decay::Cosine,
            weight_decay: 0.0,
            max_grad_norm: Some(1.0),
            lora: LoraShape { rank: 64, alpha: 16.0, dropout: 0.05 },
        }
    }

    /// Returns values for a miniature of a few million parameters and a few hundred images, which published batch sizes
    /// would hardly change. `tests/bench/demo_rates.py` measures them on training splits.
    pub fn of_miniature(method: Method) -> Self {
        let published = Self::of(method);
        let lora = LoraShape { rank: 8, alpha: 16.0, dropout: 0.05 };
        let (learning_rate, batch_size, n_epochs) = match method {
            Method::Linear => (2e-3, 4, 6),
            Method::Lora => (1e-3, 4, 4),
            Method::Full => (3e-4, 4, 3),
        };
        Self { learning_rate, batch_size, n_epochs, lora, ..published }
    }

    /// Returns the numbers for a training's specification; those of `lora` only if it is the method.
    pub fn of_spec(&self, method: Method) -> TrainingNumbers {
        let Self { learning_rate, batch_size, n_epochs, warmup_ratio, decay, weight_decay, max_grad_norm, lora } =
            *self;
        TrainingNumbers {
            learning_rate,
            batch_size,
            n_epochs,
            warmup_ratio,
            schedule: decay,
            weight_decay,
            max_grad_norm,
            lora: method.is_low_rank().then_some(lora),
        }
    }
}

impl Method {
    /// Whether the base's tensor `name` (a canonical name) trains as a whole.
    pub(super) fn trains_whole(self, name: &str, trains_projector: bool) -> bool {
        let is_projector = name.starts_with(PROJECTOR);
        match self {
            Self::Linear => is_projector,
            Self::Lora => is_projector && trains_projector,
            Self::Full => is_projector || name.starts_with("language_model.") || name.starts_with("lm_head."),
        }
    }

    /// Whether the linear maps of the language model's layers get low-rank updates.
    pub fn is_low_rank(self) -> bool {
        match self {
            Self::Lora => true,
            Self::Linear | Self::Full => false,
        }
    }
}
