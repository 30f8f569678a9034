//! The output of a training: adapter folders that other tools read, and the optimizer's state.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::method::{Method, PROJECTOR};
use super::optimizer::AdamW;
use super::trainable::{Trainable, TrainableConfig};
use crate::model::checkpoint::weights::{
    Canonical, Checkpoint, NamedTensor, Weights, read_tensors, safetensors_bytes, torch_archive_bytes,
};
use crate::record::OutputFile;

/// The schema of `emt.json`.
pub const ADAPTER_SCHEMA: &str = "emt.adapter/1";

/// Files of a checkpoint that describe it and hold no weights.
const COMPANIONS: [&str; 14] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "README.md",
    "LICENSE",
];

const OPTIMIZER: &str = "optimizer.safetensors";
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

const LLAVA_PROJECTOR: &str = "multi_modal_projector.linear_";

/// PEFT's name for a configuration that targets no module.
const NO_TARGET: &str = "dummy-target-modules";

/// Writes the output folder of a training at any of its steps.
pub struct Output {
    /// The base checkpoint, for the method `full`.
    pub base: Checkpoint,
    /// The family's rule for canonical names.
    pub canonical: fn(&str) -> Canonical,
    /// The training's entry in `emt.json`, without the step.
    pub provenance: Value,
}

impl Output {
    /// Returns the adapter's files after `step` optimizer steps and `epoch` complete epochs.
    pub fn files(&self, trainable: &Trainable, step: usize, epoch: usize) -> Result<Vec<OutputFile>> {
        let mut files = match trainable.config().method {
            Method::Linear => self.linear(trainable)?,
            Method::Lora => self.lora(trainable)?,
            Method::Full => self.full(trainable)?,
        };
        let mut provenance = self.provenance.clone();
        provenance["step"] = step.into();
        provenance["epoch"] = epoch.into();
        files.push(("emt.json".to_owned(), json_bytes(&provenance)?));
        Ok(files)
    }

    fn linear(&self, trainable: &Trainable) -> Result<Vec<OutputFile>> {
        let projector = self.llava_projector(trainable)?;
        let saved = self.saved_modules(trainable);
        let config = self.peft_config(trainable, Value::from(NO_TARGET));
        Ok(vec![
            ("mm_projector.safetensors".to_owned(), safetensors_bytes(&projector)?),
            ("mm_projector.bin".to_owned(), torch_archive_bytes("mm_projector", &projector)?),
            ("peft/adapter_config.json".to_owned(), json_bytes(&config)?),
            ("peft/adapter_model.safetensors".to_owned(), safetensors_bytes(&saved)?),
        ])
    }

    fn lora(&self, trainable: &Trainable) -> Result<Vec<OutputFile>> {
        let mut leaves: Vec<&str> = trainable.modules().filter_map(|module| module.rsplit('.').next()).collect();
        leaves.sort_unstable();
        leaves.dedup();
        let part = if self.base.is_llava_original() { "(?!.*vision_tower).*layers.*" } else { ".*language_model.*" };
        let targets = format!(r"{part}\.({})", leaves.join("|"));
        let mut tensors = self.saved_modules(trainable);
        for module in trainable.modules() {
            let (a, b) = trainable.factors(module).context("a module with an update has both factors")?;
            let stem = self.peft_name(module);
            tensors.push((format!("{stem}.lora_A.weight"), a));
            tensors.push((format!("{stem}.lora_B.weight"), b));
        }
        let config = self.peft_config(trainable, targets.into());
        let mut files = vec![
            ("adapter_config.json".to_owned(), json_bytes(&config)?),
            ("adapter_model.safetensors".to_owned(), safetensors_bytes(&tensors)?),
        ];
        let projector = self.llava_projector(trainable)?;
        if !projector.is_empty() {
            files.push(("non_lora_trainables.safetensors".to_owned(), safetensors_bytes(&projector)?));
        }
        Ok(files)
    }

    fn full(&self, trainable: &Trainable) -> Result<Vec<OutputFile>> {
        let base = Weights::new(&self.base, self.canonical)?;
        let mut tensors = Vec::new();
        for name in base.names() {
            let stored = base.stored_name(name).context("a listed tensor has a name")?.to_owned();
            let tensor = match trainable.value(name) {
                Some(tensor) => tensor,
                None => {
                    let shape = base.shape(name).context("a listed tensor has a shape")?;
                    Tensor::from_vec(base.values(name)?, shape, &Device::Cpu)?
                }
            };
            tensors.push((stored, tensor));
        }
        let mut config = self.base.config().clone();
        let key = if config.get("torch_dtype").is_some() { "torch_dtype" } else { "dtype" };
        config[key] = "float32".into();
        let mut files = vec![
            ("config.json".to_owned(), json_bytes(&config)?),
            ("model.safetensors".to_owned(), safetensors_bytes(&tensors)?),
        ];
        for name in COMPANIONS {
            files.extend(self.base.read_file(name)?.map(|bytes| (name.to_owned(), bytes)));
        }
        Ok(files)
    }

