//! What trains, and how fast: the methods with their defaults.

use std::str::FromStr;

/// Which tensors train.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Method {
    /// The projector alone.
    Linear,
    /// Low-rank updates of the language model's linear maps but its head, and the projector.
    Lora,
    /// Language model and projector.
    Full,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Linear, Self::Lora, Self::Full];

    /// As flags and files have it.
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

/// How the learning rate falls after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Half a cosine down to 0.
    Cosine,
    /// It does not.
    Constant,
}

/// Low-rank updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraShape {
    /// Rows of A.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f64,
    /// The share of the update's inputs that a step drops.
    pub dropout: f64,
}

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
}
