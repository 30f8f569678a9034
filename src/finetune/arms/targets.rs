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
mod tests {
    use super::*;

    const Q: &str = "language_model.layers.1.self_attn.q_proj";
    const GATE: &str = "language_model.layers.1.mlp.gate_proj";
    const DOWN: &str = "language_model.layers.1.mlp.down_proj";

    #[test]
    fn targets_choose_maps_by_kind_pattern_and_layer() {
        for (targets, n_frozen, expected) in [
            ("all", 0, [true, true, true]),
            ("attention", 0, [true, false, false]),
            ("gate-up", 0, [false, true, false]),
            (r"layers\.1\..*(q|down)_proj$", 0, [true, false, true]),
            ("all", 2, [false, false, false]),
            ("all", 1, [true, true, true]),
        ] {
            let chosen = Chosen::new(&Targets::from(targets.to_owned()), n_frozen).unwrap();
            assert_eq!([Q, GATE, DOWN].map(|module| chosen.has_map(module).unwrap()), expected, "{targets} {n_frozen}");
        }
        let error = Chosen::new(&Targets::Matching("(".to_owned()), 0).err().unwrap();
        assert!(format!("{error:#}").contains("gate-up"), "{error:#}");
    }

    #[test]
    fn norms_embeddings_and_head_train_only_with_all_layers() {
        let has = |targets: &str, n_frozen, name: &str, shape: &[usize]| {
            Chosen::new(&Targets::from(targets.to_owned()), n_frozen).unwrap().has_tensor(name, shape).unwrap()
        };
        for name in ["language_model.embed_tokens.weight", "lm_head.weight", "language_model.norm.weight"] {
            assert!(
                has("all", 0, name, &[4, 4]) && !has("all", 1, name, &[4, 4]) && !has("attention", 0, name, &[4, 4])
            );
        }
        let norm = "language_model.layers.1.input_layernorm.weight";
        assert!(has("all", 1, norm, &[4]) && !has("all", 2, norm, &[4]) && !has("attention", 0, norm, &[4]));
        assert!(has("attention", 0, &format!("{Q}.bias"), &[4]) && !has("gate-up", 0, &format!("{Q}.bias"), &[4]));
    }
}
