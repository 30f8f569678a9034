//! CLIP in open_clip's layout: `open_clip_config.json` and fused attention tensors, renamed to the canonical names of
//! [`super::clip`].

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::EncoderFamily;
use super::clip::{self, Pooling, TextConfig};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{Checkpoint, Weights, canonical_open_clip};
use crate::model::layers::{Activation, BlockConfig, Loader};
use crate::model::vision::square_tower::{TowerKind, VisionConfig};

/// The entry in the list of families.
pub const FAMILY: EncoderFamily = EncoderFamily {
    name: "open_clip",
    about: "CLIP in the open_clip layout (open_clip_config.json)",
    verified: "open_clip 3.3: embeddings and labels",
    recognises: |checkpoint| checkpoint.config().get("model_cfg").is_some(),
    weights: |checkpoint| Weights::new(checkpoint, canonical_open_clip),
    vision_config,
    load: |checkpoint, weights, placement, tower| {
        let config = model_config(checkpoint)?;
        let text = text_config(&config)?;
        let dimension = config.positive_or("embed_dim", 512)?;
        clip::load_canonical(&mut Loader::new(weights, placement), tower, text, dimension)
    },
};

fn model_config(checkpoint: &Checkpoint) -> Result<Config<'_>> {
    let place = checkpoint.dir.join("open_clip_config.json").display().to_string();
    let config = Config::new(checkpoint.config(), &place);
    let config = config.section("model_cfg").with_context(|| format!("{place} has no model_cfg"))?;
    if let Some(vision) = config.section("vision_cfg")
        && vision.get("timm_model_name").is_some()
    {
        bail!("{}: timm towers are not read yet; hint: use the transformers layout of this encoder", vision.place());
    }
    Ok(config)
}

fn activation(config: &Config) -> Result<&'static str> {
    Ok(if config.bool_or("quick_gelu", false)? { "quick_gelu" } else { "gelu" })
}

fn vision_config(checkpoint: &Checkpoint) -> Result<VisionConfig> {
    let config = model_config(checkpoint)?;
    let vision = config.section("vision_cfg").with_context(|| format!("{} has no vision_cfg", config.place()))?;
    let width = vision.positive_or("width", 768)?;
    let as_transformers = json!({
        "hidden_size": width,
        "intermediate_size": (width as f64 * vision.f64_or("mlp_ratio", 4.0)?) as usize,
        "num_attention_heads": width / vision.positive_or("head_width", 64)?,
        "num_hidden_layers": vision.positive_or("layers", 12)?,
        "image_size": vision.positive_or("image_size", 224)?,
        "patch_size": vision.positive_or("patch_size", 16)?,
        "hidden_act": activation(&config)?,
    });
    VisionConfig::from_config(TowerKind::Clip, &Config::new(&as_transformers, vision.place()))
}

fn text_config(config: &Config) -> Result<TextConfig> {
    let text = config.section("text_cfg").with_context(|| format!("{} has no text_cfg", config.place()))?;
    let width = text.positive_or("width", 512)?;
    Ok(TextConfig {
        block: BlockConfig {
            size: width,
            n_hidden: (width as f64 * text.f64_or("mlp_ratio", 4.0)?) as usize,
            n_heads: text.positive_or("heads", 8)?,
            activation: Activation::from_name(activation(config)?)?,
            epsilon: 1e-5,
        },
        n_layers: text.positive_or("layers", 12)?,
        vocabulary_size: text.positive_or("vocab_size", 49408)?,
        n_positions: text.positive_or("context_length", 77)?,
        pooling: Pooling::HighestId,
    })
}
