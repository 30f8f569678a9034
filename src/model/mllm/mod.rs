//! Multimodal language models. One file a family.

mod llava;

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::Tensor;

use super::Placement;
use super::generate::{Decoding, Generation, NotFinite};
use super::language::LanguageModel;
use super::layers::Loader;
use super::overlay::Overlay;
use super::preprocess::Preprocessor;
use super::template::ChatTemplate;
use super::tokenizer::{PromptPiece, TextTokenizer};
use super::vision::VisionTower;
use super::weights::{Canonical, Checkpoint, Weights};
use crate::domain::Answer;

/// A prompt after the chat template, tokenised around the image.
#[derive(Clone, Debug)]
pub struct RenderedPrompt {
    /// The text, with the image marker.
    pub text: String,
    /// Runs of tokens and the image between them.
    pub pieces: Vec<PromptPiece>,
    /// All positions; `None` is an image position.
    pub ids: Vec<Option<u32>>,
}

/// The forward pass of a family whose image is a fixed number of positions of a plain tower.
pub trait Mllm: Send {
    /// The vision tower.
    fn tower(&self) -> &VisionTower;

    /// Which of the tower's hidden states it reads.
    fn tower_state(&self) -> usize;

    /// Image features `(batch, positions, hidden)` from that hidden state.
    fn image_features(&self, hidden: &Tensor) -> candle_core::Result<Tensor>;

    /// The language model.
    fn language(&self) -> &dyn LanguageModel;
}

/// What is known of a model from its configuration alone, before a weight is read.
pub trait MllmPlan: Send {
    /// Language-model positions of an image.
    fn n_image_positions(&self) -> usize;

    /// Positions that the language model was trained for.
    fn n_positions(&self) -> usize;

    /// Numbers (not bytes) that one row of `n_tokens` positions holds while it is answered: cache and activations.
    fn n_numbers_per_row(&self, n_tokens: usize) -> usize;

    /// Reads the weights; every tensor must find its place.
    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Mllm>>;
}

/// Reads a model's configuration, and its tower's where that is kept apart.
pub type PlanFn = fn(&Checkpoint, Option<&Checkpoint>) -> Result<Box<dyn MllmPlan>>;

/// A family of models: one line in [`FAMILIES`].
pub struct MllmFamily {
    /// What reports call it.
    pub name: &'static str,
    /// One sentence for lists.
    pub about: &'static str,
    /// Whether a checkpoint is of this family.
    pub recognises: fn(&Checkpoint) -> bool,
    /// The one name of a stored tensor, for checkpoints and adapters alike.
    pub canonical: fn(&str) -> Canonical,
    /// Names the checkpoint's tensors; the second checkpoint is the tower's, where it is kept apart.
    pub weights: fn(&Checkpoint, Option<&Checkpoint>) -> Result<Weights>,
    /// Reads the configuration.
    pub plan: PlanFn,
    /// The folder or hub name of a tower that the checkpoint does not contain.
    pub tower_reference: fn(&Checkpoint) -> Option<String>,
    /// Image preparation.
    pub preprocessor: fn(&Checkpoint, Option<&Checkpoint>) -> Result<Preprocessor>,
}

/// All families; the first that recognises a checkpoint reads it.
pub const FAMILIES: &[MllmFamily] = &[llava::FAMILY];

/// The family of a checkpoint, or an error that lists what is known.
pub fn family_of(checkpoint: &Checkpoint) -> Result<&'static MllmFamily> {
    if let Some(family) = FAMILIES.iter().find(|family| (family.recognises)(checkpoint)) {
        return Ok(family);
    }
    let known: Vec<_> = FAMILIES.iter().map(|family| family.about).collect();
    bail!(
        "`{}` is not a model that emt reads (model_type `{}` in config.json); hint: supported are {}",
        checkpoint.dir.display(),
        checkpoint.config().get("model_type").and_then(|v| v.as_str()).unwrap_or("?"),
        known.join("; ")
    )
}

