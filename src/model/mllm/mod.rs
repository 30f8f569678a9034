//! Multimodal language models. One file a family.

mod idefics3;
mod leftovers;
mod llava;
mod llava_onevision;
mod qwen2_5_vl;
mod qwen2_vl;
mod qwen3_vl;
mod qwen_vl;
mod settings;

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use serde_json::Value;

use super::Placement;
use super::generate::{Decoding, Generation, NotFinite};
use super::generation_config::{GenerationChoice, GenerationConfig};
use super::language::LanguageModel;
use super::layers::Loader;
use super::overlay::Overlay;
use super::prefix::{Opening, Prefix, PromptRow};
use super::preprocess::{ImageInput, ImageProcessor, PixelLimits};
use super::scoring::LabelTrie;
use super::template::{AroundAnswer, ChatTemplate};
use super::tokenizer::{PromptPiece, TextTokenizer};
use super::vision::{VisionConfig, VisionTower};
use super::weights::{Canonical, Checkpoint, TrainerNotes, Weights};
use crate::domain::{Answer, closest};
pub use settings::{ModelSettings, Overrides};

/// A prompt after the chat template, tokenised around the image.
#[derive(Clone, Debug)]
pub struct RenderedPrompt {
    /// The text, with the image marker.
    pub text: String,
    /// Runs of tokens and the image between them.
    pub pieces: Vec<PromptPiece>,
    /// All positions, the image at its largest; `None` is an image position.
    pub ids: Vec<Option<u32>>,
    /// What the template writes around an answer.
    pub around_answer: AroundAnswer,
}

impl RenderedPrompt {
    /// The tokens before the image.
    fn opening(&self) -> &[u32] {
        match self.pieces.first() {
            Some(PromptPiece::Text(ids)) => ids,
            _ => &[],
        }
    }
}

/// What a tower makes of one image, on its way to the projector.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The first is what the projector consumes, `(tokens, hidden)` or `(tiles, tokens, hidden)`; others are the family's.
    pub states: Vec<Tensor>,
    /// Rows and columns of tiles or patches.
    pub grid: (usize, usize),
    /// Height and width of the decoded image.
    pub original_size: (u32, u32),
}

impl Seen {
    /// Of a plain tower: one state `(tokens, hidden)` of `image`.
    pub fn plain(state: Tensor, image: &ImageInput) -> Self {
        Self { states: vec![state], grid: image.grid, original_size: image.original_size }
    }
}

/// What stands in the image's place in a prompt.
#[derive(Clone, Debug)]
pub struct ImageEmbedding {
    /// `(positions, hidden)`: features, and tokens between tiles.
    pub embeddings: Tensor,
    /// Rows and columns of positions, for families that count them in two dimensions.
    pub grid: Option<(usize, usize)>,
    /// Each `(positions, hidden)`: added after the first layers of the language model.
    pub deepstack: Vec<Tensor>,
    /// By position, a token's id between tiles, or `None` for a feature; empty where all are features.
    pub ids: Vec<Option<u32>>,
}

impl ImageEmbedding {
    /// Features `(positions, hidden)` of which each counts as one position.
    pub fn plain(embeddings: Tensor) -> Self {
        Self { embeddings, grid: None, deepstack: Vec::new(), ids: Vec::new() }
    }
}

/// A tower that an encoder may share.
#[derive(Clone, Copy)]
pub struct PlainTower<'a> {
    /// The tower.
    pub tower: &'a Arc<VisionTower>,
    /// The hidden states that the projector reads, side by side in this order.
    pub states: &'a [usize],
}

/// Hidden states `(…, tokens, hidden)` side by side in their width, as a projector reads several.
pub fn side_by_side(mut states: Vec<Tensor>) -> Result<Tensor> {
    let last = states.pop().context("a state is asked for")?;
    if states.is_empty() {
        return Ok(last);
    }
    states.push(last);
    Ok(Tensor::cat(&states, candle_core::D::Minus1)?)
}

/// The forward pass of a family.
pub trait Mllm: Send {
    /// What the tower makes of `images`, prepared by the family's processor. One image does not depend on its neighbours.
    fn see(&self, images: &[&ImageInput]) -> Result<Vec<Seen>>;

    /// What the language model reads in the place of images.
    fn embed_images(&self, seen: &[Seen]) -> Result<Vec<ImageEmbedding>>;

    /// The language model.
    fn language(&self) -> &dyn LanguageModel;

