//! Otter (Li et al. 2023): a CLIP tower, Flamingo's resampler, and a LLaMA or MPT with gated layers that attend to the
//! last image. The image takes one position of the prompt.
//!
//! With keys and values kept, the authors' code lets no generated token but the first see an image, because it counts the
//! images among the new tokens only. MPT is configured without them, so its published answers are right; LLaMA's are not.
//! Here every token sees the image.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Tensor};
use serde::Serialize;
use serde_json::{Value, json};

use super::llava::{load_tower, refuse_scaled};
use super::{
    Beside, DecoderOnly, ImageEmbedding, ImageReader, InMemoryNames, Mllm, MllmFamily, MllmPlan, PlainTower, Seen,
    Verified,
};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{Canonical, Checkpoint, Weights, is_computed_buffer};
use crate::model::language::{CrossConfig, CrossKind, Decoder, DecoderConfig, LanguageModel};
use crate::model::layers::{Loader, Watched};
use crate::model::text::template::IMAGE_MARKER;
use crate::model::text::tokenizer::TextTokenizer;
use crate::model::vision::perceiver::{N_LATENTS, Perceiver};
use crate::model::vision::preprocess::{ImageInput, Preprocessor};
use crate::model::vision::square_tower::{TowerKind, VisionConfig, VisionTower};

/// The family's entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: MllmFamily = MllmFamily {
    name: "otter",
    about: "Otter over LLaMA and MPT",
    verified: Verified {
        local: "Otter's own code on tiny checkpoints with LLaMA and MPT: features, resampler, logits and generated ids",
        adapter: None,
        comparator: "zero_shot by the CLIP that its tower is",
    },
    recognises: |checkpoint| checkpoint.config().get("model_type").is_some_and(|kind| kind == "otter"),
    in_memory: InMemoryNames { language_model: "lang_encoder", projector: "perceiver", saved_projector: "perceiver" },
    canonical,
    weights: |checkpoint, _| Weights::new(checkpoint, canonical),
    plan: |checkpoint, _| Ok(Box::new(Plan::of(checkpoint)?)),
    tower_reference: |_| None,
    image_marker: IMAGE_MARKER,
    preprocessor: |checkpoint, _, _| Ok(Box::new(preprocessor(checkpoint)?)),
};

/// Names the tensors as the authors' code does, and as OpenFlamingo's does.
pub(super) fn canonical(key: &str) -> Canonical {
    if is_computed_buffer(key) {
        return Canonical::Ignore;
    }
    let is_told = |part: &&str| !matches!(*part, "module" | "model" | "transformer" | "decoder_layer" | "vision_model");
    let parts: Vec<&str> = key.split('.').filter(is_told).collect();
    let joined = |stem: &str, leaves: &[&str]| Canonical::Keep(format!("{stem}.{}", leaves.join(".")));
    match parts.as_slice() {
        ["vision_encoder" | "vision_tower", leaves @ ..] => joined("vision_tower", leaves),
        // OpenFlamingo's layers of a resampler are lists of two.
        ["perceiver", "layers", layer, "0", leaves @ ..] => {
            joined(&format!("multi_modal_projector.layers.{layer}"), leaves)
        }
        ["perceiver", "layers", layer, "1", leaves @ ..] => {
            joined(&format!("multi_modal_projector.layers.{layer}.feed_forward"), leaves)
        }
        ["perceiver", leaves @ ..] => joined("multi_modal_projector", leaves),
        ["lang_encoder", "lm_head", leaves @ ..] | ["lm_head", leaves @ ..] => joined("lm_head", leaves),
        ["lang_encoder", "embed_tokens" | "wte", leaves @ ..] => joined("language_model.embed_tokens", leaves),
        ["lang_encoder", "norm" | "norm_f", leaves @ ..] => joined("language_model.norm", leaves),
        ["lang_encoder", "layers" | "blocks", layer, leaves @ ..] => {
            joined(&format!("language_model.layers.{layer}"), &of_layer(leaves))
        }
        _ => Canonical::Keep(key.to_owned()),
    }
}

