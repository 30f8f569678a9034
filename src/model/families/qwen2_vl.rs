//! Qwen2-VL (Wang et al. 2024): images of any size, and positions in three dimensions.

use anyhow::{Result, ensure};

use super::qwen_vl::{self, IMAGE_MARKER};
use super::{InMemoryNames, MllmFamily, Verified};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{Weights, canonical_qwen_vl};
use crate::model::language::QwenText;
use crate::model::vision::patch_tower::{MergerConfig, NormKind, PatchTowerConfig};

/// The family's entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: MllmFamily = MllmFamily {
    name: "qwen2_vl",
    about: "Qwen2-VL, which sees images at their own proportions",
    verified: Verified {
        local: "transformers 5.23 on a tiny checkpoint: patches, features, positions, logits and generated ids; the \
                names and configurations of every version",
        adapter: Some("PEFT 0.21: updates of language model, tower and projector, beside the base and merged"),
        comparator: "probe, on the tower's own output; no text side is published for it",
    },
    recognises: |checkpoint| qwen_vl::is_of(checkpoint, "qwen2_vl", "Qwen2VLForConditionalGeneration"),
    in_memory: InMemoryNames::QWEN,
    canonical: canonical_qwen_vl,
    weights: |checkpoint, _| Weights::new(checkpoint, canonical_qwen_vl),
    plan: |checkpoint, _| qwen_vl::plan(checkpoint, vision, QwenText::Qwen2),
    tower_reference: |_| None,
    image_marker: IMAGE_MARKER,
    preprocessor: |checkpoint, _, limits| qwen_vl::preprocessor(checkpoint, vision, limits),
};

/// The merger's tensor names, shared with Qwen2.5-VL.
pub(super) const MERGER_NAMES: [&str; 3] = ["ln_q", "mlp.0", "mlp.2"];

/// Reads tower and projector from a `vision_config`.
fn vision(config: &Config) -> Result<(PatchTowerConfig, MergerConfig)> {
    let size = config.positive_or("embed_dim", 1280)?;
    let ratio = config.f64_or("mlp_ratio", 4.0)?;
    ensure!(
        ratio > 0.0 && ratio < 1024.0,
        "`mlp_ratio` in {} is {ratio}; hint: published towers have 4",
        config.place()
    );
    let n_hidden = (size as f64 * ratio) as usize;
    let tower = PatchTowerConfig::from_config(config, size, n_hidden, (32, 14, "quick_gelu"))?;
    // Here, `hidden_size` is the language model's width.
    let n_out = config.positive_or("hidden_size", 3584)?;
    let merger = MergerConfig { size, merge_size: tower.merge_size, n_out, norm: NormKind::Layer, names: MERGER_NAMES };
    Ok((tower, merger))
}