    /// The tower, where it takes one square picture an image as an encoder's does.
    fn plain_tower(&self) -> Option<PlainTower<'_>> {
        None
    }

    /// One vector an image for probes: the mean over the tokens that the projector consumes.
    fn probe_features(&self, seen: &Seen) -> Result<Vec<f32>> {
        let state = seen.states.first().context("a tower gives a state")?;
        let last = state.rank() - 1;
        let tokens = if last == 0 { state.unsqueeze(0)? } else { state.flatten_to(last - 1)? };
        Ok(tokens.to_dtype(DType::F32)?.mean(0)?.to_vec1()?)
    }
}

/// What is known of a model from its configuration alone, before a weight is read.
pub trait MllmPlan: Send {
    /// Language-model positions of an image, at most.
    fn n_image_positions_max(&self) -> usize;

    /// Positions that the language model was trained for.
    fn n_positions(&self) -> usize;

    /// Why the language model has no more positions, where it was trained for more.
    fn limit(&self) -> Option<&str> {
        None
    }

    /// What of the configuration decides answers, under the names of `config.json`, by effect: two spellings of one setting
    /// are equal.
    fn settings(&self) -> Value;

    /// What of the configuration decides what a tower makes of pixels and which of it a projector reads; all of it, where
    /// a family does not say.
    fn tower_settings(&self) -> Value {
        self.settings()
    }

    /// What a person should know of how the configuration is read.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Numbers (not bytes) that one row of `n_tokens` positions holds while it is answered: cache and activations.
    fn n_numbers_per_row(&self, n_tokens: usize) -> usize;

    /// Sizes of the tower, where the model has a [`PlainTower`].
    fn plain_tower(&self) -> Option<&VisionConfig> {
        None
    }

    /// Reads the weights; every tensor must find its place.
    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Mllm>>;
}

/// Reads a model's configuration, and its tower's where that is kept apart.
pub type PlanFn = fn(&Checkpoint, Option<&Checkpoint>) -> Result<Box<dyn MllmPlan>>;

/// Reads how a model's images are prepared, or its tower's where that is kept apart.
pub type PreprocessorFn = fn(&Checkpoint, Option<&Checkpoint>, &PixelLimits) -> Result<Box<dyn ImageProcessor>>;

/// What of a family was verified, and against what.
#[derive(Debug)]
pub struct Verified {
    /// Of checkpoints: names, tokens, image preparation, forward pass.
    pub local: &'static str,
    /// Of adapters over them; `None` where nothing was.
    pub adapter: Option<&'static str>,
    /// What a model can be compared with.
    pub comparator: &'static str,
}

/// A family of models: one line in [`FAMILIES`].
pub struct MllmFamily {
    /// What reports call it.
    pub name: &'static str,
    /// One sentence for lists.
    pub about: &'static str,
    /// For lists, what was verified.
    pub verified: Verified,
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
    /// What stands for the image in the text of the checkpoint's chat template.
    pub image_marker: &'static str,
    /// Image preparation, within a person's limits.
    pub preprocessor: PreprocessorFn,
}

/// All families; the first that recognises a checkpoint reads it.
pub const FAMILIES: &[MllmFamily] =
    &[llava::FAMILY, qwen2_vl::FAMILY, qwen2_5_vl::FAMILY, qwen3_vl::FAMILY, idefics3::FAMILY, llava_onevision::FAMILY];

/// The family of a checkpoint, or an error that lists what is known.
pub fn family_of(checkpoint: &Checkpoint) -> Result<&'static MllmFamily> {
    if let Some(family) = FAMILIES.iter().find(|family| (family.recognises)(checkpoint)) {
        return Ok(family);
    }
    let known: Vec<_> = FAMILIES.iter().map(|family| family.about).collect();
    let names: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
    let kind = checkpoint.config().get("model_type").and_then(|v| v.as_str()).unwrap_or("?");
    bail!(
        "`{}` is not a model that emt reads (model_type `{kind}` in config.json); hint: {}supported are {}",
        checkpoint.dir.display(),
        closest(kind, &names),
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
    pub dialogue: Arc<Dialogue>,
    /// For images.
    pub preprocessor: Arc<dyn ImageProcessor>,
    /// Sizes.
    pub plan: Box<dyn MllmPlan>,
    /// What a person should know before it is asked.
    pub warnings: Vec<String>,
    /// What was left beside it.
    pub notes: TrainerNotes,
    /// Hash of the configuration, the tower's included: with the tower's weights it decides what the tower makes of pixels.
    pub config_hash: String,
}

