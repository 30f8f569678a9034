//! LLaVA-1.5 (Liu et al. 2023): a CLIP or SigLIP tower, a projector and a language model of any text family, as
//! configured, in the layouts of transformers and of the original repository.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Tensor};
use serde::Serialize;
use serde_json::{Value, json};

use super::differences::is_original;
use super::mixture::{FirstTower, Mixture, MixturePlan};
use super::saved_by::{Version, version_of, with_head};
use super::{
    DecoderOnly, ImageEmbedding, ImageReader, InMemoryNames, Mllm, MllmFamily, MllmPlan, PlainTower, Seen, Verified,
    side_by_side,
};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{
    Checkpoint, Weights, canonical_clip_tower, canonical_llava, extend_with_second_tower,
};
use crate::model::language::{DecoderConfig, LanguageModel, scaled};
use crate::model::layers::{Activation, Linear, Loader, Watched};
use crate::model::text::template::IMAGE_MARKER;
use crate::model::text::tokenizer::TextTokenizer;
use crate::model::vision::encoders;
use crate::model::vision::preprocess::{ImageInput, ImageProcessor, PixelLimits, Preprocessor};
use crate::model::vision::square_tower::{TowerKind, VisionConfig, VisionTower};

/// The family's entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: MllmFamily = MllmFamily {
    name: "llava",
    about: "LLaVA-1.5 (transformers layouts, and the original repository's, also of the first LLaVA)",
    verified: Verified {
        local: "transformers 5.23 and the original repository's code of LLaVA-1.5 and of the first LLaVA: prompts, hidden states, \
                logits and generated ids; names of \
                transformers 4.46 to 5.23; answers of a small trained checkpoint on four test sets",
        adapter: Some(
            "PEFT 0.21 and the original repository's LoRA, beside the base and merged: logits and generated ids; names of PEFT \
             0.13 and 0.18; folders in the form of ms-swift, LLaMA-Factory, Unsloth, Axolotl and TRL",
        ),
        comparator: "zero_shot, by the CLIP that is its tower",
    },
    recognises: |checkpoint| {
        let config = checkpoint.config();
        let is = |name: &str| config.get("model_type").is_some_and(|t| t == name);
        is("llava_llama") || (is("llama") && is_original(checkpoint)) || (is("llava") && is_plain_llava(config))
    },
    in_memory: InMemoryNames::LLAVA,
    canonical: canonical_llava,
    weights,
    plan,
    tower_reference: |checkpoint| {
        let name = checkpoint.config().get("mm_vision_tower")?.as_str()?;
        Some(name.to_owned())
    },
    image_marker: IMAGE_MARKER,
    preprocessor,
};

/// Distinguishes other families that call themselves `llava` in the original layout by their keys.
fn is_plain_llava(config: &serde_json::Value) -> bool {
    let any_resolution =
        config.get("image_aspect_ratio").is_some_and(|ratio| ratio.as_str().is_some_and(|r| r.starts_with("anyres")));
    !any_resolution && config.get("image_grid_pinpoints").is_none_or(serde_json::Value::is_null)
}

/// `config.json`.
pub(super) fn config_of(checkpoint: &Checkpoint) -> Config<'_> {
    Config::new(checkpoint.config(), checkpoint.dir.join("config.json").display().to_string())
}

fn weights(checkpoint: &Checkpoint, tower: Option<&Checkpoint>) -> Result<Weights> {
    let mut weights = Weights::new(checkpoint, canonical_llava)?;
    extend_with_second_tower(&mut weights, checkpoint)?;
    if weights.contains("vision_tower.embeddings.patch_embedding.weight") {
        return Ok(weights);
    }
    let Some(tower) = tower else {
        let name = (FAMILY.tower_reference)(checkpoint).unwrap_or_default();
        bail!(
            "`{}` does not contain its vision tower but names `{name}`, which was not found; hint: {}",
            checkpoint.dir.display(),
            how_to_get_tower(&name)
        );
    };
    weights.extend(tower, canonical_clip_tower)?;
    Ok(weights)
}

fn how_to_get_tower(name: &str) -> String {
    format!(
        "give the tower's folder as --encoder DIR; if that is its name on the hub, the same command with --download \
         fetches it, and so does `hf download {name}`"
    )
}

