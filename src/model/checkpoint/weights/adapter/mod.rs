//! Adapter folders: changes to a base model, as trainers save them.
//!
//! Supported are PEFT's LoRA and prompt learning (`adapter_config.json`), LLaVA's own LoRA folder (the same with `non_lora_trainables`),
//! ms-swift's (the same with `vit.safetensors`), a projector only (`mm_projector`), and a whole checkpoint of the same
//! shape. A tensor is assigned by its own name and shape, and not by the configuration's module patterns: patterns
//! differ between versions and tools, tensors do not.
#![expect(clippy::disallowed_methods, reason = "model/checkpoint owns the files of a checkpoint")]

mod peft;
mod prompt_learning;
mod strength;
#[cfg(test)]
mod strength_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use serde_json::Value;

pub use self::strength::{Weakening, WriteFile};
use super::candidate::OwnSettings;
use super::canonical::{Canonical, canonical_dinov2};
pub(super) use super::checkpoint::PEFT_CONFIG;
use super::checkpoint::{Checkpoint, differ, parse_json, read_optional, read_tensors_of_file, refuse_gguf, twice};
use super::notes::{TrainerNotes, quantisation_of_base};
use super::second_tower::{self, SECOND_TOWER};
use super::store::{Weights, hash_stored};
use super::stored::StoredTensor;
use crate::model::Placement;
use crate::model::checkpoint::overlay::{LowRankUpdate, Overlay};
use crate::model::layers::CALIBRATION;
pub use prompt_learning::SAVED_VIRTUAL_TOKENS;

/// An opened adapter. Every tensor has a canonical name, but is not yet assigned to a model.
#[derive(Debug)]
pub struct Adapter {
    /// The folder or file.
    pub path: PathBuf,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// The provenance that `emt finetune` wrote to the folder (`emt.json`).
    pub provenance: Option<Value>,
    /// The trainer's notes in the folder.
    pub notes: TrainerNotes,
    /// The folders of its files, the innermost first. Empty if the adapter is a file.
    folders: Vec<PathBuf>,
    /// Whether it is a whole checkpoint.
    is_whole: bool,
    base_name: Option<String>,
    updates: BTreeMap<String, StoredUpdate>,
    replaced: BTreeMap<String, StoredTensor>,
    /// The replaced tensors that PEFT copies for one module, though the base may share them among several.
    copies: BTreeSet<String>,
}

/// A low-rank update as stored in the file.
#[derive(Debug)]
struct StoredUpdate {
    a: StoredTensor,
    b: StoredTensor,
    b_bias: Option<StoredTensor>,
    magnitude: Option<StoredTensor>,
    scale: f64,
}

/// The function that gives a family's name of a stored tensor.
type Canonicalise = fn(&str) -> Canonical;

pub(super) const ADAPTER_WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
pub(super) const PROJECTORS: [&str; 2] = ["mm_projector.safetensors", "mm_projector.bin"];
pub(super) const NON_LORA: [&str; 2] = ["non_lora_trainables.safetensors", "non_lora_trainables.bin"];
/// Tower and aligner, if ms-swift fully trained them in addition to a LoRA of the language model.
pub(super) const SWIFT_TOWER: &str = "vit.safetensors";
/// Virtual tokens beside an adapter that PEFT's formats cannot hold together with them.
pub const SOFT_PROMPT: &str = "soft_prompt";

/// Weights that are one tensor in some models.
const TIED: [&str; 2] = ["language_model.embed_tokens.weight", "lm_head.weight"];

