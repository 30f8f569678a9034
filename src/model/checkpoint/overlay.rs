//! What an adapter makes of a base model, as tensors by canonical name: the form in which layers take it, whether it
//! was read from a folder or is being trained.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;

use crate::model::layers::Dropout;

/// A low-rank update of one weight matrix (Hu et al. 2021, equation 3): `W + scale B A`.
#[derive(Clone, Debug)]
pub struct LowRankUpdate {
    /// `(rank, in)`; of an embedding, `(rank, vocabulary)`.
    pub a: Tensor,
    /// `(out, rank)`.
    pub b: Tensor,
    /// `alpha / rank`, or `alpha / sqrt(rank)`.
    pub scale: f64,
    /// What is added to the product's output, `(out)` (PEFT's `lora_bias`).
    pub b_bias: Option<Tensor>,
    /// The rows' lengths of DoRA, `(out)` (Liu et al. 2024, equation 5).
    pub magnitude: Option<Tensor>,
    /// Dropout of the update's input; only while training.
    pub dropout: Option<Dropout>,
}

impl LowRankUpdate {
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        [&self.a, &self.b].into_iter().chain(&self.b_bias).chain(&self.magnitude)
    }
}

/// Updates and replacements, each to be taken once by the layer that it belongs to.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    updates: BTreeMap<String, LowRankUpdate>,
    replaced: BTreeMap<String, Tensor>,
    /// The replaced tensors that are copies for one module, where others may share the base's.
    copies: BTreeSet<String>,
    is_merged: bool,
    /// Whether gradients flow to one of its tensors.
    trains: bool,
}

impl Overlay {
    /// `updates` by module (`language_model.layers.0.self_attn.q_proj`), `replaced` by tensor (`….weight`). Where
    /// `is_merged`, updates are added to the weights when they are read, instead of being computed beside them.
    pub fn new(updates: BTreeMap<String, LowRankUpdate>, replaced: BTreeMap<String, Tensor>, is_merged: bool) -> Self {
        let of_updates = updates.values().flat_map(LowRankUpdate::tensors);
        let trains = of_updates.chain(replaced.values()).any(Tensor::track_op);
        Self { updates, replaced, copies: BTreeSet::new(), is_merged, trains }
    }

    /// The same, where the replaced tensors `copies` are copies for their module alone: another module that shares the base's
    /// keeps it.
    pub fn with_copies(self, copies: BTreeSet<String>) -> Self {
        Self { copies, ..self }
    }

    /// Whether what stands for the base's tensor `name` does so for its module alone.
    pub fn is_copy(&self, name: &str) -> bool {
        self.copies.contains(name)
    }

    /// Whether it updates `module` or replaces its weight.
    pub fn touches(&self, module: &str) -> bool {
        self.updates.contains_key(module) || self.replaces(&format!("{module}.weight"))
    }

    /// Whether updates are added to the weights.
    pub fn is_merged(&self) -> bool {
        self.is_merged
    }

    /// Whether gradients flow to one of its tensors, so that the model under it must be differentiable.
    pub fn trains(&self) -> bool {
        self.trains
    }

    /// The update of `module`, if it has one.
    pub fn take_update(&mut self, module: &str) -> Option<LowRankUpdate> {
        self.updates.remove(module)
    }

    /// Whether something stands for the base's tensor `name`.
    pub fn replaces(&self, name: &str) -> bool {
        self.replaced.contains_key(name)
    }

    /// What stands for the base's tensor `name`, if something does.
    pub fn take_replaced(&mut self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let Some(tensor) = self.replaced.remove(name) else { return Ok(None) };
        ensure!(
            tensor.dims() == shape,
            "the adapter's `{name}` has shape {:?}, but the base model's has {shape:?}; hint: it is an adapter of \
             another base",
            tensor.dims()
        );
        Ok(Some(tensor))
    }

    /// Asserts that everything found its place.
    pub fn finish(&self) -> Result<()> {
        let left: Vec<&str> = self.updates.keys().chain(self.replaced.keys()).map(String::as_str).collect();
        let Some(first) = left.first() else { return Ok(()) };
        bail!(
            "{} parts of the adapter have no place in the model, the first is `{first}`; hint: it is an adapter of \
             another base, or of a part that this family computes otherwise",
            left.len()
        )
    }
}