fn preprocessor(
    checkpoint: &Checkpoint,
    tower: Option<&Checkpoint>,
    _: &PixelLimits,
) -> Result<Box<dyn ImageProcessor>> {
    let preprocessor = match tower {
        Some(tower) if checkpoint.is_llava_original() => Preprocessor::for_llava_original(checkpoint, tower),
        _ => Preprocessor::from_checkpoint(checkpoint),
    }?;
    let side = vision_config(checkpoint, tower)?.image_size();
    preprocessor.check_side(side, "model")?;
    Ok(Box::new(preprocessor))
}

fn vision_config(checkpoint: &Checkpoint, tower: Option<&Checkpoint>) -> Result<VisionConfig> {
    let config = config_of(checkpoint);
    if let Some(vision) = config.section("vision_config") {
        return tower_of(&vision, vision.str_or("model_type", "clip_vision_model")?);
    }
    let tower = tower.with_context(|| {
        let name = (FAMILY.tower_reference)(checkpoint).unwrap_or_default();
        format!(
            "{} has no vision_config, and its vision tower `{name}` was not found; hint: {}",
            config.place(),
            how_to_get_tower(&name)
        )
    })?;
    (encoders::family_of(tower)?.vision_config)(tower)
}

/// Reads the `vision_config` of a tower whose `model_type` is `kind`.
pub(super) fn tower_of(vision: &Config, kind: &str) -> Result<VisionConfig> {
    match kind {
        "clip_vision_model" => VisionConfig::from_config(TowerKind::Clip, vision),
        "siglip_vision_model" => VisionConfig::from_config(TowerKind::Siglip, vision),
        other => bail!("{}: the vision tower `{other}` is not supported in this family", vision.place()),
    }
}

/// Everything that `config.json` decides.
#[derive(Serialize)]
struct Plan {
    #[serde(rename = "vision_config")]
    vision: VisionConfig,
    #[serde(rename = "text_config")]
    text: DecoderConfig,
    /// The hidden states that the projector reads, concatenated.
    #[serde(rename = "vision_feature_layer")]
    tower_states: Vec<usize>,
    #[serde(rename = "vision_feature_select_strategy")]
    strategy: Strategy,
    #[serde(flatten)]
    projector: ProjectorConfig,
    /// The factor of image features, if they are scaled.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_scale: Option<f64>,
    /// A second tower, if the checkpoint has one.
    #[serde(rename = "mixture_of_features", skip_serializing_if = "Option::is_none")]
    mixture: Option<MixturePlan>,
    /// The tokens before and after an image, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    around_image: Option<[u32; 2]>,
    #[serde(skip)]
    notes: Vec<String>,
}

/// The tokens of a tower that the projector reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Strategy {
    /// All but the first, which is the class token, or the first patch if the tower has no class token.
    Default,
    /// All tokens.
    Full,
}

fn plan(checkpoint: &Checkpoint, tower: Option<&Checkpoint>) -> Result<Box<dyn MllmPlan>> {
    let config = config_of(checkpoint);
    let vision = vision_config(checkpoint, tower)?;
    let is_tied = config.bool_or("tie_word_embeddings", false)?;
    let text = match config.section("text_config") {
        Some(text) => DecoderConfig::from_config(&text, is_tied)?,
        None => DecoderConfig::from_config(&config, is_tied)?,
    };
    let tower_states = tower_states(&config, &vision, default_layer(&config))?;
    let strategy = strategy(&config, &vision)?;
    if strategy == Strategy::Default && vision.n_tokens() < 2 {
        bail!("{}: the tower has one token, and vision_feature_select_strategy `default` drops it", config.place());
    }
    let projector = ProjectorConfig::from_config(&config)?;
    let name = checkpoint.name();
    let (text, mut notes) = with_head(text, &config, &name)?;
    let (image_scale, of_scale) = image_scale(&config, &text, &name)?;
    notes.extend(of_scale);
    let around_image = around_image(checkpoint, &config)?;
    if around_image.is_some() {
        notes.push(format!(
            "{} marks the start and the end of an image (mm_use_im_start_end), but does not say which prompts it was trained \
             with; hint: `--template llava_v0_simple` is that of the first LLaVA and the default, and `vicuna_v1` is for v1",
            name
        ));
    }
    let mixture = None;
    let mut plan = Plan { vision, text, tower_states, strategy, projector, image_scale, mixture, around_image, notes };
    plan.mixture = MixturePlan::read(checkpoint, plan.first_tower())?;
    Ok(Box::new(plan))
}

/// The layer that the original code reads if the configuration names none: the last one in its first version, which had
/// no `mm_projector_type`.
fn default_layer(config: &Config) -> i64 {
    if is_first_version(config) { -1 } else { -2 }
}

