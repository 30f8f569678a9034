//! Gives a family its tensors by name, under a prefix.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::virtual_tokens::checked_width;
use super::{PromptEncoder, fused};
use crate::model::Placement;
use crate::model::checkpoint::overlay::{LowRankUpdate, Overlay};
use crate::model::checkpoint::weights::Weights;
use crate::model::kernels::PackedWeight;

/// A view of [`Weights`], and of the adapter over them, under a name prefix. Every tensor is returned in the
/// placement's type and on its device.
pub struct Loader<'a> {
    weights: &'a mut Weights,
    overlay: Option<&'a mut Overlay>,
    placement: &'a Placement,
    prefix: String,
}

impl<'a> Loader<'a> {
    /// Views the whole checkpoint.
    pub fn new(weights: &'a mut Weights, placement: &'a Placement) -> Self {
        Self { weights, overlay: None, placement, prefix: String::new() }
    }

    /// Views the whole checkpoint with an adapter over it.
    pub fn with_overlay(weights: &'a mut Weights, overlay: &'a mut Overlay, placement: &'a Placement) -> Self {
        Self { weights, overlay: Some(overlay), placement, prefix: String::new() }
    }

    /// Returns the view below `name`.
    pub fn at(&mut self, name: &str) -> Loader<'_> {
        let prefix = self.path(name);
        Loader { weights: self.weights, overlay: self.overlay.as_deref_mut(), placement: self.placement, prefix }
    }

    /// Returns the tensor `name` of exactly `shape`, from the adapter if it replaces the base's. An error names the
    /// tensor if it is missing or differs.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let path = self.path(name);
        if let Some(overlay) = &mut self.overlay
            && let Some(tensor) = overlay.take_replaced(&path, shape)?
        {
            self.weights.pass_over(&path, shape)?;
            return Ok(tensor);
        }
        self.weights.take(&path, shape, self.placement.dtype, &self.placement.device)
    }

    /// Like [`tensor`](Self::tensor), but `None` if checkpoint and adapter both lack it.
    pub fn optional(&mut self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        if self.has(name) { self.tensor(name, shape).map(Some) } else { Ok(None) }
    }

    /// Whether checkpoint or adapter has `name`.
    pub fn has(&self, name: &str) -> bool {
        let is_replaced = self.overlay.as_ref().is_some_and(|overlay| overlay.replaces(&self.path(name)));
        is_replaced || self.contains(name)
    }

    /// Whether layers pack their weights for the kernels: on a CPU, and in training only in f32.
    pub(super) fn packs(&self) -> bool {
        let trains = self.overlay.as_ref().is_some_and(|overlay| overlay.trains());
        self.placement.device.is_cpu() && (!trains || self.placement.dtype == DType::F32)
    }

    /// Returns the weight `name` packed for the kernels and shared by all models of these weights. It keeps its stored
    /// type if that is narrower than the placement's, or is rounded if the placement says so. `None` if weights are not
    /// packed or the adapter replaces the tensor.
    pub(super) fn packed(&mut self, name: &str, shape: &[usize]) -> Result<Option<Arc<PackedWeight>>> {
        let path = self.path(name);
        if !self.packs() || self.overlay.as_ref().is_some_and(|overlay| overlay.replaces(&path)) {
            return Ok(None);
        }
        let pack = if self.placement.rounds(&path, shape) { fused::rounded_to_int8 } else { fused::packed };
        self.weights.take_made(&path, shape, self.placement.dtype, pack).map(Some)
    }

    /// Like [`tensor`](Self::tensor), but keeps the stored type if that is narrower and the tensor is not the
    /// adapter's.
    pub(super) fn tensor_as_stored(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let path = self.path(name);
        if !self.packs() || self.overlay.as_ref().is_some_and(|overlay| overlay.replaces(&path)) {
            return self.tensor(name, shape);
        }
        let tensor = self.weights.take_made(&path, shape, self.placement.dtype, |tensor| Ok(tensor.clone()))?;
        Ok(tensor.as_ref().clone())
    }

    /// Whether the adapter changes the module `name` or replaces its weight.
    pub(super) fn is_touched(&self, name: &str) -> bool {
        let path = self.path(name);
        self.overlay.as_ref().is_some_and(|overlay| overlay.touches(&path))
    }

    /// Whether the checkpoint has one tensor for `name` and `other`: only `name`, or both with equal numbers.
    pub(super) fn is_one_tensor(&self, name: &str, other: &str) -> Result<bool> {
        let [name, other] = [self.path(name), self.path(other)];
        let hash = |name: &str| self.weights.value_hash(name);
        Ok(!self.weights.contains(&other) || hash(&name)? == hash(&other)?)
    }

    /// Returns the adapter's own copy of `name`, if it has one. The base's tensor remains in use elsewhere.
    pub(super) fn take_copy(&mut self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let path = self.path(name);
        match &mut self.overlay {
            Some(overlay) if overlay.is_copy(&path) => overlay.take_replaced(&path, shape),
            _ => Ok(None),
        }
    }

    /// Returns the tensor shared by `name` and `other`; the adapter's if it replaces either name.
    pub(super) fn one_tensor(&mut self, name: &str, other: &str, shape: &[usize]) -> Result<Tensor> {
        let path = self.path(other);
        let of_other = match &mut self.overlay {
            Some(overlay) => overlay.take_replaced(&path, shape)?,
            None => None,
        };
        self.weights.pass_over(&path, shape)?;
        let path = self.path(name);
        match of_other {
            Some(tensor) if !self.overlay.as_ref().is_some_and(|overlay| overlay.replaces(&path)) => {
                self.weights.pass_over(&path, shape)?;
                Ok(tensor)
            }
            _ => self.tensor_as_stored(name, shape),
        }
    }

    /// Takes the adapter's update of the weight at this prefix, if it has one.
    pub fn take_update(&mut self) -> Option<LowRankUpdate> {
        self.overlay.as_mut()?.take_update(&self.prefix)
    }

    /// Takes the adapter's tensor `path` (a whole name) of rows of `width`, if it has one.
    pub(super) fn take_of_any_length(&mut self, path: &str, width: usize) -> Result<Option<Tensor>> {
        let Some(rows) = self.overlay.as_mut().and_then(|overlay| overlay.take_replaced_whole(path)) else {
            return Ok(None);
        };
        checked_width(&rows, width, path)?;
        Ok(Some(rows))
    }

    /// The number of rows of the adapter's tensor `path` (a whole name), if it has one.
    pub(super) fn n_rows_replaced(&self, path: &str) -> Option<usize> {
        let overlay = self.overlay.as_ref()?;
        let (_, tensor) = overlay.replacements().find(|(name, _)| *name == path)?;
        tensor.dims().first().copied()
    }

    /// Takes what the adapter's virtual tokens are computed from, if it has something.
    pub(super) fn take_encoder(&mut self) -> Option<PromptEncoder> {
        self.overlay.as_mut()?.take_encoder()
    }

    /// Counts all tensors at this prefix as taken, because they are already loaded.
    pub fn pass_over_all(&mut self) {
        self.weights.pass_over_all(&format!("{}.", self.prefix));
    }

    /// Whether updates are added to the weights instead of being computed separately.
    pub fn is_merged(&self) -> bool {
        self.overlay.as_ref().is_some_and(|overlay| overlay.is_merged())
    }

    /// The type to which merged weights are rounded, if any.
    pub fn merged_type(&self) -> Option<DType> {
        self.overlay.as_ref().and_then(|overlay| overlay.merged_type())
    }

    /// The prefix of all names.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether the checkpoint has `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.weights.contains(&self.path(name))
    }

    /// The shape of `name` as stored.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.weights.shape(&self.path(name))
    }

    /// Where tensors are placed, and in which type.
    pub fn placement(&self) -> &Placement {
        self.placement
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}