impl OpenedModel {
    /// Opens a checkpoint folder. `tower` is where the vision tower lies, for checkpoints that only name it;
    /// `template` chooses a chat template over the checkpoint's own.
    pub fn open(checkpoint: &Checkpoint, tower: Option<&Checkpoint>, template: Option<&str>) -> Result<Self> {
        Self::open_within(checkpoint, tower, template, &PixelLimits::default(), GenerationChoice::Checkpoint)
    }

    /// The same with `limits` to the pixels of an image, and a choice of what decides greedy answers.
    pub fn open_within(
        checkpoint: &Checkpoint,
        tower: Option<&Checkpoint>,
        template: Option<&str>,
        limits: &PixelLimits,
        generation: GenerationChoice,
    ) -> Result<Self> {
        let family = family_of(checkpoint)?;
        let overrides = Overrides { template, limits, generation };
        let ModelSettings { plan, dialogue, preprocessor, config_hash, warnings: of_settings } =
            ModelSettings::read(family, checkpoint, checkpoint, tower, overrides)?;
        let (name, notes) = (checkpoint.name(), checkpoint.trainer_notes()?);
        let mut warnings = leftovers::of_model(&name, &notes, &dialogue, preprocessor.as_ref());
        warnings.extend(plan.notes());
        warnings.extend(of_settings);
        warnings.extend(checkpoint.differing_weights()?);
        if template.is_none() {
            warnings.extend(dialogue.template.other_templates(checkpoint, &dialogue.tokenizer)?);
        }
        Ok(Self {
            family: family.name,
            name,
            weights: (family.weights)(checkpoint, tower)?,
            preprocessor,
            dialogue,
            plan,
            warnings,
            notes,
            config_hash,
        })
    }

    /// Reads the weights.
    pub fn load(self, placement: &Placement) -> Result<Model> {
        let mut models = self.load_all(vec![Overlay::default()], placement)?;
        models.pop().context("one overlay makes one model")
    }

    /// Reads the weights once for several models: each is the base under one overlay, and they share what no overlay
    /// replaces or merges into. An empty overlay is the base itself.
    pub fn load_all(self, overlays: Vec<Overlay>, placement: &Placement) -> Result<Vec<Model>> {
        self.load_each(overlays.into_iter().map(|overlay| (overlay, None)).collect(), placement)
    }

    /// The same of models that may have settings of their own in place of the base's.
    pub fn load_each(
        mut self,
        models: Vec<(Overlay, Option<ModelSettings>)>,
        placement: &Placement,
    ) -> Result<Vec<Model>> {
        let mut loaded = Vec::with_capacity(models.len());
        for (mut overlay, own) in models {
            let plan = own.as_ref().map_or(&self.plan, |own| &own.plan);
            let mllm = plan.load(&mut Loader::with_overlay(&mut self.weights, &mut overlay, placement))?;
            overlay.finish()?;
            self.weights.finish()?;
            let (dialogue, preprocessor) = match own {
                Some(own) => (own.dialogue, own.preprocessor),
                None => (self.dialogue.clone(), self.preprocessor.clone()),
            };
            loaded.push(Model { mllm, dialogue, preprocessor });
        }
        Ok(loaded)
    }
}

/// Text in and out of a model.
pub struct Dialogue {
    /// For prompts and answers.
    pub tokenizer: TextTokenizer,
    /// For prompts.
    pub template: ChatTemplate,
    eos_ids: Vec<u32>,
    generation: GenerationConfig,
    n_image_positions: usize,
    image_marker: &'static str,
}

impl Dialogue {
    /// Positions of an image in a prompt, at most.
    pub fn n_image_positions_max(&self) -> usize {
        self.n_image_positions
    }

    /// The prompt for one question about one image.
    pub fn render(&self, question: &str) -> Result<RenderedPrompt> {
        let text = self.template.render(question)?;
        let pieces = self.tokenizer.encode_with_image(&text, self.image_marker)?;
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
        let around_answer = self.template.around_answer(question, &text).unwrap_or_else(|| AroundAnswer {
            before: if text.ends_with(char::is_whitespace) { "" } else { " " }.to_owned(),
            after: String::new(),
        });
        Ok(RenderedPrompt { text, pieces, ids, around_answer })
    }

