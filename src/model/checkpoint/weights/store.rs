//! All tensors of a model, each to be taken once.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::canonical::Canonical;
use super::checkpoint::Checkpoint;
use super::stored::{Element, StoredTensor};

/// The maximum number of names that an error lists.
const N_NAMES_SHOWN: usize = 5;

/// The location of each tensor, by canonical name. Every tensor must be taken exactly once.
#[derive(Debug, Default)]
pub struct Weights {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    stored: StoredTensor,
    is_taken: bool,
    /// The taken tensor, kept so that the models of several adapters share it.
    loaded: Option<Tensor>,
    /// What a layer built from the tensor, kept for the same reason.
    made: Option<Made>,
}

/// What a layer built from a tensor. The layer knows the type.
type Made = Arc<dyn Any + Send + Sync>;

impl Entry {
    fn mark_taken(&mut self, name: &str, shape: &[usize]) -> anyhow::Result<()> {
        let stored = &self.stored;
        ensure!(!self.is_taken, "the tensor `{name}` is asked for twice");
        ensure!(
            stored.shape == shape,
            "`{name}` has shape {:?} (`{}` in `{}`), but `config.json` asks for {shape:?}; hint: configuration and \
             weights belong to different models",
            stored.shape,
            stored.key,
            stored.file.path().display()
        );
        self.is_taken = true;
        Ok(())
    }
}

impl Weights {
    /// Lists the tensors of `checkpoint` under the names that `canonicalise` gives them. No tensor is read yet.
    ///
    /// # Errors
    /// A weight file is damaged, or two stored names have one canonical name.
    pub fn new(checkpoint: &Checkpoint, canonicalise: impl Fn(&str) -> Canonical) -> anyhow::Result<Self> {
        let mut weights = Self::default();
        weights.extend(checkpoint, canonicalise)?;
        Ok(weights)
    }