impl Adapter {
    /// Opens the folder (or projector file) `path` as an adapter of a base whose family names tensors with
    /// `canonicalise`. A whole checkpoint is compared with `base`, and only the differing tensors form the adapter.
    pub fn open(path: &Path, canonicalise: Canonicalise, base: &Weights) -> Result<Self> {
        let place = || format!("failed to open the adapter `{}`", path.display());
        refuse_gguf(path).with_context(place)?;
        if path.is_file() {
            return Self::of_tensors(path, read_tensors_of_file(path)?, canonicalise).with_context(place);
        }
        ensure!(path.is_dir(), "{}: there is no such folder", place());
        let dir = &folder_within(path);
        let has = |name: &&str| dir.join(name).is_file();
        let mut adapter = if dir.join(PEFT_CONFIG).is_file() {
            Self::of_peft(dir, canonicalise).with_context(place)?
        } else if let Some(file) = PROJECTORS.into_iter().chain(NON_LORA).find(has) {
            let path = dir.join(file);
            let mut adapter = Self::of_tensors(dir, read_tensors_of_file(&path)?, canonicalise).with_context(place)?;
            adapter.warn_of_twins(dir, PROJECTORS);
            adapter.warn_of_twins(dir, NON_LORA);
            adapter
        } else if dir.join("config.json").is_file() {
            Self::of_checkpoint(dir, canonicalise, base).with_context(place)?
        } else {
            bail!(
                "{}: it holds none of {PEFT_CONFIG}, {}, {} and config.json; hint: give {}",
                place(),
                PROJECTORS.join(", "),
                NON_LORA.join(", "),
                what_to_give(dir)
            )
        };
        let beside = path.join(SOFT_PROMPT);
        if beside.join(PEFT_CONFIG).is_file() {
            adapter.add_virtual_tokens(&beside, canonicalise).with_context(place)?;
        }
        adapter.add_second_tower(dir, base).with_context(place)?;
        let notes = dir.join("emt.json");
        adapter.provenance = read_optional(&notes)?.map(|bytes| parse_json(&notes, &bytes)).transpose()?;
        adapter.path = path.to_owned();
        adapter.folders = vec![dir.to_owned(), path.to_owned()];
        adapter.notes = adapter.find_notes()?;
        Ok(adapter)
    }

    /// Adds the second tower that the folder's configuration names, where the base has not the same.
    fn add_second_tower(&mut self, dir: &Path, base: &Weights) -> Result<()> {
        let path = dir.join("config.json");
        let config = read_optional(&path)?.map(|bytes| parse_json(&path, &bytes)).transpose()?;
        for stored in second_tower::tensors_beside(dir, config)? {
            self.replace(stored, canonical_dinov2)?;
        }
        self.drop_equal(base, |name| name.starts_with(SECOND_TOWER))
    }

    /// Drops the tensors that equal the base's, among those that `is_compared` accepts.
    fn drop_equal(&mut self, base: &Weights, is_compared: impl Fn(&str) -> bool) -> Result<()> {
        let mut equal = Vec::new();
        for (name, stored) in self.replaced.iter().filter(|(name, _)| is_compared(name)) {
            if base
                .tensor_hash(name)?
                .is_some_and(|hash| hash_stored(stored).is_ok_and(|own| own.to_hex().as_str() == hash))
            {
                equal.push(name.clone());
            }
        }
        equal.iter().for_each(|name| _ = self.replaced.remove(name));
        Ok(())
    }

    /// Returns the path and bytes of the file `name` of its folder, or `None` if there is none.
    pub fn read_file(&self, name: &str) -> Result<Option<(PathBuf, Vec<u8>)>> {
        for path in self.folders.iter().map(|folder| folder.join(name)) {
            if let Some(bytes) = read_optional(&path)? {
                return Ok(Some((path, bytes)));
            }
        }
        Ok(None)
    }

    /// Returns the settings files that its folder has in place of those of `base`, the checkpoint that it adapts, or
    /// `None` if there are none. A configuration is used only if it `may_configure` that model.
    ///
    /// # Errors
    /// A file exists and cannot be read.
    pub fn own_settings(
        &self,
        base: &Checkpoint,
        may_configure: &dyn Fn(&Checkpoint) -> bool,
    ) -> Result<Option<OwnSettings>> {
        OwnSettings::find(base, &self.folders, self.is_whole, may_configure)
    }

    fn find_notes(&self) -> Result<TrainerNotes> {
        let mut notes = TrainerNotes::find(|name| self.read_file(name))?;
        if let Some(base) = &self.base_name
            && let Some(method) = quantisation_of_base(base, |name| read_optional(&Path::new(base).join(name)))
        {
            notes.quantised_base = Some(method);
        }
        Ok(notes)
    }

