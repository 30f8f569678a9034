//! The numbers of a training, with their defaults.

use super::arms;
use crate::domain::{Arm, Decay, LoraShape, Method, TrainingNumbers};

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
    /// Returns the values of published recipes. Arms that train together take the lowest rate and the smallest batch of
    /// theirs.
    pub fn of(method: Method) -> Self {
        let recipes = || arms::of(method).map(|arm| arm.recipe());
        Self {
            learning_rate: recipes().map(|recipe| recipe.learning_rate).fold(f64::INFINITY, f64::min),
            batch_size: recipes().map(|recipe| recipe.batch_size).min().unwrap_or(1),
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
        let recipes = || arms::of(method).map(|arm| arm.recipe());
        Self {
            learning_rate: recipes().map(|recipe| recipe.miniature_learning_rate).fold(f64::INFINITY, f64::min),
            batch_size: 4,
            n_epochs: recipes().map(|recipe| recipe.miniature_n_epochs).min().unwrap_or(1),
            lora: LoraShape { rank: 8, alpha: 16.0, dropout: 0.05 },
            ..Self::of(method)
        }
    }

    /// Returns the numbers for a training's specification; those of `lora` only if it is an arm.
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
            lora: method.has(Arm::Lora).then_some(lora),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_that_train_together_take_the_lowest_rate_and_the_smallest_batch() {
        let of = |text: &str| Hyperparameters::of(text.parse().unwrap());
        assert_eq!((of("linear").learning_rate, of("linear").batch_size), (2e-3, 128));
        assert_eq!((of("prompt").learning_rate, of("prompt").batch_size), (3e-2, 8));
        assert_eq!((of("linear+prompt").learning_rate, of("linear+prompt").batch_size), (2e-3, 8));
        assert_eq!(of("linear+prompt").of_spec("linear+prompt".parse().unwrap()).lora, None);
    }
}
