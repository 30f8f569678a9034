//! An adapter at a part of its strength: `θ0 + λ (θ1 - θ0)`, as values for an overlay and as files.
//!
//! Values are computed in f32. Those of a whole checkpoint are rounded to its own type, so that what is evaluated is what can
//! be written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use serde_json::{Value, json};

use super::super::canonical::Canonical;
use super::super::checkpoint::{Checkpoint, read_optional, read_tensors_of_file};
use super::super::store::Weights;
use super::super::stored::{Element, StoredTensor};
use super::super::write::{
    COMPANIONS, NamedTensor, RawTensor, raw_safetensors_bytes, safetensors_bytes, torch_archive_bytes,
};
use super::peft::UpdatePart;
use super::{ADAPTER_WEIGHTS, Adapter, Canonicalise, NON_LORA, PEFT_CONFIG, PROJECTORS, SWIFT_TOWER, TIED, plain_name};
use crate::domain::ModelPart;
use crate::model::layers::CALIBRATION;

/// How strong each tensor of an adapter is over its base.
#[derive(Clone, Copy, Debug)]
pub struct Weakening<'a> {
    /// What is used, and how much of it.
    pub part: &'a ModelPart,
    /// The layers of the language model.
    pub n_layers: usize,
    /// The base's weights.
    pub base: &'a Weights,
}

/// Takes the files of an adapter, one after the other: name and bytes.
pub type WriteFile<'a> = &'a mut dyn FnMut(&str, &[u8]) -> Result<()>;

/// Files that describe an adapter or a weakened checkpoint, beside [`COMPANIONS`].
const OWN_COMPANIONS: [&str; 6] = [
    PEFT_CONFIG,
    "config.json",
    "video_preprocessor_config.json",
    "args.json",
    "Modelfile",
    "peft/adapter_config.json",
];

impl Weakening<'_> {
    /// λ of a module or tensor.
    pub fn of(&self, name: &str) -> f64 {
        match (self.part.uses(name), &self.part.strength) {
            (false, _) => 0.0,
            (true, Some(strength)) => strength.of(name, self.n_layers),
            (true, None) => 1.0,
        }
    }

    /// Refuses a low-rank update with a magnitude (DoRA): a smaller factor of its product is no interpolation.
    pub(super) fn check_update(&self, module: &str, has_magnitude: bool) -> Result<()> {
        ensure!(
            !has_magnitude || self.of(module) == 1.0,
            "the update of `{module}` has a magnitude (DoRA), so a smaller strength is not between base and candidate; \
             hint: merge the adapter, and give the merged checkpoint with --methods interpolate"
        );
        Ok(())
    }

    /// Moves `tuned`, the values of the canonical tensor `name`, towards the base's. Returns whether they may have changed.
    fn blend(&self, name: &str, tuned: &mut [f32]) -> Result<bool> {
        let share = self.of(name) as f32;
        if share == 1.0 {
            return Ok(false);
        }
        // A head of its own over a model whose head is the embedding begins as the embedding.
        let stored_as = match TIED.iter().find(|other| !self.base.contains(name) && self.base.contains(other)) {
            Some(other) if TIED.contains(&name) => other,
            _ => name,
        };
        let base = match self.base.contains(stored_as) {
            true => self.base.values(stored_as)?,
            false => neutral(name, tuned.len())?,
        };
        ensure!(
            base.len() == tuned.len(),
            "`{name}` has {} values, and the base's {}, so nothing lies between them; hint: it is of another layout or \
             vocabulary than the base",
            tuned.len(),
            base.len()
        );
        for (tuned, base) in tuned.iter_mut().zip(base) {
            *tuned = if share == 0.0 { base } else { base + share * (*tuned - base) };
        }
        Ok(true)
    }
}

/// The values of what the base does not have, at which it changes nothing.
fn neutral(name: &str, n_values: usize) -> Result<Vec<f32>> {
    match CALIBRATION.iter().position(|leaf| name.ends_with(leaf)) {
        Some(0) => Ok(vec![1.0; n_values]),
        Some(_) => Ok(vec![0.0; n_values]),
        None => bail!(
            "`{name}` has no value in the base, so nothing lies between them: virtual tokens and a second tower have no \
             strength; hint: leave them out, which is the base"
        ),
    }
}

impl Adapter {
    /// Whether it is a whole checkpoint, and not an adapter's folder or file.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether a module has DoRA's magnitudes.
    pub fn has_magnitudes(&self) -> bool {
        self.updates.values().any(|update| update.magnitude.is_some())
    }