    /// The tokens of `answer` as a model would go on after `prompt`, with the terminator: what it is trained to say.
    ///
    /// They are what is left of the whole conversation's tokens without the prompt's. The terminator is what the chat
    /// template writes after an answer: one of the tokens that end generation, or a stop string's. Where it writes
    /// neither (transformers' LLaVA), the first of those tokens.
    ///
    /// # Errors
    /// The answer's first token would swallow the prompt's end, or the answer is empty.
    pub fn answer_ids(&self, prompt: &RenderedPrompt, answer: &str) -> Result<Vec<u32>> {
        let AroundAnswer { before, after } = &prompt.around_answer;
        let terminator = self.terminator(after);
        let stop = if let Terminator::Text(stop) = terminator { stop } else { "" };
        let alone = flat(&prompt.pieces);
        let whole = format!("{}{before}{answer}{stop}", prompt.text);
        let whole = flat(&self.tokenizer.encode_with_image(&whole, self.image_marker)?);
        let ids: Option<Vec<u32>> = whole.strip_prefix(alone.as_slice()).and_then(|ids| ids.iter().copied().collect());
        let Some(mut ids) = ids.filter(|ids| !ids.is_empty() && !answer.is_empty()) else {
            bail!(
                "the answer `{answer}` cannot be told apart from its prompt in tokens; hint: choose other words for it \
                 (--answer-template, --labels) or another --template"
            );
        };
        if let Terminator::Token(id) = terminator {
            ids.push(id);
        }
        Ok(ids)
    }

    fn terminator<'a>(&'a self, after: &str) -> Terminator<'a> {
        let after = after.trim_start();
        let ends =
            |id: &u32| self.tokenizer.token(*id).is_some_and(|text| !text.is_empty() && after.starts_with(&text));
        let stop = self.template.stop_strings().iter().find(|stop| after.starts_with(stop.as_str()));
        match (self.eos_ids.iter().copied().find(ends), stop) {
            (Some(id), _) => Terminator::Token(id),
            (None, Some(stop)) => Terminator::Text(stop),
            (None, None) => Terminator::Token(self.eos_ids[0]),
        }
    }

    /// What a model may answer to `prompt`: each of `labels` with the terminator.
    ///
    /// # Errors
    /// As [`answer_ids`](Self::answer_ids), with the label's name.
    pub fn label_trie(&self, prompt: &RenderedPrompt, labels: &[&str]) -> Result<LabelTrie> {
        let sequences = labels.iter().map(|label| self.answer_ids(prompt, label)).collect::<Result<Vec<_>>>()?;
        Ok(LabelTrie::new(&sequences))
    }

    /// When answers of at most `max_new_tokens` end.
    pub fn decoding(&self, max_new_tokens: usize) -> Decoding {
        let stop_strings = self.template.stop_strings().iter().chain(self.generation.stop_strings());
        Decoding {
            max_new_tokens,
            eos_ids: self.eos_ids.clone(),
            stop_strings: stop_strings.cloned().collect(),
            processors: self.generation.processors().clone(),
        }
    }

    /// The settings of greedy decoding that the checkpoint brings.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
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
            // It is none where nothing else could follow.
            logit_gap: Some(generation.logit_gap).filter(|gap| gap.is_finite()),
        })
    }
}

/// What ends an answer.
enum Terminator<'a> {
    Token(u32),
    Text(&'a str),
}

/// All tokens of a prompt; `None` is the image.
fn flat(pieces: &[PromptPiece]) -> Vec<Option<u32>> {
    let of_piece = |piece: &PromptPiece| match piece {
        PromptPiece::Text(ids) => ids.iter().copied().map(Some).collect(),
        PromptPiece::Image => vec![None],
    };
    pieces.iter().flat_map(of_piece).collect()
}

/// A loaded model.
pub struct Model {
    /// The forward pass.
    pub mllm: Box<dyn Mllm>,
    /// Text in and out.
    pub dialogue: Arc<Dialogue>,
    /// For images.
    pub preprocessor: Arc<dyn ImageProcessor>,
}

impl Model {
    /// Reads what `prompt` says before the image.
    pub fn opening(&self, prompt: &RenderedPrompt) -> Result<Opening> {
        Opening::read(self.mllm.language(), prompt.opening())
    }

