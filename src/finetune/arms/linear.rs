//! The projector alone.

use anyhow::Result;

use super::{Arm, Base, Changes, Left, PROJECTOR, Recipe, Start, Variables, mof};
use crate::domain;
use crate::finetune::trainable::TrainableConfig;
use crate::model::checkpoint::weights::NamedTensor;

/// The projector, as a whole. It also trains beside other arms that say so.
pub(super) struct Linear;

impl Arm for Linear {
    fn arm(&self) -> domain::Arm {
        domain::Arm::Linear
    }

    fn recipe(&self) -> Recipe {
        Recipe { learning_rate: 2e-3, batch_size: 128, miniature_learning_rate: 2e-3, miniature_n_epochs: 6 }
    }

    fn parameters(&self, base: &Base<'_>, config: &TrainableConfig, start: &mut Start) -> Result<Vec<NamedTensor>> {
        whole(base, start, |name, _| Ok(is_own(name, config) && has_effect(name, base.n_layers)))
    }

    fn put(&self, variables: &Variables<'_>, config: &TrainableConfig, changes: &mut Changes) -> Result<()> {
        changes.replaced.extend(variables.where_name(|name| is_own(name, config)));
        Ok(())
    }

    fn leave(&self, variables: &Variables<'_>, _: &Base<'_>, config: &TrainableConfig, left: &mut Left) -> Result<()> {
        left.whole.extend(variables.where_name(|name| is_own(name, config)));
        Ok(())
    }
}

/// Whether answers depend on the projector's tensor `name`: what is added to images after the last layer is not attended to.
fn has_effect(name: &str, n_layers: usize) -> bool {
    let rest = name.strip_prefix("multi_modal_projector.deepstack_merger_list.");
    let depth: Option<usize> = rest.and_then(|rest| rest.split('.').next()?.parse().ok());
    depth.is_none_or(|depth| depth + 1 < n_layers)
}

/// Whether it is the projector's own tensor and not an update's. A second tower's projector belongs to `mof` where that trains.
fn is_own(name: &str, config: &TrainableConfig) -> bool {
    name.starts_with(PROJECTOR) && !(config.method.has(domain::Arm::Mof) && mof::is_own(name))
}

/// Returns the base's tensors that `trains` accepts, given name and shape, with the values of `start` where it replaces them.
pub(super) fn whole(
    base: &Base<'_>,
    start: &mut Start,
    trains: impl Fn(&str, &[usize]) -> Result<bool>,
) -> Result<Vec<NamedTensor>> {
    let mut chosen = Vec::new();
    for name in base.weights.names() {
        let shape = base.weights.shape(name).unwrap_or_default();
        if !trains(name, &shape)? {
            continue;
        }
        let tensor = match start.overlay.take_replaced(name, &shape)? {
            Some(tensor) => tensor,
            None => base.tensor(name)?,
        };
        chosen.push((name.to_owned(), tensor));
    }
    Ok(chosen)
}
