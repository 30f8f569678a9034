//! Multimodal language models. One file per family.

mod anyres;
mod blip2;
mod decoder_only;
mod dialogue;
mod differences;
mod encoder_decoder;
mod gemma3;
mod idefics3;
mod internvl;
mod leftovers;
mod llava;
mod llava_next;
mod llava_onevision;
mod mixture;
mod mllama;
mod open_flamingo;
mod otter;
mod paligemma;
mod prompt;
mod prompt_form;
mod qwen2_5_vl;
mod qwen2_vl;
mod qwen3_vl;
mod qwen_vl;
mod saved_by;
mod settings;

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use serde_json::Value;

use crate::domain::{ImageAttention, closest};
use crate::model::Placement;
use crate::model::checkpoint::overlay::Overlay;
use crate::model::checkpoint::weights::{Canonical, Checkpoint, TrainerNotes, Weights};
use crate::model::language::{CrossKind, LanguageModel};
use crate::model::layers::{Loader, Watched};
use crate::model::run::generate::{Decoding, Generation, LogitsNotFinite};
use crate::model::run::generation_config::GenerationChoice;
use crate::model::run::prefix::{Opening, Prefix, PromptRow};
use crate::model::vision::preprocess::{ImageInput, ImageProcessor, PixelLimits};
use crate::model::vision::square_tower::{VisionConfig, VisionTower};
pub use decoder_only::{Ahead, DecoderOnly, ImageReader};
pub use dialogue::{Dialogue, PromptWriting, WrittenImage};
pub use encoder_decoder::EncoderDecoder;
pub use prompt::RenderedPrompt;
pub use prompt_form::PromptForm;
pub use settings::{ModelSettings, Overrides};

/// The tower's output for one image, which is the projector's input.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The first is the projector's input, `(tokens, hidden)` or `(tiles, tokens, hidden)`. Others are specific to the
    /// family.
    pub states: Vec<Tensor>,
    /// Rows and columns of tiles or patches.
    pub grid: (usize, usize),
    /// Height and width of the decoded image.
    pub original_size: (u32, u32),
}

impl Seen {
    /// The output of a plain tower: one state `(tokens, hidden)` of `image`.
    pub fn plain(state: Tensor, image: &ImageInput) -> Self {
        Self { states: vec![state], grid: image.grid, original_size: image.original_size }
    }
}

/// The embeddings that replace an image in a prompt.
#[derive(Clone, Debug)]
pub struct ImageEmbedding {
    /// `(positions, hidden)`: features, and tokens between tiles.
    pub embeddings: Tensor,
    /// Rows and columns of positions, for families that count them in two dimensions.
    pub grid: Option<(usize, usize)>,
    /// Each `(positions, hidden)`, added after the first layers of the language model.
    pub deepstack: Vec<Tensor>,
    /// By position, the id of a token between tiles, or `None` for a feature. Empty if all are features.
    pub ids: Vec<Option<u32>>,
    /// What layers attend to beside the tokens, in families that have such layers.
    pub beside: Option<Beside>,
}

/// Features of an image that stay beside the text.
#[derive(Clone, Debug)]
pub struct Beside {
    /// `(positions, width)`.
    pub features: Tensor,
    /// The number of first positions that tokens after the image see.
    pub n_seen: usize,
    /// Which tokens see which images.
    pub kind: CrossKind,
}

impl ImageEmbedding {
    /// Returns the runs of positions that hold features. The image takes `n_tokens` positions from `start` on.
    pub(super) fn feature_runs(&self, start: usize, n_tokens: usize) -> Vec<Range<usize>> {
        let is_feature = |place: &usize| self.ids.get(*place).is_none_or(Option::is_none);
        let features: Vec<usize> = (0..n_tokens).filter(is_feature).collect();
        let runs = features.chunk_by(|a, b| a + 1 == *b);
        runs.map(|run| start + run[0]..start + run[run.len() - 1] + 1).collect()
    }

