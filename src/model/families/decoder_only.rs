//! Families that insert images among the tokens of one decoder. All current families do.

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};

use super::{ForcedAnswer, ImageEmbedding, ImagePrompt, Mllm, PlainTower, Seen};
use crate::model::language::{Decoder, DecoderConfig, LanguageModel, Pass, TokenInput};
use crate::model::layers::{Loader, VirtualTokens, Watched};
use crate::model::run::prefix::{Blocks, Opening, Padding, Prefix, PromptRow, batch, prompt_mask};
use crate::model::vision::preprocess::ImageInput;

/// The family-specific part: a tower, and the conversion of its states to embeddings.
pub trait ImageReader: Send {
    /// As [`Mllm::see_watched`].
    ///
    /// # Errors
    /// An image does not fit the tower.
    fn see_watched(&self, images: &[&ImageInput], watch: Watched<'_>) -> Result<Vec<Seen>>;

    /// Returns the embeddings of images in a prompt. `decoder` embeds the tokens that a family writes between tiles.
    ///
    /// # Errors
    /// `seen` comes from another family.
    fn embed_images(&self, seen: &[Seen], decoder: &dyn LanguageModel) -> Result<Vec<ImageEmbedding>>;

    /// What tokens of a prompt see after themselves.
    fn sees_ahead(&self) -> Ahead {
        Ahead::Nothing
    }

    /// Returns the embeddings of all images of prompts, in their order. By default, they do not depend on the text.
    ///
    /// # Errors
    /// An image comes from another family.
    fn embed_in_prompts(
        &self,
        prompts: &[ImagePrompt<'_>],
        decoder: &dyn LanguageModel,
    ) -> Result<Vec<ImageEmbedding>> {
        let seen: Vec<Seen> = prompts.iter().flat_map(|prompt| prompt.images).cloned().collect();
        // Without images, the projector is not run.
        if seen.is_empty() { Ok(Vec::new()) } else { self.embed_images(&seen, decoder) }
    }

    /// As [`Mllm::plain_tower`].
    fn plain_tower(&self) -> Option<PlainTower<'_>> {
        None
    }

    /// As [`Mllm::probe_features`].
    ///
    /// # Errors
    /// `seen` comes from another family.
    fn probe_features(&self, seen: &Seen) -> Result<Vec<f32>> {
        let state = seen.states.first().context("a tower gives a state")?;
        let last = state.rank() - 1;
        let tokens = if last == 0 { state.unsqueeze(0)? } else { state.flatten_to(last - 1)? };
        Ok(tokens.to_dtype(DType::F32)?.mean(0)?.to_vec1()?)
    }
}

/// What a prompt's tokens see after themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Nothing.
    Nothing,
    /// The features of an image see those of the same image.
    Image,
    /// Every token of a prompt sees the whole prompt.
    Prompt,
}

impl Ahead {
    /// Returns the row with the blocks in which its tokens see each other.
    fn applied(self, row: PromptRow) -> PromptRow {
        match self {
            Self::Nothing => row,
            Self::Image => {
                PromptRow { blocks: Blocks::within_windows(row.spans.images.iter().flatten().cloned()), ..row }
            }
            // An opening was read without what comes after it.
            Self::Prompt => PromptRow { blocks: Blocks::whole(row.n_tokens()), opening: Vec::new(), ..row },
        }
    }
}

/// A family's image reader in front of a decoder.
pub struct DecoderOnly<R, D> {
    /// Converts images to embeddings.
    pub(super) reader: R,
    /// Reads and continues prompts.
    decoder: D,
    /// What an adapter puts before every prompt.
    virtual_tokens: Option<VirtualTokens>,
}

impl<R> DecoderOnly<R, Decoder> {
    /// Loads the decoder of `config` behind `reader`, with the adapter's virtual tokens if it has some.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(reader: R, config: DecoderConfig, loader: &mut Loader) -> Result<Self> {
        let virtual_tokens = VirtualTokens::load(loader, config.size())?;
        Ok(Self { reader, decoder: Decoder::load(loader, config)?, virtual_tokens })
    }
}

impl<R, D> DecoderOnly<R, D> {
    /// Puts the virtual tokens before each row.
    fn preceded(&self, rows: Vec<PromptRow>) -> Result<Vec<PromptRow>> {
        let Some(virtual_tokens) = &self.virtual_tokens else { return Ok(rows) };
        let n_positions = virtual_tokens.n_positions()?;
        // Once for all rows: while they train, they may be the output of a network.
        let tokens = virtual_tokens.rows()?;
        let preceded = |row: PromptRow| match &tokens {
            Some(tokens) => Ok(row.preceded_by(tokens)?),
            None => Ok(row.moved_by(n_positions)),
        };
        rows.into_iter().map(preceded).collect()
    }
}

