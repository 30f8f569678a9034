//! Canonical tensor names, independent of the library and version that wrote the file.
//!
//! The stems of one LLaVA differ by the transformers version that saved it (`model.language_model.layers`,
//! `language_model.model.layers`, `model.layers`…), but only in segments that carry no information. Without these
//! segments, the names follow one scheme, which the model must match one to one.

use super::second_tower::{SECOND_PROJECTOR, SECOND_TOWER};

/// The prefix of the canonical names of a projector's tensors.
const PROJECTOR: &str = "multi_modal_projector.";

/// What a family does with a stored name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Canonical {
    /// The tensor, under this name.
    Keep(String),
    /// The tensor with its two axes exchanged, under this name.
    Transposed(String),
    /// Equal parts along the first axis, one per name.
    Rows(Vec<String>),
    /// A buffer that is computed, or a part that the family does not use.
    Ignore,
}

/// Names LLaVA's tensors in every layout: transformers' of all versions, and the original repository's.
///
/// Canonical names are `language_model.layers.{N}.…`, `language_model.embed_tokens.weight`,
/// `language_model.norm.weight`, `lm_head.weight`, `vision_tower.embeddings.…`, `vision_tower.encoder.layers.{N}.…`,
/// `vision_tower.pre_layrnorm.…`, `vision_tower.post_layernorm.…`, `multi_modal_projector.linear_{1,2}.…` and
/// `image_newline`. A name that matches none of these is kept, so that errors can show it.
pub fn canonical_llava(key: &str) -> Canonical {
    if is_computed_buffer(key) {
        return Canonical::Ignore;
    }
    let mut parts: Vec<&str> =
        key.split('.').filter(|part| !matches!(*part, "model" | "language_model" | "vision_model")).collect();
    while parts.starts_with(&["vision_tower", "vision_tower"]) {
        parts.remove(0);
    }
    if let Some(last) = parts.last_mut() {
        *last = match *last {
            "gamma" => "weight",
            "beta" => "bias",
            other => other,
        };
    }
    match parts.as_slice() {
        // A second tower, and a copy of the first one's encoder beside it, which only gave its trainer a data type.
        ["dino_tower", "vision_tower", leaves @ ..] => canonical_dinov2(&leaves.join(".")),
        ["dino_tower", "clip_vision_tower", ..] => Canonical::Ignore,
        ["dino_mm_projector", leaves @ ..] => match canonical_llava(&format!("mm_projector.{}", leaves.join("."))) {
            Canonical::Keep(name) => Canonical::Keep(name.replacen(PROJECTOR, SECOND_PROJECTOR, 1)),
            other => other,
        },
        // SigLIP's pooling head, which no LLaVA reads.
        ["vision_tower", "head", ..] => Canonical::Ignore,
        ["layers" | "embed_tokens" | "norm", ..] => Canonical::Keep(format!("language_model.{}", parts.join("."))),
        ["lm_head" | "vision_tower" | "multi_modal_projector" | "image_newline", ..] => {
            Canonical::Keep(parts.join("."))
        }
        ["mm_projector", leaf @ ("weight" | "bias")] => {
            Canonical::Keep(format!("multi_modal_projector.linear_1.{leaf}"))
        }
        ["mm_projector", index, leaf] => match index.parse::<usize>() {
            // A torch `Sequential` of linear, GELU, linear, GELU…: the even positions are the layers.
            Ok(index) if index.is_multiple_of(2) => {
                Canonical::Keep(format!("multi_modal_projector.linear_{}.{leaf}", index / 2 + 1))
            }
            _ => Canonical::Keep(key.to_owned()),
        },
        _ => Canonical::Keep(key.to_owned()),
    }
}

/// Names the vision half of a CLIP or SigLIP checkpoint as LLaVA's tower, `vision_tower.…`, and ignores the rest.
pub fn canonical_clip_tower(key: &str) -> Canonical {
    if is_computed_buffer(key) {
        return Canonical::Ignore;
    }
    let name = key.strip_prefix("vision_model.").unwrap_or(key);
    let of_vision = ["embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm."];
    if of_vision.iter().any(|prefix| name.starts_with(prefix)) {
        Canonical::Keep(format!("vision_tower.{name}"))
    } else {
        Canonical::Ignore
    }
}

