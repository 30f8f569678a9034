//! The language model as a whole, or some of its layers' tensors.

use anyhow::Result;

use super::linear::whole;
use super::targets::Chosen;
use super::{Arm, Base, Changes, Left, Recipe, Start, Variables};
use crate::domain;
use crate::finetune::trainable::TrainableConfig;
use crate::model::checkpoint::weights::NamedTensor;
use crate::model::layers::CALIBRATION;

/// All tensors of the language model, or those that the targets and frozen layers leave.
pub(super) struct Full;

impl Arm for Full {
    fn arm(&self) -> domain::Arm {
        domain::Arm::Full
    }

    fn recipe(&self) -> Recipe {
        Recipe { learning_rate: 2e-5, batch_size: 32, miniature_learning_rate: 3e-4, miniature_n_epochs: 3 }
    }

    fn parameters(&self, base: &Base<'_>, config: &TrainableConfig, start: &mut Start) -> Result<Vec<NamedTensor>> {
        let chosen = Chosen::new(&config.settings.full_targets, config.settings.n_frozen_layers)?;
        whole(base, start, |name, shape| Ok(is_own(name) && chosen.has_tensor(name, shape)?))
    }

    fn put(&self, variables: &Variables<'_>, _: &TrainableConfig, changes: &mut Changes) -> Result<()> {
        changes.replaced.extend(variables.where_name(is_own));
        Ok(())
    }

    fn leave(&self, variables: &Variables<'_>, _: &Base<'_>, _: &TrainableConfig, left: &mut Left) -> Result<()> {
        left.is_checkpoint = true;
        left.whole.extend(variables.where_name(is_own));
        Ok(())
    }
}

/// Whether it is a tensor of the base's language model.
fn is_own(name: &str) -> bool {
    let is_of_model = name.starts_with("lm_head.")
        || name.starts_with("language_model.layers.")
        || name.starts_with("language_model.embed_tokens.")
        || name.starts_with("language_model.norm.");
    is_of_model && !CALIBRATION.iter().any(|leaf| name.ends_with(leaf))
}
