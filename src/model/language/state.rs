//! The caches of the positions that a language model has read.

use candle_core::{Result, Tensor};

use super::View;
use crate::model::layers::KvCache;

/// Keys and values of a batch, by layer.
#[derive(Default)]
pub struct DecoderState {
    /// For the tokens that were read, one per layer that attends to them.
    pub own: Vec<KvCache>,
    /// For inputs other than the tokens (an encoder's output, features of images), one per layer that attends to them.
    /// They are written once and do not grow with tokens.
    pub cross: Vec<KvCache>,
    /// By row, what the tokens to come see of the images beside the text. Empty if there are none.
    pub views: Vec<View>,
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
        // A layer that attends only to images holds no tokens.
        self.own.iter().map(KvCache::n_positions).max().unwrap_or(0)
    }

    /// Returns a state for `capacity` positions of `batch` rows, each of which begins with the only row of this one.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn begun(&self, batch: usize, capacity: usize) -> Result<Self> {
        let own = self.own.iter().map(|cache| cache.begun(batch, capacity)).collect::<Result<_>>()?;
        let cross = self.cross.iter().map(|cache| cache.begun(batch, cache.n_positions())).collect::<Result<_>>()?;
        let views = self.views.iter().flat_map(|view| std::iter::repeat_n(view.clone(), batch)).collect();
        let cross_added = match &self.cross_added {
            Some(added) => Some(added.repeat((batch, 1, 1, 1))?),
            None => None,
        };
        Ok(Self { own, cross, views, cross_added, positions: self.positions.clone() })
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
        if !self.views.is_empty() {
            self.views = rows.to_vec1::<u32>()?.iter().map(|&row| self.views[row as usize].clone()).collect();
        }
        if let Some(added) = &mut self.cross_added {
            *added = added.index_select(rows, 0)?;
        }
        self.own.iter_mut().chain(&mut self.cross).try_for_each(|cache| cache.keep_rows(rows))
    }
}