    /// Refuses, before training, what [`files`](Self::files) could not write.
    pub fn check(&self, config: &TrainableConfig) -> Result<()> {
        let trains_projector = match config.method {
            Method::Linear => true,
            Method::Lora => config.trains_projector,
            Method::Full => false,
        };
        let weights = Weights::new(&self.base, self.canonical)?;
        let is_foreign = |name: &&str| name.starts_with(PROJECTOR) && !name.starts_with(LLAVA_PROJECTOR);
        if let Some(name) = weights.names().find(is_foreign).filter(|_| trains_projector) {
            bail!(
                "`{name}` is not part of a projector that LLaVA's trainer knows, whose files hold a trained projector; \
                 hint: --method lora --no-projector, or --method full"
            );
        }
        ensure!(
            config.method != Method::Full || !self.base.is_llava_original(),
            "`full` writes a checkpoint in the layout of transformers, and `{}` is in that of the original repository; \
             hint: convert it first, or train with --method lora",
            self.base.dir.display()
        );
        Ok(())
    }

    /// Returns the projector under the names of LLaVA's own trainer.
    fn llava_projector(&self, trainable: &Trainable) -> Result<Vec<NamedTensor>> {
        let prefix = if self.base.is_llava_original() && trainable.config().method == Method::Lora {
            "base_model.model.model.mm_projector"
        } else {
            "model.mm_projector"
        };
        // A torch `Sequential` of linear, GELU, linear.
        let named = |(name, tensor): (&str, Tensor)| match name.strip_prefix(LLAVA_PROJECTOR) {
            Some(rest) => {
                let (index, leaf) = rest.split_once('.').context("a projector's tensor has a leaf")?;
                let index: usize = index.parse()?;
                Ok((format!("{prefix}.{}.{leaf}", 2 * (index - 1)), tensor))
            }
            None => bail!("`{name}` is not part of a projector that LLaVA's trainer knows"),
        };
        trainable.replaced().map(named).collect()
    }

    /// Returns the modules that PEFT stores whole, in addition to the updates.
    fn saved_modules(&self, trainable: &Trainable) -> Vec<NamedTensor> {
        let replaced = trainable.replaced();
        if self.base.is_llava_original() {
            // LLaVA's trainer stores them in a separate file.
            return Vec::new();
        }
        replaced.map(|(name, tensor)| (self.peft_name(name), tensor)).collect()
    }

    fn peft_name(&self, canonical: &str) -> String {
        let is_original = self.base.is_llava_original();
        let name = if is_original { canonical.trim_start_matches("language_model.") } else { canonical };
        format!("base_model.model.model.{name}")
    }

    /// Returns `adapter_config.json`, with the keys that every version of PEFT knows.
    fn peft_config(&self, trainable: &Trainable, targets: Value) -> Value {
        let config = trainable.config();
        let saves_projector = trainable.replaced().next().is_some() && !self.base.is_llava_original();
        let is_lora = config.method == Method::Lora;
        let alpha = config.lora.alpha;
        json!({
            "alpha_pattern": {},
            "auto_mapping": null,
            "base_model_name_or_path": self.base.name(),
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": null,
            "lora_alpha": if !is_lora { json!(1) } else if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) },
            "lora_dropout": if is_lora { config.lora.dropout } else { 0.0 },
            "modules_to_save": if saves_projector { json!(["multi_modal_projector"]) } else { Value::Null },
            "peft_type": "LORA",
            "r": if is_lora { config.lora.rank } else { 1 },
            "rank_pattern": {},
            "revision": null,
            "target_modules": targets,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": false,
        })
    }
}

/// Returns the optimizer's state as a file next to the adapter.
pub fn optimizer_file(trainable: &Trainable, optimizer: &AdamW) -> Result<OutputFile> {
    let mut tensors = Vec::new();
    for (parameter, (first, second)) in trainable.parameters().iter().zip(optimizer.moments()) {
        for (which, moment) in MOMENTS.iter().zip([first, second]) {
            tensors.push((format!("{which}.{}", parameter.name), moment.clone()));
        }
    }
    Ok((OPTIMIZER.to_owned(), safetensors_bytes(&tensors)?))
}

/// Reads the moments of `trainable`'s tensors from a checkpoint.
pub fn read_optimizer(dir: &Path, trainable: &Trainable, device: &Device) -> Result<Vec<(Tensor, Tensor)>> {
    let path = dir.join(OPTIMIZER);
    let mut found = read_tensors(&path, DType::F32, device)?;
    let mut take = |which: &str, name: &str| {
        let found = found.remove(&format!("{which}.{name}"));
        found.with_context(|| {
            format!(
                "`{}` lacks the {which} of `{name}`; hint: remove the folder to continue from the checkpoint before it",
                path.display()
            )
        })
    };
    let names = trainable.parameters().iter().map(|parameter| parameter.name.as_str());
    names.map(|name| Ok((take(MOMENTS[0], name)?, take(MOMENTS[1], name)?))).collect()
}

fn json_bytes(value: &Value) -> Result<Vec<u8>> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?).into_bytes())
}
