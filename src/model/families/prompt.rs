//! A rendered prompt, and how images are inserted in it.

use std::ops::Range;

use anyhow::{Result, ensure};
use candle_core::Tensor;

use super::{Beside, ImageEmbedding};
use crate::model::language::{CrossKind, LanguageModel, View};
use crate::model::run::prefix::{Blocks, PromptRow, RowMedia, TokenSpans};
use crate::model::text::template::AroundAnswer;
use crate::model::text::tokenizer::PromptPiece;

/// A prompt after the chat template, tokenised around the images.
#[derive(Clone, Debug)]
pub struct RenderedPrompt {
    /// The text, with an image marker for each image.
    pub text: String,
    /// Runs of tokens and the images between them.
    pub pieces: Vec<PromptPiece>,
    /// The same for images of several tiles, before which some processors write another text. Texts and places are those
    /// of `pieces`, in the same order.
    pub tiled_pieces: Option<Vec<PromptPiece>>,
    /// All positions, with images at their largest. `None` is an image position.
    pub ids: Vec<Option<u32>>,
    /// What the template writes around an answer.
    pub around_answer: AroundAnswer,
    /// The id of the image placeholder. `None` if the vocabulary has none; the model is then given only embeddings.
    pub image_id: Option<u32>,
    /// The tokens of the question for a reader beside the language model. Empty if the family has none.
    pub question_ids: Vec<u32>,
    /// Whether the first token is the tokenizer's begin token.
    pub has_bos: bool,
}

impl RenderedPrompt {
    /// The tokens before the first image.
    pub(super) fn opening(&self) -> &[u32] {
        match self.pieces.first() {
            Some(PromptPiece::Text(ids)) => ids,
            _ => &[],
        }
    }

    /// The number of text tokens.
    pub fn n_text_tokens(&self) -> usize {
        let of_piece = |piece: &PromptPiece| if let PromptPiece::Text(ids) = piece { ids.len() } else { 0 };
        self.pieces.iter().map(of_piece).sum()
    }

    /// The number of images.
    pub fn n_images(&self) -> usize {
        self.pieces.iter().filter(|piece| matches!(piece, PromptPiece::Image)).count()
    }

    /// Embeds the prompt for `model`, with `images` inserted.
    ///
    /// Each text token advances the position by one. An image with a grid has one time position, and its positions
    /// count rows and columns from there. The text after it continues after the longer side (M-RoPE; Wang et al. 2024,
    /// "Qwen2-VL", section 2.1).
    ///
    /// # Errors
    /// The number of images differs from the number of places in the prompt.
    pub fn placed(&self, images: &[ImageEmbedding], model: &dyn LanguageModel) -> Result<PromptRow> {
        let n_images = self.n_images();
        ensure!(n_images == images.len(), "{} images do not fill the {n_images} places of a prompt", images.len());
        let mut images = images.iter();
        let mut row = Placing::default();
        let mut opening: &[u32] = &[];
        for (index, piece) in self.pieces.iter().enumerate() {
            // An image of several tiles has tokens between them.
            let is_before_tiles = images.as_slice().first().is_some_and(|image| !image.ids.is_empty());
            let tiled = self.tiled_pieces.as_ref().filter(|_| is_before_tiles).and_then(|pieces| pieces.get(index));
            match tiled.unwrap_or(piece) {
                PromptPiece::Text(ids) => {
                    opening = if index == 0 { ids } else { opening };
                    row.add_text(ids, model.embed(ids)?);
                }
                PromptPiece::Image => {
                    images.next().into_iter().try_for_each(|image| row.add_image(image, self.image_id))?
                }
            }
        }
        row.finish(self, opening)
    }
}

/// A prompt that is being converted to a row.
#[derive(Default)]
struct Placing<'a> {
    embeddings: Vec<Tensor>,
    positions: Vec<[u32; 3]>,
    next: u32,
    ids: Vec<u32>,
    /// Runs of features, by image.
    runs: Vec<Vec<Range<usize>>>,
    /// Images with their first position.
    placed: Vec<(&'a ImageEmbedding, usize)>,
}

impl<'a> Placing<'a> {
    fn add_flat(&mut self, n_tokens: usize) {
        self.positions.extend((self.next..self.next + n_tokens as u32).map(|position| [position; 3]));
        self.next += n_tokens as u32;
    }

    fn add_text(&mut self, ids: &[u32], embeddings: Tensor) {
        self.add_flat(ids.len());
        self.ids.extend(ids);
        self.embeddings.push(embeddings);
    }