/// Whether the configuration is of the original code before it had several kinds of projectors.
fn is_first_version(config: &Config) -> bool {
    config.get("mm_vision_tower").is_some()
        && config.get("vision_config").is_none()
        && config.get("mm_projector_type").is_none()
}

/// Returns the tokens before and after an image, if the original code writes some (`mm_use_im_start_end`).
fn around_image(checkpoint: &Checkpoint, config: &Config) -> Result<Option<[u32; 2]>> {
    let place = config.place();
    ensure!(config.bool_or("use_mm_proj", true)?, "{place}: use_mm_proj false is not supported");
    ensure!(
        !config.bool_or("sep_image_conv_front", false)?,
        "{place}: sep_image_conv_front true is not supported, because such a model has other prompts"
    );
    if !config.bool_or("mm_use_im_start_end", false)? {
        return Ok(None);
    }
    let tokenizer = TextTokenizer::open(checkpoint)?;
    let id_of = |token: &str| {
        tokenizer.token_id(token).with_context(|| {
            format!(
                "{place}: mm_use_im_start_end is true, but the tokenizer has no token `{token}`; hint: copy \
                 `added_tokens.json` of the base model into the folder"
            )
        })
    };
    Ok(Some([id_of("<im_start>")?, id_of("<im_end>")?]))
}

/// Reads `vision_feature_layer`, one or several, or `mm_vision_select_layer` of the original repository.
pub(super) fn tower_states(config: &Config, vision: &VisionConfig, default: i64) -> Result<Vec<usize>> {
    let Some(Value::Array(layers)) = config.get("vision_feature_layer") else {
        let layer = config.i64_or("vision_feature_layer", config.i64_or("mm_vision_select_layer", default)?)?;
        return Ok(vec![vision.hidden_state_index(layer)?]);
    };
    ensure!(!layers.is_empty(), "{}: vision_feature_layer names no layer", config.place());
    let state = |layer: &Value| match layer.as_i64() {
        Some(layer) => vision.hidden_state_index(layer),
        None => bail!("`vision_feature_layer` in {} must be whole numbers, but one is {layer}", config.place()),
    };
    layers.iter().map(state).collect()
}

/// Reads `vision_feature_select_strategy`, or `mm_vision_select_feature` of the original repository. `default` drops
/// the first token of any tower, as transformers does; `patch` drops only a class token.
fn strategy(config: &Config, vision: &VisionConfig) -> Result<Strategy> {
    if config.get("vision_feature_select_strategy").is_none()
        && let Some(feature) = config.get("mm_vision_select_feature")
    {
        return Ok(match feature.as_str() {
            Some("patch") if vision.has_class_token() => Strategy::Default,
            Some("patch" | "cls_patch") => Strategy::Full,
            _ => bail!("{}: mm_vision_select_feature {feature} is not known; hint: patch, cls_patch", config.place()),
        });
    }
    match config.str_or("vision_feature_select_strategy", "default")? {
        // The original repository only has CLIP towers, and does not have this key.
        "default" if config.get("mm_vision_tower").is_some() && !vision.has_class_token() => Ok(Strategy::Full),
        "default" => Ok(Strategy::Default),
        "full" => Ok(Strategy::Full),
        other => {
            bail!("{}: vision_feature_select_strategy `{other}` is not known; hint: default, full", config.place())
        }
    }
}

/// The first version of transformers that scales only token embeddings, and not image features, for Gemma.
const FIRST_WITHOUT_IMAGE_SCALE: Version = (5, 4);

/// Returns the factor of image features, and warnings. Up to 5.3, transformers multiplied Gemma's whole input by the
/// square root of its width, and checkpoints that it saved were trained this way.
fn image_scale(config: &Config, text: &DecoderConfig, name: &str) -> Result<(Option<f64>, Vec<String>)> {
    let Some(scale) = text.old_image_scale() else { return Ok((None, Vec::new())) };
    let version = config.str_or("transformers_version", "")?;
    Ok(match version_of(config)? {
        Some(parsed) if parsed < FIRST_WITHOUT_IMAGE_SCALE => {
            let note = format!(
                "{name} was saved by transformers {version}: its image features are multiplied by {scale:.3}, as \
                 versions before 5.4 do for this language model"
            );
            (Some(scale), vec![note])
        }
        Some(_) => (None, Vec::new()),
        None => {
            let note = format!(
                "{name} does not say which version of transformers saved it: its image features are not multiplied by \
                 {scale:.3}, as versions before 5.4 did for this language model; hint: add `transformers_version` to \
                 config.json if it was trained with one of those"
            );
            (None, vec![note])
        }
    })
}

