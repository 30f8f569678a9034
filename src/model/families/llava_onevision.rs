//! LLaVA-OneVision (Li et al. 2024): SigLIP over the whole image and its tiles, LLaVA's projector, and a Qwen2.

use anyhow::{Context, Result};

use super::anyres::{Plan, Variant};
use super::{InMemoryNames, MllmFamily, Verified};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{Weights, canonical_llava};
use crate::model::text::template::IMAGE_MARKER;
use crate::model::vision::preprocess::AnyresProcessor;

/// The family's entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: MllmFamily = MllmFamily {
    name: "llava_onevision",
    about: "LLaVA-OneVision",
    verified: Verified {
        local: "transformers 5.23 on a tiny checkpoint: tiles, features, packing, logits and generated ids",
        adapter: Some(
            "PEFT 0.21: updates of language model and tower, beside the base and merged; packed tiles included",
        ),
        comparator: "zero_shot by the SigLIP that its tower comes from (an ancestor), or probe",
    },
    recognises: |checkpoint| checkpoint.config().get("model_type").is_some_and(|kind| kind == "llava_onevision"),
    in_memory: InMemoryNames::LLAVA,
    canonical: canonical_llava,
    weights: |checkpoint, _| Weights::new(checkpoint, canonical_llava),
    plan: |checkpoint, _| Ok(Box::new(Plan::of(checkpoint, &VARIANT)?)),
    tower_reference: |_| None,
    image_marker: IMAGE_MARKER,
    preprocessor: |checkpoint, _, _| Ok(Box::new(AnyresProcessor::from_checkpoint(checkpoint)?)),
};

const VARIANT: Variant = Variant { towers: &["siglip_vision_model"], layer: -1, strategy: "full", n_tiles_kept };

/// Reads the number in `vision_aspect_ratio` `anyres_max_9`: the number of tiles whose features are kept.
fn n_tiles_kept(config: &Config) -> Result<Option<usize>> {
    let ratio = config.str_or("vision_aspect_ratio", "anyres_max_9")?;
    let kept = ratio.strip_prefix("anyres_max_").and_then(|kept| kept.parse().ok()).filter(|&kept| kept > 0);
    kept.map(Some).with_context(|| {
        format!("{}: vision_aspect_ratio `{ratio}` is not supported; hint: `anyres_max_9` is usual", config.place())
    })
}

#[cfg(test)]
mod tests;
