//! The tensors that train, by canonical name, as an overlay over the base.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor, Var};

use super::method::{LoraShape, Method};
use crate::model::checkpoint::overlay::{LowRankUpdate, Overlay};
use crate::model::checkpoint::weights::Weights;
use crate::model::layers::{Dropout, StepCounter};

const LAYERS: &str = "language_model.layers.";

/// Which tensors a training trains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainableConfig {
    /// The method.
    pub method: Method,
    /// The shape of updates with `lora`.
    pub lora: LoraShape,
    /// Whether `lora` also trains the projector.
    pub trains_projector: bool,
    /// The seed of initial values and dropout.
    pub seed: u64,
}

/// One trained tensor.
#[derive(Debug)]
pub struct Parameter {
    /// `<module>.lora_A`, `<module>.lora_B`, or the name of the base's tensor that it replaces.
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

const FIRST: &str = ".lora_A";
const SECOND: &str = ".lora_B";

/// All trained tensors, sorted by name.
#[derive(Debug)]
pub struct Trainable {
    config: TrainableConfig,
    parameters: Vec<Parameter>,
}

impl Trainable {
    /// Takes initial values from `start` if present, then from the base, and otherwise draws them from the seed as PEFT
    /// does: A uniform in ±1/√in, B zero.
    ///
    /// # Errors
    /// `start` has tensors that this method does not train, or updates of another rank or scale.
    pub fn new(config: TrainableConfig, base: &Weights, mut start: Overlay, device: &Device) -> Result<Self> {
        let mut values: BTreeMap<String, Tensor> = BTreeMap::new();
        for name in base.names().filter(|name| config.replaces(name)) {
            let shape = base.shape(name).context("a listed tensor has a shape")?;
            let value = match start.take_replaced(name, &shape)? {
                Some(tensor) => tensor,
                None => Tensor::from_vec(base.values(name)?, shape, device)?,
            };
            values.insert(name.to_owned(), value);
        }
        for (module, [n_out, n_in]) in config.modules(base) {
            let (a, b) = match start.take_update(&module) {
                Some(update) => config.lora.factors(&module, update)?,
                None => config.lora.initial(&module, n_in, n_out, config.seed, device)?,
            };
            values.insert(format!("{module}{FIRST}"), a);
            values.insert(format!("{module}{SECOND}"), b);
        }
        start.finish().with_context(|| {
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

    /// The modules that have an update.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().filter_map(|parameter| parameter.name.strip_suffix(FIRST))
    }

    /// Returns the values of one tensor, detached.
    pub fn value(&self, name: &str) -> Option<Tensor> {
        let index = self.parameters.binary_search_by(|parameter| parameter.name.as_str().cmp(name)).ok()?;
        Some(self.parameters[index].variable.as_detached_tensor())
    }

    /// Returns the two factors of a module's update, detached.
    pub fn factors(&self, module: &str) -> Option<(Tensor, Tensor)> {
        Some((self.value(&format!("{module}{FIRST}"))?, self.value(&format!("{module}{SECOND}"))?))
    }

    /// Returns the tensors that replace the base's, by the base's names.
    pub fn replaced(&self) -> impl Iterator<Item = (&str, Tensor)> {
        let is_whole = |parameter: &&Parameter| !parameter.name.ends_with(FIRST) && !parameter.name.ends_with(SECOND);
        let whole = self.parameters.iter().filter(is_whole);
        whole.map(|parameter| (parameter.name.as_str(), parameter.variable.as_detached_tensor()))
    }

    /// Returns an overlay of the variables themselves. A model under it computes with their current values, and
    /// gradients reach them. `step` is the step counter of its dropouts.
    pub fn overlay(&self, step: &StepCounter) -> Overlay {
        let variable = |name: &str| {
            let index = self.parameters.binary_search_by(|parameter| parameter.name.as_str().cmp(name)).ok()?;
            Some(self.parameters[index].variable.as_tensor().clone())
        };
        let LoraShape { rank, alpha, dropout } = self.config.lora;
        let mut updates = BTreeMap::new();
        for module in self.modules() {
            let (Some(a), Some(b)) = (variable(&format!("{module}{FIRST}")), variable(&format!("{module}{SECOND}")))
            else {
                continue;
            };
            let seed = seeded(self.config.seed, &[b"dropout", module.as_bytes()]);
            let dropout = (dropout > 0.0).then(|| Dropout::new(dropout, seed, step.clone()));
            let update = LowRankUpdate { a, b, scale: alpha / rank as f64, b_bias: None, magnitude: None, dropout };
            updates.insert(module.to_owned(), update);
        }
        let replaced: BTreeSet<String> = self.replaced().map(|(name, _)| name.to_owned()).collect();
        let replaced = replaced.into_iter().filter_map(|name| Some((name.clone(), variable(&name)?))).collect();
        Overlay::new(updates, replaced, false)
    }
}

impl TrainableConfig {
    /// Whether the base's tensor `name` trains as a whole.
    fn replaces(&self, name: &str) -> bool {
        self.method.trains_whole(name, self.trains_projector)
    }

    /// Returns the modules that get an update, with the shapes of their weights.
    fn modules(&self, base: &Weights) -> Vec<(String, [usize; 2])> {
        if !self.method.is_low_rank() {
            return Vec::new();
        }
        let of_layers = base.names().filter(|name| name.starts_with(LAYERS));
        of_layers
            .filter_map(|name| {
                let module = name.strip_suffix(".weight")?;
                let shape: [usize; 2] = base.shape(name)?.try_into().ok()?;
                Some((module.to_owned(), shape))
            })
            .collect()
    }
}

impl LoraShape {
    /// Returns the factors of an update from which training continues.
    fn factors(&self, module: &str, update: LowRankUpdate) -> Result<(Tensor, Tensor)> {
        let LowRankUpdate { a, b, scale, b_bias, magnitude, .. } = update;
        ensure!(
            b_bias.is_none() && magnitude.is_none(),
            "the update of `{module}` has a bias or DoRA's magnitudes, which cannot be trained; hint: use plain LoRA"
        );
        let rank = a.dim(0)?;
        ensure!(
            rank == self.rank && (scale - self.alpha / self.rank as f64).abs() < 1e-9,
            "the adapter to continue from has rank {rank} and alpha {} at `{module}`, but this training has rank {} \
             and alpha {}; hint: give --rank {rank} --alpha {}",
            scale * rank as f64,
            self.rank,
            self.alpha,
            scale * rank as f64
        );
        Ok((a, b))
    }

    fn initial(&self, module: &str, n_in: usize, n_out: usize, seed: u64, device: &Device) -> Result<(Tensor, Tensor)> {
        let mut random = fastrand::Rng::with_seed(seeded(seed, &[b"lora_A", module.as_bytes()]));
        // Kaiming's uniform distribution with a = √5 (He et al. 2015), from which PEFT draws A.
        let bound = 1.0 / (n_in as f32).sqrt();
        let values: Vec<f32> = (0..self.rank * n_in).map(|_| (2.0 * random.f32() - 1.0) * bound).collect();
        let a = Tensor::from_vec(values, (self.rank, n_in), device)?;
        let b = Tensor::zeros((n_out, self.rank), candle_core::DType::F32, device)?;
        Ok((a, b))
    }
}

/// Returns a number that depends only on the seed and the parts.
pub(super) fn seeded(seed: u64, parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}