impl MllmPlan for Plan {
    fn n_image_positions_max(&self) -> usize {
        let n_tokens = self.first_tower().n_tokens;
        let n_features = self.mixture.as_ref().map_or(n_tokens, |mixture| mixture.n_positions(n_tokens));
        n_features + self.around_image.map_or(0, |around| around.len())
    }

    fn n_positions(&self) -> usize {
        self.text.n_positions
    }

    fn n_layers(&self) -> usize {
        self.text.n_layers()
    }

    fn n_heads(&self) -> [usize; 2] {
        self.text.n_heads()
    }

    fn limit(&self) -> Option<&str> {
        self.text.limit()
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn tower_settings(&self) -> Value {
        let mut settings =
            json!({"vision_config": self.vision, "vision_feature_layer": self.tower_states, "strategy": self.strategy});
        if let Some(mixture) = &self.mixture {
            settings["mixture_of_features"] = json!(mixture);
        }
        settings
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn n_numbers_per_row(&self, n_tokens: usize) -> usize {
        let of_second = self.mixture.as_ref().map_or(0, |mixture| mixture.n_activations(self.vision.image_size()));
        self.text.n_numbers_per_row(n_tokens).max(self.vision.n_activations()).max(of_second)
    }

    fn plain_tower(&self) -> Option<&VisionConfig> {
        Some(&self.vision)
    }

    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Mllm>> {
        let n_in = self.vision.size() * self.tower_states.len();
        let projector = Projector::load(loader, &self.projector, n_in, self.text.size())?;
        let mixture = match &self.mixture {
            Some(mixture) => Some(mixture.load(loader, &self.projector, self.vision.image_size(), self.text.size())?),
            None => None,
        };
        let reader = Llava {
            tower: Arc::new(load_tower(loader, &self.vision)?),
            tower_states: self.tower_states.clone(),
            n_dropped: self.n_dropped(),
            projector,
            image_scale: self.image_scale,
            mixture,
            around_image: self.around_image,
        };
        Ok(Box::new(DecoderOnly::load(reader, self.text.clone(), loader)?))
    }
}

impl Plan {
    /// What a second tower must fit.
    fn first_tower(&self) -> FirstTower {
        FirstTower {
            side: self.vision.image_size(),
            n_tokens: self.vision.n_tokens() - self.n_dropped(),
            size: self.vision.size() * self.tower_states.len(),
        }
    }

    /// The number of tokens before those that the projector reads.
    fn n_dropped(&self) -> usize {
        usize::from(self.strategy == Strategy::Default)
    }
}

/// Refuses a language model that scales embeddings in a family where it is unknown whether image features are scaled,
/// too.
pub(super) fn refuse_scaled(text: &DecoderConfig, place: &str) -> Result<()> {
    ensure!(
        text.embedding_scale().is_none(),
        "{place}: a Gemma as language model is not supported in this family; hint: LLaVA reads it"
    );
    Ok(())
}

/// Loads the tower. Its last norm is in the files, but LLaVA's families do not use it.
pub(super) fn load_tower(loader: &mut Loader, config: &VisionConfig) -> Result<VisionTower> {
    let mut here = loader.at("vision_tower");
    for name in ["weight", "bias"] {
        here.optional(&format!("post_layernorm.{name}"), &[config.size()])?;
    }
    VisionTower::load(&mut here, config.clone())
}

/// The projector's settings in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ProjectorConfig {
    #[serde(rename = "projector_is_linear")]
    is_linear: bool,
    #[serde(rename = "projector_hidden_act")]
    activation: Activation,
    #[serde(rename = "multimodal_projector_bias")]
    has_bias: bool,
}

impl ProjectorConfig {
    /// Reads the keys of transformers, or of the original repository.
    pub(super) fn from_config(config: &Config) -> Result<Self> {
        let default = if is_first_version(config) { "linear" } else { "mlp2x_gelu" };
        let is_linear = match config.str_or("mm_projector_type", default)? {
            "linear" => true,
            "mlp2x_gelu" => false,
            other => bail!(
                "{}: mm_projector_type `{other}` is not supported; hint: the supported types are mlp2x_gelu \
                 (LLaVA-1.5) and linear",
                config.place()
            ),
        };
        Ok(Self {
            is_linear,
            activation: Activation::from_name(config.str_or("projector_hidden_act", "gelu")?)?,
            has_bias: config.bool_or("multimodal_projector_bias", true)?,
        })
    }
}

/// One or two linear maps from the tower's width to the language model's.
pub(super) enum Projector {
    Linear(Linear),
    Mlp { first: Linear, activation: Activation, second: Linear },
}

impl Projector {
    /// Loads `multi_modal_projector`.
    pub(super) fn load(loader: &mut Loader, config: &ProjectorConfig, n_in: usize, n_out: usize) -> Result<Self> {
        Self::load_at(&mut loader.at("multi_modal_projector"), config, n_in, n_out)
    }

