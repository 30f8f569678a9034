//! Prompts that a language model has read. Generation and label scoring both continue from them.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

pub use super::blocks::Blocks;
pub use super::media::RowMedia;
pub use super::spans::TokenSpans;
use crate::model::language::{DecoderState, LanguageModel, Pass, TokenInput};
use crate::model::layers::{Mask, Watched};

/// An embedded prompt.
#[derive(Clone, Debug)]
pub struct PromptRow {
    /// `(tokens, hidden)`.
    pub embeddings: Tensor,
    /// By token: time, row and column. All three are equal outside two-dimensional images.
    pub positions: Vec<[u32; 3]>,
    /// The position of the token after the prompt.
    pub next_position: usize,
    /// Each `(tokens, hidden)`, zero outside images. Added after the first layers of the language model.
    pub deepstack: Vec<Tensor>,
    /// Images beside the text, for models whose layers attend to them.
    pub media: Option<RowMedia>,
    /// Token ids, with placeholders for an image. Empty if the model is given only embeddings.
    pub ids: Vec<u32>,
    /// The parts of the prompt to which its tokens belong.
    pub spans: TokenSpans,
    /// The runs of tokens that see each other in both directions. Other tokens see only those up to their own.
    pub blocks: Blocks,
    /// The tokens before the first image, which an [`Opening`] may have read. Empty if the prompt was not made from
    /// text.
    pub opening: Vec<u32>,
}

impl PromptRow {
    /// A prompt in which each token takes one position.
    pub fn plain(embeddings: Tensor) -> candle_core::Result<Self> {
        let n_tokens = embeddings.dim(0)?;
        let positions = (0..n_tokens as u32).map(|position| [position; 3]).collect();
        let spans = TokenSpans::of_prompt(n_tokens, false, Vec::new());
        Ok(Self {
            embeddings,
            positions,
            next_position: n_tokens,
            deepstack: Vec::new(),
            media: None,
            ids: Vec::new(),
            spans,
            blocks: Blocks::default(),
            opening: Vec::new(),
        })
    }

    /// Removes the positions of images. The other tokens keep their positions, so that they are read as if no token
    /// could attend to an image in any layer.
    pub fn without_images(self) -> candle_core::Result<Self> {
        let hidden: BTreeSet<usize> = self.spans.image_positions().into_iter().collect();
        if hidden.is_empty() {
            return Ok(self);
        }
        let kept: Vec<u32> = (0..self.n_tokens()).filter(|at| !hidden.contains(at)).map(|at| at as u32).collect();
        let index = Tensor::from_slice(&kept, kept.len(), self.embeddings.device())?;
        let n_bos = self.spans.bos.len();
        let spans =
            TokenSpans { bos: 0..n_bos, system: n_bos..n_bos, ..TokenSpans::of_prompt(kept.len(), false, Vec::new()) };
        let ids = kept.iter().filter_map(|&at| self.ids.get(at as usize).copied()).collect();
        Ok(Self {
            embeddings: self.embeddings.index_select(&index, 0)?,
            positions: kept.iter().map(|&at| self.positions[at as usize]).collect(),
            // They are zero outside images.
            deepstack: Vec::new(),
            media: None,
            ids,
            spans: TokenSpans { user: n_bos..kept.len(), ..spans },
            blocks: self.blocks.kept(|at| !hidden.contains(&at)),
            ..self
        })
    }

    /// Appends an answer's text: embeddings `(tokens, hidden)`.
    pub fn followed_by(self, text: &Tensor) -> candle_core::Result<Self> {
        let n_tokens = text.dim(0)?;
        let mut positions = self.positions;
        positions.extend((self.next_position..self.next_position + n_tokens).map(|position| [position as u32; 3]));
        let deepstack = self.deepstack.iter().map(|added| added.pad_with_zeros(0, 0, n_tokens));
        Ok(Self {
            embeddings: Tensor::cat(&[&self.embeddings, text], 0)?,
            positions,
            next_position: self.next_position + n_tokens,
            deepstack: deepstack.collect::<candle_core::Result<_>>()?,
            media: self.media.map(|media| media.followed_by(n_tokens)),
            ids: self.ids,
            spans: self.spans.answered(n_tokens),
            blocks: self.blocks,
            opening: self.opening,
        })
    }

