//! PaliGemma (Beyer et al. 2024) and PaliGemma 2 (Steiner et al. 2024): a SigLIP tower, one linear map, and a Gemma or
//! Gemma 2 that sees the whole prompt at once and writes its answer token by token.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use serde::Serialize;
use serde_json::{Value, json};

use super::llava::config_of;
use super::{
    Ahead, DecoderOnly, ImageEmbedding, ImageReader, InMemoryNames, Mllm, MllmFamily, MllmPlan, PromptWriting, Seen,
    Verified,
};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{Checkpoint, Weights, canonical_llava};
use crate::model::language::{Decoder, DecoderConfig, LanguageModel};
use crate::model::layers::{LayerNorm, Linear, Loader, Site, Watched};
use crate::model::text::template::IMAGE_MARKER;
use crate::model::vision::preprocess::{ImageInput, Preprocessor};
use crate::model::vision::square_tower::{TowerKind, VisionConfig, VisionTower};

/// The family's entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: MllmFamily = MllmFamily {
    name: "paligemma",
    about: "PaliGemma and PaliGemma 2",
    verified: Verified {
        local: "transformers 5.23 and 5.24 on a tiny checkpoint of PaliGemma 2: pixels, features, prompts, states of all layers, \
                logits and generated ids",
        adapter: Some(
            "PEFT 0.21: updates of language model and tower, and the whole projector, beside the base and merged",
        ),
        comparator: "zero_shot by the SigLIP that its tower comes from (an ancestor), or probe",
    },
    recognises: |checkpoint| checkpoint.config().get("model_type").is_some_and(|kind| kind == "paligemma"),
    in_memory: InMemoryNames::LLAVA,
    canonical: canonical_llava,
    weights: |checkpoint, _| Weights::new(checkpoint, canonical_llava),
    plan: |checkpoint, _| Ok(Box::new(Plan::of(checkpoint)?)),
    tower_reference: |_| None,
    image_marker: IMAGE_MARKER,
    preprocessor: |checkpoint, _, _| {
        let preprocessor = Preprocessor::from_checkpoint(checkpoint)?;
        preprocessor.check_side(vision_config(&config_of(checkpoint))?.image_size(), "model")?;
        Ok(Box::new(preprocessor))
    },
};

/// Everything that the checkpoint's configuration decides.
#[derive(Serialize)]
struct Plan {
    #[serde(rename = "vision_config")]
    vision: VisionConfig,
    #[serde(rename = "text_config")]
    text: DecoderConfig,
}

impl Plan {
    fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let config = config_of(checkpoint);
        Ok(Self { vision: vision_config(&config)?, text: text_config(&config)? })
    }

    fn read(&self, loader: &mut Loader) -> Result<DecoderOnly<PaliGemma, Decoder>> {
        let (size, epsilon) = (self.vision.size(), self.vision.block().epsilon);
        let mut projector = loader.at("multi_modal_projector");
        let projector = Linear::load(&mut projector, "linear", size, self.text.size(), true)?;
        let mut here = loader.at("vision_tower");
        let reader = PaliGemma {
            tower: VisionTower::load(&mut here, self.vision.clone())?,
            norm: LayerNorm::load(&mut here, "post_layernorm", size, epsilon)?,
            projector,
        };
        DecoderOnly::load(reader, self.text.clone(), loader)
    }
}

/// The language model. Its `use_bidirectional_attention` speaks of the prompt, as does [`Ahead::Prompt`].
fn text_config(config: &Config) -> Result<DecoderConfig> {
    let place = format!("{}: text_config", config.place());
    let mut values =
        config.get("text_config").cloned().with_context(|| format!("{} has no text_config", config.place()))?;
    if let Some(fields) = values.as_object_mut() {
        fields.entry("model_type").or_insert_with(|| "gemma".into());
        let sees_ahead = fields.remove("use_bidirectional_attention");
        ensure!(
            sees_ahead.is_none_or(|value| value.is_null() || value == true),
            "`use_bidirectional_attention` in {place} is false, which is not supported; hint: PaliGemma has it true"
        );
    }
    let text = Config::new(&values, &place);
    let kind = text.str_or("model_type", "gemma")?;
    ensure!(
        matches!(kind, "gemma" | "gemma2"),
        "the language model `{kind}` in {place} is not supported; hint: gemma (PaliGemma) and gemma2 (PaliGemma 2) are"
    );
    let text_config = DecoderConfig::from_config(&text, config.bool_or("tie_word_embeddings", true)?)?;
    let width = config.positive_or("projection_dim", 2048)?;
    ensure!(
        width == text_config.size(),
        "projection_dim {width} in {} is not the language model's hidden_size {}",
        config.place(),
        text_config.size()
    );
    Ok(text_config)
}

fn vision_config(config: &Config) -> Result<VisionConfig> {
    let place = config.place();
    let vision = config.section("vision_config").with_context(|| format!("{place} has no vision_config"))?;
    let kind = vision.str_or("model_type", "siglip_vision_model")?;
    ensure!(kind == "siglip_vision_model", "{place}: the vision tower `{kind}` is not supported in this family");
    VisionConfig::from_config(TowerKind::Siglip, &vision)
}

impl MllmPlan for Plan {
    fn n_image_positions_max(&self) -> usize {
        self.vision.n_patches()
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
        json!({"vision_config": self.vision})
    }

    fn prompt_writing(&self) -> PromptWriting {
        PromptWriting { image: None, begins_after_images: true }
    }

    fn built_in_template(&self) -> Option<&'static str> {
        Some("paligemma")
    }

    fn n_numbers_per_row(&self, n_tokens: usize) -> usize {
        self.text.n_numbers_per_row(n_tokens).max(self.vision.n_activations())
    }

    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Mllm>> {
        Ok(Box::new(self.read(loader)?))
    }
}

struct PaliGemma {
    tower: VisionTower,
    norm: LayerNorm,
    projector: Linear,
}

impl ImageReader for PaliGemma {
    fn see_watched(&self, images: &[&ImageInput], mut watch: Watched<'_>) -> Result<Vec<Seen>> {
        let last = self.tower.last_state();
        let mut states = self.tower.hidden_states_watched(&self.tower.pixels(images)?, &[last], watch.again())?;
        let state = self.norm.forward(&states.swap_remove(0))?; // (images, tokens, hidden)
        let state = watch.layer(last).at(Site::FinalNorm, state)?;
        images.iter().enumerate().map(|(row, image)| Ok(Seen::plain(state.get(row)?, image))).collect()
    }

    /// Features are not scaled: transformers before 5.4 divided them by what it then multiplied the whole input with.
    fn embed_images(&self, seen: &[Seen], _: &dyn LanguageModel) -> Result<Vec<ImageEmbedding>> {
        let hidden: Vec<&Tensor> = seen.iter().flat_map(|seen| seen.states.first()).collect();
        let features = self.projector.forward(&Tensor::stack(&hidden, 0)?)?; // (images, tokens, hidden)
        (0..seen.len()).map(|row| Ok(ImageEmbedding::plain(features.get(row)?))).collect()
    }

    fn sees_ahead(&self) -> Ahead {
        Ahead::Prompt
    }
}
