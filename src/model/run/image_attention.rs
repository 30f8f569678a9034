//! Restricted attention to images, in all passes over a batch of prompts.

use candle_core::{DType, Device, Result, Tensor};

use super::prefix::{Blocks, PromptRow};
use crate::domain::ImageAttention;
use crate::model::layers::{Mask, PassShape, Site, Watch};

/// A watch that restricts attention as an [`ImageAttention`] says, while prompts are read and continued. Rows are padded on the
/// left.
pub struct RestrictedAttention {
    attention: ImageAttention,
    n_prompt_positions: usize,
    /// By row that is still in the batch.
    rows: Vec<Row>,
    shape: PassShape,
    dtype: DType,
    device: Device,
    /// The mask of this pass, once it was built.
    mask: Option<Mask>,
}

#[derive(Clone)]
struct Row {
    n_padding: usize,
    /// The runs that see each other in both directions, padding counted.
    blocks: Blocks,
    /// By position of the prompt: whether it holds a feature of an image.
    is_image: Vec<bool>,
    /// By position of the prompt: whether it is a feature that nothing sees.
    is_hidden: Vec<bool>,
}

impl RestrictedAttention {
    /// Restricts the passes over `prompts`. `None` if nothing is restricted.
    pub fn new(attention: ImageAttention, prompts: &[PromptRow]) -> Option<Self> {
        let first = prompts.first().filter(|_| !attention.is_full())?;
        let n_prompt_positions = prompts.iter().map(PromptRow::n_tokens).max().unwrap_or(0);
        let row = |prompt: &PromptRow| {
            let n_padding = n_prompt_positions - prompt.n_tokens();
            let mut is_image = vec![false; n_prompt_positions];
            prompt.spans.image_positions().into_iter().for_each(|at| is_image[n_padding + at] = true);
            // Until the layer before has chosen, nothing is kept; layer 0 has no layer before.
            let blocks = prompt.blocks.clone().preceded_by(n_padding);
            Row { n_padding, blocks, is_hidden: is_image.clone(), is_image }
        };
        Some(Self {
            attention,
            n_prompt_positions,
            rows: prompts.iter().map(row).collect(),
            shape: PassShape { n_rows: prompts.len(), n_tokens: n_prompt_positions, n_positions: n_prompt_positions },
            dtype: first.embeddings.dtype(),
            device: first.embeddings.device().clone(),
            mask: None,
        })
    }

    /// Whether this pass reads the prompts.
    fn is_prompt(&self) -> bool {
        self.shape.n_positions == self.n_prompt_positions
    }

    fn is_restricted(&self, layer: usize) -> bool {
        match self.attention {
            ImageAttention::Full => false,
            // A new token is no image.
            ImageAttention::SelfOnly(layers) => {
                self.is_prompt() && layers.is_none_or(|[first, end]| (first..end).contains(&layer))
            }
            ImageAttention::Truncated { from_layer, .. } => layer >= from_layer,
        }
    }

    fn build(&self) -> Result<Mask> {
        let PassShape { n_rows, n_tokens, n_positions } = self.shape;
        let n_before = n_positions - n_tokens;
        let is_truncated = matches!(self.attention, ImageAttention::Truncated { .. });
        let visible = |row: usize, query: usize, key: usize| {
            let (row, query) = (&self.rows[row], n_before + query);
            let is_seen = key >= row.n_padding && key < row.blocks.end_of(query);
            let of = |flags: &[bool], at: usize| flags.get(at).copied().unwrap_or(false);
            match is_truncated {
                true => (is_seen && !of(&row.is_hidden, key)) || (key == query && query < row.n_padding),
                false => key == query || (is_seen && !of(&row.is_image, query)),
            }
        };
        Mask::of([n_rows, n_tokens, n_positions], self.dtype, &self.device, visible)
    }
}

impl Watch for RestrictedAttention {
    fn begins(&mut self, shape: PassShape) {
        (self.shape, self.mask) = (shape, None);
    }

    fn visits(&self, _: Site, _: usize) -> bool {
        false
    }

    fn wants_weights(&self, layer: usize) -> bool {
        matches!(self.attention, ImageAttention::Truncated { from_layer, n_kept } if layer + 1 == from_layer && n_kept > 0)
    }

    fn weights(&mut self, _: usize, probabilities: &Tensor) -> Result<()> {
        let ImageAttention::Truncated { n_kept, .. } = self.attention else { return Ok(()) };
        if !self.is_prompt() {
            return Ok(());
        }
        let n_queries = probabilities.dim(2)?;
        let last = probabilities.narrow(2, n_queries - 1, 1)?.squeeze(2)?.mean(1)?.to_vec2::<f32>()?; // (batch, positions)
        for (row, weights) in self.rows.iter_mut().zip(&last) {
            let mut images: Vec<usize> = (0..row.is_image.len()).filter(|&at| row.is_image[at]).collect();
            // The sort is stable, so that the first of equal positions is kept.
            images.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
            images.into_iter().take(n_kept).for_each(|at| row.is_hidden[at] = false);
        }
        Ok(())
    }

    fn mask(&mut self, layer: usize) -> Result<Option<Mask>> {
        if !self.is_restricted(layer) {
            return Ok(None);
        }
        if self.mask.is_none() {
            self.mask = Some(self.build()?);
        }
        Ok(self.mask.clone())
    }

    fn keeps(&mut self, rows: &[u32]) {
        self.rows = rows.iter().map(|&row| self.rows[row as usize].clone()).collect();
    }
}

#[cfg(test)]
mod tests;
