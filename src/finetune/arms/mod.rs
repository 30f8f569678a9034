//! The arms: what trains, how it starts, how it takes part in the forward pass, and what it leaves.
//!
//! An arm is a file and a line in [`ARMS`]. The loop and the optimizer know none of them: they see named tensors.

mod full;
mod linear;
mod lora;
mod moca;
mod mof;
mod p_tuning;
mod prefix;
mod prompt;
mod targets;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use serde_json::{Map, Value};

use super::seeded;
use super::trainable::TrainableConfig;
use crate::domain;
use crate::domain::Method;
use crate::model::checkpoint::overlay::{LowRankUpdate, Overlay};
use crate::model::checkpoint::weights::{NamedTensor, Weights};
use crate::model::layers::{PromptEncoder, StepCounter};
use crate::record::OutputFile;

pub(super) use lora::{FIRST, SECOND};
pub use p_tuning::ENCODER_FILE;

/// The prefix of the canonical names of a projector's tensors.
pub(super) const PROJECTOR: &str = "multi_modal_projector.";
/// The prefix of the canonical names of the language model's layers.
const LAYERS: &str = "language_model.layers.";

/// A way to train a part of a model.
pub trait Arm: Sync {
    /// Which arm it is.
    fn arm(&self) -> domain::Arm;

    /// The numbers of published recipes, and those for a miniature.
    fn recipe(&self) -> Recipe;

    /// Returns the tensors that train with their first values: those of `start`, or the base's, or drawn from the seed.
    ///
    /// # Errors
    /// `start` has a part of another shape, or nothing is left to train.
    fn parameters(&self, base: &Base<'_>, config: &TrainableConfig, start: &mut Start) -> Result<Vec<NamedTensor>>;

    /// Adds its tensors, the variables themselves, to what changes the base.
    ///
    /// # Errors
    /// A device failure.
    fn put(&self, variables: &Variables<'_>, config: &TrainableConfig, changes: &mut Changes) -> Result<()>;

    /// Adds what it leaves on disk, given the values of all variables.
    ///
    /// # Errors
    /// A tensor is missing.
    fn leave(
        &self,
        variables: &Variables<'_>,
        base: &Base<'_>,
        config: &TrainableConfig,
        left: &mut Left,
    ) -> Result<()>;
}

/// All arms, in the order of [`domain::Arm`].
pub const ARMS: &[&dyn Arm] = &[
    &linear::Linear,
    &lora::Lora,
    &full::Full,
    &prompt::Prompt,
    &p_tuning::PTuning,
    &prefix::Prefix,
    &moca::Moca,
    &mof::Mof,
];

/// Returns the arms of `method`.
pub fn of(method: Method) -> impl Iterator<Item = &'static dyn Arm> {
    ARMS.iter().copied().filter(move |arm| method.has(arm.arm()))
}

/// Refuses targets that are no regular expressions.
///
/// # Errors
/// They are none.
pub fn check_targets(config: &TrainableConfig) -> Result<()> {
    for targets in [&config.settings.lora_targets, &config.settings.full_targets] {
        targets::Chosen::new(targets, config.settings.n_frozen_layers)?;
    }
    Ok(())
}

/// The numbers with which an arm trains unless others are given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Samples per optimizer step.
    pub batch_size: usize,
    /// The learning rate for a miniature of a few million parameters.
    pub miniature_learning_rate: f64,
    /// The epochs for a miniature.
    pub miniature_n_epochs: usize,
}

/// What arms read of the base.
pub struct Base<'a> {
    /// Its tensors by canonical name.
    pub weights: &'a Weights,
    /// The heads of queries, and of keys and values.
    pub n_heads: [usize; 2],
    /// The number of layers of the language model.
    pub n_layers: usize,
    /// Returns the tokens of a text, the begin token first.
    pub tokenize: &'a dyn Fn(&str) -> Result<Vec<u32>>,
    /// Where tensors are placed.
    pub device: &'a Device,
}

impl Base<'_> {
    /// The name of the embedding's tensor.
    const EMBEDDING: &'static str = "language_model.embed_tokens.weight";

    /// Rows and width of the embedding.
    fn embedding_shape(&self) -> Result<[usize; 2]> {
        let shape = self.weights.shape(Self::EMBEDDING).context("the base has no token embedding")?;
        shape.try_into().ok().context("the token embedding is a matrix")
    }

    /// The width of the language model.
    pub fn size(&self) -> Result<usize> {
        Ok(self.embedding_shape()?[1])
    }

    /// Returns the embeddings `(ids, hidden)` of tokens, as stored.
    fn embedded(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let [n_tokens, size] = self.embedding_shape()?;
        let table = self.weights.values(Self::EMBEDDING)?;
        let row = |&id: &u32| table.chunks_exact(size).nth(id as usize);
        let rows: Option<Vec<&[f32]>> = ids.iter().map(row).collect();
        Ok(rows.with_context(|| format!("a token is not among the {n_tokens} of the vocabulary"))?.concat())
    }

    /// Returns the base's tensor `name`.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let shape = self.weights.shape(name).context("a listed tensor has a shape")?;
        Ok(Tensor::from_vec(self.weights.values(name)?, shape, self.device)?)
    }
}

