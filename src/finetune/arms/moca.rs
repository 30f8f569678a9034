//! Learnable modality calibration (MoCa; Huang et al. 2024): a scale and a shift of the positions of images after each layer.

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

use super::{Arm, Base, Changes, LAYERS, Left, Recipe, Start, Variables};
use crate::domain;
use crate::finetune::trainable::TrainableConfig;
use crate::model::checkpoint::weights::NamedTensor;
use crate::model::layers::CALIBRATION;

/// Scale and shift of each layer but the last, after which no token attends to an image.
pub(super) struct Moca;

impl Arm for Moca {
    fn arm(&self) -> domain::Arm {
        domain::Arm::Moca
    }

    fn recipe(&self) -> Recipe {
        Recipe { learning_rate: 1e-3, batch_size: 32, miniature_learning_rate: 1e-3, miniature_n_epochs: 6 }
    }

    fn parameters(&self, base: &Base<'_>, config: &TrainableConfig, start: &mut Start) -> Result<Vec<NamedTensor>> {
        let size = base.size()?;
        let mut parameters = Vec::new();
        for layer in 0..base.n_layers {
            for leaf in CALIBRATION {
                let name = name_of(layer, leaf);
                let given = start.overlay.take_replaced(&name, &[size])?;
                if layer + 1 == base.n_layers || layer < config.settings.n_frozen_layers {
                    continue;
                }
                let value = match given {
                    Some(value) => value,
                    None => untrained(base, &name, size)?,
                };
                parameters.push((name, value));
            }
        }
        ensure!(!parameters.is_empty(), "--freeze-layers leaves no layer that `moca` could calibrate");
        Ok(parameters)
    }

    fn put(&self, variables: &Variables<'_>, _: &TrainableConfig, changes: &mut Changes) -> Result<()> {
        for (name, tensor) in variables.where_name(is_own) {
            changes.replaced.insert(name, tensor);
        }
        Ok(())
    }

    fn leave(&self, variables: &Variables<'_>, base: &Base<'_>, _: &TrainableConfig, left: &mut Left) -> Result<()> {
        let size = base.size()?;
        for (layer, leaf) in (0..base.n_layers).flat_map(|layer| CALIBRATION.map(|leaf| (layer, leaf))) {
            let name = name_of(layer, leaf);
            let tensor = match variables.all.get(name.as_str()) {
                Some(tensor) => tensor.clone(),
                None => untrained(base, &name, size)?,
            };
            left.calibration.push((name, tensor));
        }
        Ok(())
    }
}

fn name_of(layer: usize, leaf: &str) -> String {
    format!("{LAYERS}{layer}.{leaf}")
}

fn is_own(name: &str) -> bool {
    CALIBRATION.iter().any(|leaf| name.ends_with(leaf))
}

/// Returns the base's own values, or those that change nothing.
fn untrained(base: &Base<'_>, name: &str, size: usize) -> Result<Tensor> {
    if base.weights.contains(name) {
        return base.tensor(name);
    }
    let neutral = if name.ends_with(CALIBRATION[0]) { 1f32 } else { 0.0 };
    Ok(Tensor::full(neutral, size, base.device)?.to_dtype(DType::F32)?)
}
