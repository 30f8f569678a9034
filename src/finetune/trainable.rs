//! The tensors that train, by canonical name, as an overlay over the base.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Tensor, Var};

use super::arms::{self, Arm, Base, Changes, FIRST, Left, Start, Variables};
use crate::domain;
use crate::domain::{ArmSettings, LoraShape, Method, VirtualTokenSettings};
use crate::model::checkpoint::overlay::Overlay;
use crate::model::layers::StepCounter;

/// Which tensors a training trains.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainableConfig {
    /// The method.
    pub method: Method,
    /// The shape of updates with `lora`.
    pub lora: LoraShape,
    /// Whether the projector trains.
    pub trains_projector: bool,
    /// What the arms train.
    pub settings: ArmSettings,
    /// The seed of initial values and dropout.
    pub seed: u64,
}

impl TrainableConfig {
    /// The shape of virtual tokens.
    pub(super) fn virtual_tokens(&self) -> VirtualTokenSettings {
        self.settings.virtual_tokens.clone().unwrap_or_default()
    }

    /// The arms of the method, with that of the projector where it trains.
    fn arms(&self) -> impl Iterator<Item = &'static dyn Arm> {
        let (method, trains_projector) = (self.method, self.trains_projector);
        let takes_part = move |arm: domain::Arm| match arm {
            domain::Arm::Linear => trains_projector,
            arm => method.has(arm),
        };
        arms::ARMS.iter().copied().filter(move |arm| takes_part(arm.arm()))
    }
}

/// One trained tensor.
#[derive(Debug)]
pub struct Parameter {
    /// `<module>.lora_A`, `<module>.lora_B`, the name of the base's tensor that it replaces, or that of an arm's own tensor.
    pub name: String,
    /// Its values, shared with every model that computes with them.
    pub variable: Var,
}

impl Parameter {
    /// Whether it is the first factor of an update. While the second factor is 0, its gradient is also 0.
    pub fn is_first_factor(&self) -> bool {
        self.name.ends_with(FIRST)
    }
}

/// All trained tensors, sorted by name.
#[derive(Debug)]
pub struct Trainable {
    config: TrainableConfig,
    parameters: Vec<Parameter>,
}

impl Trainable {
    /// Takes initial values from `start` if present, then from the base, and otherwise draws them from the seed.
    ///
    /// # Errors
    /// `start` has tensors that this method does not train, or of other shapes.
    pub fn new(config: TrainableConfig, base: &Base<'_>, mut start: Start) -> Result<Self> {
        let mut values: BTreeMap<String, Tensor> = BTreeMap::new();
        for arm in config.arms() {
            for (name, value) in arm.parameters(base, &config, &mut start)? {
                ensure!(values.insert(name.clone(), value).is_none(), "`{name}` would train twice");
            }
        }
        start.overlay.finish().with_context(|| {
            format!("the adapter to continue from has parts that `{}` does not train", config.method.name())
        })?;
        ensure!(!values.is_empty(), "the model has no tensor that `{}` trains", config.method.name());
        let parameters = values
            .into_iter()
            // A copy, because the start may be a view of tensors in use elsewhere.
            .map(|(name, value)| Ok(Parameter { name, variable: Var::from_tensor(&value.copy()?)? }))
            .collect::<Result<_>>()?;
        Ok(Self { config, parameters })
    }

    /// Returns which tensors train.
    pub fn config(&self) -> &TrainableConfig {
        &self.config
    }

    /// The tensors, sorted by name.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The number of trained numbers.
    pub fn n_numbers(&self) -> usize {
        self.parameters.iter().map(|parameter| parameter.variable.elem_count()).sum()
    }

    /// Returns an overlay of the variables themselves. A model under it computes with their current values, and
    /// gradients reach them. `step` is the step counter of its dropouts.
    ///
    /// # Errors
    /// A device failure.
    pub fn overlay(&self, step: &StepCounter) -> Result<Overlay> {
        let all: BTreeMap<&str, Tensor> =
            self.parameters.iter().map(|p| (p.name.as_str(), p.variable.as_tensor().clone())).collect();
        let variables = Variables { all: &all, step };
        let mut changes = Changes::default();
        for arm in self.config.arms() {
            arm.put(&variables, &self.config, &mut changes)?;
        }
        Ok(changes.into_overlay())
    }

    /// Returns what the arms leave, with the current values.
    ///
    /// # Errors
    /// A device failure.
    pub fn left(&self, base: &Base<'_>) -> Result<Left> {
        let all: BTreeMap<&str, Tensor> =
            self.parameters.iter().map(|p| (p.name.as_str(), p.variable.as_detached_tensor())).collect();
        let variables = Variables { all: &all, step: &StepCounter::default() };
        let mut left = Left::default();
        for arm in self.config.arms() {
            arm.leave(&variables, base, &self.config, &mut left)?;
        }
        Ok(left)
    }
}
