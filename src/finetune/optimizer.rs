//! AdamW (Loshchilov and Hutter 2019) with torch's arithmetic, and its clipping of gradients.

use anyhow::{Context, Result, ensure};
use candle_core::{Tensor, Var};

use crate::model::layers::{AdamWStep, sum_of_squares};

/// Decay rates of the two moments, and the epsilon of the quotient: torch's defaults.
const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// torch adds this to the norm before it divides by the norm.
const NORM_EPSILON: f64 = 1e-6;

/// The optimizer's state: two moments per tensor, and the number of steps.
#[derive(Debug)]
pub struct AdamW {
    moments: Vec<(Tensor, Tensor)>,
    n_steps: usize,
    weight_decay: f64,
}

impl AdamW {
    /// Creates the state for `variables`, with all moments 0.
    pub fn new<'a>(variables: impl IntoIterator<Item = &'a Var>, weight_decay: f64) -> candle_core::Result<Self> {
        let moments = variables
            .into_iter()
            .map(|variable| Ok((variable.zeros_like()?, variable.zeros_like()?)))
            .collect::<candle_core::Result<_>>()?;
        Ok(Self { moments, n_steps: 0, weight_decay })
    }

    /// Steps all `variables`; gradients are in the same order and are multiplied by `gradient_scale`.
    pub fn step(
        &mut self,
        variables: &[&Var],
        gradients: &[Tensor],
        gradient_scale: f64,
        learning_rate: f64,
    ) -> candle_core::Result<()> {
        self.n_steps += 1;
        let correction_1 = 1.0 - BETA_1.powi(self.n_steps as i32);
        let step = AdamWStep {
            betas: [BETA_1, BETA_2],
            gradient_scale,
            kept: 1.0 - learning_rate * self.weight_decay,
            rate: learning_rate / correction_1,
            correction: (1.0 - BETA_2.powi(self.n_steps as i32)).sqrt(),
            epsilon: EPSILON,
        };
        for ((variable, gradient), (first, second)) in variables.iter().zip(gradients).zip(&mut self.moments) {
            let values = variable.as_detached_tensor();
            let moved;
            [moved, *first, *second] = step.apply(&values, [first, second], gradient)?;
            // On a CPU it was updated in place.
            if moved.id() != values.id() {
                variable.set(&moved)?;
            }
        }
        Ok(())
    }

    /// The number of steps so far.
    pub fn n_steps(&self) -> usize {
        self.n_steps
    }

    /// Returns the two moments of each variable, in order.
    pub fn moments(&self) -> &[(Tensor, Tensor)] {
        &self.moments
    }

    /// Continues from a saved state.
    pub fn restore(&mut self, moments: Vec<(Tensor, Tensor)>, n_steps: usize) -> Result<()> {
        ensure!(moments.len() == self.moments.len(), "the optimizer's state belongs to another training");
        for ((first, second), (own, _)) in moments.iter().zip(&self.moments) {
            ensure!(
                first.dims() == own.dims() && second.dims() == own.dims(),
                "the optimizer's state has tensors of shape {:?} where {:?} train",
                first.dims(),
                own.dims()
            );
        }
        (self.moments, self.n_steps) = (moments, n_steps);
        Ok(())
    }
}

/// Returns the norm of one gradient, summed in f64; `None` if it is not finite.
pub fn norm(gradient: &Tensor) -> Result<Option<f64>> {
    let norm = sum_of_squares(gradient).context("a gradient is not in f32")?.sqrt();
    Ok(norm.is_finite().then_some(norm))
}

/// Returns the factor that reduces gradients of the total norm `total_norm` to `max_norm`, as torch's `clip_grad_norm_`
/// does.
pub fn clipping(total_norm: f64, max_norm: f64) -> f64 {
    (max_norm / (total_norm + NORM_EPSILON)).min(1.0)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Expected values: three steps of `torch.optim.AdamW(lr=0.1, weight_decay=0.01)` after `clip_grad_norm_(…, 1.0)`.
    #[test]
    fn steps_equal_those_of_torch() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/schedules.json")).unwrap();
        let case = &golden["adamw"];
        let list = |value: &serde_json::Value| -> Vec<f32> {
            value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
        };
        let variable = Var::from_vec(list(&case["start"]), 3, &Device::Cpu).unwrap();
        let mut optimizer = AdamW::new([&variable], case["weight_decay"].as_f64().unwrap()).unwrap();
        for step in case["steps"].as_array().unwrap() {
            let gradients = [Tensor::new(list(&step["gradient"]), &Device::Cpu).unwrap()];
            let total = norm(&gradients[0]).unwrap().unwrap();
            assert!((total - step["norm"].as_f64().unwrap()).abs() < 1e-6 * total);
            let rate = step["learning_rate"].as_f64().unwrap();
            optimizer.step(&[&variable], &gradients, clipping(total, 1.0), rate).unwrap();
            for (value, expected) in variable.to_vec1::<f32>().unwrap().iter().zip(list(&step["after"])) {
                assert!((value - expected).abs() <= 1e-6 * expected.abs().max(0.1), "{value} {expected}");
            }
        }
    }

    #[test]
    fn a_gradient_that_is_not_finite_has_no_norm() {
        assert_eq!(norm(&Tensor::new(&[1f32, f32::NAN], &Device::Cpu).unwrap()).unwrap(), None);
        assert_eq!(norm(&Tensor::new(&[3f32, 4.0], &Device::Cpu).unwrap()).unwrap(), Some(5.0));
    }
}
