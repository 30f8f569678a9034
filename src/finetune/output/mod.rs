//! The output of a training: adapter folders that other tools read, and the optimizer's state.

mod checkpoint;
mod optimizer_state;
mod peft;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use serde_json::Value;

use super::arms::{self, Base, Left, PROJECTOR};
use super::trainable::{Trainable, TrainableConfig};
use crate::domain::{Arm, Method, Mixing};
use crate::model::checkpoint::weights::{
    Canonical, Checkpoint, MixtureConfig, NamedTensor, SECOND_PROJECTOR, Weights, safetensors_bytes,
    torch_archive_bytes,
};
use crate::model::families::InMemoryNames;
use crate::record::OutputFile;

pub use optimizer_state::{optimizer_file, read_encoder, read_optimizer};

/// The schema of `emt.json`.
pub const ADAPTER_SCHEMA: &str = "emt.adapter/1";

const LLAVA_PROJECTOR: &str = "multi_modal_projector.linear_";

/// Writes the output folder of a training at any of its steps.
pub struct Output {
    /// The base checkpoint.
    pub base: Checkpoint,
    /// The family's rule for canonical names.
    pub canonical: fn(&str) -> Canonical,
    /// The family's names in memory, which PEFT saves.
    pub names: InMemoryNames,
    /// The heads of queries, and of keys and values, of the language model.
    pub n_heads: [usize; 2],
    /// The number of layers of the language model.
    pub n_layers: usize,
    /// The training's entry in `emt.json`, without the step.
    pub provenance: Value,
}

impl Output {
    /// Returns the adapter's files after `step` optimizer steps and `epoch` complete epochs.
    ///
    /// # Errors
    /// The base cannot be read.
    pub fn files(&self, trainable: &Trainable, step: usize, epoch: usize) -> Result<Vec<OutputFile>> {
        let weights = self.weights()?;
        let left = trainable.left(&self.base(&weights, &Device::Cpu))?;
        let config = trainable.config();
        let mut files = match left.is_checkpoint {
            true => self.checkpoint(&left, &weights)?,
            false if config.method == Method::LINEAR => self.linear(&left)?,
            false => self.adapter(&left, config)?,
        };
        let mut provenance = self.provenance.clone();
        provenance["step"] = step.into();
        provenance["epoch"] = epoch.into();
        files.extend(left.files);
        files.push(("emt.json".to_owned(), json_bytes(&provenance)?));
        Ok(files)
    }

    /// Returns the base's tensors.
    ///
    /// # Errors
    /// The base cannot be read.
    pub fn weights(&self) -> Result<Weights> {
        Weights::new(&self.base, self.canonical)
    }

    /// Returns what arms read of the base, once nothing is tokenised any more.
    pub fn base<'a>(&self, weights: &'a Weights, device: &'a Device) -> Base<'a> {
        let tokenize = &|_: &str| bail!("a training has tokenised all that it needs when it begins");
        Base { weights, n_heads: self.n_heads, n_layers: self.n_layers, tokenize, device }
    }

    /// A projector, in LLaVA's form where it is LLaVA's, and in PEFT's.
    fn linear(&self, left: &Left) -> Result<Vec<OutputFile>> {
        let mut files = Vec::new();
        if is_llava_projector(&left.whole) {
            let projector = llava_projector(&left.whole, "model.mm_projector")?;
            files.push(("mm_projector.safetensors".to_owned(), safetensors_bytes(&projector)?));
            files.push(("mm_projector.bin".to_owned(), torch_archive_bytes("mm_projector", &projector)?));
        }
        files.extend(self.peft_of_projector(left)?.map(|(name, bytes)| (format!("peft/{name}"), bytes)));
        Ok(files)
    }