    /// Puts virtual tokens `(tokens, hidden)` before the prompt. All positions are then counted in one dimension, as in PEFT,
    /// whose models get no positions of their own.
    pub fn preceded_by(self, rows: &Tensor) -> candle_core::Result<Self> {
        let n_virtual = rows.dim(0)?;
        let n_tokens = n_virtual + self.n_tokens();
        let deepstack = self.deepstack.iter().map(|added| added.pad_with_zeros(0, n_virtual, 0));
        Ok(Self {
            embeddings: Tensor::cat(&[&rows.to_dtype(self.embeddings.dtype())?, &self.embeddings], 0)?,
            positions: (0..n_tokens as u32).map(|position| [position; 3]).collect(),
            next_position: n_tokens,
            deepstack: deepstack.collect::<candle_core::Result<_>>()?,
            media: self.media.map(|media| media.preceded_by(n_virtual)),
            ids: self.ids,
            spans: self.spans.preceded_by(n_virtual),
            blocks: self.blocks.preceded_by(n_virtual),
            // No text is before the virtual tokens, so none can have been read.
            opening: Vec::new(),
        })
    }

    /// Moves the prompt by `n_positions` positions, which layers hold themselves.
    pub fn moved_by(self, n_positions: usize) -> Self {
        let positions = self.positions.iter().map(|position| position.map(|axis| axis + n_positions as u32)).collect();
        Self { positions, next_position: self.next_position + n_positions, opening: Vec::new(), ..self }
    }

    /// Returns the part after the first `n_tokens` tokens.
    fn after(&self, n_tokens: usize) -> candle_core::Result<Self> {
        let rest = |rows: &Tensor| rows.narrow(0, n_tokens, self.n_tokens() - n_tokens);
        Ok(Self {
            embeddings: rest(&self.embeddings)?,
            positions: self.positions[n_tokens..].to_vec(),
            next_position: self.next_position,
            deepstack: self.deepstack.iter().map(rest).collect::<candle_core::Result<_>>()?,
            media: self.media.as_ref().map(|media| media.after(n_tokens)),
            ids: self.ids.clone(),
            spans: self.spans.after(n_tokens),
            blocks: self.blocks.after(n_tokens),
            opening: self.opening.clone(),
        })
    }

    /// The number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.positions.len()
    }
}

/// A text that a model has read once for all prompts that begin with it.
pub struct Opening {
    ids: Vec<u32>,
    /// The state of one row.
    state: DecoderState,
}

impl Opening {
    /// Reads the text.
    pub fn read(model: &dyn LanguageModel, ids: &[u32]) -> Result<Self> {
        let state = match ids {
            [] => DecoderState::default(),
            ids => Prefix::read(model, None, &[PromptRow::plain(model.embed(ids)?)?], 0)?.state,
        };
        Ok(Self { ids: ids.to_vec(), state })
    }

    /// The tokens of the text.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}

/// The side on which short rows are padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// All rows end at the same position.
    Left,
    /// All rows begin at the same position.
    Right,
}

/// A batch of prompts with the keys and values of all their positions. Rows are padded on the left.
pub struct Prefix {
    /// The number of prompt tokens, by row.
    pub(in crate::model) lengths: Vec<usize>,
    /// The position of the token after the prompt, by row.
    pub(in crate::model) next_positions: Vec<usize>,
    /// The prompt's token ids, by row, for logits processors.
    pub(in crate::model) prompt_ids: Vec<Vec<u32>>,
    /// The number of tokens of the longest prompt.
    pub(in crate::model) n_tokens: usize,
    /// The caches, with free positions after the prompts.
    pub(in crate::model) state: DecoderState,
    /// Hidden states of the last positions, `(batch, 1, hidden)`.
    pub(in crate::model) last: Tensor,
}

impl Prefix {
    /// Reads `prompts` of any lengths, and leaves room for `n_new` positions after them. All begin with `opening`. It
    /// is not read again if all prompts have the same length; otherwise padding would come before it.
    ///
    /// # Errors
    /// There are no prompts, or one has no token (after the opening).
    pub fn read(
        model: &dyn LanguageModel,
        opening: Option<&Opening>,
        prompts: &[PromptRow],
        n_new: usize,
    ) -> Result<Self> {
        Self::read_watched(model, opening, prompts, n_new, Watched::by_none())
    }