    /// Reads `prompts`, each about the image beside it, with room for `n_new` positions after them; what `opening` says is not
    /// read again, where all begin with it.
    pub fn read(
        &self,
        opening: Option<&Opening>,
        prompts: &[&RenderedPrompt],
        images: &[ImageEmbedding],
        n_new: usize,
    ) -> Result<Prefix> {
        let opening =
            opening.filter(|opening| prompts.iter().all(|prompt| prompt.opening().starts_with(opening.ids())));
        let rows: Vec<PromptRow> = prompts
            .iter()
            .zip(images)
            .map(|(prompt, image)| self.embed(prompt, image))
            .collect::<candle_core::Result<_>>()?;
        Prefix::read(self.mllm.language(), opening, &rows, n_new)
    }

    /// The answer to each prompt of `prefix`, which has room for it.
    pub fn generate(&self, prefix: Prefix, decoding: &Decoding) -> Result<Vec<Result<Generation, NotFinite>>> {
        let text_of = |ids: &[u32]| self.dialogue.tokenizer.decode(ids);
        super::generate::greedy(self.mllm.language(), prefix, decoding, &text_of)
    }

    /// Logits `(vocabulary)` of the first token of an answer.
    pub fn first_logits(&self, prompt: &RenderedPrompt, image: &ImageEmbedding) -> Result<Vec<f32>> {
        let prefix = Prefix::read(self.mllm.language(), None, &[self.embed(prompt, image)?], 0)?;
        prefix.next_logits(self.mllm.language())?.pop().context("one prompt has one row of logits")
    }

    /// The prompt with the image in its place.
    ///
    /// Text counts on by one a token. An image with a grid stands at one time, and its positions count its rows and
    /// columns; the text after it goes on behind the longer side (M-RoPE; Wang et al. 2024, "Qwen2-VL", section 2.1).
    pub fn embed(&self, prompt: &RenderedPrompt, image: &ImageEmbedding) -> candle_core::Result<PromptRow> {
        let (mut embeddings, mut positions) = (Vec::new(), Vec::<[u32; 3]>::new());
        let mut next = 0u32;
        let mut image_at = 0..0;
        // A model whose vocabulary has no token for an image is given embeddings, and no ids.
        let image_id = self.dialogue.tokenizer.token_id(self.dialogue.image_marker);
        let mut ids = Vec::new();
        for piece in &prompt.pieces {
            let part = match piece {
                PromptPiece::Text(ids) => self.mllm.language().embed(ids)?,
                PromptPiece::Image => image.embeddings.clone(),
            };
            let n_tokens = part.dim(0)?;
            match (piece, image_id) {
                (PromptPiece::Text(text), _) => ids.extend(text),
                (PromptPiece::Image, Some(id)) if image.ids.is_empty() => ids.extend(std::iter::repeat_n(id, n_tokens)),
                (PromptPiece::Image, Some(id)) => ids.extend(image.ids.iter().map(|token| token.unwrap_or(id))),
                (PromptPiece::Image, None) => {}
            }
            match (piece, image.grid) {
                (PromptPiece::Image, Some((n_rows, n_columns))) => {
                    let cells =
                        (0..n_rows as u32).flat_map(|row| (0..n_columns as u32).map(move |column| (row, column)));
                    positions.extend(cells.map(|(row, column)| [next, next + row, next + column]));
                    next += n_rows.max(n_columns) as u32;
                }
                _ => {
                    positions.extend((next..next + n_tokens as u32).map(|position| [position; 3]));
                    next += n_tokens as u32;
                }
            }
            if matches!(piece, PromptPiece::Image) {
                image_at = positions.len() - n_tokens..positions.len();
            }
            embeddings.push(part);
        }
        let deepstack = image.deepstack.iter().map(|added| {
            let n_after = positions.len() - image_at.end;
            added.pad_with_zeros(0, image_at.start, n_after)
        });
        Ok(PromptRow {
            deepstack: deepstack.collect::<candle_core::Result<_>>()?,
            embeddings: Tensor::cat(&embeddings, 0)?,
            positions,
            next_position: next as usize,
            ids: if image_id.is_some() { ids } else { Vec::new() },
        })
    }
}

#[cfg(test)]
mod adapter_tests;
#[cfg(test)]
mod fused_tests;
#[cfg(test)]
mod generation_tests;
#[cfg(test)]
mod leftovers_tests;
#[cfg(test)]
mod llava_space_tests;
#[cfg(test)]
mod qwen_tests;
#[cfg(test)]
mod tests;