    /// Updates, virtual tokens and what goes with them.
    fn adapter(&self, left: &Left, config: &TrainableConfig) -> Result<Vec<OutputFile>> {
        let mut files = Vec::new();
        let has_updates = config.method.has(Arm::Lora);
        if has_updates {
            files.extend(self.peft_of_updates(left, config)?);
        }
        if let Some(tokens) = &left.virtual_tokens {
            files.extend(self.peft_of_virtual_tokens(tokens, left, has_updates)?);
        }
        let mut beside = self.stored_calibration(&left.calibration)?;
        if config.method.has(Arm::Mof) {
            beside.extend(second_projector(left)?);
            files.push(("config.json".to_owned(), json_bytes(self.base.config())?));
        }
        // PEFT's folders hold a projector; LLaVA's trainer looks for it in a file of its own.
        let is_original = self.base.is_llava_original();
        let has_peft = has_updates || left.virtual_tokens.is_some();
        if is_llava_projector(&left.whole) && (has_updates || !has_peft || is_original) {
            let of_tuner = is_original && has_updates;
            let prefix = if of_tuner { "base_model.model.model.mm_projector" } else { "model.mm_projector" };
            beside.extend(llava_projector(&left.whole, prefix)?);
        } else if !has_peft {
            beside.extend(left.whole.iter().map(|(name, tensor)| (self.names.in_memory(name), tensor.clone())));
        }
        if !beside.is_empty() {
            files.push(("non_lora_trainables.safetensors".to_owned(), safetensors_bytes(&beside)?));
        }
        Ok(files)
    }

    /// Refuses, before training, what [`files`](Self::files) could not write.
    ///
    /// # Errors
    /// The base's layout has no place for what trains.
    pub fn check(&self, config: &TrainableConfig) -> Result<()> {
        arms::check_targets(config)?;
        if config.method.has(Arm::Mof) {
            let mixture = MixtureConfig::of(&self.base)?;
            let mixture =
                mixture.context("`mof` mixes the features of two towers; hint: name a DINOv2 by --second-tower DIR")?;
            ensure!(
                mixture.mixing == Mixing::Interleaved || config.trains_projector,
                "the projector is all that trains with added features; hint: --projector train"
            );
        }
        ensure!(
            !config.method.has(Arm::Full) || !self.base.is_llava_original(),
            "`full` writes a checkpoint in the layout of transformers, and `{}` is in that of the original repository; \
             hint: convert it first, or train with --method lora",
            self.base.dir.display()
        );
        Ok(())
    }

    /// The calibration under its authors' names where the base is a LLaVA, else below the layer's own stem.
    fn stored_calibration(&self, calibration: &[NamedTensor]) -> Result<Vec<NamedTensor>> {
        let stored = |(name, tensor): &NamedTensor| {
            let rest = name.strip_prefix("language_model.").context("a calibration belongs to the language model")?;
            let name = match self.names.language_model {
                "language_model" => format!("model.{rest}"),
                stem => format!("model.{stem}.{rest}"),
            };
            Ok((name, tensor.clone()))
        };
        calibration.iter().map(stored).collect()
    }
}

fn is_llava_projector(whole: &[NamedTensor]) -> bool {
    let mut projector = whole.iter().filter(|(name, _)| name.starts_with(PROJECTOR)).peekable();
    projector.peek().is_some() && projector.all(|(name, _)| name.starts_with(LLAVA_PROJECTOR))
}

/// Returns a second tower's projector under its authors' names.
fn second_projector(left: &Left) -> Result<Vec<NamedTensor>> {
    let first = |(name, tensor): &NamedTensor| (name.replacen(SECOND_PROJECTOR, PROJECTOR, 1), tensor.clone());
    let as_first: Vec<NamedTensor> = left.second_projector.iter().map(first).collect();
    llava_projector(&as_first, "model.dino_mm_projector")
}

/// Returns the projector under the names of LLaVA's own trainer: a torch `Sequential` of linear, GELU, linear.
fn llava_projector(whole: &[NamedTensor], prefix: &str) -> Result<Vec<NamedTensor>> {
    // A projector of one map is the map itself; several are numbered within a torch `Sequential`.
    let is_one_map = whole.iter().all(|(name, _)| name.starts_with(&format!("{LLAVA_PROJECTOR}1.")));
    let named = |(name, tensor): &NamedTensor| match name.strip_prefix(LLAVA_PROJECTOR) {
        Some(rest) => {
            let (index, leaf) = rest.split_once('.').context("a projector's tensor has a leaf")?;
            let index: usize = index.parse()?;
            let place = if is_one_map { String::new() } else { format!(".{}", 2 * (index - 1)) };
            Ok((format!("{prefix}{place}.{leaf}"), tensor.clone()))
        }
        None => bail!("`{name}` is not part of a projector that LLaVA's trainer knows"),
    };
    whole.iter().map(named).collect()
}

fn json_bytes(value: &Value) -> Result<Vec<u8>> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?).into_bytes())
}