    /// Loads a projector from `here`.
    pub(super) fn load_at(here: &mut Loader, config: &ProjectorConfig, n_in: usize, n_out: usize) -> Result<Self> {
        let first = Linear::load(here, "linear_1", n_in, n_out, config.has_bias)?;
        if config.is_linear {
            return Ok(Self::Linear(first));
        }
        let second = Linear::load(here, "linear_2", n_out, n_out, config.has_bias)?;
        Ok(Self::Mlp { first, activation: config.activation, second })
    }

    /// Maps `(…, tower width)` to `(…, hidden)`.
    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Linear(linear) => linear.forward(x),
            Self::Mlp { first, activation, second } => second.forward(&activation.forward(&first.forward(x)?)?),
        }
    }
}

struct Llava {
    tower: Arc<VisionTower>,
    /// The states that the projector reads, concatenated.
    tower_states: Vec<usize>,
    n_dropped: usize,
    projector: Projector,
    /// The factor of image features, if they are scaled.
    image_scale: Option<f64>,
    /// The second tower, if there is one. Its features are the second of the states.
    mixture: Option<Mixture>,
    /// The tokens before and after an image, if there are any.
    around_image: Option<[u32; 2]>,
}

impl ImageReader for Llava {
    fn see_watched(&self, images: &[&ImageInput], watch: Watched<'_>) -> Result<Vec<Seen>> {
        let pixels = self.tower.pixels(images)?;
        let states = self.tower.hidden_states_watched(&pixels, &self.tower_states, watch)?;
        let state = side_by_side(states)?; // (images, tokens, hidden)
        let of_second = self.mixture.as_ref().map(|mixture| mixture.tower.forward(&pixels)).transpose()?;
        let seen = |(row, image): (usize, &&ImageInput)| {
            let mut seen = Seen::plain(state.get(row)?, image);
            seen.states.extend(of_second.as_ref().map(|state| state.get(row)).transpose()?);
            Ok(seen)
        };
        images.iter().enumerate().map(seen).collect()
    }

    fn embed_images(&self, seen: &[Seen], decoder: &dyn LanguageModel) -> Result<Vec<ImageEmbedding>> {
        let state = |index: usize| -> Result<Tensor> {
            let states: Option<Vec<&Tensor>> = seen.iter().map(|seen| seen.states.get(index)).collect();
            Ok(Tensor::stack(&states.context("every tower gives a state of every image")?, 0)?)
        };
        let hidden = state(0)?; // (images, tokens, hidden)
        let n_kept = hidden.dim(1)? - self.n_dropped;
        let kept = hidden.narrow(1, self.n_dropped, n_kept)?.contiguous()?;
        let features = match &self.mixture {
            Some(mixture) => mixture.project(&self.projector, &kept, &state(1)?)?,
            None => self.projector.forward(&kept)?,
        };
        let features = match self.image_scale {
            Some(scale) => scaled(&features, scale)?,
            None => features,
        };
        let embed = |row: usize| match self.around_image {
            Some(around) => ImageEmbedding::between(around, &features.get(row)?, decoder),
            None => Ok(ImageEmbedding::plain(features.get(row)?)),
        };
        (0..seen.len()).map(embed).collect()
    }

    fn plain_tower(&self) -> Option<PlainTower<'_>> {
        // An encoder's pass does not compute the second tower's features.
        self.mixture.is_none().then_some(PlainTower { tower: &self.tower, states: &self.tower_states })
    }

    fn probe_features(&self, seen: &Seen) -> Result<Vec<f32>> {
        let state = seen.states.first().context("a tower gives a state")?; // (tokens, hidden)
        let kept = state.narrow(0, self.n_dropped, state.dim(0)? - self.n_dropped)?;
        let consumed = match (&self.mixture, seen.states.get(1)) {
            (Some(mixture), Some(second)) => mixture.mixed(&kept, second)?,
            _ => vec![kept],
        };
        let means = consumed.iter().map(|state| state.to_dtype(DType::F32)?.mean(0)?.to_vec1());
        Ok(means.collect::<candle_core::Result<Vec<Vec<f32>>>>()?.concat())
    }
}