/// Names the tensors of a DINOv2 as a second tower, `vision_tower.dino.…`, in the layouts of transformers and of its authors. The
/// layers have the names of CLIP's, and two scales (`layer_scale1`, `layer_scale2`).
pub fn canonical_dinov2(key: &str) -> Canonical {
    let keep = |name: &str| Canonical::Keep(format!("{SECOND_TOWER}{name}"));
    let parts: Vec<&str> = key.split('.').collect();
    let (index, leaves) = match parts.as_slice() {
        ["embeddings", "mask_token"] | ["mask_token"] | ["layernorm" | "norm", _] => return Canonical::Ignore,
        ["embeddings", "cls_token"] | ["cls_token"] => return keep("embeddings.class_embedding"),
        ["embeddings", "position_embeddings"] | ["pos_embed"] => return keep("embeddings.position_embedding"),
        ["embeddings", "patch_embeddings", "projection", leaf] | ["patch_embed", "proj", leaf] => {
            return keep(&format!("embeddings.patch_embedding.{leaf}"));
        }
        ["encoder", "layer", index, leaves @ ..] | ["blocks", index, leaves @ ..] => (*index, leaves),
        _ => return keep(key),
    };
    let layer = format!("encoder.layers.{index}");
    let (stem, leaf) = match leaves {
        ["attn", "qkv", leaf] => {
            let names = ["q", "k", "v"].map(|which| format!("{SECOND_TOWER}{layer}.self_attn.{which}_proj.{leaf}"));
            return Canonical::Rows(names.into());
        }
        ["layer_scale1", "lambda1"] | ["ls1", "gamma" | "weight"] => return keep(&format!("{layer}.layer_scale1")),
        ["layer_scale2", "lambda1"] | ["ls2", "gamma" | "weight"] => return keep(&format!("{layer}.layer_scale2")),
        ["attention", "attention", "query", leaf] => ("self_attn.q_proj", leaf),
        ["attention", "attention", "key", leaf] => ("self_attn.k_proj", leaf),
        ["attention", "attention", "value", leaf] => ("self_attn.v_proj", leaf),
        ["attention", "output", "dense", leaf] | ["attn", "proj", leaf] => ("self_attn.out_proj", leaf),
        ["norm1", leaf] => ("layer_norm1", leaf),
        ["norm2", leaf] => ("layer_norm2", leaf),
        ["mlp", "weights_in" | "w12", leaf] => ("mlp.gate_up_proj", leaf),
        ["mlp", "weights_out" | "w3", leaf] => ("mlp.down_proj", leaf),
        ["mlp", "fc1", leaf] => ("mlp.fc1", leaf),
        ["mlp", "fc2", leaf] => ("mlp.fc2", leaf),
        _ => return keep(key),
    };
    keep(&format!("{layer}.{stem}.{leaf}"))
}

/// Names the tensors of Qwen2-VL, Qwen2.5-VL and Qwen3-VL in every layout of transformers, in files and in memory.
///
/// The language model's names are those of [`canonical_llava`]. The tower's are `vision_tower.blocks.{N}.…`,
/// `vision_tower.patch_embed.…` and `vision_tower.pos_embed.…`; the mergers' are `multi_modal_projector.…` and
/// `multi_modal_projector.deepstack_merger_list.{N}.…`.
pub fn canonical_qwen_vl(key: &str) -> Canonical {
    if is_computed_buffer(key) {
        return Canonical::Ignore;
    }
    let parts: Vec<&str> = key.split('.').filter(|part| !matches!(*part, "model" | "language_model")).collect();
    match parts.as_slice() {
        ["visual", "merger", leaves @ ..] => Canonical::Keep(format!("multi_modal_projector.{}", leaves.join("."))),
        ["visual", list @ "deepstack_merger_list", leaves @ ..] => {
            Canonical::Keep(format!("multi_modal_projector.{list}.{}", leaves.join(".")))
        }
        ["visual", leaves @ ..] => Canonical::Keep(format!("vision_tower.{}", leaves.join("."))),
        ["layers" | "embed_tokens" | "norm", ..] => Canonical::Keep(format!("language_model.{}", parts.join("."))),
        ["lm_head", ..] => Canonical::Keep(parts.join(".")),
        _ => Canonical::Keep(key.to_owned()),
    }
}

