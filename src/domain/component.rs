//! The parts of a model that a fine-tune may change, and which of them a run uses.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::Strength;

/// A part of a multimodal model.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Component {
    /// The vision tower.
    Tower,
    /// The projector between tower and language model (Qwen: the merger).
    Projector,
    /// The token embeddings of the language model.
    Embeddings,
    /// The attention of the language model's layers.
    Attention,
    /// The MLPs of the language model's layers.
    Mlp,
    /// The norms of the language model.
    Norms,
    /// The language model's head.
    Head,
}

impl Component {
    /// All components, in the order of a forward pass.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name, as files have it.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The component of a module or tensor, given its canonical name; `None` for a name of no known part.
    pub fn of(name: &str) -> Option<Self> {
        if name.starts_with("vision_tower.") {
            return Some(Self::Tower);
        }
        if name.starts_with("multi_modal_projector.") {
            return Some(Self::Projector);
        }
        if name.starts_with("lm_head") {
            return Some(Self::Head);
        }
        let rest = name.strip_prefix("language_model.")?;
        // Virtual tokens are embeddings, and virtual keys and values a part of what attention sees.
        if rest.starts_with("embed_tokens") || rest == "virtual_tokens" {
            return Some(Self::Embeddings);
        }
        if rest.contains(".self_attn.") || rest == "virtual_keys_and_values" {
            return Some(Self::Attention);
        }
        if rest.contains(".mlp.") {
            return Some(Self::Mlp);
        }
        rest.contains("norm").then_some(Self::Norms)
    }
}

/// The layer of the language model that a module or tensor belongs to, from 0.
pub fn layer_of(name: &str) -> Option<usize> {
    let rest = name.strip_prefix("language_model.layers.")?;
    rest.split('.').next()?.parse().ok()
}

/// How the language model attends to the positions of images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageAttention {
    /// As the model was trained.
    #[default]
    Full,
    /// Positions of images attend to themselves only, in these layers: the first, and the one after the last (EE-MLLM). `None`
    /// is all layers.
    SelfOnly(Option<[usize; 2]>),
    /// From a layer on, all tokens see only some positions of an image: those to which the prompt's last token attends most in
    /// the layer before (From Redundancy to Relevance).
    Truncated {
        /// The first layer that sees fewer.
        from_layer: usize,
        /// The positions that are kept. From layer 0 on, only 0 is defined.
        n_kept: usize,
    },
}

impl ImageAttention {
    /// Whether nothing is restricted.
    pub fn is_full(&self) -> bool {
        *self == Self::Full
    }
}

/// The type of merged weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum MergedType {
    /// 32 bits.
    F32,
    /// 16 bits with the exponent of f32.
    Bf16,
    /// 16 bits.
    F16,
}

impl MergedType {
    /// All types.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name, as files have it.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The part of a candidate that a run of a diagnosis or a recovery uses. By default it is all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPart {
    /// The components whose changes are used; `None` is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<BTreeSet<Component>>,
    /// The layers of the language model whose changes are left out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub without_layers: BTreeSet<usize>,
    /// Whether the base's template, preprocessing and configuration replace the candidate's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_base_settings: bool,
    /// Whether the language model reads the prompt without the image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_blind: bool,
    /// How the language model attends to images.
    #[serde(default, skip_serializing_if = "ImageAttention::is_full")]
    pub image_attention: ImageAttention,
    /// The type of the weights into which the adapter is merged; `None` is next to the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_as: Option<MergedType>,
    /// How much of the changes is used; `None` is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<Strength>,
}

impl ModelPart {
    /// Whether it is the whole candidate.
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the change of this module or tensor is used.
    pub fn uses(&self, name: &str) -> bool {
        let is_of = |components: &BTreeSet<Component>| Component::of(name).is_some_and(|one| components.contains(&one));
        let is_left_out = layer_of(name).is_some_and(|layer| self.without_layers.contains(&layer));
        self.components.as_ref().is_none_or(is_of) && !is_left_out
    }
}

#[cfg(test)]
mod tests;
