//! Refuses weights of the first LLaVA that were published as differences to a LLaMA. Loaded as a model they answer noise.

use anyhow::{Result, ensure};

use crate::model::checkpoint::weights::{Checkpoint, Weights, canonical_llava};

/// The weights of a norm are about 1 in a model, and near 0 in a difference of two.
const NORM_MEAN_MIN: f32 = 0.05;

/// Returns whether `checkpoint` says that it is an original LLaVA over a LLaMA, complete or as differences. Old
/// differences call themselves `llama` and may lack the keys of the tower.
pub(super) fn is_original(checkpoint: &Checkpoint) -> bool {
    let config = checkpoint.config();
    let architectures = config.get("architectures").and_then(|list| list.as_array());
    let is_llava = architectures.is_some_and(|list| list.iter().any(|name| name == "LlavaLlamaForCausalLM"));
    (is_llava && config.get("vision_config").is_none()) || checkpoint.is_llava_original()
}

/// Refuses `checkpoint` if it is an original LLaVA whose weights are differences to a base.
///
/// # Errors
/// They are.
pub(super) fn refuse(checkpoint: &Checkpoint) -> Result<()> {
    const NORM: &str = "language_model.norm.weight";
    if !is_original(checkpoint) {
        return Ok(());
    }
    // What is missing or damaged is told when all weights are read.
    let Some(weights) = Weights::new(checkpoint, canonical_llava).ok().filter(|weights| weights.contains(NORM)) else {
        return Ok(());
    };
    let values = weights.values(NORM)?;
    let mean = values.iter().map(|value| value.abs()).sum::<f32>() / values.len().max(1) as f32;
    ensure!(
        mean >= NORM_MEAN_MIN,
        "`{}` holds delta weights, not a model: the weights of its last norm are {mean:.3} on average, and about 1 in a \
         model; hint: add them to the LLaMA that they were made from (`python3 -m llava.model.apply_delta --base LLAMA \
         --delta {} --target DIR` of the original repository), and give DIR",
        checkpoint.dir.display(),
        checkpoint.dir.display()
    );
    Ok(())
}