    /// The values of the replaced tensor `stored` at a strength; `None` if it stays as it is.
    pub(super) fn weakened(&self, name: &str, stored: &StoredTensor, by: &Weakening<'_>) -> Result<Option<Vec<f32>>> {
        if by.of(name) == 1.0 {
            return Ok(None);
        }
        let mut values = stored.to_f32()?;
        by.blend(name, &mut values)?;
        if self.is_whole {
            round(&mut values, stored.element);
        }
        Ok(Some(values))
    }

    /// Writes the adapter at a strength, in the layout that it has: an adapter with tensors in f32, a whole checkpoint in its own
    /// types. `recovered` is added to `emt.json`, if it has one.
    ///
    /// # Errors
    /// A file cannot be read or written, or an update has a magnitude.
    pub fn write_weakened(
        &self,
        by: &Weakening<'_>,
        canonicalise: Canonicalise,
        recovered: &Value,
        write: WriteFile<'_>,
    ) -> Result<()> {
        for (module, update) in &self.updates {
            by.check_update(module, update.magnitude.is_some())?;
        }
        let Some(dir) = self.folders.first() else {
            let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            return write_weights(&self.path, &name, by, canonicalise, write);
        };
        if self.is_whole {
            self.write_checkpoint(dir, by, canonicalise, write)?;
        } else {
            for (name, path) in weight_files(dir) {
                write_weights(&path, name, by, canonicalise, write)?;
            }
        }
        for name in OWN_COMPANIONS.into_iter().chain(COMPANIONS) {
            if let Some(bytes) = read_optional(&dir.join(name))? {
                write(name, &bytes)?;
            }
        }
        if let Some(provenance) = &self.provenance {
            let mut provenance = provenance.clone();
            if provenance.is_object() {
                provenance["recovered"] = recovered.clone();
            }
            write("emt.json", format!("{}\n", serde_json::to_string_pretty(&provenance)?).as_bytes())?;
        }
        Ok(())
    }

    /// Writes the weights of a whole checkpoint, one file at a time.
    fn write_checkpoint(
        &self,
        dir: &Path,
        by: &Weakening<'_>,
        canonicalise: Canonicalise,
        write: WriteFile<'_>,
    ) -> Result<()> {
        let mut by_file: BTreeMap<PathBuf, Vec<StoredTensor>> = BTreeMap::new();
        for stored in Checkpoint::open(dir)?.read_tensors()? {
            by_file.entry(stored.file.path().to_owned()).or_default().push(stored);
        }
        let n_files = by_file.len();
        let (mut index, mut n_bytes) = (serde_json::Map::new(), 0);
        for (place, tensors) in by_file.into_values().enumerate() {
            let name = match n_files {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{n_files:05}.safetensors", place + 1),
            };
            let mut raw = Vec::with_capacity(tensors.len());
            for stored in tensors {
                index.insert(stored.key.clone(), name.clone().into());
                n_bytes += stored.n_bytes();
                let changed = self.between(&stored, by, canonicalise)?;
                let bytes = match changed {
                    Some(values) => in_type(&values, stored.element)?,
                    None => stored.row_major()?.into_owned(),
                };
                raw.push(RawTensor { name: stored.key, element: stored.element, shape: stored.shape, bytes });
            }
            write(&name, &raw_safetensors_bytes(&raw)?)?;
        }
        if n_files > 1 {
            let index = json!({"metadata": {"total_size": n_bytes}, "weight_map": index});
            write("model.safetensors.index.json", format!("{}\n", serde_json::to_string_pretty(&index)?).as_bytes())?;
        }
        Ok(())
    }

    /// The values of a stored tensor of a whole checkpoint at a strength; `None` if it equals the base's or stays as it is.
    fn between(
        &self,
        stored: &StoredTensor,
        by: &Weakening<'_>,
        canonicalise: Canonicalise,
    ) -> Result<Option<Vec<f32>>> {
        let is_changed = names_of(stored, canonicalise).iter().any(|name| self.replaced.contains_key(name));
        if is_changed { values_between(stored, by, canonicalise) } else { Ok(None) }
    }
}