/// A checkpoint that was opened and understood, with no weight read yet.
pub struct OpenedModel {
    /// The family's name.
    pub family: &'static str,
    /// The checkpoint's name.
    pub name: String,
    /// Where every tensor lies.
    pub weights: Weights,
    /// Text in and out.
    pub dialogue: Dialogue,
    /// For images.
    pub preprocessor: Preprocessor,
    /// Sizes.
    pub plan: Box<dyn MllmPlan>,
}

impl OpenedModel {
    /// Opens a checkpoint folder. `tower` is where the vision tower lies, for checkpoints that only name it;
    /// `template` chooses a chat template over the checkpoint's own.
    pub fn open(checkpoint: &Checkpoint, tower: Option<&Checkpoint>, template: Option<&str>) -> Result<Self> {
        let family = family_of(checkpoint)?;
        let plan = (family.plan)(checkpoint, tower)?;
        let tokenizer = TextTokenizer::open(checkpoint)?;
        Ok(Self {
            family: family.name,
            name: checkpoint.name(),
            weights: (family.weights)(checkpoint, tower)?,
            preprocessor: (family.preprocessor)(checkpoint, tower)?,
            dialogue: Dialogue {
                eos_ids: eos_ids(checkpoint, &tokenizer)?,
                template: ChatTemplate::open(checkpoint, template)?,
                n_image_positions: plan.n_image_positions(),
                tokenizer,
            },
            plan,
        })
    }

    /// Reads the weights.
    pub fn load(self, placement: &Placement) -> Result<Model> {
        let mut models = self.load_all(vec![Overlay::default()], placement)?;
        models.pop().context("one overlay makes one model")
    }

    /// Reads the weights once for several models: each is the base under one overlay, and they share what no overlay
    /// replaces or merges into. An empty overlay is the base itself.
    pub fn load_all(mut self, overlays: Vec<Overlay>, placement: &Placement) -> Result<Vec<Model>> {
        let (dialogue, preprocessor) = (Arc::new(self.dialogue), self.preprocessor);
        let mut models = Vec::with_capacity(overlays.len());
        for mut overlay in overlays {
            let mllm = self.plan.load(&mut Loader::with_overlay(&mut self.weights, &mut overlay, placement))?;
            overlay.finish()?;
            self.weights.finish()?;
            models.push(Model { mllm, dialogue: dialogue.clone(), preprocessor: preprocessor.clone() });
        }
        Ok(models)
    }
}

/// Text in and out of a model.
pub struct Dialogue {
    /// For prompts and answers.
    pub tokenizer: TextTokenizer,
    /// For prompts.
    pub template: ChatTemplate,
    eos_ids: Vec<u32>,
    n_image_positions: usize,
}

impl Dialogue {
    /// The prompt for one question about one image.
    pub fn render(&self, question: &str) -> Result<RenderedPrompt> {
        let text = self.template.render(question)?;
        let pieces = self.tokenizer.encode_with_image(&text, IMAGE_MARKER)?;
        let n_images = pieces.iter().filter(|piece| matches!(piece, PromptPiece::Image)).count();
        if n_images != 1 {
            bail!(
                "the chat template `{}` puts {n_images} images into the prompt instead of one: {text:?}; hint: choose another with --template",
                self.template.name()
            );
        }
        let ids = pieces
            .iter()
            .flat_map(|piece| match piece {
                PromptPiece::Text(ids) => ids.iter().copied().map(Some).collect(),
                PromptPiece::Image => vec![None; self.n_image_positions],
            })
            .collect();
        Ok(RenderedPrompt { text, pieces, ids })
    }

    /// The tokens of `answer` as a model would go on after `prompt`, with the terminator: what it is trained to say.
    ///
    /// # Errors
    /// The answer's first token would swallow the prompt's end.
    pub fn answer_ids(&self, prompt: &RenderedPrompt, answer: &str) -> Result<Vec<u32>> {
        let before = prompt.text.rsplit(IMAGE_MARKER).next().unwrap_or_default();
        let space = if before.ends_with(char::is_whitespace) { "" } else { " " };
        let alone = self.tokenizer.encode(before, false)?;
        let mut ids = self.tokenizer.encode(&format!("{before}{space}{answer}"), false)?;
        if !ids.starts_with(&alone) || ids.len() == alone.len() {
            bail!(
                "the answer `{answer}` cannot be told apart from its prompt in tokens; hint: choose another \
                 --answer-template"
            );
        }
        ids.drain(..alone.len());
        ids.extend(self.eos_ids.first());
        Ok(ids)
    }

