//! The projector of Qwen's models: it turns the patches of a square into one position of the language model.

use anyhow::Result;
use candle_core::Tensor;

use super::{Norm, NormKind};
use crate::model::layers::{Activation, Loader, Mlp};

/// The configuration of a merger.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct MergerConfig {
    /// Width of the tower.
    pub size: usize,
    /// Patches along a side of a merged patch.
    pub merge_size: usize,
    /// Width of the language model.
    pub n_out: usize,
    /// The kind of norm.
    pub norm: NormKind,
    /// Names of the norm and of the two maps.
    pub names: [&'static str; 3],
}

/// A norm, and two maps with GELU between them.
pub struct PatchMerger {
    norm: Norm,
    mlp: Mlp,
    n_merged: usize,
    normalises_merged: bool,
}

impl PatchMerger {
    /// Reads a merger at `loader`. `normalises_merged` if its norm spans a merged patch instead of each patch.
    pub fn load(loader: &mut Loader, config: &MergerConfig, normalises_merged: bool) -> Result<Self> {
        let n_merged = config.size * config.merge_size.pow(2);
        let [norm, first, second] = config.names;
        let n_normalised = if normalises_merged { n_merged } else { config.size };
        Ok(Self {
            norm: Norm::load(loader, norm, n_normalised, config.norm)?,
            mlp: Mlp::load_named(loader, [first, second], [n_merged, n_merged, config.n_out], Activation::Gelu)?,
            n_merged,
            normalises_merged,
        })
    }

    /// Maps `(patches, size)`, with the patches of a merged patch consecutive, to `(merged patches, out)`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let merged = |x: &Tensor| x.reshape(((), self.n_merged));
        let x = match self.normalises_merged {
            true => self.norm.forward(&merged(x)?)?,
            false => merged(&self.norm.forward(x)?)?,
        };
        self.mlp.forward(&x)
    }
}