/// From what a training starts: an adapter, and what adapters do not hold.
#[derive(Default)]
pub struct Start {
    /// The adapter.
    pub overlay: Overlay,
    /// The tensors of a prompt encoder, by PEFT's names.
    pub encoder: BTreeMap<String, Tensor>,
}

/// The trained tensors by name.
pub struct Variables<'a> {
    /// Sorted by name.
    pub all: &'a BTreeMap<&'a str, Tensor>,
    /// The step counter of dropouts.
    pub step: &'a StepCounter,
}

impl Variables<'_> {
    /// Returns the tensor `name`.
    fn get(&self, name: &str) -> Result<Tensor> {
        self.all.get(name).cloned().with_context(|| format!("`{name}` does not train"))
    }

    /// Lists the tensors whose names `is_own` accepts.
    fn where_name<'b>(&'b self, is_own: impl Fn(&str) -> bool + 'b) -> impl Iterator<Item = NamedTensor> + 'b {
        let own = self.all.iter().filter(move |(name, _)| is_own(name));
        own.map(|(name, tensor)| ((*name).to_owned(), tensor.clone()))
    }
}

/// What the variables change of the base.
#[derive(Default)]
pub struct Changes {
    /// Low-rank updates by module.
    pub updates: BTreeMap<String, LowRankUpdate>,
    /// Replaced tensors by name.
    pub replaced: BTreeMap<String, Tensor>,
    /// What virtual tokens are computed from.
    pub encoder: Option<PromptEncoder>,
}

impl Changes {
    /// Returns them as an overlay.
    pub fn into_overlay(self) -> Overlay {
        let overlay = Overlay::new(self.updates, self.replaced, false);
        match self.encoder {
            Some(encoder) => overlay.with_encoder(encoder),
            None => overlay,
        }
    }
}

/// What the arms of a method leave.
#[derive(Default)]
pub struct Left {
    /// Whether it is a whole checkpoint.
    pub is_checkpoint: bool,
    /// Tensors that replace the base's, by canonical name.
    pub whole: Vec<NamedTensor>,
    /// The two factors of updates, by module.
    pub updates: Vec<(String, [Tensor; 2])>,
    /// Virtual tokens.
    pub virtual_tokens: Option<LeftVirtualTokens>,
    /// The calibration of images in all layers, by canonical name.
    pub calibration: Vec<NamedTensor>,
    /// The projector of a second tower, by canonical name.
    pub second_projector: Vec<NamedTensor>,
    /// Files beside the adapter.
    pub files: Vec<OutputFile>,
}

/// Virtual tokens on disk.
pub struct LeftVirtualTokens {
    /// PEFT's name of the kind.
    pub peft_type: &'static str,
    /// What PEFT saves.
    pub rows: Tensor,
    /// The fields of `adapter_config.json` that only this kind has.
    pub config: Map<String, Value>,
}

/// Returns the configuration of PEFT that all kinds of prompt learning share, with `heads` heads of width `token_dim / heads`.
fn prompt_config(base: &Base<'_>, n_tokens: usize, token_dim: usize, heads: usize) -> Map<String, Value> {
    let fields = [
        ("num_virtual_tokens", n_tokens),
        ("token_dim", token_dim),
        ("num_attention_heads", heads),
        ("num_layers", base.n_layers),
        ("num_transformer_submodules", 1),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect()
}

/// Returns normally distributed numbers, which depend only on the seed and `what`.
fn normal(seed: u64, what: &[u8], n: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seeded(seed, &[b"normal", what]));
    // Box and Muller 1958. The logarithm of 0 is avoided.
    let mut pair = || {
        let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
        let angle = std::f64::consts::TAU * random.f64();
        [radius * angle.cos(), radius * angle.sin()]
    };
    (0..n.div_ceil(2)).flat_map(|_| pair()).map(|value| value as f32).take(n).collect()
}

/// Returns numbers uniform in ±`bound`, which depend only on the seed and `what`.
fn uniform(seed: u64, what: &[&[u8]], n: usize, bound: f32) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seeded(seed, what));
    (0..n).map(|_| (2.0 * random.f32() - 1.0) * bound).collect()
}

#[cfg(test)]
mod tests;
