//! What depends on the version of transformers that saved a checkpoint.

use anyhow::Result;

use crate::model::checkpoint::config::Config;
use crate::model::language::DecoderConfig;

/// A version by its first two numbers.
pub(super) type Version = (u64, u64);

/// The first version of transformers in which LLaVA and Gemma 3 have a head of their own, which does not cap logits.
const FIRST_WITHOUT_CAP: Version = (4, 52);

/// Reads which version of transformers saved the checkpoint, if the configuration says it.
pub(super) fn version_of(config: &Config) -> Result<Option<Version>> {
    let version = config.str_or("transformers_version", "")?;
    let mut parts = version.split('.').map(|part| part.parse::<u64>().ok());
    Ok(parts.next().flatten().zip(parts.next().flatten()))
}

/// Returns the language model as the version that saved the checkpoint `name` ran it, and warnings.
///
/// Its authors cap logits, and so did transformers up to 4.51. In LLaVA and Gemma 3, later versions leave the cap out, so
/// a checkpoint that they trained knows none. PaliGemma has it in all versions.
pub(super) fn with_head(text: DecoderConfig, config: &Config, name: &str) -> Result<(DecoderConfig, Vec<String>)> {
    let Some(cap) = text.logit_cap() else { return Ok((text, Vec::new())) };
    let told = |what: &str| {
        let as_authors = "its authors do, and transformers from 4.52 on does not";
        vec![format!(
            "{name}: {what} (`final_logit_softcapping` {cap}): {as_authors}. Answers are equal, scores of labels are not"
        )]
    };
    Ok(match version_of(config)? {
        Some(version) if version >= FIRST_WITHOUT_CAP => {
            let note = told("logits are not capped, because transformers 4.52 or later saved it");
            (text.without_logit_cap(), note)
        }
        Some(_) => (text, told("logits are capped, because transformers before 4.52 saved it")),
        None => (text, told("logits are capped, and nothing says which version of transformers saved it")),
    })
}
