//! Low-rank updates (Hu et al. 2021) of the language model's linear maps.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;

use super::targets::Chosen;
use super::{Arm, Base, Changes, LAYERS, Left, Recipe, Start, Variables, uniform};
use crate::domain;
use crate::domain::LoraShape;
use crate::finetune::seeded;
use crate::finetune::trainable::TrainableConfig;
use crate::model::checkpoint::overlay::LowRankUpdate;
use crate::model::checkpoint::weights::NamedTensor;
use crate::model::layers::Dropout;

/// The end of the first factor's name.
pub(in crate::finetune) const FIRST: &str = ".lora_A";
/// The end of the second factor's name.
pub(in crate::finetune) const SECOND: &str = ".lora_B";

/// `W + alpha / rank * B A` for the chosen maps `W`.
pub(super) struct Lora;

impl Arm for Lora {
    fn arm(&self) -> domain::Arm {
        domain::Arm::Lora
    }

    fn recipe(&self) -> Recipe {
        Recipe { learning_rate: 2e-4, batch_size: 32, miniature_learning_rate: 1e-3, miniature_n_epochs: 4 }
    }

    /// Draws initial values as PEFT does: A uniform in ±1/√in, B zero.
    fn parameters(&self, base: &Base<'_>, config: &TrainableConfig, start: &mut Start) -> Result<Vec<NamedTensor>> {
        let mut factors = Vec::new();
        for (module, [n_out, n_in]) in modules(base, config)? {
            let (a, b) = match start.overlay.take_update(&module) {
                Some(update) => continued(config.lora, &module, update)?,
                None => {
                    let rank = config.lora.rank;
                    // Kaiming's uniform distribution with a = √5 (He et al. 2015), from which PEFT draws A.
                    let bound = 1.0 / (n_in as f32).sqrt();
                    let a = uniform(config.seed, &[b"lora_A", module.as_bytes()], rank * n_in, bound);
                    let b = Tensor::zeros((n_out, rank), candle_core::DType::F32, base.device)?;
                    (Tensor::from_vec(a, (rank, n_in), base.device)?, b)
                }
            };
            factors.push((format!("{module}{FIRST}"), a));
            factors.push((format!("{module}{SECOND}"), b));
        }
        ensure!(!factors.is_empty(), "--lora-targets and --freeze-layers leave no map of the language model to update");
        Ok(factors)
    }

    fn put(&self, variables: &Variables<'_>, config: &TrainableConfig, changes: &mut Changes) -> Result<()> {
        let LoraShape { rank, alpha, dropout } = config.lora;
        for (module, [a, b]) in updates(variables)? {
            let seed = seeded(config.seed, &[b"dropout", module.as_bytes()]);
            let dropout = (dropout > 0.0).then(|| Dropout::new(dropout, seed, variables.step.clone()));
            let update = LowRankUpdate { a, b, scale: alpha / rank as f64, b_bias: None, magnitude: None, dropout };
            changes.updates.insert(module, update);
        }
        Ok(())
    }

    fn leave(&self, variables: &Variables<'_>, _: &Base<'_>, _: &TrainableConfig, left: &mut Left) -> Result<()> {
        left.updates.extend(updates(variables)?);
        Ok(())
    }
}

/// Returns the chosen modules with the shapes of their weights.
pub(in crate::finetune) fn modules(base: &Base<'_>, config: &TrainableConfig) -> Result<Vec<(String, [usize; 2])>> {
    let chosen = Chosen::new(&config.settings.lora_targets, config.settings.n_frozen_layers)?;
    let mut modules = Vec::new();
    for name in base.weights.names().filter(|name| name.starts_with(LAYERS)) {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        let Some(Ok(shape)) = base.weights.shape(name).map(<[usize; 2]>::try_from) else { continue };
        if chosen.has_map(module)? {
            modules.push((module.to_owned(), shape));
        }
    }
    Ok(modules)
}

/// Returns both factors by module.
fn updates(variables: &Variables<'_>) -> Result<Vec<(String, [Tensor; 2])>> {
    let mut updates = Vec::new();
    for module in variables.all.keys().filter_map(|name| name.strip_suffix(FIRST)) {
        let factors = [variables.get(&format!("{module}{FIRST}"))?, variables.get(&format!("{module}{SECOND}"))?];
        updates.push((module.to_owned(), factors));
    }
    Ok(updates)
}

/// Returns the factors of an update from which training continues.
fn continued(shape: LoraShape, module: &str, update: LowRankUpdate) -> Result<(Tensor, Tensor)> {
    let LowRankUpdate { a, b, scale, b_bias, magnitude, .. } = update;
    ensure!(
        b_bias.is_none() && magnitude.is_none(),
        "the update of `{module}` has a bias or DoRA's magnitudes, which cannot be trained; hint: use plain LoRA"
    );
    let rank = a.dim(0).context("an update has two factors")?;
    ensure!(
        rank == shape.rank && (scale - shape.alpha / shape.rank as f64).abs() < 1e-9,
        "the adapter to continue from has rank {rank} and alpha {} at `{module}`, but this training has rank {} and alpha \
         {}; hint: give --rank {rank} --alpha {}",
        scale * rank as f64,
        shape.rank,
        shape.alpha,
        scale * rank as f64
    );
    Ok((a, b))
}
