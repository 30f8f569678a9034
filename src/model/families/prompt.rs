//! A rendered prompt, and how images are inserted in it.

use std::ops::Range;

use anyhow::{Result, ensure};
use candle_core::Tensor;

use super::ImageEmbedding;
use crate::model::language::LanguageModel;
use crate::model::run::prefix::{PromptRow, TokenSpans};
use crate::model::text::template::AroundAnswer;
use crate::model::text::tokenizer::PromptPiece;

/// A prompt after the chat template, tokenised around the images.
#[derive(Clone, Debug)]
pub struct RenderedPrompt {
    /// The text, with an image marker for each image.
    pub text: String,
    /// Runs of tokens and the images between them.
    pub pieces: Vec<PromptPiece>,
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
        for piece in &self.pieces {
            match piece {
                PromptPiece::Text(ids) => row.add_text(ids, model.embed(ids)?),
                PromptPiece::Image => {
                    images.next().into_iter().try_for_each(|image| row.add_image(image, self.image_id))?
                }
            }
        }
        row.finish(self)
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

    fn finish(self, prompt: &RenderedPrompt) -> Result<PromptRow> {
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
        Ok(PromptRow {
            embeddings: Tensor::cat(&self.embeddings, 0)?,
            positions: self.positions,
            next_position: self.next as usize,
            deepstack,
            // If the vocabulary has no image token, the model is given embeddings and no ids.
            ids: if prompt.image_id.is_some() { self.ids } else { Vec::new() },
            spans: TokenSpans::of_prompt(n_tokens, prompt.has_bos, self.runs),
            opening: prompt.opening().to_vec(),
        })
    }
}
