//! PEFT's LoRA folders: `adapter_config.json` and `adapter_model`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use super::super::canonical::Canonical;
use super::super::checkpoint::{parse_json, read_optional, read_tensors_of_file};
use super::super::notes::{SWIFT_ARGUMENTS, SwiftArguments};
use super::super::stored::StoredTensor;
use super::prompt_learning::is_prompt_learning;
use super::{ADAPTER_WEIGHTS, Adapter, Canonicalise, NON_LORA, PEFT_CONFIG, SWIFT_TOWER, StoredUpdate, plain_name};
use crate::domain::text;

/// Keys of `adapter_config.json` that are read here, or that have no effect on saved tensors. Any other key that is set
/// is refused by name, because newer versions of PEFT add ways to compute an update.
const KNOWN_KEYS: &[&str] = &[
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "lora_dtype",
    "lora_ga_config",
    "lorap_emb_lr",
    "lorap_lr_ratio",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
];

/// Initialisations that do not change the base's weights (PEFT 0.21, `LoraLayer.update_layer`). Any other either
/// changes them, as pissa, olora, corda, loftq and lora_ga do, or is unknown. The update then belongs to a changed base
/// that was not saved.
const HARMLESS_INITS: &[&str] = &["true", "false", "gaussian", "eva", "orthogonal", "mica"];

/// Initialisations that are known to change the base, for messages.
const BASE_CHANGING_INITS: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga"];

/// The first PEFT that saves trained biases (peft issue 3306).
const BIAS_SAVED_SINCE: (u64, u64) = (0, 20);

impl Adapter {
    /// Reads the folder `dir`.
    pub(super) fn of_peft(dir: &Path, canonicalise: Canonicalise) -> Result<Self> {
        let path = dir.join(PEFT_CONFIG);
        let config = parse_json(&path, &read_optional(&path)?.unwrap_or_default())?;
        let config = config.as_object().with_context(|| format!("`{}` is not an object", path.display()))?;
        if config.get("peft_type").and_then(Value::as_str).is_some_and(is_prompt_learning) {
            return Self::of_prompt_learning(dir, config, canonicalise);
        }
        refuse_unsupported(config).with_context(|| format!("`{}`", path.display()))?;
        let file = weights_file(dir)?;

        let mut adapter = Self::empty(dir);
        adapter.warn_of_twins(dir, ADAPTER_WEIGHTS);
        adapter.warn_of_twins(dir, NON_LORA);
        adapter.base_name = base_name(config);
        let mut parts: BTreeMap<String, Parts> = BTreeMap::new();
        for stored in read_tensors_of_file(&dir.join(file))? {
            match UpdatePart::of(&stored.key)? {
                Some((module, part)) => parts.entry(module).or_default().set(part, stored)?,
                None => adapter.replace(stored, canonicalise)?,
            }
        }
        let scaling = Scaling::from_config(config)?;
        for (module, parts) in parts {
            let name = canonical_module(&module, canonicalise)?;
            let update = parts.update(&module, &scaling)?;
            ensure!(adapter.updates.insert(name, update).is_none(), "the module `{module}` is updated twice");
        }
        adapter.copies = adapter.copied_modules(config);
        adapter.add_non_lora(dir, canonicalise)?;
        adapter.add_swift_tower(dir, canonicalise)?;
        adapter.check_complete(config)?;
        Ok(adapter)
    }

    /// Returns the saved tensors whose module PEFT copies: those whose names end with one of `modules_to_save`, unless
    /// the adapter ties what the base ties.
    fn copied_modules(&self, config: &Map<String, Value>) -> BTreeSet<String> {
        if config.get("ensure_weight_tying").and_then(Value::as_bool).unwrap_or(false) {
            return BTreeSet::new();
        }
        let modules = config.get("modules_to_save").and_then(Value::as_array).into_iter().flatten();
        let modules: Vec<&str> = modules.filter_map(Value::as_str).collect();
        let is_copied = |stored: &StoredTensor| {
            let name = plain_name(&stored.key);
            let module = name.rsplit_once('.').map_or("", |(module, _)| module);
            modules.iter().any(|wanted| module.ends_with(wanted))
        };
        let copied = self.replaced.iter().filter(|(_, stored)| is_copied(stored));
        copied.map(|(name, _)| name.clone()).collect()
    }

    /// LLaVA's own folders keep the projector in a separate file. Without it, the base's old projector would be used.
    pub(super) fn add_non_lora(&mut self, dir: &Path, canonicalise: Canonicalise) -> Result<()> {
        if let Some(file) = NON_LORA.into_iter().find(|name| dir.join(name).is_file()) {
            return read_tensors_of_file(&dir.join(file))?
                .into_iter()
                .try_for_each(|stored| self.replace(stored, canonicalise));
        }
        let path = dir.join("config.json");
        let Some(bytes) = read_optional(&path)? else { return Ok(()) };
        let is_llava = parse_json(&path, &bytes)?.get("mm_projector_type").is_some();
        let has_projector = self.replaced.keys().any(|name| name.starts_with("multi_modal_projector."));
        ensure!(
            !is_llava || has_projector,
            "it is a LoRA folder of LLaVA's own trainer without non_lora_trainables.bin, which holds the projector; \
             hint: copy that file, too"
        );
        Ok(())
    }

