//! The list of text families.

use anyhow::Result;

use super::config::DecoderConfig;
use super::{gemma, gemma2, llama, mistral, mpt, phi3, qwen};
use crate::model::checkpoint::config::Config;

/// Language models of one class of transformers: one line in [`FAMILIES`].
pub(super) struct TextFamily {
    /// The values of `model_type`.
    pub model_types: &'static [&'static str],
    /// The name in messages.
    pub about: &'static str,
    /// Reads a `text_config`.
    pub read: fn(&Config) -> Result<DecoderConfig>,
}

/// All text families that are used on their own. The families of Qwen's vision-language models read their own.
pub(super) const FAMILIES: &[TextFamily] = &[
    llama::FAMILY,
    mistral::FAMILY,
    qwen::QWEN2,
    qwen::QWEN3,
    gemma::FAMILY,
    gemma2::GEMMA2,
    gemma2::GEMMA3,
    phi3::FAMILY,
    mpt::FAMILY,
];