impl<R: ImageReader, D: LanguageModel> Mllm for DecoderOnly<R, D> {
    fn see_watched(&self, images: &[&ImageInput], watch: Watched<'_>) -> Result<Vec<Seen>> {
        self.reader.see_watched(images, watch)
    }

    fn embed_images(&self, seen: &[Seen]) -> Result<Vec<ImageEmbedding>> {
        self.reader.embed_images(seen, &self.decoder)
    }

    fn embed(&self, prompts: &[ImagePrompt<'_>]) -> Result<Vec<PromptRow>> {
        let embedded = self.reader.embed_in_prompts(prompts, &self.decoder)?;
        let mut rest = embedded.as_slice();
        let place = |ImagePrompt { prompt, images }: &ImagePrompt<'_>| {
            let (own, others) = rest.split_at(images.len());
            rest = others;
            Ok(self.reader.sees_ahead().applied(prompt.placed(own, &self.decoder)?))
        };
        self.preceded(prompts.iter().map(place).collect::<Result<_>>()?)
    }

    fn read(
        &self,
        opening: Option<&Opening>,
        prompts: &[PromptRow],
        n_new: usize,
        watch: Watched<'_>,
    ) -> Result<Prefix> {
        let can_begin =
            |opening: &Opening, prompt: &PromptRow| prompt.media.is_none() && prompt.opening.starts_with(opening.ids());
        // Text before images that are beside the text may depend on them too.
        let opening = opening.filter(|opening| prompts.iter().all(|prompt| can_begin(opening, prompt)));
        Prefix::read_watched(&self.decoder, opening, prompts, n_new, watch)
    }

    /// Rows are padded on the right, where none of their tokens attends.
    fn teacher_forced(&self, examples: &[ForcedAnswer<'_>], mut watch: Watched<'_>) -> Result<Tensor> {
        let prompts: Vec<ImagePrompt<'_>> = examples.iter().map(|example| example.prompt).collect();
        let mut rows = Vec::with_capacity(examples.len());
        for (example, row) in examples.iter().zip(self.embed(&prompts)?) {
            // The terminator is predicted but is not an input.
            let (_, seen) = example.answer.split_last().context("an answer has a terminator")?;
            rows.push(if seen.is_empty() { row } else { row.followed_by(&self.decoder.embed(seen)?)? });
        }
        let lengths: Vec<usize> = rows.iter().map(PromptRow::n_tokens).collect();
        let n_positions = lengths.iter().copied().max().unwrap_or(0);
        // The first position that predicts each row's answer: the prompt's last token.
        let starts: Vec<usize> =
            lengths.iter().zip(examples).map(|(length, example)| length - example.answer.len()).collect();
        let first_wanted = starts.iter().copied().min().unwrap_or(0);
        let n_wanted = n_positions - first_wanted;
        let input = TokenInput { n_wanted: Some(n_wanted), ..batch(&rows, n_positions, Padding::Right)? };
        let device = input.embeddings.device();
        let mask = prompt_mask(&rows, [n_positions, n_positions], Padding::Right, &input.embeddings);
        let hidden = self.decoder.forward(Pass::new(&input).masked(&mask).watched(&mut watch))?; // (batch, wanted, hidden)

        let mut places = Vec::new();
        for (row, (example, start)) in examples.iter().zip(&starts).enumerate() {
            let first = row * n_wanted + start - first_wanted;
            places.extend((0..example.answer.len()).map(|offset| (first + offset) as u32));
        }
        let n_places = places.len();
        let places = Tensor::from_vec(places, n_places, device)?;
        // The head runs only on positions that predict an answer's token: it is a third of a small model.
        let chosen = hidden.flatten_to(1)?.index_select(&places, 0)?;
        Ok(self.decoder.logits(&chosen)?)
    }

    fn decoder(&self) -> &dyn LanguageModel {
        &self.decoder
    }

    fn plain_tower(&self) -> Option<PlainTower<'_>> {
        self.reader.plain_tower()
    }

    fn probe_features(&self, seen: &Seen) -> Result<Vec<f32>> {
        self.reader.probe_features(seen)
    }
}