    fn add_image(&mut self, image: &'a ImageEmbedding, image_id: Option<u32>) -> Result<()> {
        let (start, n_tokens) = (self.positions.len(), image.embeddings.dim(0)?);
        match image_id {
            Some(id) if image.ids.is_empty() => self.ids.extend(std::iter::repeat_n(id, n_tokens)),
            Some(id) => self.ids.extend(image.ids.iter().map(|token| token.unwrap_or(id))),
            None => {}
        }
        match image.grid {
            Some((n_rows, n_columns)) => {
                let next = self.next;
                let cells = (0..n_rows as u32).flat_map(|row| (0..n_columns as u32).map(move |column| (row, column)));
                self.positions.extend(cells.map(|(row, column)| [next, next + row, next + column]));
                self.next += n_rows.max(n_columns) as u32;
            }
            None => self.add_flat(n_tokens),
        }
        self.embeddings.push(image.embeddings.clone());
        self.runs.push(image.feature_runs(start, n_tokens));
        self.placed.push((image, start));
        Ok(())
    }

    fn finish(self, prompt: &RenderedPrompt, opening: &[u32]) -> Result<PromptRow> {
        let n_tokens = self.positions.len();
        let n_depths = self.placed.iter().map(|(image, _)| image.deepstack.len()).max().unwrap_or(0);
        let mut deepstack = Vec::with_capacity(n_depths);
        for depth in 0..n_depths {
            let mut sum: Option<Tensor> = None;
            for (image, start) in &self.placed {
                let Some(added) = image.deepstack.get(depth) else { continue };
                let added = added.pad_with_zeros(0, *start, n_tokens - start - added.dim(0)?)?;
                sum = Some(match sum {
                    Some(sum) => (sum + added)?,
                    None => added,
                });
            }
            deepstack.extend(sum);
        }
        let media = beside(&self.placed, n_tokens)?;
        Ok(PromptRow {
            embeddings: Tensor::cat(&self.embeddings, 0)?,
            positions: self.positions,
            next_position: self.next as usize,
            deepstack,
            media,
            // If the vocabulary has no image token, the model is given embeddings and no ids.
            ids: if prompt.image_id.is_some() { self.ids } else { Vec::new() },
            spans: TokenSpans::of_prompt(n_tokens, prompt.has_bos, self.runs),
            blocks: Blocks::default(),
            opening: opening.to_vec(),
        })
    }
}

/// Puts the features of `images`, given with their first positions, beside a prompt of `n_tokens` tokens. `None` if they
/// are among its tokens.
///
/// What tokens see of each image comes first, image by image, and the rest of all images after it: so a token attends to
/// one run of positions. In Llama-3.2-Vision a token sees the last image and those directly before it, and tokens before
/// the first image attend to all positions, padding included. In Flamingo a token sees the last image.
pub(super) fn beside(images: &[(&ImageEmbedding, usize)], n_tokens: usize) -> Result<Option<RowMedia>> {
    let with: Vec<(&Beside, usize, usize)> = images
        .iter()
        .filter_map(|(image, start)| Some((image.beside.as_ref()?, *start, image.embeddings.dim(0).ok()?)))
        .collect();
    let Some((first, ..)) = with.first() else { return Ok(None) };
    let kind = first.kind;
    let seen = with.iter().map(|(image, ..)| image.features.narrow(0, 0, image.n_seen));
    let rest = with
        .iter()
        .filter(|(image, ..)| image.features.dims()[0] > image.n_seen)
        .map(|(image, ..)| image.features.narrow(0, image.n_seen, image.features.dims()[0] - image.n_seen));
    let features = Tensor::cat(&seen.chain(rest).collect::<candle_core::Result<Vec<_>>>()?, 0)?;
    let n_positions = features.dim(0)?;
    let before = match kind {
        CrossKind::Llama => View { attends: 0..n_positions, sees: false },
        CrossKind::Flamingo => View::NOTHING,
    };
    let mut views = vec![before; n_tokens];
    let (mut begin, mut end, mut after) = (0, 0, None);
    for (image, start, n_own) in with {
        let is_adjacent = after == Some(start);
        if kind == CrossKind::Flamingo || !is_adjacent {
            begin = end;
        }
        end += image.n_seen;
        views[start..].fill(View { attends: begin..end, sees: true });
        after = Some(start + n_own);
    }
    Ok(Some(RowMedia { features, views }))
}