    /// Like [`read`](Self::read), with a watch. The watch does not see the `opening` unless it is read again.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_watched(
        model: &dyn LanguageModel,
        opening: Option<&Opening>,
        prompts: &[PromptRow],
        n_new: usize,
        mut watch: Watched<'_>,
    ) -> Result<Self> {
        let lengths: Vec<usize> = prompts.iter().map(PromptRow::n_tokens).collect();
        ensure!(!lengths.is_empty() && !lengths.contains(&0), "a prompt without a token cannot be answered");
        let n_tokens = lengths.iter().copied().max().unwrap_or(0);
        let capacity = n_tokens + n_new;
        let is_padded = lengths.iter().any(|&length| length != n_tokens);
        let (n_read, mut state) = match opening.filter(|opening| !is_padded && !opening.ids.is_empty()) {
            None => (0, model.new_state(capacity)),
            Some(Opening { ids, state }) => (ids.len(), state.begun(prompts.len(), capacity)?),
        };
        ensure!(n_read < n_tokens, "a prompt without a token after its opening cannot be answered");
        let rest = prompts.iter().map(|prompt| prompt.after(n_read)).collect::<candle_core::Result<Vec<_>>>()?;
        let n_rest = n_tokens - n_read;
        let input = TokenInput { n_wanted: Some(1), ..batch(&rest, n_rest, Padding::Left)? };
        let mask = prompt_mask(prompts, [n_rest, n_tokens], Padding::Left, &input.embeddings);
        let last = model.forward(Pass::new(&input).masked(&mask).after(&mut state).watched(&mut watch))?;
        let next_positions = prompts.iter().map(|prompt| prompt.next_position).collect();
        let prompt_ids = prompts.iter().map(|prompt| prompt.ids.clone()).collect();
        Ok(Self { lengths, next_positions, prompt_ids, n_tokens, state, last })
    }

    /// The number of prompt tokens, by row.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Returns the logits of the next token in f32, one row per prompt.
    pub fn next_logits(&self, model: &dyn LanguageModel) -> Result<Vec<Vec<f32>>> {
        Ok(last_logits(model, &self.last)?.to_vec2()?)
    }
}

/// The largest share of a batch's positions that may be padding. More padding costs more than reading the weights for
/// another batch.
const PADDED_SHARE_MAX: f64 = 0.2;

/// Groups rows of these `lengths` into batches of similar length, to limit padding. Batches with longer rows come
/// first. Within a batch, rows keep their order. If all rows have one length, there is one batch.
pub(in crate::model) fn batches_by_length(lengths: &[usize]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut n_used = 0;
    for row in order {
        // The first row of a batch is its longest.
        let fits = |batch: &&mut Vec<usize>| {
            let n_padded = lengths[batch[0]] * (batch.len() + 1);
            (n_padded - n_used - lengths[row]) as f64 <= PADDED_SHARE_MAX * n_padded as f64
        };
        match batches.last_mut().filter(fits) {
            Some(batch) => batch.push(row),
            None => {
                batches.push(vec![row]);
                n_used = 0;
            }
        }
        n_used += lengths[row];
    }
    batches.iter_mut().for_each(|batch| batch.sort_unstable());
    batches
}

/// Builds a batch of rows, padded to `n_tokens`.
pub fn batch(prompts: &[PromptRow], n_tokens: usize, padding: Padding) -> candle_core::Result<TokenInput> {
    let around = |n_padding: usize| if padding == Padding::Left { (n_padding, 0) } else { (0, n_padding) };
    let pad = |rows: &mut dyn Iterator<Item = &Tensor>| -> candle_core::Result<Tensor> {
        let rows = rows.map(|row| {
            let (before, after) = around(n_tokens - row.dim(0)?);
            row.pad_with_zeros(0, before, after)
        });
        Tensor::stack(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)
    };
    let embeddings = pad(&mut prompts.iter().map(|prompt| &prompt.embeddings))?; // (batch, tokens, hidden)
    let n_deepstack = prompts.iter().map(|prompt| prompt.deepstack.len()).max().unwrap_or(0);
    let deepstack = (0..n_deepstack)
        .map(|layer| pad(&mut prompts.iter().filter_map(|prompt| prompt.deepstack.get(layer))))
        .collect::<candle_core::Result<_>>()?;
    let axis = |axis: usize| {
        prompts.iter().flat_map(move |prompt| {
            let (before, after) = around(n_tokens - prompt.n_tokens());
            let places = prompt.positions.iter().map(move |position| position[axis]);
            std::iter::repeat_n(0, before).chain(places).chain(std::iter::repeat_n(0, after))
        })
    };
    let is_flat = prompts.iter().flat_map(|prompt| &prompt.positions).all(|[t, h, w]| t == h && t == w);
    let device = embeddings.device();
    let positions = match is_flat {
        true => Tensor::from_vec(axis(0).collect::<Vec<u32>>(), (prompts.len(), n_tokens), device)?,
        false => Tensor::from_vec((0..3).flat_map(axis).collect::<Vec<u32>>(), (3, prompts.len(), n_tokens), device)?,
    };
    let is_image = match prompts.iter().any(|prompt| !prompt.spans.images.is_empty()) {
        true => Some(image_positions(prompts, n_tokens, padding, device)?),
        false => None,
    };
    let media = RowMedia::batch(prompts, n_tokens, padding)?;
    Ok(TokenInput { embeddings, positions, deepstack, is_image, media, n_wanted: None })
}

