//! Multimodal language models. One file a family.

mod decoder_only;
mod dialogue;
mod idefics3;
mod leftovers;
mod llava;
mod llava_onevision;
mod prompt;
mod qwen2_5_vl;
mod qwen2_vl;
mod qwen3_vl;
mod qwen_vl;
mod settings;

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use serde_json::Value;

use crate::domain::closest;
use crate::model::Placement;
use crate::model::checkpoint::overlay::Overlay;
use crate::model::checkpoint::weights::{Canonical, Checkpoint, TrainerNotes, Weights};
use crate::model::language::LanguageModel;
use crate::model::layers::{Loader, Watched};
use crate::model::run::generate::{Decoding, Generation, LogitsNotFinite};
use crate::model::run::generation_config::GenerationChoice;
use crate::model::run::prefix::{Opening, Prefix, PromptRow};
use crate::model::vision::preprocess::{ImageInput, ImageProcessor, PixelLimits};
use crate::model::vision::square_tower::{VisionConfig, VisionTower};
pub use decoder_only::{DecoderOnly, ImageReader};
pub use dialogue::Dialogue;
pub use prompt::RenderedPrompt;
pub use settings::{ModelSettings, Overrides};

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
    /// The runs of positions that hold features, where the image's first of `n_tokens` stands at `start`.
    pub(super) fn feature_runs(&self, start: usize, n_tokens: usize) -> Vec<Range<usize>> {
        let is_feature = |place: &usize| self.ids.get(*place).is_none_or(Option::is_none);
        let features: Vec<usize> = (0..n_tokens).filter(is_feature).collect();
        let runs = features.chunk_by(|a, b| a + 1 == *b);
        runs.map(|run| start + run[0]..start + run[run.len() - 1] + 1).collect()
    }

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

/// A prompt with what a tower made of its images, in their order.
#[derive(Clone, Copy)]
pub struct ImagePrompt<'a> {
    /// The prompt.
    pub prompt: &'a RenderedPrompt,
    /// As many as the prompt has places for.
    pub images: &'a [Seen],
}

/// A prompt and an answer that the model is held to.
#[derive(Clone, Copy)]
pub struct ForcedAnswer<'a> {
    /// The question.
    pub prompt: ImagePrompt<'a>,
    /// The answer's tokens with the terminator.
    pub answer: &'a [u32],
}

/// The forward pass of a family: it sees images, reads prompts about them, and continues what it read.
///
/// Nothing here says where images enter: among the tokens of a decoder ([`DecoderOnly`]), by layers that attend to them, or
/// through an encoder. A family whose features depend on the question makes them in [`embed`](Self::embed).
pub trait Mllm: Send {
    /// What the tower makes of `images`, prepared by the family's processor. One image does not depend on its neighbours.
    fn see(&self, images: &[&ImageInput]) -> Result<Vec<Seen>> {
        self.see_watched(images, Watched::by_none())
    }

    /// The same with somebody who looks into the tower. Images that do not pass it together begin a pass each.
    fn see_watched(&self, images: &[&ImageInput], watch: Watched<'_>) -> Result<Vec<Seen>>;

    /// What the projector makes of images, whatever is asked about them.
    fn embed_images(&self, seen: &[Seen]) -> Result<Vec<ImageEmbedding>>;

    /// Prompts as the language model reads them, one row each.
    fn embed(&self, prompts: &[ImagePrompt<'_>]) -> Result<Vec<PromptRow>>;

    /// Reads `prompts`, with room for `n_new` positions after them; what `opening` says is not read again, where all begin
    /// with it.
    fn read(
        &self,
        opening: Option<&Opening>,
        prompts: &[PromptRow],
        n_new: usize,
        watch: Watched<'_>,
    ) -> Result<Prefix>;

    /// Logits `(answer tokens of all examples, vocabulary)` that predict the tokens of answers, example by example. Gradients
    /// flow.
    fn teacher_forced(&self, examples: &[ForcedAnswer<'_>], watch: Watched<'_>) -> Result<Tensor>;

    /// What continues a [`Prefix`].
    fn decoder(&self) -> &dyn LanguageModel;

    /// The tower, where it takes one square picture an image as an encoder's does.
    fn plain_tower(&self) -> Option<PlainTower<'_>> {
        None
    }

    /// One vector an image for probes: the mean over the tokens that the projector consumes.
    fn probe_features(&self, seen: &Seen) -> Result<Vec<f32>>;
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
        Opening::read(self.mllm.decoder(), prompt.opening())
    }

    /// `prompt` about each item of `seen`, which has the images of one prompt, as the model reads it.
    pub fn prompt_rows(&self, prompt: &RenderedPrompt, seen: &[Vec<Seen>]) -> Result<Vec<PromptRow>> {
        let prompts: Vec<ImagePrompt> = seen.iter().map(|images| ImagePrompt { prompt, images }).collect();
        self.mllm.embed(&prompts)
    }

    /// `prompt` about each image of `seen`, as the model reads it.
    pub fn rows(&self, prompt: &RenderedPrompt, seen: &[Seen]) -> Result<Vec<PromptRow>> {
        let about = |seen| ImagePrompt { prompt, images: std::slice::from_ref(seen) };
        self.mllm.embed(&seen.iter().map(about).collect::<Vec<_>>())
    }

    /// The answer to each prompt of `prefix`, which has room for it.
    pub fn generate(&self, prefix: Prefix, decoding: &Decoding) -> Result<Vec<Result<Generation, LogitsNotFinite>>> {
        self.generate_watched(prefix, decoding, Watched::by_none())
    }

    /// The same with somebody who looks at each step.
    pub fn generate_watched(
        &self,
        prefix: Prefix,
        decoding: &Decoding,
        watch: Watched<'_>,
    ) -> Result<Vec<Result<Generation, LogitsNotFinite>>> {
        let text_of = |ids: &[u32]| self.dialogue.tokenizer.decode(ids);
        crate::model::run::generate::greedy(self.mllm.decoder(), prefix, decoding, &text_of, watch)
    }

    /// Logits `(vocabulary)` of the first token of an answer to `prompt`.
    pub fn first_logits(&self, prompt: PromptRow) -> Result<Vec<f32>> {
        let prefix = self.mllm.read(None, &[prompt], 0, Watched::by_none())?;
        prefix.next_logits(self.mllm.decoder())?.pop().context("one prompt has one row of logits")
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
#[cfg(test)]
mod watch_tests;
