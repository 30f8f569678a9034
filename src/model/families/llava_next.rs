//! LLaVA-NeXT, also called LLaVA-1.6 (Liu et al. 2024): CLIP over the whole image and its tiles, LLaVA's projector, and
//! a language model of any text family.

use super::anyres::{Plan, Variant};
use super::{InMemoryNames, MllmFamily, Verified};
use crate::model::checkpoint::weights::{Weights, canonical_llava};
use crate::model::text::template::IMAGE_MARKER;
use crate::model::vision::preprocess::AnyresProcessor;

/// The family's entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: MllmFamily = MllmFamily {
    name: "llava_next",
    about: "LLaVA-NeXT (LLaVA-1.6) in transformers' layouts",
    verified: Verified {
        local: "transformers 5.23 and 5.24 on a tiny checkpoint: tiles, hidden states, features, packing, logits and \
                generated ids; names of transformers 4.46 to 5.23",
        adapter: Some("PEFT 0.21: updates of language model, tower and projector, beside the base and merged"),
        comparator: "zero_shot by the CLIP that its tower comes from (an ancestor), or probe",
    },
    recognises: |checkpoint| checkpoint.config().get("model_type").is_some_and(|kind| kind == "llava_next"),
    in_memory: InMemoryNames::LLAVA,
    canonical: canonical_llava,
    weights: |checkpoint, _| Weights::new(checkpoint, canonical_llava),
    plan: |checkpoint, _| Ok(Box::new(Plan::of(checkpoint, &VARIANT)?)),
    tower_reference: |_| None,
    image_marker: IMAGE_MARKER,
    preprocessor: |checkpoint, _, _| Ok(Box::new(AnyresProcessor::from_checkpoint(checkpoint)?)),
};

const VARIANT: Variant = Variant {
    towers: &["clip_vision_model", "siglip_vision_model"],
    layer: -2,
    strategy: "default",
    n_tiles_kept: |_| Ok(None),
};

#[cfg(test)]
mod tests;
