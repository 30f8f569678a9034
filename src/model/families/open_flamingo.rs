//! OpenFlamingo (Awadalla et al. 2023): the same model as Otter's, in three parts: a text model, an open_clip, and what
//! training added to them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::llava::refuse_scaled;
use super::otter::{self, Plan};
use super::{InMemoryNames, MllmFamily, MllmPlan, Verified};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{
    Canonical, Checkpoint, TEXT_MODEL_FOLDER, TOWER_FOLDER, Weights, canonical_clip_tower, canonical_open_clip,
};
use crate::model::language::{CrossConfig, CrossKind, DecoderConfig};
use crate::model::text::template::IMAGE_MARKER;
use crate::model::text::tokenizer::TextTokenizer;
use crate::model::vision::encoders;
use crate::model::vision::preprocess::Preprocessor;
use crate::model::vision::square_tower::VisionConfig;

/// The family's entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: MllmFamily = MllmFamily {
    name: "open_flamingo",
    about: "OpenFlamingo over LLaMA and MPT",
    verified: Verified {
        local: "OpenFlamingo's own code on a tiny checkpoint with LLaMA: features, resampler, logits and generated ids",
        adapter: None,
        comparator: "zero_shot by the CLIP that is its tower",
    },
    recognises: |checkpoint| checkpoint.config().get("model_type").is_some_and(|kind| kind == "open_flamingo"),
    in_memory: InMemoryNames { language_model: "lang_encoder", projector: "perceiver", saved_projector: "perceiver" },
    canonical,
    weights,
    plan: |checkpoint, tower| Ok(Box::new(plan(checkpoint, tower)?) as Box<dyn MllmPlan>),
    tower_reference: |_| Some(TOWER_FOLDER.to_owned()),
    image_marker: IMAGE_MARKER,
    preprocessor: |checkpoint, tower, _| {
        let preprocessor = Preprocessor::from_checkpoint(found(checkpoint, tower)?)?;
        preprocessor.check_side(vision_config(checkpoint, tower)?.image_size(), "model")?;
        Ok(Box::new(preprocessor))
    },
};

/// Names the tensors of the text model, which are below its folder, and those that training added.
fn canonical(key: &str) -> Canonical {
    // Files of the first version hold the layers twice.
    if key.contains("gated_cross_attn_layers.") || key.contains("old_decoder_blocks.") {
        return Canonical::Ignore;
    }
    let Some(own) = key.strip_prefix(TEXT_MODEL_FOLDER).and_then(|rest| rest.strip_prefix('/')) else {
        return match key.starts_with("lm_head.rows_") {
            true => Canonical::Keep("lm_head.more".to_owned()),
            false => otter::canonical(key),
        };
    };
    match own {
        // The file of what training added has the embedding too, with the added tokens.
        "model.embed_tokens.weight" | "transformer.wte.weight" => Canonical::Ignore,
        own => otter::canonical(&format!("lang_encoder.{own}")),
    }
}

/// Names the tower of an open_clip as LLaVA's, and ignores the rest.
fn canonical_tower(key: &str) -> Canonical {
    let of_tower = |name: &str| match canonical_clip_tower(name) {
        Canonical::Keep(name) => Some(name),
        _ => None,
    };
    match canonical_open_clip(key) {
        Canonical::Keep(name) => canonical_clip_tower(&name),
        Canonical::Rows(names) => {
            let names: Option<Vec<String>> = names.iter().map(|name| of_tower(name)).collect();
            names.map_or(Canonical::Ignore, Canonical::Rows)
        }
        Canonical::Transposed(_) | Canonical::Ignore => Canonical::Ignore,
    }
}

fn found<'a>(checkpoint: &Checkpoint, tower: Option<&'a Checkpoint>) -> Result<&'a Checkpoint> {
    let tower = tower.with_context(|| {
        format!(
            "`{}` does not contain its vision tower; hint: put its open_clip into the folder `{TOWER_FOLDER}` in it, or \
             give it as --encoder DIR",
            checkpoint.dir.display()
        )
    })?;
    ensure!(
        tower.is_open_clip(),
        "`{}` is not in open_clip's layout; hint: give the open_clip that OpenFlamingo was trained with",
        tower.dir.display()
    );
    Ok(tower)
}

fn weights(checkpoint: &Checkpoint, tower: Option<&Checkpoint>) -> Result<Weights> {
    let mut weights = Weights::new(checkpoint, canonical)?;
    weights.extend(found(checkpoint, tower)?, canonical_tower)?;
    Ok(weights)
}

fn vision_config(checkpoint: &Checkpoint, tower: Option<&Checkpoint>) -> Result<VisionConfig> {
    let tower = found(checkpoint, tower)?;
    (encoders::family_of(tower)?.vision_config)(tower)
}

/// Reads the text model's configuration. The files give the layers that attend to images, and the added tokens.
fn plan(checkpoint: &Checkpoint, tower: Option<&Checkpoint>) -> Result<Plan> {
    let place = checkpoint.dir.join(TEXT_MODEL_FOLDER).join(checkpoint.config_file()).display().to_string();
    let config = Config::new(checkpoint.config(), &place);
    let section = config.section("text_config").with_context(|| format!("{place} is no configuration"))?;
    let text = DecoderConfig::from_config(&section, false)?;
    refuse_scaled(&text, &place)?;
    let weights = Weights::new(checkpoint, canonical)?;
    let has_layer =
        |index: &usize| weights.contains(&format!("language_model.layers.{index}.gated_cross_attn_layer.attn_gate"));
    let layers: Vec<usize> = (0..text.n_layers()).filter(has_layer).collect();
    ensure!(!layers.is_empty(), "`{}` has no layers that attend to images", checkpoint.dir.display());
    let n_embedded = match weights.shape("language_model.embed_tokens.weight").as_deref() {
        Some(&[n, _]) => n,
        _ => anyhow::bail!("the file of what training added has no embedding (`lang_encoder.….embed_tokens.weight`)"),
    };
    let n_more = n_embedded.checked_sub(text.vocabulary_size).with_context(|| {
        format!("{place}: vocab_size {} is more than the {n_embedded} tokens of the embedding", text.vocabulary_size)
    })?;
    let vision = vision_config(checkpoint, tower)?;
    let text = text.with_more_tokens(n_more).with_cross(CrossConfig {
        kind: CrossKind::Flamingo,
        layers,
        width: vision.size(),
    });
    let image_id = TextTokenizer::open(checkpoint)?.token_id(IMAGE_MARKER);
    let image_id = image_id.filter(|&id| (id as usize) < n_embedded).with_context(|| {
        format!("the tokenizer's `{IMAGE_MARKER}` is not among the {n_embedded} tokens of the embedding")
    })?;
    Ok(Plan { vision, text, image_id, notes: notes(checkpoint) })
}

fn notes(checkpoint: &Checkpoint) -> Vec<String> {
    let knows_end = checkpoint.config().get("has_rows_of_added_tokens").and_then(Value::as_bool).unwrap_or(true);
    let note = || {
        format!(
            "{}: OpenFlamingo's files hold no rows of the head for the tokens that it adds, so that an answer cannot end \
             with `<|endofchunk|>`; it ends with the end token of the text model",
            checkpoint.name()
        )
    };
    if knows_end { Vec::new() } else { vec![note()] }
}

#[cfg(test)]
mod tests;