    /// Adds the tensors of another checkpoint, such as a separate tower.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn extend(&mut self, checkpoint: &Checkpoint, canonicalise: impl Fn(&str) -> Canonical) -> anyhow::Result<()> {
        checkpoint.read_tensors()?.into_iter().try_for_each(|stored| self.insert(stored, &canonicalise))
    }

    /// Adds the tensors of one file of `checkpoint`'s folder, such as `mm_projector.bin`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn extend_from_file(
        &mut self,
        checkpoint: &Checkpoint,
        file: &str,
        canonicalise: impl Fn(&str) -> Canonical,
    ) -> anyhow::Result<()> {
        checkpoint.read_tensors_of(file)?.into_iter().try_for_each(|stored| self.insert(stored, &canonicalise))
    }

    fn insert(&mut self, stored: StoredTensor, canonicalise: impl Fn(&str) -> Canonical) -> anyhow::Result<()> {
        let key = stored.key.clone();
        let file = stored.file.path().display().to_string();
        let shape = stored.shape.clone();
        let misfit = || format!("`{key}` in `{file}` has shape {shape:?}, which cannot be split or transposed");
        match canonicalise(&stored.key) {
            Canonical::Ignore => Ok(()),
            Canonical::Keep(name) => self.insert_as(name, stored),
            Canonical::Transposed(name) => self.insert_as(name, stored.transposed().with_context(misfit)?),
            Canonical::Rows(names) => {
                let n_parts = names.len();
                names.into_iter().enumerate().try_for_each(|(index, name)| {
                    self.insert_as(name, stored.clone().rows(index, n_parts).with_context(misfit)?)
                })
            }
        }
    }

    fn insert_as(&mut self, name: String, stored: StoredTensor) -> anyhow::Result<()> {
        if let Some(earlier) = self.entries.get(&name) {
            bail!(
                "two tensors are both `{name}`: `{}` in `{}` and `{}` in `{}`; hint: remove the extra file or tensor",
                earlier.stored.key,
                earlier.stored.file.path().display(),
                stored.key,
                stored.file.path().display()
            );
        }
        self.entries.insert(name, Entry { stored, is_taken: false, loaded: None, made: None });
        Ok(())
    }

    /// Takes the tensor `name` as `dtype` (f32, f16 or bf16) on `device`.
    ///
    /// # Errors
    /// It is missing, was taken before, has another shape than `shape`, or does not hold floating-point numbers.
    pub fn take(&mut self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> anyhow::Result<Tensor> {
        match self.take_optional(name, shape, dtype, device)? {
            Some(tensor) => Ok(tensor),
            None => bail!(
                "the checkpoint lacks the tensor `{name}` (shape {shape:?}){}; hint: the weights are incomplete, or \
                 belong to another model than `config.json` describes",
                self.similar(name)
            ),
        }
    }

    /// Like [`take`](Self::take), but returns `None` if the checkpoint has no such tensor.
    ///
    /// # Errors
    /// As [`take`](Self::take), except for a missing tensor.
    pub fn take_optional(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> anyhow::Result<Option<Tensor>> {
        let Some(entry) = self.entries.get_mut(name) else { return Ok(None) };
        entry.mark_taken(name, shape)?;
        if let Some(loaded) = &entry.loaded {
            return Ok(Some(loaded.clone()));
        }
        let stored = &entry.stored;
        let tensor = stored.to_tensor(dtype, device).with_context(|| {
            format!("failed to load `{name}` (`{}` in `{}`)", stored.key, stored.file.path().display())
        })?;
        entry.loaded = Some(tensor.clone());
        Ok(Some(tensor))
    }

    /// Takes the result of `make` for the tensor `name`. `make` gets the tensor on the CPU, in its stored type if that
    /// is f16 or bf16 and `dtype` is f32, and in `dtype` otherwise. The tensor itself is not kept.
    ///
    /// # Errors
    /// As [`take`](Self::take), or `make` fails.
    pub fn take_made<T: Any + Send + Sync>(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        make: impl FnOnce(&Tensor) -> candle_core::Result<T>,
    ) -> anyhow::Result<Arc<T>> {
        let Some(entry) = self.entries.get_mut(name) else {
            // The error names what is missing.
            self.take(name, shape, dtype, &Device::Cpu)?;
            bail!("the checkpoint lacks the tensor `{name}`")
        };
        entry.mark_taken(name, shape)?;
        if let Some(made) = entry.made.clone().and_then(|made| made.downcast().ok()) {
            return Ok(made);
        }
        let stored = &entry.stored;
        let dtype = match (dtype, stored.element) {
            (DType::F32, Element::F16) => DType::F16,
            (DType::F32, Element::BF16) => DType::BF16,
            (dtype, _) => dtype,
        };
        let made = stored.to_tensor(dtype, &Device::Cpu).and_then(|tensor| Ok(Arc::new(make(&tensor)?)));
        let made = made.with_context(|| {
            format!("failed to load `{name}` (`{}` in `{}`)", stored.key, stored.file.path().display())
        })?;
        entry.made = Some(made.clone());
        Ok(made)
    }

    /// Counts the tensor as taken without reading it, because an adapter replaces it.
    ///
    /// # Errors
    /// It was taken before, or has another shape than `shape`.
    pub fn pass_over(&mut self, name: &str, shape: &[usize]) -> anyhow::Result<()> {
        match self.entries.get_mut(name) {
            Some(entry) => entry.mark_taken(name, shape),
            None => Ok(()),
        }
    }

    /// Counts all tensors whose names begin with `prefix` as taken, because their part of the model exists already.
    pub fn pass_over_all(&mut self, prefix: &str) {
        let below = self.entries.iter_mut().filter(|(name, _)| name.starts_with(prefix));
        below.for_each(|(_, entry)| entry.is_taken = true);
    }

    /// Returns whether the checkpoint has the tensor, taken or not.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The stored shape of the tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.entries.get(name).map(|entry| entry.stored.shape.clone())
    }

    /// The name of the tensor in its file.
    pub fn stored_name(&self, name: &str) -> Option<&str> {
        self.entries.get(name).map(|entry| entry.stored.key.as_str())
    }

    /// The type of the tensor's stored elements: `F32`, `F16`, `BF16`, `F64`, or another name that cannot be taken.
    pub fn stored_dtype(&self, name: &str) -> Option<&'static str> {
        self.entries.get(name).map(|entry| entry.stored.element.name())
    }

    /// All canonical names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The bytes of all tensors as stored.
    pub fn n_bytes(&self) -> usize {
        self.entries.values().map(|entry| entry.stored.n_bytes()).sum()
    }

    /// The stored bytes of the tensors whose canonical names `is_counted` accepts.
    pub fn n_bytes_where(&self, is_counted: impl Fn(&str) -> bool) -> usize {
        self.entries.iter().filter(|(name, _)| is_counted(name)).map(|(_, entry)| entry.stored.n_bytes()).sum()
    }

    /// The bytes of all tensors. Those that `is_rounded` accepts by canonical name and shape have one byte per element;
    /// the others are counted as stored.
    pub fn n_bytes_rounded(&self, is_rounded: impl Fn(&str, &[usize]) -> bool) -> usize {
        let of = |(name, entry): (&String, &Entry)| match is_rounded(name, &entry.stored.shape) {
            true => entry.stored.n_elements(),
            false => entry.stored.n_bytes(),
        };
        self.entries.iter().map(of).sum()
    }

    /// The number of elements of all tensors.
    pub fn n_parameters(&self) -> usize {
        self.entries.values().map(|entry| entry.stored.n_elements()).sum()
    }

    /// Asserts that every tensor was taken. After that, all tensors can be taken again by a model that shares them with
    /// the first, in the same type and on the same device.
    ///
    /// # Errors
    /// Tensors were never taken: their number and the first few, by canonical name, stored name and file.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        let left: Vec<(&String, &Entry)> = self.entries.iter().filter(|(_, entry)| !entry.is_taken).collect();
        if left.is_empty() {
            self.entries.values_mut().for_each(|entry| entry.is_taken = false);
            return Ok(());
        }
        let shown: Vec<String> = left
            .iter()
            .take(N_NAMES_SHOWN)
            .map(|(name, entry)| {
                format!("`{name}` (`{}` in `{}`)", entry.stored.key, entry.stored.file.path().display())
            })
            .collect();
        let dots = if left.len() > N_NAMES_SHOWN { ", …" } else { "" };
        bail!(
            "{} tensors of the checkpoint have no place in the model: {}{dots}; hint: the weights belong to another \
             model than `config.json` describes, or have a layout that is not read",
            left.len(),
            shown.join(", ")
        )
    }

    /// Returns the hash of one tensor's content: blake3 over element type, shape and bytes. `None` if there is no such
    /// tensor.
    ///
    /// # Errors
    /// The file can no longer be read.
    pub fn tensor_hash(&self, name: &str) -> anyhow::Result<Option<String>> {
        self.entries.get(name).map(|entry| Ok(hash_stored(&entry.stored)?.to_hex().to_string())).transpose()
    }

    /// Returns the hash of one tensor's values, whatever their type: blake3 over shape and values as f32. `None` if
    /// there is no such tensor. A tower saved in half precision has its encoder's hash only if nothing was lost.
    ///
    /// # Errors
    /// The tensor does not hold floating-point numbers.
    pub fn value_hash(&self, name: &str) -> anyhow::Result<Option<String>> {
        let hash = |entry: &Entry| {
            let mut hasher = blake3::Hasher::new();
            hash_shape(&mut hasher, &entry.stored.shape);
            let bytes: Vec<u8> = entry.stored.to_f32()?.into_iter().flat_map(f32::to_le_bytes).collect();
            hasher.update(&bytes);
            Ok(hasher.finalize().to_hex().to_string())
        };
        self.entries.get(name).map(hash).transpose()
    }

    /// Returns the values of one tensor as f32, row-major. Empty if there is no such tensor.
    ///
    /// # Errors
    /// The tensor does not hold floating-point numbers.
    pub fn values(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        self.entries.get(name).map_or(Ok(Vec::new()), |entry| entry.stored.to_f32())
    }

    /// The identity of the weights, `blake3:…`: over all tensors by sorted canonical name, with element type, shape and
    /// bytes. It does not depend on file names, shards or layout.
    ///
    /// # Errors
    /// A file can no longer be read.
    pub fn hash(&self) -> anyhow::Result<String> {
        let hashes = self
            .entries
            .par_iter()
            .map(|(name, entry)| Ok((name, hash_stored(&entry.stored)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut hasher = blake3::Hasher::new();
        for (name, hash) in hashes {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(hash.as_bytes());
        }
        Ok(format!("blake3:{}", hasher.finalize().to_hex()))
    }

    /// Returns the location of each tensor, by canonical name.
    pub(super) fn stored(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), &entry.stored))
    }

    /// Returns a hint for a missing tensor: a tensor of the checkpoint with the same leaf.
    fn similar(&self, name: &str) -> String {
        let leaf: String = name.rsplit('.').take(2).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(".");
        let found = self.entries.iter().find(|(other, entry)| !entry.is_taken && other.ends_with(&leaf));
        found
            .map_or_else(String::new, |(other, entry)| format!(" (it has `{other}`, stored as `{}`)", entry.stored.key))
    }
}

pub(super) fn hash_stored(stored: &StoredTensor) -> anyhow::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(stored.element.name().as_bytes());
    hash_shape(&mut hasher, &stored.shape);
    hasher.update(&stored.row_major()?);
    stored.release();
    Ok(hasher.finalize())
}

fn hash_shape(hasher: &mut blake3::Hasher, shape: &[usize]) {
    hasher.update(&(shape.len() as u64).to_le_bytes());
    for &side in shape {
        hasher.update(&(side as u64).to_le_bytes());
    }
}