    /// ms-swift's `lora_llm` fully trains tower and aligner, and keeps them in a separate file.
    fn add_swift_tower(&mut self, dir: &Path, canonicalise: Canonicalise) -> Result<()> {
        let path = dir.join(SWIFT_TOWER);
        if path.is_file() {
            return read_tensors_of_file(&path)?.into_iter().try_for_each(|stored| self.replace(stored, canonicalise));
        }
        let arguments = read_optional(&dir.join(SWIFT_ARGUMENTS))?;
        let arguments = arguments.and_then(|bytes| serde_json::from_slice(text::without_mark(&bytes)).ok());
        let tuner = arguments.as_ref().and_then(SwiftArguments::from_json).and_then(|arguments| arguments.tuner);
        ensure!(
            tuner.as_deref() != Some("lora_llm"),
            "it was trained by ms-swift's lora_llm, which keeps tower and projector in `{SWIFT_TOWER}`, and that file is \
             missing; hint: copy that file, too"
        );
        Ok(())
    }

    fn check_complete(&mut self, config: &Map<String, Value>) -> Result<()> {
        ensure!(!self.updates.is_empty() || !self.replaced.is_empty(), "it holds no tensor");
        self.check_modules_saved(config)?;
        let bias = config.get("bias").and_then(Value::as_str).unwrap_or("none");
        let has_bias = self.replaced.keys().any(|name| name.ends_with(".bias"));
        if bias != "none" && !has_bias && version(config).is_none_or(|version| version < BIAS_SAVED_SINCE) {
            self.warnings.push(format!(
                "the adapter was trained with bias `{bias}`, and the PEFT that saved it leaves trained biases out: it is \
                 incomplete"
            ));
        }
        Ok(())
    }

    /// Asserts that every module of `modules_to_save` was saved.
    pub(super) fn check_modules_saved(&self, config: &Map<String, Value>) -> Result<()> {
        for module in config.get("modules_to_save").and_then(Value::as_array).into_iter().flatten() {
            let Some(module) = module.as_str() else { continue };
            // Compares the trainer's names, because a family may name the module differently.
            let wanted = format!(".{module}.");
            let is_there =
                self.replaced.values().any(|stored| format!(".{}", plain_name(&stored.key)).contains(&wanted));
            ensure!(
                is_there,
                "modules_to_save names `{module}`, but no tensor of it is saved; hint: copy the adapter again"
            );
        }
        Ok(())
    }
}

/// Returns the name of the file of weights in `dir`.
pub(super) fn weights_file(dir: &Path) -> Result<&'static str> {
    let file = ADAPTER_WEIGHTS.into_iter().find(|name| dir.join(name).is_file());
    file.context("adapter_model.safetensors (or .bin) is missing; hint: copy the whole folder")
}

/// Returns the base model that `config` names.
pub(super) fn base_name(config: &Map<String, Value>) -> Option<String> {
    config.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned)
}

/// The part of an update that a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpdatePart {
    A,
    B,
    BBias,
    Magnitude,
}

impl UpdatePart {
    /// Returns the module and the part of a key, or `None` for a tensor that is saved whole.
    pub(super) fn of(key: &str) -> Result<Option<(String, Self)>> {
        let name = plain_name(key);
        let segments: Vec<&str> = name.split('.').collect();
        let Some(at) = segments.iter().position(|part| part.starts_with("lora_") || *part == "token_adapter") else {
            return Ok(None);
        };
        let part = match &segments[at..] {
            ["lora_A", "weight"] | ["lora_embedding_A"] => Self::A,
            ["lora_B", "weight"] | ["lora_embedding_B"] => Self::B,
            ["lora_B", "bias"] => Self::BBias,
            ["lora_magnitude_vector"] | ["lora_magnitude_vector", "weight"] => Self::Magnitude,
            other => bail!("`{key}`: `{}` is a part of an adapter that is not supported", other.join(".")),
        };
        Ok(Some((segments[..at].join("."), part)))
    }
}

/// The parts of one module's update that were found.
#[derive(Default)]
struct Parts {
    a: Option<StoredTensor>,
    b: Option<StoredTensor>,
    b_bias: Option<StoredTensor>,
    magnitude: Option<StoredTensor>,
}

impl Parts {
    fn set(&mut self, part: UpdatePart, stored: StoredTensor) -> Result<()> {
        let place = match part {
            UpdatePart::A => &mut self.a,
            UpdatePart::B => &mut self.b,
            UpdatePart::BBias => &mut self.b_bias,
            UpdatePart::Magnitude => &mut self.magnitude,
        };
        let key = stored.key.clone();
        ensure!(place.replace(stored).is_none(), "`{key}` occurs twice");
        Ok(())
    }

