//! The list of text families.

use anyhow::Result;

use super::decoder::DecoderConfig;
use super::{gemma, llama, mistral, phi3, qwen};
use crate::model::checkpoint::config::Config;

/// Language models of one class of transformers: one line in [`FAMILIES`].
pub(super) struct TextFamily {
    /// What `model_type` calls them.
    pub model_types: &'static [&'static str],
    /// For messages.
    pub about: &'static str,
    /// Reads a `text_config`.
    pub read: fn(&Config) -> Result<DecoderConfig>,
}

/// All text families that stand alone; those of Qwen's vision-language models are read by their own families.
pub(super) const FAMILIES: &[TextFamily] =
    &[llama::FAMILY, mistral::FAMILY, qwen::QWEN2, qwen::QWEN3, gemma::FAMILY, phi3::FAMILY];