    /// The name shown to the user, which is the folder's.
    pub fn name(&self) -> String {
        let whole = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let part = if whole.is_dir() { whole.file_name() } else { whole.file_stem() };
        part.map_or_else(|| "adapter".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// The base model that the adapter names.
    pub fn base_name(&self) -> Option<&str> {
        self.base_name.as_deref()
    }

    /// Returns the number of changed modules and tensors whose names begin with `prefix`.
    pub fn n_touched(&self, prefix: &str) -> usize {
        self.updates.keys().chain(self.replaced.keys()).filter(|name| name.starts_with(prefix)).count()
    }

    /// Keeps only the updates and replacements of the modules and tensors that `is_kept` accepts.
    pub fn keep(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.updates.retain(|module, _| is_kept(module));
        self.replaced.retain(|name, _| is_kept(name));
        self.copies.retain(|name| is_kept(name));
    }

    /// Whether it has updates, which can be merged or computed next to the weights.
    pub fn has_updates(&self) -> bool {
        !self.updates.is_empty()
    }

    /// Lists the changed modules and tensors.
    pub fn touched(&self) -> impl Iterator<Item = &str> {
        self.updates.keys().chain(self.replaced.keys()).map(String::as_str)
    }

    /// Returns the number of its parameters.
    pub fn n_parameters(&self) -> usize {
        let of_updates = self.updates.values().flat_map(StoredUpdate::tensors);
        of_updates.chain(self.replaced.values()).map(StoredTensor::n_elements).sum()
    }

    /// The identity, `blake3:…`, over names, scales, types, shapes and bytes, in sorted order.
    pub fn hash(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        let mut add = |name: &str, scale: f64, tensors: Vec<&StoredTensor>| -> Result<()> {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(&scale.to_le_bytes());
            for tensor in tensors {
                hasher.update(hash_stored(tensor)?.as_bytes());
            }
            Ok(())
        };
        for (name, update) in &self.updates {
            add(name, update.scale, update.tensors().collect())?;
        }
        for (name, tensor) in &self.replaced {
            add(name, 1.0, vec![tensor])?;
        }
        // A copied embedding does not change a head that shares the base's tensor. Most adapters have no copies.
        for name in self.copies.iter().filter(|name| TIED.contains(&name.as_str())) {
            add(name, 0.0, Vec::new())?;
        }
        Ok(format!("blake3:{}", hasher.finalize().to_hex()))
    }

    /// Loads the tensors in the placement's type and on its device.
    pub fn overlay(&self, placement: &Placement, is_merged: bool) -> Result<Overlay> {
        self.overlay_at(None, placement, is_merged)
    }

    /// Loads the tensors at a strength, in the placement's type and on its device.
    ///
    /// # Errors
    /// A tensor cannot be read, or its change has no part.
    pub fn overlay_at(
        &self,
        weakening: Option<Weakening<'_>>,
        placement: &Placement,
        is_merged: bool,
    ) -> Result<Overlay> {
        let tensor = |stored: &StoredTensor| {
            let tensor = stored.to_tensor(placement.dtype, &placement.device);
            tensor.with_context(|| format!("failed to load `{}` of `{}`", stored.key, stored.file.path().display()))
        };
        let mut updates = BTreeMap::new();
        for (module, update) in &self.updates {
            if let Some(by) = &weakening {
                by.check_update(module, update.magnitude.is_some())?;
            }
            let share = weakening.map_or(1.0, |by| by.of(module));
            let update = LowRankUpdate {
                a: tensor(&update.a)?,
                b: tensor(&update.b)?,
                scale: update.scale * share,
                b_bias: update.b_bias.as_ref().map(tensor).transpose()?,
                magnitude: update.magnitude.as_ref().map(tensor).transpose()?,
                dropout: None,
            };
            updates.insert(module.clone(), update);
        }
        let replaced = |(name, stored): (&String, &StoredTensor)| {
            let values = weakening.map(|by| self.weakened(name, stored, &by)).transpose()?.flatten();
            let tensor = match values {
                Some(values) => {
                    Tensor::from_vec(values, stored.shape.as_slice(), &placement.device)?.to_dtype(placement.dtype)?
                }
                None => tensor(stored)?,
            };
            Ok((name.clone(), tensor))
        };
        let replaced: Result<_> = self.replaced.iter().map(replaced).collect();
        Ok(Overlay::new(updates, replaced?, is_merged).with_copies(self.copies.clone()))
    }

    /// Returns whether every product is zero and every tensor equals the base's, so that the model equals its base.
    pub fn changes_nothing(&self, base: &Weights) -> Result<bool> {
        for (module, update) in &self.updates {
            if update.changes(&base.values(&format!("{module}.weight"))?)? {
                return Ok(false);
            }
        }
        for (name, stored) in &self.replaced {
            if !base.contains(name) {
                // What the base has not: virtual tokens always change something, a calibration of 1 and 0 nothing.
                let neutral = if name.ends_with(CALIBRATION[0]) { 1.0 } else { 0.0 };
                let is_calibration = CALIBRATION.iter().any(|leaf| name.ends_with(leaf));
                if !is_calibration || stored.to_f32()?.iter().any(|&value| value != neutral) {
                    return Ok(false);
                }
                continue;
            }
            if stored.to_f32()? != base.values(name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn of_tensors(path: &Path, tensors: Vec<StoredTensor>, canonicalise: Canonicalise) -> Result<Self> {
        let mut adapter = Self::empty(path);
        for stored in tensors {
            adapter.replace(stored, canonicalise)?;
        }
        ensure!(!adapter.replaced.is_empty(), "it holds no tensor");
        Ok(adapter)
    }

    fn of_checkpoint(dir: &Path, canonicalise: Canonicalise, base: &Weights) -> Result<Self> {
        let mut adapter = Self::of_tensors(dir, Checkpoint::open(dir)?.read_tensors()?, canonicalise)?;
        // A checkpoint without its tower, as in the original layout, keeps the base's.
        let missing = base.names().filter(|name| !name.starts_with("vision_tower."));
        for name in missing {
            ensure!(adapter.replaced.contains_key(name), "it lacks the tensor `{name}` of the base model");
        }
        adapter.is_whole = true;
        adapter.drop_equal(base, |_| true)?;
        Ok(adapter)
    }

    /// An adapter that changes nothing and was read from nowhere.
    pub fn none() -> Self {
        Self::empty(Path::new(""))
    }

    fn empty(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            warnings: Vec::new(),
            provenance: None,
            notes: TrainerNotes::default(),
            folders: Vec::new(),
            is_whole: false,
            base_name: None,
            updates: BTreeMap::new(),
            replaced: BTreeMap::new(),
            copies: BTreeSet::new(),
        }
    }

    /// Warns if two files of `names` in `dir` hold different tensors. The first is read.
    fn warn_of_twins(&mut self, dir: &Path, names: [&str; 2]) {
        let [first, second] = names.map(|name| dir.join(name));
        if !first.is_file() || !second.is_file() {
            return;
        }
        // A file that is not used need not be readable.
        let tensors = [&first, &second].map(|path| read_tensors_of_file(path).unwrap_or_default());
        if differ(&tensors[0], &tensors[1]) {
            self.warnings.push(twice(dir, names[0], names[1]));
        }
    }

    /// Adds `stored` as a replacement of the base's tensor.
    fn replace(&mut self, stored: StoredTensor, canonicalise: Canonicalise) -> Result<()> {
        // Raw training dumps also hold the base's own module.
        if stored.key.split('.').any(|part| part == "original_module") {
            return Ok(());
        }
        let named = match canonicalise(&plain_name(&stored.key)) {
            Canonical::Keep(name) => vec![(name, stored)],
            Canonical::Ignore => Vec::new(),
            Canonical::Transposed(name) => {
                let key = stored.key.clone();
                vec![(name, stored.transposed().with_context(|| format!("`{key}` is not a matrix"))?)]
            }
            Canonical::Rows(names) => {
                let n_parts = names.len();
                let part = |(index, name)| -> Result<_> {
                    let rows = stored.clone().rows(index, n_parts);
                    Ok((name, rows.with_context(|| format!("`{}` cannot be split", stored.key))?))
                };
                names.into_iter().enumerate().map(part).collect::<Result<_>>()?
            }
        };
        for (name, stored) in named {
            if let Some(earlier) = self.replaced.get(&name) {
                let is_equal = hash_stored(earlier)? == hash_stored(&stored)?;
                ensure!(is_equal, "`{}` and `{}` are both `{name}`, and differ", earlier.key, stored.key);
                continue;
            }
            self.replaced.insert(name, stored);
        }
        Ok(())
    }
}

/// Returns the folder of the adapter in `path`: ms-swift keeps it one folder deeper, and so does `emt finetune` with a
/// projector whose files LLaVA's trainer does not know.
fn folder_within(path: &Path) -> PathBuf {
    let has = |name: &str| path.join(name).is_file();
    let [of_swift, of_linear] = ["default", "peft"].map(|name| path.join(name));
    if !has(PEFT_CONFIG) && of_swift.join(PEFT_CONFIG).is_file() {
        return of_swift;
    }
    let files = [PEFT_CONFIG, "config.json"].into_iter().chain(PROJECTORS).chain(NON_LORA);
    match !files.into_iter().any(has) && of_linear.join(PEFT_CONFIG).is_file() {
        true => of_linear,
        false => path.to_owned(),
    }
}

/// Returns what to give instead of a folder that is not an adapter: a checkpoint in it, if it is a trainer's output
/// folder.
fn what_to_give(dir: &Path) -> String {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_checkpoint = |name: &String| name.starts_with("checkpoint-") && dir.join(name).is_dir();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(is_checkpoint).collect();
    // Step numbers have no leading zeros.
    names.sort_by_key(|name| (name.len(), name.clone()));
    match names.last() {
        Some(last) => format!("one of its checkpoints, the last is `{}`", dir.join(last).display()),
        None => "the folder that the trainer wrote at its end".to_owned(),
    }
}

impl StoredUpdate {
    fn tensors(&self) -> impl Iterator<Item = &StoredTensor> {
        [&self.a, &self.b].into_iter().chain(&self.b_bias).chain(&self.magnitude)
    }

    /// Returns whether it changes a weight with the values `weight` `(out, in)`.
    fn changes(&self, weight: &[f32]) -> Result<bool> {
        let (a, b) = (self.a.to_f32()?, self.b.to_f32()?);
        let (rank, n_in) = (self.a.shape[0], self.a.shape[1]);
        let is_zero = b.chunks_exact(rank).all(|row| {
            (0..n_in).all(|column| row.iter().enumerate().map(|(r, b)| b * a[r * n_in + column]).sum::<f32>() == 0.0)
        });
        if !is_zero || self.scale != 0.0 && self.b_bias.as_ref().map(StoredTensor::to_f32).transpose()?.is_some_and(any)
        {
            return Ok(true);
        }
        let Some(magnitude) = &self.magnitude else { return Ok(false) };
        let lengths =
            weight.chunks_exact(n_in).map(|row| row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt());
        // PEFT computes the lengths in f32, so an untrained magnitude is equal up to rounding.
        Ok(magnitude.to_f32()?.iter().zip(lengths).any(|(m, length)| (f64::from(*m) - length).abs() > 1e-5 * length))
    }
}

fn any(values: Vec<f32>) -> bool {
    values.iter().any(|&value| value != 0.0)
}

/// Returns the base's name of a tensor that a trainer saved: the key without the wrappers' parts.
fn plain_name(key: &str) -> String {
    let key = key.strip_prefix("base_model.").unwrap_or(key);
    let is_wrapper = |part: &&str| matches!(*part, "modules_to_save" | "base_layer" | "default" | "module");
    key.split('.').filter(|part| !is_wrapper(part)).collect::<Vec<_>>().join(".")
}
