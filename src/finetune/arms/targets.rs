//! Which of the language model's tensors an arm trains.

use anyhow::{Context, Result};
use fancy_regex::Regex;

use super::LAYERS;
use crate::domain::{Targets, layer_of};

/// Targets with their pattern compiled, above frozen layers.
pub(super) struct Chosen {
    targets: Targets,
    pattern: Option<Regex>,
    n_frozen_layers: usize,
}

impl Chosen {
    /// Compiles the targets.
    pub(super) fn new(targets: &Targets, n_frozen_layers: usize) -> Result<Self> {
        let pattern = match targets {
            Targets::Matching(pattern) => Some(Regex::new(pattern).with_context(|| {
                format!(
                    "the targets `{pattern}` are no regular expression; hint: all, attention, gate-up, or an expression over \
                     names like `language_model.layers.0.self_attn.q_proj`"
                )
            })?),
            Targets::All | Targets::Attention | Targets::GateUp => None,
        };
        Ok(Self { targets: targets.clone(), pattern, n_frozen_layers })
    }

    /// Whether the linear map `module` (a canonical name) of a layer is chosen.
    pub(super) fn has_map(&self, module: &str) -> Result<bool> {
        let leaf = module.rsplit('.').next().unwrap_or(module);
        let is_chosen = match (&self.targets, &self.pattern) {
            (Targets::Attention, _) => module.contains(".self_attn."),
            (Targets::GateUp, _) => matches!(leaf, "gate_proj" | "up_proj" | "gate_up_proj"),
            (_, Some(pattern)) => pattern.is_match(module)?,
            (_, None) => true,
        };
        Ok(is_chosen && layer_of(module).is_some_and(|layer| layer >= self.n_frozen_layers))
    }

    /// Whether the tensor `name` of shape `shape` trains as a whole.
    pub(super) fn has_tensor(&self, name: &str, shape: &[usize]) -> Result<bool> {
        if !name.starts_with(LAYERS) {
            return Ok(self.targets.is_all() && self.n_frozen_layers == 0);
        }
        let module = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias")).unwrap_or(name);
        let is_above = layer_of(name).is_some_and(|layer| layer >= self.n_frozen_layers);
        // Norms are vectors, and so are biases; those of a chosen map train with it.
        match (&self.targets, shape.len()) {
            (Targets::All, _) => Ok(is_above),
            (_, 2) => self.has_map(module),
            _ => Ok(name.ends_with(".bias") && self.has_map(module)?),
        }
    }
}

#[cfg(test)]
mod tests;
