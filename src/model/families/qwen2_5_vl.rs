//! Qwen2.5-VL (Bai et al. 2025): most of the tower's blocks attend only within windows.

use anyhow::{Result, ensure};

use super::qwen_vl::{self, IMAGE_MARKER};
use super::qwen2_vl::MERGER_NAMES;
use super::{InMemoryNames, MllmFamily, Verified};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{Weights, canonical_qwen_vl};
use crate::model::language::QwenText;
use crate::model::vision::patch_tower::{FeedForwardKind, MergerConfig, NormKind, PatchTowerConfig, Windows};

/// The family's entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: MllmFamily = MllmFamily {
    name: "qwen2_5_vl",
    about: "Qwen2.5-VL, most of whose tower sees windows",
    verified: Verified {
        local: "transformers 5.23 on a tiny checkpoint: patches, features, windows included, positions, logits and generated ids; the \
                names and configurations of every version",
        adapter: Some(
            "PEFT 0.21: updates of language model, tower and projector, beside the base and merged, rank-stabilised",
        ),
        comparator: "probe, on the tower's own output; no text side is published for it",
    },
    recognises: |checkpoint| qwen_vl::is_of(checkpoint, "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
    in_memory: InMemoryNames::QWEN,
    canonical: canonical_qwen_vl,
    weights: |checkpoint, _| Weights::new(checkpoint, canonical_qwen_vl),
    plan: |checkpoint, _| qwen_vl::plan(checkpoint, vision, QwenText::Qwen2),
    tower_reference: |_| None,
    image_marker: IMAGE_MARKER,
    preprocessor: |checkpoint, _, limits| qwen_vl::preprocessor(checkpoint, vision, limits),
};

/// Reads tower and projector from a `vision_config`.
fn vision(config: &Config) -> Result<(PatchTowerConfig, MergerConfig)> {
    let size = config.positive_or("hidden_size", 3584)?;
    let n_hidden = config.positive_or("intermediate_size", 3420)?;
    let common = PatchTowerConfig::from_config(config, size, n_hidden, (32, 14, "silu"))?;
    let window = config.positive_or("window_size", 112)?;
    let side = window / common.merge_size / common.patch_size;
    ensure!(side > 0, "`window_size` in {} is {window}, less than a merged patch", config.place());
    let full = PatchTowerConfig::blocks(config, "fullatt_block_indexes", &[7, 15, 23, 31])?;
    let tower = PatchTowerConfig {
        norm: NormKind::Rms,
        feed_forward: FeedForwardKind::Gated,
        windows: Some(Windows { side, full }),
        ..common
    };
    let n_out = config.positive_or("out_hidden_size", 3584)?;
    let merger = MergerConfig { size, merge_size: tower.merge_size, n_out, norm: NormKind::Rms, names: MERGER_NAMES };
    Ok((tower, merger))
}