/// The files of weights that an adapter's folder has, each with its name in the folder.
fn weight_files(dir: &Path) -> Vec<(&'static str, PathBuf)> {
    let in_peft = ["peft/adapter_model.safetensors", "peft/adapter_model.bin"];
    let groups: [&[&'static str]; 5] = [&ADAPTER_WEIGHTS, &in_peft, &NON_LORA, &[SWIFT_TOWER], &PROJECTORS];
    // LLaVA's programs read the archive, others the safetensors file: of a projector, both are written.
    let is_wanted = |group: &[&'static str], name: &&'static str| {
        let is_first = group.iter().find(|name| dir.join(name).is_file()) == Some(name);
        is_first || PROJECTORS.contains(name)
    };
    let mut files = Vec::new();
    for group in groups {
        let present = group.iter().filter(|name| dir.join(name).is_file() && is_wanted(group, name));
        files.extend(present.map(|name| (*name, dir.join(name))));
    }
    files
}

/// Writes one file of an adapter's weights as `name`. PEFT's own archives become safetensors files.
fn write_weights(
    path: &Path,
    name: &str,
    by: &Weakening<'_>,
    canonicalise: Canonicalise,
    write: WriteFile<'_>,
) -> Result<()> {
    let mut tensors: Vec<NamedTensor> = Vec::new();
    for stored in read_tensors_of_file(path)? {
        let place = || format!("failed to change the strength of `{}` in `{}`", stored.key, path.display());
        let values = match UpdatePart::of(&stored.key)? {
            Some((_, UpdatePart::A)) => stored.to_f32(),
            Some((_, UpdatePart::Magnitude)) => stored.to_f32(),
            Some((module, UpdatePart::B | UpdatePart::BBias)) => scaled(&stored, &module, by, canonicalise),
            None => {
                values_between(&stored, by, canonicalise).and_then(|values| values.map_or_else(|| stored.to_f32(), Ok))
            }
        };
        let tensor = Tensor::from_vec(values.with_context(place)?, stored.shape.as_slice(), &Device::Cpu)?;
        tensors.push((stored.key, tensor));
    }
    match name.strip_suffix(".bin") {
        Some(stem) if stem.ends_with("adapter_model") => {
            write(&format!("{stem}.safetensors"), &safetensors_bytes(&tensors)?)
        }
        Some(stem) => write(name, &torch_archive_bytes(stem, &tensors)?),
        None => write(name, &safetensors_bytes(&tensors)?),
    }
}

/// The values of `lora_B`, or of its bias, times λ.
fn scaled(stored: &StoredTensor, module: &str, by: &Weakening<'_>, canonicalise: Canonicalise) -> Result<Vec<f32>> {
    let share = by.of(&super::peft::canonical_module(module, canonicalise)?) as f32;
    Ok(stored.to_f32()?.into_iter().map(|value| value * share).collect())
}

/// The canonical names of a stored tensor: none if it is no parameter, several if it holds several.
fn names_of(stored: &StoredTensor, canonicalise: Canonicalise) -> Vec<String> {
    match canonicalise(&plain_name(&stored.key)) {
        Canonical::Ignore => Vec::new(),
        Canonical::Keep(name) | Canonical::Transposed(name) => vec![name],
        Canonical::Rows(names) => names,
    }
}

/// The values of a stored tensor between the base's and its own, in the order in which it is stored; `None` if they stay.
fn values_between(stored: &StoredTensor, by: &Weakening<'_>, canonicalise: Canonicalise) -> Result<Option<Vec<f32>>> {
    match canonicalise(&plain_name(&stored.key)) {
        Canonical::Ignore => Ok(None),
        Canonical::Keep(name) => {
            let mut values = stored.to_f32()?;
            Ok(by.blend(&name, &mut values)?.then_some(values))
        }
        Canonical::Transposed(name) => {
            let turned = stored.clone().transposed().context("it is not a matrix")?;
            let [n_rows, n_columns] = turned.shape[..] else { bail!("it is not a matrix") };
            let mut values = turned.to_f32()?;
            if !by.blend(&name, &mut values)? {
                return Ok(None);
            }
            let back = (0..n_columns).flat_map(|column| (0..n_rows).map(move |row| row * n_columns + column));
            Ok(Some(back.map(|at| values[at]).collect()))
        }
        Canonical::Rows(names) => {
            let (mut all, mut is_changed, n_parts) = (Vec::new(), false, names.len());
            for (index, name) in names.iter().enumerate() {
                let mut values = stored.clone().rows(index, n_parts).context("it cannot be split")?.to_f32()?;
                is_changed |= by.blend(name, &mut values)?;
                all.extend(values);
            }
            Ok(is_changed.then_some(all))
        }
    }
}

/// Rounds values to the type in which they are stored.
fn round(values: &mut [f32], element: Element) {
    match element {
        Element::F16 => values.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32()),
        Element::BF16 => values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32()),
        _ => {}
    }
}

/// The values as bytes of a type.
fn in_type(values: &[f32], element: Element) -> Result<Vec<u8>> {
    Ok(match element {
        Element::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Element::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        Element::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        Element::F64 => values.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect(),
        Element::Other { name, .. } => bail!("a tensor of type {name} has no values between"),
    })
}