    /// Features `(positions, hidden)` between two tokens, which `decoder` embeds.
    ///
    /// # Errors
    /// A token is not in its vocabulary.
    pub fn between([start, end]: [u32; 2], features: &Tensor, decoder: &dyn LanguageModel) -> Result<Self> {
        let embeddings = Tensor::cat(&[&decoder.embed(&[start])?, features, &decoder.embed(&[end])?], 0)?;
        let of_features = std::iter::repeat_n(None, features.dim(0)?);
        let ids = std::iter::once(Some(start)).chain(of_features).chain([Some(end)]).collect();
        Ok(Self { ids, ..Self::plain(embeddings) })
    }

    /// Features `(positions, hidden)` that take one position each.
    pub fn plain(embeddings: Tensor) -> Self {
        Self { embeddings, grid: None, deepstack: Vec::new(), ids: Vec::new(), beside: None }
    }
}

/// A tower that an encoder may share.
#[derive(Clone, Copy)]
pub struct PlainTower<'a> {
    /// The tower.
    pub tower: &'a Arc<VisionTower>,
    /// The hidden states that the projector reads, concatenated in this order.
    pub states: &'a [usize],
}

/// Concatenates hidden states `(…, tokens, hidden)` along their width, as a projector reads several.
pub fn side_by_side(mut states: Vec<Tensor>) -> Result<Tensor> {
    let last = states.pop().context("a state is asked for")?;
    if states.is_empty() {
        return Ok(last);
    }
    states.push(last);
    Ok(Tensor::cat(&states, candle_core::D::Minus1)?)
}

/// A prompt and the tower's output for its images, in their order.
#[derive(Clone, Copy)]
pub struct ImagePrompt<'a> {
    /// The prompt.
    pub prompt: &'a RenderedPrompt,
    /// One per image place of the prompt.
    pub images: &'a [Seen],
}

/// A prompt and an answer, for teacher forcing.
#[derive(Clone, Copy)]
pub struct ForcedAnswer<'a> {
    /// The question.
    pub prompt: ImagePrompt<'a>,
    /// The answer's tokens with the terminator.
    pub answer: &'a [u32],
}

/// The forward pass of a family: it sees images, reads prompts about them, and continues them.
///
/// The trait does not fix where images enter: among the tokens of a decoder ([`DecoderOnly`]), by layers that attend to
/// them, or through an encoder. A family whose features depend on the question computes them in [`embed`](Self::embed).
pub trait Mllm: Send {
    /// Returns the tower's output for `images`, prepared by the family's processor. Each image is independent of the
    /// others.
    fn see(&self, images: &[&ImageInput]) -> Result<Vec<Seen>> {
        self.see_watched(images, Watched::by_none())
    }