    fn update(self, module: &str, scaling: &Scaling) -> Result<StoredUpdate> {
        let (Some(a), Some(b)) = (self.a, self.b) else {
            bail!("the update of `{module}` is incomplete: lora_A or lora_B is missing; hint: copy the adapter again");
        };
        ensure!(
            a.shape.len() == 2 && b.shape.len() == 2 && a.shape[0] == b.shape[1],
            "the update of `{module}` has the shapes {:?} and {:?}; only linear and embedding layers are supported, \
             convolutions are not",
            a.shape,
            b.shape
        );
        ensure!(
            !scaling.is_dora || self.magnitude.is_some(),
            "use_dora is set, and the update of `{module}` has no lora_magnitude_vector"
        );
        // PEFT does not have such adapters either: an unmerged and a merged bias would be scaled differently.
        ensure!(
            self.magnitude.is_none() || self.b_bias.is_none(),
            "the update of `{module}` has both a magnitude (DoRA) and a bias of its own (lora_bias), which is not supported"
        );
        let scale = scaling.of(module, a.shape[0])?;
        Ok(StoredUpdate { a, b, b_bias: self.b_bias, magnitude: self.magnitude, scale })
    }
}

/// How updates are scaled.
struct Scaling {
    alpha: f64,
    patterns: Vec<(String, f64)>,
    is_rank_stabilised: bool,
    is_dora: bool,
}

impl Scaling {
    fn from_config(config: &Map<String, Value>) -> Result<Self> {
        let is_set = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
        let patterns = config.get("alpha_pattern").and_then(Value::as_object).into_iter().flatten();
        let patterns: Result<_> = patterns
            .map(|(pattern, alpha)| {
                Ok((
                    pattern.clone(),
                    alpha.as_f64().with_context(|| format!("alpha_pattern `{pattern}` is not a number"))?,
                ))
            })
            .collect();
        Ok(Self {
            alpha: config.get("lora_alpha").and_then(Value::as_f64).context("lora_alpha is missing or not a number")?,
            patterns: patterns?,
            is_rank_stabilised: is_set("use_rslora"),
            is_dora: is_set("use_dora"),
        })
    }

    /// Returns `alpha / rank`, or `alpha / sqrt(rank)` if the adapter is rank-stabilised (Kalajdzievski 2023). The
    /// first pattern that matches the end of the module's name gives alpha.
    fn of(&self, module: &str, rank: usize) -> Result<f64> {
        // PEFT matches names without its own wrapper, whose one part `model` is still there.
        let module = module.strip_prefix("model.").unwrap_or(module);
        let mut alpha = self.alpha;
        for (pattern, value) in &self.patterns {
            let regex = fancy_regex::Regex::new(&format!(r"^(.*\.)?({pattern})$"))
                .with_context(|| format!("alpha_pattern `{pattern}` is not a pattern that is supported"))?;
            if regex.is_match(module)? {
                alpha = *value;
                break;
            }
        }
        ensure!(rank > 0, "the update of `{module}` has rank 0");
        let rank = rank as f64;
        Ok(if self.is_rank_stabilised { alpha / rank.sqrt() } else { alpha / rank })
    }
}

pub(super) fn canonical_module(module: &str, canonicalise: Canonicalise) -> Result<String> {
    match canonicalise(&format!("{module}.weight")) {
        Canonical::Keep(name) => Ok(name.strip_suffix(".weight").unwrap_or(&name).to_owned()),
        _ => bail!("the module `{module}` is updated, but the model computes it differently"),
    }
}

fn refuse_unsupported(config: &Map<String, Value>) -> Result<()> {
    let kind = config.get("peft_type").and_then(Value::as_str).unwrap_or("LORA");
    ensure!(
        kind == "LORA",
        "the adapter is of type {kind}, which is not supported; hint: LORA, PROMPT_TUNING, P_TUNING and PREFIX_TUNING are"
    );
    for (key, value) in config {
        let is_set = match value {
            Value::Null | Value::Bool(false) => false,
            Value::Object(fields) => !fields.is_empty(),
            Value::Array(items) => !items.is_empty(),
            _ => true,
        };
        ensure!(!is_set || KNOWN_KEYS.contains(&key.as_str()), "`{key}` is set ({value}), which is not supported");
    }
    if let Some(init) = config.get("init_lora_weights").and_then(Value::as_str) {
        ensure!(
            HARMLESS_INITS.contains(&init.to_ascii_lowercase().as_str()),
            "init_lora_weights is `{init}`, which {}; hint: save the adapter converted to plain LoRA (PEFT's \
             path_initial_model_for_weight_conversion)",
            match BASE_CHANGING_INITS.iter().any(|name| init.to_ascii_lowercase().starts_with(name)) {
                true => "altered the base model before training",
                false => "is not known here: it may have altered the base model before training",
            }
        );
    }
    Ok(())
}

fn version(config: &Map<String, Value>) -> Option<(u64, u64)> {
    let mut parts = config.get("peft_version")?.as_str()?.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}
