//! Mixture of features (Tong et al. 2024, "Eyes Wide Shut?", section 4): the projector of a second tower.

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::linear::whole;
use super::{Arm, Base, Changes, Left, PROJECTOR, Recipe, Start, Variables, uniform};
use crate::domain;
use crate::domain::Mixing;
use crate::finetune::trainable::TrainableConfig;
use crate::model::checkpoint::weights::{NamedTensor, SECOND_PROJECTOR, SECOND_TOWER};

/// The second tower's projector where features are interleaved. Where they are added, there is one projector, which is `linear`'s.
pub(super) struct Mof;

impl Arm for Mof {
    fn arm(&self) -> domain::Arm {
        domain::Arm::Mof
    }

    fn recipe(&self) -> Recipe {
        Recipe { learning_rate: 2e-3, batch_size: 128, miniature_learning_rate: 2e-3, miniature_n_epochs: 6 }
    }

    fn parameters(&self, base: &Base<'_>, config: &TrainableConfig, start: &mut Start) -> Result<Vec<NamedTensor>> {
        let of_base = whole(base, start, |name, _| Ok(is_own(name)))?;
        if !of_base.is_empty() {
            return Ok(of_base);
        }
        let mixing = config.settings.mixture.as_ref().map(|mixture| mixture.mixing);
        if mixing != Some(Mixing::Interleaved) {
            return Ok(Vec::new());
        }
        // Shaped as the first tower's projector, from the second one's width.
        let first = base.weights.names().filter(|name| name.starts_with(PROJECTOR));
        let own = |name: &str| drawn(base, config.seed, name, start);
        first.map(own).collect()
    }

    fn put(&self, variables: &Variables<'_>, _: &TrainableConfig, changes: &mut Changes) -> Result<()> {
        changes.replaced.extend(variables.where_name(is_own));
        Ok(())
    }

    fn leave(&self, variables: &Variables<'_>, _: &Base<'_>, _: &TrainableConfig, left: &mut Left) -> Result<()> {
        left.second_projector.extend(variables.where_name(is_own));
        Ok(())
    }
}

/// Whether it is a tensor of the second tower's projector.
pub(super) fn is_own(name: &str) -> bool {
    name.starts_with(SECOND_PROJECTOR)
}

/// Returns the counterpart of the first projector's tensor `name`: of `start`, or drawn as torch draws a linear map.
fn drawn(base: &Base<'_>, seed: u64, name: &str, start: &mut Start) -> Result<NamedTensor> {
    let own = name.replacen(PROJECTOR, SECOND_PROJECTOR, 1);
    let width = base.weights.shape(&format!("{SECOND_TOWER}embeddings.class_embedding"));
    let width = width.and_then(|shape| shape.last().copied()).context("the second tower has a class token")?;
    let mut shape = base.weights.shape(name).context("a listed tensor has a shape")?;
    let is_first = name.contains(".linear_1.");
    let n_in = if is_first { width } else { shape[0] };
    if let [_, columns] = &mut shape[..] {
        *columns = n_in;
    }
    let value = match start.overlay.take_replaced(&own, &shape)? {
        Some(value) => value,
        None => {
            let bound = (n_in as f32).sqrt().recip();
            let values = uniform(seed, &[b"mof", own.as_bytes()], shape.iter().product(), bound);
            Tensor::from_vec(values, shape, base.device)?
        }
    };
    Ok((own, value))
}