    /// Like [`see`](Self::see), with a watch on the tower. Each group of images that passes the tower together begins a
    /// new pass.
    fn see_watched(&self, images: &[&ImageInput], watch: Watched<'_>) -> Result<Vec<Seen>>;

    /// Returns the projector's output for images, which does not depend on the question.
    fn embed_images(&self, seen: &[Seen]) -> Result<Vec<ImageEmbedding>>;

    /// Embeds prompts for the language model, one row each.
    fn embed(&self, prompts: &[ImagePrompt<'_>]) -> Result<Vec<PromptRow>>;

    /// Reads `prompts`, with room for `n_new` positions after them. The `opening` is not read again if all begin with
    /// it.
    fn read(
        &self,
        opening: Option<&Opening>,
        prompts: &[PromptRow],
        n_new: usize,
        watch: Watched<'_>,
    ) -> Result<Prefix>;

    /// Returns logits `(answer tokens of all examples, vocabulary)` that predict the answers' tokens, example by
    /// example. Gradients flow.
    fn teacher_forced(&self, examples: &[ForcedAnswer<'_>], watch: Watched<'_>) -> Result<Tensor>;

    /// The language model that continues a [`Prefix`].
    fn decoder(&self) -> &dyn LanguageModel;

    /// The tower, if it takes one square picture per image, as an encoder's does.
    fn plain_tower(&self) -> Option<PlainTower<'_>> {
        None
    }

    /// Returns one vector per image for probes: the mean over the tokens that the projector consumes.
    fn probe_features(&self, seen: &Seen) -> Result<Vec<f32>>;
}

/// What is known of a model from its configuration, before any weight is read.
pub trait MllmPlan: Send {
    /// The maximum number of language-model positions of an image.
    fn n_image_positions_max(&self) -> usize;

    /// The number of positions that the language model was trained for.
    fn n_positions(&self) -> usize;

    /// The number of layers of the language model.
    fn n_layers(&self) -> usize;

    /// The heads of queries, and of keys and values, of the language model's attention.
    fn n_heads(&self) -> [usize; 2];

    /// Why the language model has fewer positions than it was trained for, if it has.
    fn limit(&self) -> Option<&str> {
        None
    }

    /// The configuration that decides answers, under the names of `config.json` and normalised: two spellings of one
    /// setting are equal.
    fn settings(&self) -> Value;

    /// The configuration that decides the tower's output for pixels and which part of it a projector reads. By default
    /// all [`settings`](Self::settings).
    fn tower_settings(&self) -> Value {
        self.settings()
    }

    /// Warnings about how the configuration is read.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// The number of values (not bytes) that one row of `n_tokens` positions holds while it is answered: cache and
    /// activations.
    fn n_numbers_per_row(&self, n_tokens: usize) -> usize;

    /// What the family's processor writes into a rendered prompt.
    fn prompt_writing(&self) -> PromptWriting {
        PromptWriting::default()
    }

    /// The built-in template for a checkpoint without one, if there is one.
    fn built_in_template(&self) -> Option<&'static str> {
        None
    }

    /// The tower's sizes, if the model has a [`PlainTower`].
    fn plain_tower(&self) -> Option<&VisionConfig> {
        None
    }

    /// How prompts become tokens. By default, the text is tokenised as a whole around its images.
    fn prompt_form(&self) -> PromptForm {
        PromptForm::default()
    }

    /// Loads the weights. Every tensor must be used.
    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Mllm>>;
}

/// Reads a model's configuration, and its tower's if that is in a separate checkpoint.
pub type PlanFn = fn(&Checkpoint, Option<&Checkpoint>) -> Result<Box<dyn MllmPlan>>;

/// Reads the image preparation of a model, or of its tower if that is in a separate checkpoint.
pub type PreprocessorFn = fn(&Checkpoint, Option<&Checkpoint>, &PixelLimits) -> Result<Box<dyn ImageProcessor>>;

/// What was verified for a family, and against what.
#[derive(Debug)]
pub struct Verified {
    /// For checkpoints: names, tokens, image preparation, forward pass.
    pub local: &'static str,
    /// For adapters over them; `None` if nothing was verified.
    pub adapter: Option<&'static str>,
    /// What a model can be compared with.
    pub comparator: &'static str,
}

/// A family of models: one line in [`FAMILIES`].
pub struct MllmFamily {
    /// The name in reports.
    pub name: &'static str,
    /// One sentence for lists.
    pub about: &'static str,
    /// What was verified, for lists.
    pub verified: Verified,
    /// Returns whether a checkpoint is of this family.
    pub recognises: fn(&Checkpoint) -> bool,
    /// The names of its modules in transformers 4.52 and later, which adapters are saved under.
    pub in_memory: InMemoryNames,
    /// Returns the canonical name of a stored tensor, for checkpoints and adapters alike.
    pub canonical: fn(&str) -> Canonical,
    /// Names the checkpoint's tensors. The second checkpoint is the tower's, if that is separate.
    pub weights: fn(&Checkpoint, Option<&Checkpoint>) -> Result<Weights>,
    /// Reads the configuration.
    pub plan: PlanFn,
    /// Returns the folder or hub name of a tower that the checkpoint does not contain.
    pub tower_reference: fn(&Checkpoint) -> Option<String>,
    /// The image marker in the text of the checkpoint's chat template.
    pub image_marker: &'static str,
    /// The image preparation, within the user's limits.
    pub preprocessor: PreprocessorFn,
}

/// The names of a family's modules in transformers, from 4.52 on.
#[derive(Clone, Copy, Debug)]
pub struct InMemoryNames {
    /// The language model, below `model.`.
    pub language_model: &'static str,
    /// The projector, below `model.`.
    pub projector: &'static str,
    /// What PEFT's `modules_to_save` calls the projector.
    pub saved_projector: &'static str,
}

impl InMemoryNames {
    /// LLaVA's and LLaVA-OneVision's.
    pub const LLAVA: Self = Self {
        language_model: "language_model",
        projector: "multi_modal_projector",
        saved_projector: "multi_modal_projector",
    };
    /// Qwen's.
    pub const QWEN: Self =
        Self { language_model: "language_model", projector: "visual.merger", saved_projector: "merger" };

    /// Returns the name in memory of a module or tensor, given its canonical name.
    pub fn in_memory(&self, canonical: &str) -> String {
        if let Some(rest) = canonical.strip_prefix("language_model.") {
            return format!("model.{}.{rest}", self.language_model);
        }
        match canonical.strip_prefix("multi_modal_projector.") {
            // A second list of projectors lies beside the first.
            Some(rest) if rest.starts_with(DEEPSTACK) => {
                let above = self.projector.rsplit_once('.').map_or("", |(above, _)| above);
                format!("model.{above}.{rest}")
            }
            Some(rest) => format!("model.{}.{rest}", self.projector),
            None => format!("model.{canonical}"),
        }
    }

    /// Returns the module that PEFT saves for a projector's tensor, or `None` for another tensor.
    pub fn saved_module(&self, canonical: &str) -> Option<String> {
        let rest = canonical.strip_prefix("multi_modal_projector.")?;
        match rest.strip_prefix(DEEPSTACK) {
            Some(of_list) => Some(format!("{DEEPSTACK}{}", of_list.split('.').next()?)),
            None => Some(self.saved_projector.to_owned()),
        }
    }
}

/// The canonical names of projectors of a tower's inner states begin with this, below the projector.
const DEEPSTACK: &str = "deepstack_merger_list.";

/// All families. The first that recognises a checkpoint reads it.
pub const FAMILIES: &[MllmFamily] = &[
    llava::FAMILY,
    qwen2_vl::FAMILY,
    qwen2_5_vl::FAMILY,
    qwen3_vl::FAMILY,
    idefics3::FAMILY,
    llava_onevision::FAMILY,
    llava_next::FAMILY,
    internvl::FAMILY,
    gemma3::FAMILY,
    paligemma::FAMILY,
    mllama::FAMILY,
    otter::FAMILY,
    open_flamingo::FAMILY,
    blip2::INSTRUCTBLIP,
    blip2::BLIP2,
];

/// Returns the family of a checkpoint, or an error that lists the known families.
///
/// # Errors
/// It is of no known family, or its weights are differences to another model's.
pub fn family_of(checkpoint: &Checkpoint) -> Result<&'static MllmFamily> {
    if let Some(family) = FAMILIES.iter().find(|family| (family.recognises)(checkpoint)) {
        differences::refuse(checkpoint)?;
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

/// A checkpoint that was opened and understood, before any weight is read.
pub struct OpenedModel {
    /// The family's name.
    pub family: &'static str,
    /// The checkpoint's name.
    pub name: String,
    /// The locations of all tensors.
    pub weights: Weights,
    /// Text input and output.
    pub dialogue: Arc<Dialogue>,
    /// Image preparation.
    pub preprocessor: Arc<dyn ImageProcessor>,
    /// The model's plan, read from its configuration.
    pub plan: Box<dyn MllmPlan>,
    /// Warnings to show before the model is used.
    pub warnings: Vec<String>,
    /// The trainer's notes in the checkpoint's folder.
    pub notes: TrainerNotes,
    /// Hash of the configuration, including the tower's. With the tower's weights, it decides the tower's output for
    /// pixels.
    pub config_hash: String,
}

impl OpenedModel {
    /// Opens a checkpoint folder. `tower` is the vision tower's checkpoint, if `checkpoint` only names it. `template`
    /// is a chat template to use instead of the checkpoint's own.
    pub fn open(checkpoint: &Checkpoint, tower: Option<&Checkpoint>, template: Option<&str>) -> Result<Self> {
        Self::open_within(checkpoint, tower, template, &PixelLimits::default(), GenerationChoice::Checkpoint)
    }

    /// Like [`open`](Self::open), with `limits` to the pixels of an image, and a choice of the settings for greedy
    /// answers.
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

    /// Loads the weights.
    pub fn load(self, placement: &Placement) -> Result<Model> {
        let mut models = self.load_all(vec![Overlay::default()], placement)?;
        models.pop().context("one overlay makes one model")
    }

    /// Loads the weights once for several models. Each is the base under one overlay, and they share what no overlay
    /// replaces or merges into. An empty overlay gives the base itself.
    pub fn load_all(self, overlays: Vec<Overlay>, placement: &Placement) -> Result<Vec<Model>> {
        self.load_each(overlays.into_iter().map(|overlay| (overlay, None)).collect(), placement)
    }

    /// Like [`load_all`](Self::load_all), for models that may have their own settings instead of the base's.
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
            let (is_blind, image_attention) = (false, ImageAttention::Full);
            loaded.push(Model { mllm, dialogue, preprocessor, is_blind, image_attention });
        }
        Ok(loaded)
    }
}

/// A loaded model.
pub struct Model {
    /// The forward pass.
    pub mllm: Box<dyn Mllm>,
    /// Text input and output.
    pub dialogue: Arc<Dialogue>,
    /// Image preparation.
    pub preprocessor: Arc<dyn ImageProcessor>,
    /// Whether it reads prompts without their images.
    pub is_blind: bool,
    /// How it attends to images.
    pub image_attention: ImageAttention,
}

impl Model {
    /// Reads the part of `prompt` before the image.
    pub fn opening(&self, prompt: &RenderedPrompt) -> Result<Opening> {
        Opening::read(self.mllm.decoder(), prompt.opening())
    }

