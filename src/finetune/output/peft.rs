//! PEFT's folders: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{Output, json_bytes};
use crate::domain::{LoraShape, layer_of};
use crate::finetune::arms::{Left, LeftVirtualTokens};
use crate::finetune::trainable::TrainableConfig;
use crate::model::checkpoint::weights::{NamedTensor, SAVED_VIRTUAL_TOKENS, SOFT_PROMPT, safetensors_bytes};
use crate::record::OutputFile;

/// PEFT's name for a configuration that targets no module.
const NO_TARGET: &str = "dummy-target-modules";

/// The prefix of names under PEFT's tuner of modules, and without a tuner.
const OF_TUNER: &str = "base_model.model";
const WITHOUT_TUNER: &str = "base_model";

impl Output {
    /// A projector alone, which PEFT knows as a LoRA that updates nothing.
    pub(super) fn peft_of_projector(&self, left: &Left) -> Result<[OutputFile; 2]> {
        let idle = LoraShape { rank: 1, alpha: 1.0, dropout: 0.0 };
        let config = self.lora_config(left, idle, Value::from(NO_TARGET));
        folder(&config.into(), &self.saved_modules(left, OF_TUNER))
    }

    /// Updates, with the projector if it trained.
    pub(super) fn peft_of_updates(&self, left: &Left, config: &TrainableConfig) -> Result<[OutputFile; 2]> {
        let mut tensors = self.saved_modules(left, OF_TUNER);
        for (module, [a, b]) in &left.updates {
            let stem = format!("{OF_TUNER}.{}", self.in_memory(module));
            tensors.push((format!("{stem}.lora_A.weight"), a.clone()));
            tensors.push((format!("{stem}.lora_B.weight"), b.clone()));
        }
        let config = self.lora_config(left, config.lora, self.targets(left));
        folder(&config.into(), &tensors)
    }

    /// Virtual tokens with the projector if it trained; in a folder of their own where updates have the first place, because
    /// PEFT has no adapter with both.
    pub(super) fn peft_of_virtual_tokens(
        &self,
        tokens: &LeftVirtualTokens,
        left: &Left,
        has_updates: bool,
    ) -> Result<Vec<OutputFile>> {
        if has_updates {
            let files = self.virtual_tokens_alone(tokens)?;
            return Ok(files.map(|(name, bytes)| (format!("{SOFT_PROMPT}/{name}"), bytes)).into());
        }
        let mut config = self.virtual_token_config(tokens);
        config.insert("modules_to_save".to_owned(), self.modules_to_save(left));
        let mut saved = self.saved_modules(left, WITHOUT_TUNER);
        saved.push((SAVED_VIRTUAL_TOKENS.to_owned(), tokens.rows.clone()));
        Ok(folder(&config.into(), &saved)?.into())
    }

    /// Virtual tokens and nothing else.
    pub(super) fn virtual_tokens_alone(&self, tokens: &LeftVirtualTokens) -> Result<[OutputFile; 2]> {
        let config = self.virtual_token_config(tokens);
        folder(&config.into(), &[(SAVED_VIRTUAL_TOKENS.to_owned(), tokens.rows.clone())])
    }

    fn virtual_token_config(&self, tokens: &LeftVirtualTokens) -> Map<String, Value> {
        let mut config = self.common_config(tokens.peft_type);
        config.extend(tokens.config.clone());
        config
    }

    /// Returns `adapter_config.json` of updates, with the keys that every version of PEFT knows.
    fn lora_config(&self, left: &Left, shape: LoraShape, targets: Value) -> Map<String, Value> {
        let LoraShape { rank, alpha, dropout } = shape;
        let alpha = if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) };
        let mut config = self.common_config("LORA");
        let of_lora = json!({
            "alpha_pattern": {},
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": null,
            "lora_alpha": alpha,
            "lora_dropout": dropout,
            "modules_to_save": self.modules_to_save(left),
            "r": rank,
            "rank_pattern": {},
            "target_modules": targets,
            "use_dora": false,
            "use_rslora": false,
        });
        config.extend(of_lora.as_object().cloned().unwrap_or_default());
        config
    }

    fn common_config(&self, peft_type: &str) -> Map<String, Value> {
        let fields = [
            ("auto_mapping", Value::Null),
            ("base_model_name_or_path", self.base.name().into()),
            ("inference_mode", true.into()),
            ("peft_type", peft_type.into()),
            ("revision", Value::Null),
            ("task_type", "CAUSAL_LM".into()),
        ];
        fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Returns the modules that PEFT stores whole, in addition to the updates. LLaVA's trainer stores them in a separate file.
    fn saved_modules(&self, left: &Left, prefix: &str) -> Vec<NamedTensor> {
        if self.base.is_llava_original() {
            return Vec::new();
        }
        let named = |(name, tensor): &NamedTensor| (format!("{prefix}.{}", self.in_memory(name)), tensor.clone());
        left.whole.iter().map(named).collect()
    }

    /// Returns the names of those modules, as `modules_to_save` has them.
    fn modules_to_save(&self, left: &Left) -> Value {
        let saved: BTreeSet<String> = match self.base.is_llava_original() {
            true => BTreeSet::new(),
            false => left.whole.iter().filter_map(|(name, _)| self.names.saved_module(name)).collect(),
        };
        if saved.is_empty() { Value::Null } else { json!(saved) }
    }

    fn in_memory(&self, canonical: &str) -> String {
        match self.base.is_llava_original() {
            true => format!("model.{}", canonical.trim_start_matches("language_model.")),
            false => self.names.in_memory(canonical),
        }
    }

    /// Returns which modules are updated: an expression where they are the same in all of some layers, else a list.
    fn targets(&self, left: &Left) -> Value {
        let mut leaves_of: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
        for (module, _) in &left.updates {
            let (Some(layer), Some(leaf)) = (layer_of(module), module.rsplit('.').next()) else { continue };
            leaves_of.entry(layer).or_default().insert(leaf);
        }
        let first = leaves_of.values().next().cloned().unwrap_or_default();
        if leaves_of.values().any(|leaves| *leaves != first) {
            let names = left.updates.iter().map(|(module, _)| self.in_memory(module));
            return names.collect::<Vec<_>>().into();
        }
        let stem = self.names.language_model;
        let part =
            if self.base.is_llava_original() { "(?!.*vision_tower).*layers".to_owned() } else { format!(".*{stem}") };
        let leaves = first.into_iter().collect::<Vec<_>>().join("|");
        match leaves_of.len() == self.n_layers {
            true => format!(r"{part}.*\.({leaves})").into(),
            false => {
                let layers: Vec<String> = leaves_of.keys().map(usize::to_string).collect();
                let of_layers = if self.base.is_llava_original() { "" } else { r".*layers" };
                format!(r"{part}{of_layers}\.({})\..*\.({leaves})", layers.join("|")).into()
            }
        }
    }
}

/// Returns the two files of a folder.
fn folder(config: &Value, tensors: &[NamedTensor]) -> Result<[OutputFile; 2]> {
    Ok([
        ("adapter_config.json".to_owned(), json_bytes(config)?),
        ("adapter_model.safetensors".to_owned(), safetensors_bytes(tensors)?),
    ])
}
