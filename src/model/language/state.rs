//! The caches of the positions that a language model has read.

use candle_core::{Result, Tensor};

use crate::model::layers::KvCache;

/// Keys and values of a batch, by layer.
#[derive(Default)]
pub struct DecoderState {
    /// For the tokens that were read, one per layer that attends to them.
    pub own: Vec<KvCache>,
    /// For inputs other than the tokens (an encoder's output, features of images), one per layer that attends to them.
    /// They are written once and do not grow with tokens.
    pub cross: Vec<KvCache>,
    /// What is added to the scores of the other inputs, `(batch, 1, 1, positions)`: it hides padding.
    pub cross_added: Option<Tensor>,
    /// The positions of the tokens that were read, for models that attend by distance. Others leave it empty.
    pub positions: Vec<u32>,
}

impl DecoderState {
    /// Empty caches of `n_layers` layers for `capacity` positions, without inputs other than tokens.
    pub fn new(n_layers: usize, capacity: usize) -> Self {
        Self { own: (0..n_layers).map(|_| KvCache::new(capacity)).collect(), ..Self::default() }
    }

    /// The number of positions held.
    pub fn n_positions(&self) -> usize {
        self.own.first().map_or(0, KvCache::n_positions)
    }

    /// Returns a state for `capacity` positions of `batch` rows, each of which begins with the only row of this one.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn begun(&self, batch: usize, capacity: usize) -> Result<Self> {
        let own = self.own.iter().map(|cache| cache.begun(batch, capacity)).collect::<Result<_>>()?;
        let cross = self.cross.iter().map(|cache| cache.begun(batch, cache.n_positions())).collect::<Result<_>>()?;
        let cross_added = match &self.cross_added {
            Some(added) => Some(added.repeat((batch, 1, 1, 1))?),
            None => None,
        };
        Ok(Self { own, cross, cross_added, positions: self.positions.clone() })
    }

    /// Removes all tokens after the first `n_positions`.
    pub fn truncate(&mut self, n_positions: usize) {
        self.own.iter_mut().for_each(|cache| cache.truncate(n_positions));
        self.positions.truncate(n_positions);
    }

    /// Keeps only the rows of the batch listed in `rows` (u32), in that order.
    ///
    /// # Errors
    /// A row does not exist.
    pub fn keep_rows(&mut self, rows: &Tensor) -> Result<()> {
        if let Some(added) = &mut self.cross_added {
            *added = added.index_select(rows, 0)?;
        }
        self.own.iter_mut().chain(&mut self.cross).try_for_each(|cache| cache.keep_rows(rows))
    }
}
