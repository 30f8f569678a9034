//! What a language model remembers of the positions that it has read.

use candle_core::{Result, Tensor};

use crate::model::layers::KvCache;

/// Keys and values of a batch, by layer.
#[derive(Default)]
pub struct DecoderState {
    /// Of the tokens that were read, one for each layer that attends to them.
    pub own: Vec<KvCache>,
    /// Of what layers attend to beside the tokens (an encoder's output, features of images), one for each such layer.
    /// They are written once and grow with no token; none of the present families has them.
    pub cross: Vec<KvCache>,
}

impl DecoderState {
    /// Empty caches of `n_layers` layers for `capacity` positions, with nothing beside the tokens.
    pub fn new(n_layers: usize, capacity: usize) -> Self {
        Self { own: (0..n_layers).map(|_| KvCache::new(capacity)).collect(), cross: Vec::new() }
    }

    /// Positions held.
    pub fn n_positions(&self) -> usize {
        self.own.first().map_or(0, KvCache::n_positions)
    }

    /// The state for `capacity` positions of `batch` rows, each of which begins as this one's only row.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn begun(&self, batch: usize, capacity: usize) -> Result<Self> {
        let own = self.own.iter().map(|cache| cache.begun(batch, capacity)).collect::<Result<_>>()?;
        let cross = self.cross.iter().map(|cache| cache.begun(batch, cache.n_positions())).collect::<Result<_>>()?;
        Ok(Self { own, cross })
    }

    /// Forgets all tokens but the first `n_positions`.
    pub fn truncate(&mut self, n_positions: usize) {
        self.own.iter_mut().for_each(|cache| cache.truncate(n_positions));
    }

    /// Keeps only the rows of the batch named by `rows` (u32), in that order.
    ///
    /// # Errors
    /// There is no such row.
    pub fn keep_rows(&mut self, rows: &Tensor) -> Result<()> {
        self.own.iter_mut().chain(&mut self.cross).try_for_each(|cache| cache.keep_rows(rows))
    }
}