/// Names a tensor of a layer of MPT or of OpenFlamingo as that of LLaMA and Otter.
fn of_layer<'a>(leaves: &[&'a str]) -> Vec<&'a str> {
    let (found, rest): (&[&str], &[&str]) = match leaves {
        ["norm_1", rest @ ..] => (&["input_layernorm"], rest),
        ["norm_2", rest @ ..] => (&["post_attention_layernorm"], rest),
        ["attn", "Wqkv", rest @ ..] => (&["self_attn", "qkv_proj"], rest),
        ["attn", "out_proj", rest @ ..] => (&["self_attn", "o_proj"], rest),
        ["ffn", rest @ ..] => (&["mlp"], rest),
        [layer @ "gated_cross_attn_layer", "ff", rest @ ..] => return [&[*layer, "feed_forward"], rest].concat(),
        whole => (&[], whole),
    };
    let rest: Vec<&'a str> = leaves[leaves.len() - rest.len()..].to_vec();
    found.iter().copied().chain(rest).collect()
}

/// The image preparation of the folder, or CLIP's as transformers has it by default.
fn preprocessor(checkpoint: &Checkpoint) -> Result<Preprocessor> {
    let side = vision_config(&config_of(checkpoint))?.image_size();
    let has_own = ["processor_config.json", "preprocessor_config.json"];
    let has_own =
        has_own.iter().try_fold(false, |found, file| anyhow::Ok(found || checkpoint.read_json(file)?.is_some()))?;
    let preprocessor = match has_own {
        true => Preprocessor::from_checkpoint(checkpoint)?,
        false => Preprocessor::clip(side as u32),
    };
    preprocessor.check_side(side, "model")?;
    Ok(preprocessor)
}

fn config_of(checkpoint: &Checkpoint) -> Config<'_> {
    Config::new(checkpoint.config(), checkpoint.dir.join("config.json").display().to_string())
}

fn vision_config(config: &Config) -> Result<VisionConfig> {
    let vision = config.section("vision_config").with_context(|| format!("{} has no vision_config", config.place()))?;
    let kind = vision.str_or("model_type", "clip_vision_model")?;
    ensure!(
        kind == "clip_vision_model",
        "{}: the vision tower `{kind}` is not supported in this family",
        vision.place()
    );
    VisionConfig::from_config(TowerKind::Clip, &vision)
}

/// Everything that the checkpoint's configuration decides, for Otter and for OpenFlamingo.
#[derive(Serialize)]
pub(super) struct Plan {
    #[serde(rename = "vision_config")]
    pub vision: VisionConfig,
    #[serde(rename = "text_config")]
    pub text: DecoderConfig,
    #[serde(skip)]
    pub image_id: u32,
    #[serde(skip)]
    pub notes: Vec<String>,
}

impl Plan {
    fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let config = config_of(checkpoint);
        let place = config.place();
        let vision = vision_config(&config)?;
        if config.get("lora_config").is_some() {
            bail!("{place}: lora_config is not supported; hint: merge the update into the weights and remove the key");
        }
        let section = config.section("text_config").with_context(|| format!("{place} has no text_config"))?;
        check_architecture(&section)?;
        let text = DecoderConfig::from_config(&section, config.bool_or("tie_word_embeddings", false)?)?;
        refuse_scaled(&text, place)?;
        let every = config.positive_or("cross_attn_every_n_layers", 4)?;
        let layers = (0..text.n_layers()).filter(|index| (index + 1).is_multiple_of(every)).collect();
        let text = text.with_cross(CrossConfig { kind: CrossKind::Flamingo, layers, width: vision.size() });
        let image_id = TextTokenizer::open(checkpoint)?.token_id(IMAGE_MARKER);
        let image_id = image_id.with_context(|| format!("the tokenizer has no token `{IMAGE_MARKER}`"))?;
        ensure!(
            (image_id as usize) < text.vocabulary_size,
            "the tokenizer of `{}` gives `{IMAGE_MARKER}` the number {image_id}, but the model has {} tokens; hint: \
             copy the tokenizer of its own base model",
            checkpoint.dir.display(),
            text.vocabulary_size
        );
        let keeps_keys = section.bool_or("use_cache", true)?;
        let notes = keeps_keys.then(|| {
            format!(
                "{}: here every token of an answer sees the image; with keys and values kept, as this checkpoint is \
                 configured, Otter's own code shows it to the first only, and its answers differ",
                checkpoint.name()
            )
        });
        Ok(Self { vision, text, image_id, notes: notes.into_iter().collect() })
    }

    fn read(&self, loader: &mut Loader) -> Result<DecoderOnly<Otter, Decoder>> {
        let reader = Otter {
            tower: Arc::new(load_tower(loader, &self.vision)?),
            tower_states: [self.vision.hidden_state_index(-1)?],
            resampler: Perceiver::load(&mut loader.at("multi_modal_projector"), self.vision.size())?,
            image_id: self.image_id,
        };
        DecoderOnly::load(reader, self.text.clone(), loader)
    }
}

