//! PEFT's folders of prompt learning: prompt tuning, P-tuning and prefix tuning.
//!
//! All three save one tensor, `prompt_embeddings`. Of P-tuning only the virtual tokens themselves are saved, so that its
//! folders are read like those of prompt tuning.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use super::super::checkpoint::read_tensors_of_file;
use super::peft::{base_name, weights_file};
use super::{Adapter, Canonicalise};
use crate::model::checkpoint::overlay::{VIRTUAL_KEYS, VIRTUAL_TOKENS};

/// The types of prompt learning that are read, with the name under which each replaces "nothing".
const TYPES: [(&str, &str); 3] =
    [("PROMPT_TUNING", VIRTUAL_TOKENS), ("P_TUNING", VIRTUAL_TOKENS), ("PREFIX_TUNING", VIRTUAL_KEYS)];

/// The tensor that PEFT saves.
pub const SAVED_VIRTUAL_TOKENS: &str = "prompt_embeddings";

/// Returns whether `peft_type` is one of prompt learning.
pub(super) fn is_prompt_learning(peft_type: &str) -> bool {
    TYPES.iter().any(|(name, _)| *name == peft_type)
}

impl Adapter {
    /// Reads the folder `dir`, whose configuration is `config`.
    pub(super) fn of_prompt_learning(
        dir: &Path,
        config: &Map<String, Value>,
        canonicalise: Canonicalise,
    ) -> Result<Self> {
        let kind = config.get("peft_type").and_then(Value::as_str).unwrap_or_default();
        let Some((_, name)) = TYPES.iter().find(|(known, _)| *known == kind) else {
            bail!("the adapter is of type {kind}, which is not supported")
        };
        let number = |key: &str| config.get(key).and_then(Value::as_u64);
        ensure!(
            number("num_transformer_submodules").is_none_or(|n| n == 1),
            "num_transformer_submodules is not 1: the adapter is of a model with an encoder and a decoder, which is not supported"
        );
        let mut adapter = Self::empty(dir);
        adapter.base_name = base_name(config);
        for stored in read_tensors_of_file(&dir.join(weights_file(dir)?))? {
            if stored.key == SAVED_VIRTUAL_TOKENS {
                ensure!(
                    stored.shape.len() == 2 && number("num_virtual_tokens").is_none_or(|n| n == stored.shape[0] as u64),
                    "`{SAVED_VIRTUAL_TOKENS}` has shape {:?}, and adapter_config.json tells of {} virtual tokens; hint: copy the adapter again",
                    stored.shape,
                    number("num_virtual_tokens").unwrap_or_default()
                );
                adapter.replaced.insert((*name).to_owned(), stored);
            } else {
                adapter.replace(stored, canonicalise)?;
            }
        }
        ensure!(
            adapter.replaced.contains_key(*name),
            "its weights lack `{SAVED_VIRTUAL_TOKENS}`; hint: copy the adapter again"
        );
        adapter.add_non_lora(dir, canonicalise)?;
        adapter.check_modules_saved(config)?;
        Ok(adapter)
    }

    /// Adds the virtual tokens of the folder `dir`, which lies beside what PEFT keeps apart: its formats have no adapter
    /// with updates and virtual tokens.
    pub(super) fn add_virtual_tokens(&mut self, dir: &Path, canonicalise: Canonicalise) -> Result<()> {
        let other = Self::of_peft(dir, canonicalise).with_context(|| format!("`{}`", dir.display()))?;
        ensure!(other.has_virtual_tokens(), "`{}` is no adapter of prompt learning", dir.display());
        for (name, stored) in other.replaced {
            self.replaced.entry(name).or_insert(stored);
        }
        Ok(())
    }

    /// Whether it puts something before every prompt.
    pub fn has_virtual_tokens(&self) -> bool {
        self.replaced.keys().any(|name| name == VIRTUAL_TOKENS || name == VIRTUAL_KEYS)
    }
}
