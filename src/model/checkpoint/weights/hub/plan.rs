//! The files of a repository that are needed: no images, no ONNX, Flax or TensorFlow, and no weights twice.

use super::super::adapter::{ADAPTER_WEIGHTS, NON_LORA, PEFT_CONFIG, PROJECTORS, SWIFT_TOWER};
use super::super::checkpoint::{OPEN_CLIP_CONFIG, choose_layout};
use super::Role;

/// Files that a checkpoint may need in addition to its weights.
const COMPANIONS: &[&str] = &[
    "config.json",
    OPEN_CLIP_CONFIG,
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "args.json",
    "Modelfile",
];

/// Files that an adapter may need in addition to its weights.
const ADAPTER_COMPANIONS: &[&str] = &[PEFT_CONFIG, "config.json", "emt.json", "args.json", "README.md"];

const INDEX_SUFFIX: &str = ".index.json";

/// The files to download, or to look for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Small files, first.
    pub companions: Vec<&'static str>,
    /// Single weight files.
    pub weights: Vec<&'static str>,
    /// The index of weight shards.
    pub index: Option<&'static str>,
    /// Required files that this repository lacks.
    pub missing: Vec<&'static str>,
}

impl Plan {
    /// Plans the files for `role`. `has` says which files exist.
    pub fn new(role: Role, has: &dyn Fn(&str) -> bool) -> Self {
        match role {
            Role::Adapter => Self::of_adapter(has),
            Role::Model | Role::Tower => Self::of_checkpoint(role, has),
        }
    }

    fn of_adapter(has: &dyn Fn(&str) -> bool) -> Self {
        let first = |names: &[&'static str]| names.iter().copied().find(|name| has(name));
        let parts = [first(&NON_LORA), first(&PROJECTORS)];
        let is_peft = has(PEFT_CONFIG);
        if !is_peft && parts.iter().all(Option::is_none) && has("config.json") {
            // A whole checkpoint is also an adapter: of its differences from the base.
            return Self::of_checkpoint(Role::Tower, has);
        }
        let companions = ADAPTER_COMPANIONS.iter().copied().filter(|name| has(name)).collect();
        let tower = if is_peft { first(&[SWIFT_TOWER]) } else { None };
        let mut weights: Vec<&'static str> = parts.into_iter().chain([tower]).flatten().collect();
        let mut missing = Vec::new();
        match first(&ADAPTER_WEIGHTS) {
            Some(name) if is_peft => weights.insert(0, name),
            None if is_peft => missing.push(ADAPTER_WEIGHTS[0]),
            _ if weights.is_empty() => missing.push(PEFT_CONFIG),
            _ => {}
        }
        Self { companions, weights, index: None, missing }
    }

    fn of_checkpoint(role: Role, has: &dyn Fn(&str) -> bool) -> Self {
        let mut plan =
            Self { companions: COMPANIONS.iter().copied().filter(|name| has(name)).collect(), ..Self::default() };
        match choose_layout(has) {
            None => plan.missing.push("config.json"),
            Some((_, None)) => plan.missing.push("model.safetensors"),
            Some((_, Some(file))) if file.ends_with(INDEX_SUFFIX) => plan.index = Some(file),
            Some((_, Some(file))) => plan.weights.push(file),
        }
        let has_tokenizer = ["tokenizer.json", "tokenizer.model", "spiece.model"].into_iter().any(has)
            || (has("vocab.json") && has("merges.txt"));
        if role == Role::Model && !has_tokenizer {
            plan.missing.push("tokenizer.json");
        }
        plan
    }
}

#[cfg(test)]
mod tests;