/// Refuses language models of other architectures by name.
fn check_architecture(config: &Config) -> Result<()> {
    let named = config.get("architectures").and_then(|names| names.get(0)).and_then(Value::as_str);
    match named {
        None | Some("LlamaForCausalLM" | "LLaMAForCausalLM" | "MPTForCausalLM") => Ok(()),
        Some(other) => bail!(
            "{}: the architecture `{other}` is not supported in this family; hint: LlamaForCausalLM, MPTForCausalLM",
            config.place()
        ),
    }
}

impl MllmPlan for Plan {
    fn n_image_positions_max(&self) -> usize {
        1
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
        let mut settings = json!(self);
        // The authors' code shows images to other tokens, and answers would differ.
        settings["generated_tokens_see_images"] = true.into();
        settings
    }

    fn tower_settings(&self) -> Value {
        json!({"vision_config": self.vision})
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn n_numbers_per_row(&self, n_tokens: usize) -> usize {
        let beside = self.text.n_numbers_beside(N_LATENTS, n_tokens);
        self.text.n_numbers_per_row(n_tokens).saturating_add(beside).max(self.vision.n_activations())
    }

    fn plain_tower(&self) -> Option<&VisionConfig> {
        Some(&self.vision)
    }

    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Mllm>> {
        Ok(Box::new(self.read(loader)?))
    }
}

struct Otter {
    tower: Arc<VisionTower>,
    tower_states: [usize; 1],
    resampler: Perceiver,
    image_id: u32,
}

impl ImageReader for Otter {
    fn see_watched(&self, images: &[&ImageInput], watch: Watched<'_>) -> Result<Vec<Seen>> {
        let mut states = self.tower.hidden_states_watched(&self.tower.pixels(images)?, &self.tower_states, watch)?;
        let state = states.pop().context("a state is asked for")?; // (images, tokens, hidden)
        images.iter().enumerate().map(|(row, image)| Ok(Seen::plain(state.get(row)?, image))).collect()
    }

    fn embed_images(&self, seen: &[Seen], decoder: &dyn LanguageModel) -> Result<Vec<ImageEmbedding>> {
        let states: Vec<&Tensor> = seen.iter().flat_map(|seen| seen.states.first()).collect();
        let states = Tensor::stack(&states, 0)?; // (images, tokens, width)
        let patches = states.narrow(1, 1, states.dim(1)? - 1)?.contiguous()?;
        let features = self.resampler.forward(&patches)?; // (images, latents, width)
        let marker = decoder.embed(&[self.image_id])?;
        let embed = |row: usize| -> Result<ImageEmbedding> {
            let features = features.get(row)?;
            let n_seen = features.dim(0)?;
            let beside = Some(Beside { features, n_seen, kind: CrossKind::Flamingo });
            Ok(ImageEmbedding { beside, ..ImageEmbedding::plain(marker.clone()) })
        };
        (0..seen.len()).map(embed).collect()
    }

    fn plain_tower(&self) -> Option<PlainTower<'_>> {
        Some(PlainTower { tower: &self.tower, states: &self.tower_states })
    }

    /// The mean over the patches.
    fn probe_features(&self, seen: &Seen) -> Result<Vec<f32>> {
        let state = seen.states.first().context("a tower gives a state")?; // (tokens, hidden)
        let patches = state.narrow(0, 1, state.dim(0)? - 1)?;
        Ok(patches.to_dtype(DType::F32)?.mean(0)?.to_vec1()?)
    }
}

#[cfg(test)]
mod tests;
