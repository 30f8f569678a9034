//! Families whose prompts are read by an encoder, and whose answers are written by a decoder that attends to it.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;

use super::decoder_only::ImageReader;
use super::{ForcedAnswer, ImageEmbedding, ImagePrompt, Mllm, Seen};
use crate::model::language::{LanguageModel, T5, T5Config};
use crate::model::layers::{Loader, Watched};
use crate::model::run::prefix::{Opening, Prefix, PromptRow};
use crate::model::vision::preprocess::ImageInput;

/// A family's image reader in front of an encoder. A [`PromptRow`] is what the encoder reads, and a [`Prefix`] holds the
/// decoder's start token.
pub struct EncoderDecoder<R> {
    /// Converts images to embeddings.
    pub(super) reader: R,
    /// Reads prompts and writes answers.
    pub(super) model: T5,
}

impl<R> EncoderDecoder<R> {
    /// Loads the language model of `config` behind `reader`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(reader: R, config: &T5Config, loader: &mut Loader) -> Result<Self> {
        Ok(Self { reader, model: T5::load(loader, config)? })
    }
}

impl<R: ImageReader> Mllm for EncoderDecoder<R> {
    fn see_watched(&self, images: &[&ImageInput], watch: Watched<'_>) -> Result<Vec<Seen>> {
        self.reader.see_watched(images, watch)
    }

    fn embed_images(&self, seen: &[Seen]) -> Result<Vec<ImageEmbedding>> {
        self.reader.embed_images(seen, &self.model)
    }

    fn embed(&self, prompts: &[ImagePrompt<'_>]) -> Result<Vec<PromptRow>> {
        let embedded = self.reader.embed_in_prompts(prompts, &self.model)?;
        let mut rest = embedded.as_slice();
        let place = |ImagePrompt { prompt, images }: &ImagePrompt<'_>| -> Result<PromptRow> {
            let (own, others) = rest.split_at(images.len());
            rest = others;
            // Logits processors look at the tokens before an answer, which are the decoder's.
            Ok(PromptRow { ids: vec![self.model.start_id()], ..prompt.placed(own, &self.model)? })
        };
        prompts.iter().map(place).collect()
    }

    /// An encoder reads a prompt from both sides, so no `opening` is kept.
    fn read(&self, _: Option<&Opening>, prompts: &[PromptRow], n_new: usize, mut watch: Watched<'_>) -> Result<Prefix> {
        let rows: Vec<&Tensor> = prompts.iter().map(|prompt| &prompt.embeddings).collect();
        ensure!(
            !rows.is_empty() && prompts.iter().all(|prompt| prompt.n_tokens() > 0),
            "a prompt without a token cannot be answered"
        );
        let mut state = self.model.attending(&self.model.encode(&rows)?, 1 + n_new)?;
        let last = self.model.start(rows.len(), &mut state, &mut watch)?;
        Ok(Prefix {
            lengths: vec![1; rows.len()],
            next_positions: vec![1; rows.len()],
            prompt_ids: prompts.iter().map(|prompt| prompt.ids.clone()).collect(),
            n_tokens: 1,
            state,
            last,
        })
    }

    /// Answers are padded on the right, where none of their tokens attends.
    fn teacher_forced(&self, examples: &[ForcedAnswer<'_>], mut watch: Watched<'_>) -> Result<Tensor> {
        let prompts: Vec<ImagePrompt<'_>> = examples.iter().map(|example| example.prompt).collect();
        let rows = self.embed(&prompts)?;
        let encoded = self.model.encode(&rows.iter().map(|row| &row.embeddings).collect::<Vec<_>>())?;
        let n_tokens = examples.iter().map(|example| example.answer.len()).max().unwrap_or(0);
        let inputs = |example: &ForcedAnswer<'_>| -> Result<Vec<u32>> {
            // The terminator is predicted but is not an input.
            let (_, read) = example.answer.split_last().context("an answer has a terminator")?;
            let mut ids = vec![self.model.start_id()];
            ids.extend(read);
            ids.resize(n_tokens, self.model.start_id());
            Ok(ids)
        };
        let ids = examples.iter().map(inputs).collect::<Result<Vec<_>>>()?;
        let hidden = self.model.decode(&encoded, &ids, &mut watch)?; // (batch, tokens, hidden)
        let of_row = |(row, example): (usize, &ForcedAnswer<'_>)| {
            (0..example.answer.len()).map(move |at| (row * n_tokens + at) as u32).collect::<Vec<_>>()
        };
        let places: Vec<u32> = examples.iter().enumerate().flat_map(of_row).collect();
        let n_places = places.len();
        let places = Tensor::from_vec(places, n_places, hidden.device())?;
        Ok(self.model.logits(&hidden.flatten_to(1)?.index_select(&places, 0)?)?)
    }

    fn decoder(&self) -> &dyn LanguageModel {
        &self.model
    }

    fn probe_features(&self, seen: &Seen) -> Result<Vec<f32>> {
        self.reader.probe_features(seen)
    }
}