/// Returns u8 `(batch, tokens)`: 1 where a token is a feature of an image.
fn image_positions(
    prompts: &[PromptRow],
    n_tokens: usize,
    padding: Padding,
    device: &Device,
) -> candle_core::Result<Tensor> {
    let mut flags = vec![0u8; prompts.len() * n_tokens];
    for (row, prompt) in prompts.iter().enumerate() {
        let n_before = if padding == Padding::Left { n_tokens - prompt.n_tokens() } else { 0 };
        prompt.spans.image_positions().into_iter().for_each(|at| flags[row * n_tokens + n_before + at] = 1);
    }
    Tensor::from_vec(flags, (prompts.len(), n_tokens), device)
}

/// Returns the mask of the last `n_queries` of `n_positions` positions of `prompts`, in the type of their `embeddings`. Each
/// query sees the positions of its own prompt up to its own, and its block. One row serves all if they are alike.
///
/// A padded query sees only itself or, after a prompt, what is before it. With no visible position its softmax would be
/// NaN and spread through the values.
pub fn prompt_mask(
    prompts: &[PromptRow],
    [n_queries, n_positions]: [usize; 2],
    padding: Padding,
    embeddings: &Tensor,
) -> Mask {
    let n_padding = |prompt: &PromptRow| if padding == Padding::Left { n_positions - prompt.n_tokens() } else { 0 };
    let first = prompts.first();
    let are_alike =
        prompts.iter().all(|prompt| n_padding(prompt) == 0 && first.is_some_and(|first| first.blocks == prompt.blocks));
    let rows = if are_alike { prompts.get(..1).unwrap_or_default() } else { prompts };
    let seen = |row: usize, query: usize| {
        let (position, n_padding) = (n_positions - n_queries + query, n_padding(&rows[row]));
        match position.checked_sub(n_padding) {
            Some(token) => n_padding..n_padding + rows[row].blocks.end_of(token),
            None => position..position + 1,
        }
    };
    let dims = [rows.len(), n_queries, n_positions];
    let mask = Mask::of_ranges(dims, embeddings.dtype(), embeddings.device(), seen);
    if rows.iter().all(|row| row.blocks.yield_to_windows()) {
        return mask;
    }
    mask.keeping(|row, query| {
        let (position, n_padding) = (n_positions - n_queries + query, n_padding(&rows[row]));
        position.checked_sub(n_padding).map_or(position, |token| n_padding + rows[row].blocks.kept_from(token))
    })
}

/// Returns the number of padding positions by row of a mask. One row serves all if no prompt is padded.
pub(in crate::model) fn distinct_padding(lengths: &[usize], n_tokens: usize) -> Vec<usize> {
    if lengths.iter().all(|&length| length == n_tokens) {
        return vec![0];
    }
    lengths.iter().map(|length| n_tokens - length).collect()
}

/// Logits `(batch, vocabulary)` in f32 at the last positions of hidden states `(batch, tokens, hidden)`.
pub(in crate::model) fn last_logits(model: &dyn LanguageModel, hidden: &Tensor) -> candle_core::Result<Tensor> {
    let n_tokens = hidden.dim(1)?;
    let last = hidden.narrow(1, n_tokens - 1, 1)?.squeeze(1)?.contiguous()?;
    model.logits(&last)?.to_dtype(DType::F32)
}

#[cfg(test)]
mod tests;