    /// When answers of at most `max_new_tokens` end.
    pub fn decoding(&self, max_new_tokens: usize) -> Decoding {
        Decoding { max_new_tokens, eos_ids: self.eos_ids.clone(), stop_strings: self.template.stop_strings().to_vec() }
    }

    /// The text of a generated row; a stop string and what follows it is cut off.
    pub fn answer(&self, generation: &Generation, decoding: &Decoding) -> Result<Answer> {
        let mut text = self.tokenizer.decode(&generation.ids)?;
        if let Some(end) = decoding.stop_strings.iter().filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(end);
        }
        Ok(Answer {
            text,
            stop: generation.stop,
            n_prompt_tokens: Some(generation.n_prompt_tokens as u32),
            n_answer_tokens: Some(generation.ids.len() as u32),
            logit_gap: Some(generation.logit_gap),
        })
    }
}

/// A loaded model.
pub struct Model {
    /// The forward pass.
    pub mllm: Box<dyn Mllm>,
    /// Text in and out.
    pub dialogue: Arc<Dialogue>,
    /// For images.
    pub preprocessor: Preprocessor,
}

impl Model {
    /// Answers, one a row of `features` `(batch, positions, hidden)`; `prompts` has as many entries.
    pub fn generate(
        &self,
        prompts: &[&RenderedPrompt],
        features: &Tensor,
        decoding: &Decoding,
    ) -> Result<Vec<Result<Generation, NotFinite>>> {
        let rows: Vec<Tensor> = prompts
            .iter()
            .enumerate()
            .map(|(row, prompt)| self.embed(prompt, &features.get(row)?))
            .collect::<candle_core::Result<_>>()?;
        let text_of = |ids: &[u32]| self.dialogue.tokenizer.decode(ids);
        super::generate::greedy(self.mllm.language(), &rows, decoding, &text_of)
    }

    /// Logits `(vocabulary)` of the first token of an answer.
    pub fn first_logits(&self, prompt: &RenderedPrompt, features: &Tensor) -> Result<Vec<f32>> {
        super::generate::first_logits(self.mllm.language(), self.embed(prompt, features)?)
    }

    /// The prompt's embeddings `(tokens, hidden)` with the image's features in their place.
    pub fn embed(&self, prompt: &RenderedPrompt, features: &Tensor) -> candle_core::Result<Tensor> {
        let parts: Vec<Tensor> = prompt
            .pieces
            .iter()
            .map(|piece| match piece {
                PromptPiece::Text(ids) => self.mllm.language().embed(ids),
                PromptPiece::Image => Ok(features.clone()),
            })
            .collect::<candle_core::Result<_>>()?;
        Tensor::cat(&parts, 0)
    }
}

/// What stands for the image in a rendered prompt.
pub const IMAGE_MARKER: &str = "<image>";

/// The tokens that end an answer: of generation_config.json, else config.json, else the tokenizer's `</s>`.
fn eos_ids(checkpoint: &Checkpoint, tokenizer: &TextTokenizer) -> Result<Vec<u32>> {
    let generation = checkpoint.read_json("generation_config.json")?;
    let config = checkpoint.config();
    let candidates = [
        generation.as_ref().and_then(|g| g.get("eos_token_id")),
        config.get("text_config").and_then(|t| t.get("eos_token_id")),
        config.get("eos_token_id"),
    ];
    for value in candidates.into_iter().flatten() {
        let ids: Vec<u32> = match value {
            serde_json::Value::Array(ids) => ids.iter().filter_map(|id| id.as_u64().map(|id| id as u32)).collect(),
            id => id.as_u64().map(|id| id as u32).into_iter().collect(),
        };
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    match tokenizer.token_id("</s>") {
        Some(id) => Ok(vec![id]),
        None => bail!(
            "no end-of-sequence token is known for `{}`; hint: add eos_token_id to generation_config.json",
            checkpoint.dir.display()
        ),
    }
}

#[cfg(test)]
mod adapter_tests;
#[cfg(test)]
mod tests;
