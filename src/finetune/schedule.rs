//! The learning rate of each step.

use std::f64::consts::PI;

use super::hyperparameters::Hyperparameters;
use crate::domain::Decay;

/// The learning rate over a training of known length, as in transformers' `get_cosine_schedule_with_warmup` and
/// `get_constant_schedule_with_warmup`. The first step of a warm-up has the rate 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    learning_rate: f64,
    decay: Decay,
    n_warmup: usize,
    n_steps: usize,
}

impl Schedule {
    /// Creates the schedule of `n_steps` optimizer steps.
    pub fn new(hyperparameters: &Hyperparameters, n_steps: usize) -> Self {
        let n_warmup = (hyperparameters.warmup_ratio * n_steps as f64).ceil() as usize;
        Self { learning_rate: hyperparameters.learning_rate, decay: hyperparameters.decay, n_warmup, n_steps }
    }

    /// Returns the rate of step `step`, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.n_warmup {
            return self.learning_rate * step as f64 / self.n_warmup as f64;
        }
        match self.decay {
            Decay::Constant => self.learning_rate,
            Decay::Cosine => {
                let progress = (step - self.n_warmup) as f64 / (self.n_steps - self.n_warmup).max(1) as f64;
                self.learning_rate * (0.5 * (1.0 + (PI * progress).cos())).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Method;

    /// Expected values: rates of transformers' `get_cosine_schedule_with_warmup` and
    /// `get_constant_schedule_with_warmup`.
    #[test]
    fn rates_equal_those_of_transformers() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/schedules.json")).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() >= 6);
        for case in cases {
            let number = |key: &str| case[key].as_f64().unwrap();
            let decay = if case["decay"] == "cosine" { Decay::Cosine } else { Decay::Constant };
            let hyperparameters = Hyperparameters {
                learning_rate: number("learning_rate"),
                warmup_ratio: number("warmup_ratio"),
                decay,
                ..Hyperparameters::of(Method::LORA)
            };
            let schedule = Schedule::new(&hyperparameters, number("n_steps") as usize);
            for (step, expected) in case["rates"].as_array().unwrap().iter().enumerate() {
                let (rate, expected) = (schedule.rate(step), expected.as_f64().unwrap());
                assert!((rate - expected).abs() <= 1e-12 * expected.abs(), "{case} step {step}: {rate}");
            }
        }
    }
}
