//! Token embeddings, with the adapter's update if there is one.

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::Loader;
use super::linear::check_shapes;
use crate::model::checkpoint::overlay::{LowRankUpdate, rounded};

/// A table of embeddings.
pub struct Embedding {
    weight: Tensor, // (vocabulary, hidden), in the stored type if that is narrower than `dtype`
    dtype: DType,
    update: Option<TokenUpdate>,
}

/// The update of an embedding: `A^T` `(vocabulary, rank)`, `B^T` `(rank, hidden)`.
struct TokenUpdate {
    a: Tensor,
    b: Tensor,
    scale: f64,
}

impl Embedding {
    /// Reads `name.weight` `(n_tokens, size)`.
    pub fn load(loader: &mut Loader, name: &str, n_tokens: usize, size: usize) -> Result<Self> {
        let mut here = loader.at(name);
        let weight = here.tensor_as_stored("weight", &[n_tokens, size])?;
        Self::updated(&mut here, weight, &[n_tokens, size])
    }

    /// Builds the table from a tensor that was read at `here`, with the adapter's update of `here`.
    pub(super) fn updated(here: &mut Loader, weight: Tensor, shape: &[usize; 2]) -> Result<Self> {
        let dtype = here.placement().dtype;
        let Some(update) = here.take_update() else {
            return Ok(Self { weight, dtype, update: None });
        };
        check_update(&update, shape, here.prefix())?;
        let LowRankUpdate { a, b, scale, .. } = update;
        let update = TokenUpdate { a: a.t()?.contiguous()?, b: b.t()?.contiguous()?, scale };
        if here.is_merged() {
            let added = (update.a.matmul(&update.b)? * scale)?;
            let sum = (weight.to_dtype(dtype)? + added)?;
            return Ok(Self { weight: rounded(&sum, here.merged_type())?, dtype, update: None });
        }
        Ok(Self { weight, dtype, update: Some(update) })
    }

    /// Returns the table for a tied head, in its stored type if that is narrower than the placement's. It excludes an
    /// unmerged update, which belongs only to the embedding, as in PEFT.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Returns the embeddings `(tokens, hidden)` of ids.
    pub fn forward(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let ids = Tensor::new(ids, self.weight.device())?;
        let rows = self.weight.index_select(&ids, 0)?.to_dtype(self.dtype)?;
        match &self.update {
            Some(TokenUpdate { a, b, scale }) => rows + (a.index_select(&ids, 0)?.matmul(b)? * *scale)?,
            None => Ok(rows),
        }
    }
}

/// Fails if `update` is not of a table `(n_tokens, size)`.
pub(super) fn check_update(update: &LowRankUpdate, [n_tokens, size]: &[usize; 2], module: &str) -> Result<()> {
    let LowRankUpdate { a, b, scale, .. } = update;
    let (a, b, scale) = (a.clone(), b.clone(), *scale);
    let shapes = LowRankUpdate { a, b, scale, b_bias: None, magnitude: None, dropout: None };
    check_shapes(&shapes, [*size, *n_tokens], module)
}
