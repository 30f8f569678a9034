//! Images beside the text of a prompt, for models whose layers attend to them.

use candle_core::{Result, Tensor};

use super::prefix::{Padding, PromptRow};
use crate::model::language::{Media, View};

/// The features of a prompt's images, and what each token sees of them.
#[derive(Clone, Debug)]
pub struct RowMedia {
    /// `(positions, width)`.
    pub features: Tensor,
    /// By token.
    pub views: Vec<View>,
}

impl RowMedia {
    /// Adds `n_tokens` tokens at the end, which see what the last one does.
    pub fn followed_by(mut self, n_tokens: usize) -> Self {
        let last = self.views.last().cloned().unwrap_or(View::NOTHING);
        self.views.extend(std::iter::repeat_n(last, n_tokens));
        self
    }

    /// Adds `n_tokens` tokens at the start, which see what the first one does.
    pub fn preceded_by(mut self, n_tokens: usize) -> Self {
        let first = self.views.first().cloned().unwrap_or(View::NOTHING);
        self.views.splice(0..0, std::iter::repeat_n(first, n_tokens));
        self
    }

    /// The same without the first `n_tokens` tokens.
    pub fn after(&self, n_tokens: usize) -> Self {
        Self { features: self.features.clone(), views: self.views[n_tokens.min(self.views.len())..].to_vec() }
    }

    /// Builds the media of a batch whose rows are padded to `n_tokens`. `None` if no row has images.
    pub(super) fn batch(rows: &[PromptRow], n_tokens: usize, padding: Padding) -> Result<Option<Media>> {
        let n_positions = rows.iter().filter_map(|row| row.media.as_ref()?.features.dim(0).ok()).max();
        let first = rows.iter().find_map(|row| row.media.as_ref());
        let (Some(n_positions), Some(first)) = (n_positions, first) else { return Ok(None) };
        let none =
            Tensor::zeros((n_positions, first.features.dim(1)?), first.features.dtype(), first.features.device())?;
        let (mut features, mut views) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len() * n_tokens));
        for row in rows {
            let own = row.media.as_ref().map_or(&none, |media| &media.features);
            features.push(own.pad_with_zeros(0, 0, n_positions - own.dim(0)?)?);
            let missing = || std::iter::repeat_n(View::NOTHING, n_tokens - row.n_tokens());
            if padding == Padding::Left {
                views.extend(missing());
            }
            match &row.media {
                Some(media) => views.extend(media.views.iter().cloned()),
                None => views.extend(std::iter::repeat_n(View::NOTHING, row.n_tokens())),
            }
            if padding == Padding::Right {
                views.extend(missing());
            }
        }
        Ok(Some(Media { features: Tensor::stack(&features, 0)?, views }))
    }
}