/// Names the tensors of CLIPModel and SiglipModel, which never changed: `vision_model.…`, `text_model.…`, projections,
/// `logit_scale`.
pub fn canonical_dual_encoder(key: &str) -> Canonical {
    if is_computed_buffer(key) { Canonical::Ignore } else { Canonical::Keep(key.to_owned()) }
}

/// Names the tensors of open_clip's CLIP as transformers' CLIPModel does. The fused `in_proj` is split into queries,
/// keys and values, and the projections, stored as (width, embedding), are transposed.
pub fn canonical_open_clip(key: &str) -> Canonical {
    if is_computed_buffer(key) || key == "attn_mask" {
        return Canonical::Ignore;
    }
    let name = key.strip_prefix("text.").unwrap_or(key);
    let keep = |name: &str| Canonical::Keep(name.to_owned());
    match name {
        "logit_scale" | "logit_bias" => return keep(name),
        "text_projection" => return Canonical::Transposed("text_projection.weight".to_owned()),
        "visual.proj" => return Canonical::Transposed("visual_projection.weight".to_owned()),
        "visual.class_embedding" => return keep("vision_model.embeddings.class_embedding"),
        "visual.positional_embedding" => return keep("vision_model.embeddings.position_embedding.weight"),
        "visual.conv1.weight" => return keep("vision_model.embeddings.patch_embedding.weight"),
        "positional_embedding" => return keep("text_model.embeddings.position_embedding.weight"),
        "token_embedding.weight" => return keep("text_model.embeddings.token_embedding.weight"),
        _ => {}
    }
    let (half, rest) = match name.strip_prefix("visual.") {
        Some(rest) => ("vision_model", rest),
        None => ("text_model", name),
    };
    let norm = |stem: &str, leaf: &str| Canonical::Keep(format!("{half}.{stem}.{leaf}"));
    match rest.split('.').collect::<Vec<_>>().as_slice() {
        ["ln_pre", leaf] => norm("pre_layrnorm", leaf),
        ["ln_post", leaf] => norm("post_layernorm", leaf),
        ["ln_final", leaf] => norm("final_layer_norm", leaf),
        ["transformer", "resblocks", index, leaves @ ..] => {
            canonical_block(&format!("{half}.encoder.layers.{index}"), leaves).unwrap_or_else(|| keep(key))
        }
        _ => keep(key),
    }
}

fn canonical_block(block: &str, leaves: &[&str]) -> Option<Canonical> {
    let stem = match leaves {
        ["attn", fused @ ("in_proj_weight" | "in_proj_bias")] => {
            let leaf = fused.trim_start_matches("in_proj_");
            let names = ["q", "k", "v"].map(|which| format!("{block}.self_attn.{which}_proj.{leaf}"));
            return Some(Canonical::Rows(names.into()));
        }
        ["attn", "out_proj", _] => "self_attn.out_proj",
        ["ln_1", _] => "layer_norm1",
        ["ln_2", _] => "layer_norm2",
        ["mlp", "c_fc", _] => "mlp.fc1",
        ["mlp", "c_proj", _] => "mlp.fc2",
        _ => return None,
    };
    Some(Canonical::Keep(format!("{block}.{stem}.{}", leaves.last()?)))
}

/// Returns whether the key is a buffer that older versions saved with the weights and that every implementation
/// computes.
pub fn is_computed_buffer(key: &str) -> bool {
    matches!(key.rsplit('.').next(), Some("position_ids" | "num_batches_tracked"))
        || key.ends_with("rotary_emb.inv_freq")
        || key.ends_with("rotary_pos_emb.inv_freq")
}

#[cfg(test)]
mod tests;
