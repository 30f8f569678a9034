//! Qwen3-VL (Bai et al. 2025): positions learned on a grid, and features of several depths (DeepStack, Meng et al.
//! 2024).
//!
//! Thinking variants open `<think>` in their chat templates: their replies begin with a thought, and `--max-new-tokens
//! 32` is seldom enough to reach an answer. They were not trained for label scoring, which expects a label at once.

use anyhow::{Result, ensure};

use super::qwen_vl::{self, IMAGE_MARKER};
use super::{InMemoryNames, MllmFamily, Verified};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{Weights, canonical_qwen_vl};
use crate::model::language::QwenText;
use crate::model::vision::patch_tower::{FeedForwardKind, MergerConfig, NormKind, PatchTowerConfig};

/// The family's entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: MllmFamily = MllmFamily {
    name: "qwen3_vl",
    about: "Qwen3-VL, whose tower also feeds the first layers of the language model",
    verified: Verified {
        local: "transformers 5.23 on a tiny checkpoint: patches, features, DeepStack included, positions, logits and generated ids; the \
                names and configurations of every version",
        adapter: Some("PEFT 0.21: updates of language model, tower and projector, beside the base and merged, DoRA"),
        comparator: "probe, on the tower's own output; no text side is published for it",
    },
    recognises: |checkpoint| qwen_vl::is_of(checkpoint, "qwen3_vl", "Qwen3VLForConditionalGeneration"),
    in_memory: InMemoryNames::QWEN,
    canonical: canonical_qwen_vl,
    weights: |checkpoint, _| Weights::new(checkpoint, canonical_qwen_vl),
    plan: |checkpoint, _| qwen_vl::plan(checkpoint, vision, QwenText::Qwen3),
    tower_reference: |_| None,
    image_marker: IMAGE_MARKER,
    preprocessor: |checkpoint, _, limits| qwen_vl::preprocessor(checkpoint, vision, limits),
};

/// Reads tower and projector from a `vision_config`.
fn vision(config: &Config) -> Result<(PatchTowerConfig, MergerConfig)> {
    let size = config.positive_or("hidden_size", 1152)?;
    let n_hidden = config.positive_or("intermediate_size", 4304)?;
    let common = PatchTowerConfig::from_config(config, size, n_hidden, (27, 16, "gelu_pytorch_tanh"))?;
    let n_positions = config.positive_or("num_position_embeddings", 2304)?;
    let side = n_positions.isqrt();
    ensure!(
        side * side == n_positions,
        "`num_position_embeddings` in {} is {n_positions}, which is not a square",
        config.place()
    );
    let tapped = PatchTowerConfig::blocks(config, "deepstack_visual_indexes", &[8, 16, 24])?;
    let is_twice = (1..tapped.len()).any(|i| tapped[..i].contains(&tapped[i]));
    ensure!(
        !is_twice && tapped.iter().all(|&block| block < common.n_layers),
        "`deepstack_visual_indexes` in {} is {tapped:?}; hint: each must be one of the tower's {} blocks, named once",
        config.place(),
        common.n_layers
    );
    let tower = PatchTowerConfig {
        feed_forward: FeedForwardKind::Plain(["linear_fc1", "linear_fc2"]),
        has_patch_bias: true,
        positions_side: Some(side),
        tapped,
        ..common
    };
    let names = ["norm", "linear_fc1", "linear_fc2"];
    let n_out = config.positive_or("out_hidden_size", 3584)?;
    let merger = MergerConfig { size, merge_size: tower.merge_size, n_out, norm: NormKind::Layer, names };
    Ok((tower, merger))
}