    /// Embeds `prompt` about each item of `seen`, one row per item. An item has the images of one prompt.
    pub fn prompt_rows(&self, prompt: &RenderedPrompt, seen: &[Vec<Seen>]) -> Result<Vec<PromptRow>> {
        let prompts: Vec<ImagePrompt> = seen.iter().map(|images| ImagePrompt { prompt, images }).collect();
        let rows = self.mllm.embed(&prompts)?;
        match self.is_blind {
            true => rows.into_iter().map(|row| Ok(row.without_images()?)).collect(),
            false => Ok(rows),
        }
    }

    /// Embeds `prompt` about each image of `seen`, one row per image.
    pub fn rows(&self, prompt: &RenderedPrompt, seen: &[Seen]) -> Result<Vec<PromptRow>> {
        let about = |seen| ImagePrompt { prompt, images: std::slice::from_ref(seen) };
        self.mllm.embed(&seen.iter().map(about).collect::<Vec<_>>())
    }

    /// Generates the answer to each prompt of `prefix`, which has room for it.
    pub fn generate(&self, prefix: Prefix, decoding: &Decoding) -> Result<Vec<Result<Generation, LogitsNotFinite>>> {
        self.generate_watched(prefix, decoding, Watched::by_none())
    }

    /// Like [`generate`](Self::generate), with a watch on each step.
    pub fn generate_watched(
        &self,
        prefix: Prefix,
        decoding: &Decoding,
        watch: Watched<'_>,
    ) -> Result<Vec<Result<Generation, LogitsNotFinite>>> {
        let text_of = |ids: &[u32]| self.dialogue.tokenizer.decode(ids);
        crate::model::run::generate::greedy(self.mllm.decoder(), prefix, decoding, &text_of, watch)
    }

    /// Returns logits `(vocabulary)` of the first token of an answer to `prompt`.
    pub fn first_logits(&self, prompt: PromptRow) -> Result<Vec<f32>> {
        let prefix = self.mllm.read(None, &[prompt], 0, Watched::by_none())?;
        prefix.next_logits(self.mllm.decoder())?.pop().context("one prompt has one row of logits")
    }
}

#[cfg(test)]
mod adapter_tests;
#[cfg(test)]
mod beside_tests;
#[cfg(test)]
mod fused_tests;
#[cfg(test)]
mod gemma_tests;
#[cfg(test)]
mod generation_tests;
#[cfg(test)]
mod leftovers_tests;
#[cfg(test)]
mod llava_space_tests;
#[cfg(test)]
mod llava_v0_tests;
#[cfg(test)]
mod prompt_learning_tests;
#[cfg(test)]
mod qwen_tests;
#[cfg(test)]
mod second_references;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod watch_tests;
