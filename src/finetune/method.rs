//! What trains, and how fast: the methods with their defaults.

use crate::domain::TrainingNumbers;
pub use crate::domain::{Decay, LoraShape, Method};

/// Everything about a training that is a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyperparameters {
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Samples of one optimizer step.
    pub batch_size: usize,
    /// Passes over the training samples.
    pub n_epochs: usize,
    /// The share of all steps in which the rate rises from 0.
    pub warmup_ratio: f64,
    /// How it falls afterwards.
    pub decay: Decay,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm over all tensors; `None` leaves them.
    pub max_grad_norm: Option<f64>,
    /// Of `lora`.
    pub lora: LoraShape,
}

impl Hyperparameters {
    /// The published recipes' values.
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

    /// Values for a miniature of a few million parameters and a few hundred images, which the published batches would hardly
    /// move. `tests/bench/demo_rates.py` measures them on training splits.
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

    /// As a training's specification has them: those of `lora` only where it is the method.
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
            lora: (method == Method::Lora).then_some(lora),
        }
    }
}
