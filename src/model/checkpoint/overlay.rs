//! The changes of an adapter to a base model, as tensors by canonical name. Layers take them in this form, whether the
//! adapter was read from a folder or is being trained.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use candle_core::{DType, Tensor};

use crate::domain::MergedType;
use crate::model::layers::{Dropout, PromptEncoder};

/// The name under which an adapter replaces "no virtual tokens" with its own, `(tokens, hidden)`.
pub const VIRTUAL_TOKENS: &str = "language_model.virtual_tokens";
/// The same for virtual keys and values of all layers, `(positions, layers * 2 * key heads * head size)`.
pub const VIRTUAL_KEYS: &str = "language_model.virtual_keys_and_values";

/// A low-rank update of one weight matrix (Hu et al. 2021, equation 3): `W + scale B A`.
#[derive(Clone, Debug)]
pub struct LowRankUpdate {
    /// `(rank, in)`, or `(rank, vocabulary)` for an embedding.
    pub a: Tensor,
    /// `(out, rank)`.
    pub b: Tensor,
    /// `alpha / rank`, or `alpha / sqrt(rank)`.
    pub scale: f64,
    /// A bias `(out)` added to the product's output (PEFT's `lora_bias`).
    pub b_bias: Option<Tensor>,
    /// The rows' lengths of DoRA, `(out)` (Liu et al. 2024, equation 5).
    pub magnitude: Option<Tensor>,
    /// Dropout of the update's input, only while training.
    pub dropout: Option<Dropout>,
}

impl LowRankUpdate {
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        [&self.a, &self.b].into_iter().chain(&self.b_bias).chain(&self.magnitude)
    }
}

/// Returns `tensor` after a conversion to `dtype` and back.
pub fn rounded(tensor: &Tensor, dtype: Option<DType>) -> candle_core::Result<Tensor> {
    match dtype {
        Some(dtype) => tensor.to_dtype(dtype)?.to_dtype(tensor.dtype()),
        None => Ok(tensor.clone()),
    }
}

/// Updates and replacements. Each must be taken once by its layer.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    updates: BTreeMap<String, LowRankUpdate>,
    replaced: BTreeMap<String, Tensor>,
    /// The replaced tensors that are copies for one module. Other modules may share the base's tensor.
    copies: BTreeSet<String>,
    is_merged: bool,
    /// The type to which merged and replaced weights are rounded, if that is not the compute type.
    rounded_to: Option<DType>,
    /// What its virtual tokens are computed from, if they train so.
    encoder: Option<PromptEncoder>,
    /// Whether gradients flow to one of its tensors.
    trains: bool,
}

impl Overlay {
    /// `updates` are by module (`language_model.layers.0.self_attn.q_proj`), `replaced` by tensor (`….weight`). If
    /// `is_merged`, updates are added to the weights when they are read, and not computed separately.
    pub fn new(updates: BTreeMap<String, LowRankUpdate>, replaced: BTreeMap<String, Tensor>, is_merged: bool) -> Self {
        let of_updates = updates.values().flat_map(LowRankUpdate::tensors);
        let trains = of_updates.chain(replaced.values()).any(Tensor::track_op);
        Self { updates, replaced, copies: BTreeSet::new(), is_merged, rounded_to: None, encoder: None, trains }
    }

    /// Adds what virtual tokens are computed from.
    pub fn with_encoder(self, encoder: PromptEncoder) -> Self {
        let trains = self.trains || encoder.tensors().any(Tensor::track_op);
        Self { encoder: Some(encoder), trains, ..self }
    }

    /// Takes what virtual tokens are computed from, if there is something.
    pub fn take_encoder(&mut self) -> Option<PromptEncoder> {
        self.encoder.take()
    }

    /// Marks the replaced tensors `copies` as copies for their module only. Another module that shares the base's
    /// tensor keeps it.
    pub fn with_copies(self, copies: BTreeSet<String>) -> Self {
        Self { copies, ..self }
    }

    /// Rounds merged and replaced weights, as if they were stored in `merged_as`.
    ///
    /// # Errors
    /// A tensor cannot be converted.
    pub fn rounded_to(self, merged_as: MergedType) -> Result<Self> {
        let dtype = match merged_as {
            MergedType::F32 => DType::F32,
            MergedType::Bf16 => DType::BF16,
            MergedType::F16 => DType::F16,
        };
        let round = |(name, tensor): (String, Tensor)| Ok((name, rounded(&tensor, Some(dtype))?));
        let replaced = self.replaced.into_iter().map(round).collect::<Result<_>>()?;
        Ok(Self { replaced, rounded_to: Some(dtype), ..self })
    }

    /// The type to which merged weights are rounded, if any.
    pub fn merged_type(&self) -> Option<DType> {
        self.rounded_to
    }

    /// Returns whether the replacement of the base's tensor `name` is only for its module.
    pub fn is_copy(&self, name: &str) -> bool {
        self.copies.contains(name)
    }

    /// Returns whether it updates `module` or replaces its weight.
    pub fn touches(&self, module: &str) -> bool {
        self.updates.contains_key(module) || self.replaces(&format!("{module}.weight"))
    }

    /// Returns whether updates are added to the weights.
    pub fn is_merged(&self) -> bool {
        self.is_merged
    }

    /// Returns whether gradients flow to one of its tensors. The model under it must then be differentiable.
    pub fn trains(&self) -> bool {
        self.trains
    }

    /// Lists the updates by module.
    pub fn updates(&self) -> impl Iterator<Item = (&str, &LowRankUpdate)> {
        self.updates.iter().map(|(module, update)| (module.as_str(), update))
    }

    /// Lists the replacements by tensor.
    pub fn replacements(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.replaced.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Takes the update of `module`, if it has one.
    pub fn take_update(&mut self, module: &str) -> Option<LowRankUpdate> {
        self.updates.remove(module)
    }

    /// Returns whether the base's tensor `name` is replaced.
    pub fn replaces(&self, name: &str) -> bool {
        self.replaced.contains_key(name)
    }

    /// Takes the replacement of the base's tensor `name`, if there is one.
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

    /// Takes the replacement `name` of any shape, if there is one.
    pub fn take_replaced_whole(&mut self, name: &str) -> Option<Tensor> {
        self.replaced.remove(name)
    }

    /// Asserts that every update and replacement was taken.
    pub fn finish(&self) -> Result<()> {
        ensure!(self.encoder.is_none(), "the prompt encoder has no place in the model");
        let left: Vec<&str> = self.updates.keys().chain(self.replaced.keys()).map(String::as_str).collect();
        let Some(first) = left.first() else { return Ok(()) };
        bail!(
            "{} parts of the adapter have no place in the model, the first is `{first}`; hint: it is an adapter of \
             another base, or of a part that this family computes otherwise",
            left.len()
        )
    }
}
