//! Hands a family its tensors by name, under a prefix.

use anyhow::Result;
use candle_core::Tensor;

use crate::model::Placement;
use crate::model::weights::Weights;

/// A view of [`Weights`] under a name prefix; every tensor comes out in the placement's type and device.
pub struct Loader<'a> {
    weights: &'a mut Weights,
    placement: &'a Placement,
    prefix: String,
}

impl<'a> Loader<'a> {
    /// The whole checkpoint.
    pub fn new(weights: &'a mut Weights, placement: &'a Placement) -> Self {
        Self { weights, placement, prefix: String::new() }
    }

    /// The part below `name`.
    pub fn at(&mut self, name: &str) -> Loader<'_> {
        let prefix = self.path(name);
        Loader { weights: self.weights, placement: self.placement, prefix }
    }

    /// The tensor `name` of exactly `shape`; an error names it where it is missing or differs.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let path = self.path(name);
        self.weights.take(&path, shape, self.placement.dtype, &self.placement.device)
    }

    /// The same, where the checkpoint may lack it.
    pub fn optional(&mut self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        if self.contains(name) { self.tensor(name, shape).map(Some) } else { Ok(None) }
    }

    /// Whether the checkpoint has `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.weights.contains(&self.path(name))
    }

    /// The shape of `name` as stored.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.weights.shape(&self.path(name))
    }

    /// Where tensors go.
    pub fn placement(&self) -> &Placement {
        self.placement
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}
