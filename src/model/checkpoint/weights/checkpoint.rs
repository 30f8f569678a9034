//! A checkpoint folder and its files.
#![expect(clippy::disallowed_methods, reason = "model/checkpoint owns the files of a checkpoint")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::candidate::Lent;
use super::mapped::MappedFile;
use super::notes::TrainerNotes;
use super::quantised::{self, GGUF, QuantisedName};
use super::stored::StoredTensor;
use super::{safetensors_file, torch_archive};
use crate::domain::text;

/// Files that describe a model, best first, each with the possible files of its weights. As in transformers (5.24), the
/// single file is preferred to an index, and safetensors to PyTorch's files. Repositories on the hub often hold both
/// layouts: a description takes only its own weights.
const LAYOUTS: [(&str, &[&str]); 2] = [
    (
        "config.json",
        &["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"],
    ),
    (OPEN_CLIP_CONFIG, &["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors"]),
];

pub(super) const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";

/// What OpenFlamingo's training added to a text model and a tower.
const ADDED_WEIGHTS: &str = "checkpoint.pt";

/// Rows of the head for the tokens that OpenFlamingo adds. Its own files lack them.
const ROWS_OF_HEAD: &str = "head_rows.pt";

/// The folder of an OpenFlamingo's text model.
pub const TEXT_MODEL_FOLDER: &str = "lang_encoder";

/// The folder of an OpenFlamingo's open_clip.
pub const TOWER_FOLDER: &str = "vision_encoder";

/// PEFT's configuration of an adapter.
pub(super) const PEFT_CONFIG: &str = "adapter_config.json";

/// The files of a checkpoint in memory, by name.
pub(super) type Files = BTreeMap<String, Arc<Vec<u8>>>;

/// An opened checkpoint, usually a folder. Its configuration is parsed and its weight files exist.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The folder, or the name of a checkpoint in memory.
    pub dir: PathBuf,
    /// The repository (`org/name`), if the folder is in the hub's cache.
    pub(super) repository: Option<String>,
    /// The files, if they are in memory and not in `dir`.
    in_memory: Option<Arc<Files>>,
    /// The base of a candidate that lacks files.
    lent: Option<Arc<Lent>>,
    config: Value,
    config_file: &'static str,
    weight_files: Vec<String>,
    /// The index's map from tensors to files. Empty without an index.
    index: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens the folder `dir`.
    ///
    /// # Errors
    /// The folder, its configuration or a shard is missing or unreadable; the weights are quantised or in GGUF.
    pub fn open(dir: impl AsRef<Path>) -> anyhow::Result<Self> {
        let dir = dir.as_ref();
        refuse_what_is_no_folder(dir)?;
        let Some((config_file, weights_file)) = choose_layout(|name| dir.join(name).is_file()) else {
            if dir.join(ADDED_WEIGHTS).is_file() && dir.join(TEXT_MODEL_FOLDER).is_dir() {
                return Self::open_flamingo(dir);
            }
            bail!("failed to open `{}`: {}", dir.display(), explain_missing_config(dir));
        };
        let path = dir.join(config_file);
        let config = parse_json(&path, &read_optional(&path)?.unwrap_or_default())?;
        quantised::refuse_config(&path, &config)?;
        let Some(weights_file) = weights_file else {
            bail!("failed to open `{}`: {}", dir.display(), explain_missing_weights(dir));
        };
        let (weight_files, index) = list_shards(dir, weights_file)?;
        Ok(Self {
            dir: dir.to_owned(),
            repository: None,
            in_memory: None,
            lent: None,
            config,
            config_file,
            weight_files,
            index,
        })
    }

    /// Opens an OpenFlamingo: what training added is in `dir`, and the text model in a folder of it. Its configuration is
    /// the text model's.
    fn open_flamingo(dir: &Path) -> anyhow::Result<Self> {
        let text_model = Self::open(dir.join(TEXT_MODEL_FOLDER))?;
        let mut weight_files = vec![ADDED_WEIGHTS.to_owned()];
        let has_rows = dir.join(ROWS_OF_HEAD).is_file();
        weight_files.extend(has_rows.then(|| ROWS_OF_HEAD.to_owned()));
        weight_files.extend(text_model.weight_files.iter().map(|file| format!("{TEXT_MODEL_FOLDER}/{file}")));
        let is_mpt = text_model.config.get("model_type").is_some_and(|kind| kind == "mpt");
        let is_tied = text_model.config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(is_mpt);
        let config = serde_json::json!({
            "model_type": "open_flamingo",
            "text_config": text_model.config,
            "has_rows_of_added_tokens": has_rows || is_tied,
        });
        Ok(Self { dir: dir.to_owned(), config, weight_files, index: BTreeMap::new(), ..text_model })
    }

    /// A checkpoint called `name` in the layout of transformers, with its files in memory and its weights in
    /// `model.safetensors`.
    pub(super) fn in_memory(name: &str, files: Files) -> anyhow::Result<Self> {
        let (config_file, weights_file) = ("config.json", "model.safetensors");
        let dir = PathBuf::from(name);
        let bytes = files.get(config_file).map_or(&[][..], |bytes| bytes);
        let config = parse_json(&dir.join(config_file), bytes)?;
        ensure!(files.contains_key(weights_file), "the checkpoint `{name}` has no `{weights_file}`");
        let (weight_files, index) = (vec![weights_file.to_owned()], BTreeMap::new());
        let in_memory = Some(Arc::new(files));
        Ok(Self { dir, repository: None, in_memory, lent: None, config, config_file, weight_files, index })
    }

    /// `config.json`, or `open_clip_config.json` if the folder has only that.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The file of [`config`](Self::config).
    pub fn config_file(&self) -> &str {
        self.config_file
    }

    /// Returns whether this is open_clip's layout.
    pub fn is_open_clip(&self) -> bool {
        self.config_file == OPEN_CLIP_CONFIG
    }

    /// Returns whether this is the layout of the original LLaVA repository, which names its tower instead of
    /// configuring it.
    pub fn is_llava_original(&self) -> bool {
        self.config.get("mm_vision_tower").is_some() && self.config.get("vision_config").is_none()
    }

    /// Its folder from the root, if that can be found.
    pub fn absolute_dir(&self) -> PathBuf {
        std::path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone())
    }

    /// The same files under another configuration.
    pub fn with_config(self, config: Value) -> Self {
        Self { config, ..self }
    }

    /// Returns whether this is the first LLaVA, in which tokens mark the start and the end of an image.
    pub fn is_llava_v0(&self) -> bool {
        self.is_llava_original() && self.config.get("mm_use_im_start_end").is_some_and(|flag| flag == true)
    }

    /// The checkpoint of a candidate over this one, with its own files in place of some of the base's.
    pub(super) fn with_own_files(&self, lent: Lent, dir: &Path, config: Option<Value>) -> Self {
        Self {
            dir: dir.to_owned(),
            repository: None,
            in_memory: None,
            config: config.unwrap_or_else(|| self.config.clone()),
            lent: Some(Arc::new(lent)),
            ..self.clone()
        }
    }

    /// Returns the bytes of the file `name`, or `None` if there is none.
    pub fn read_file(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        if let Some(lent) = &self.lent {
            return lent.read_file(name);
        }
        match &self.in_memory {
            Some(files) => Ok(files.get(name).map(|bytes| bytes.to_vec())),
            None => match read_optional(&self.dir.join(name))? {
                // The tokenizer of an OpenFlamingo is its text model's.
                None if self.is_open_flamingo() => read_optional(&self.dir.join(TEXT_MODEL_FOLDER).join(name)),
                found => Ok(found),
            },
        }
    }

    fn is_open_flamingo(&self) -> bool {
        self.weight_files.first().is_some_and(|file| file == ADDED_WEIGHTS)
    }

    /// Returns the JSON file `name`, or `None` if there is none.
    pub fn read_json(&self, name: &str) -> anyhow::Result<Option<Value>> {
        self.read_file(name)?.map(|bytes| parse_json(&self.dir.join(name), &bytes)).transpose()
    }

    /// Returns the trainer's notes in the folder.
    ///
    /// # Errors
    /// A file exists and cannot be read.
    pub fn trainer_notes(&self) -> anyhow::Result<TrainerNotes> {
        TrainerNotes::find(|name| Ok(self.read_file(name)?.map(|bytes| (self.dir.join(name), bytes))))
    }

    /// Returns the names of all stored tensors, sorted.
    ///
    /// # Errors
    /// A weight file is damaged.
    pub fn tensor_names(&self) -> anyhow::Result<Vec<String>> {
        let mut names: Vec<String> = self.read_tensors()?.into_iter().map(|tensor| tensor.key).collect();
        names.sort();
        Ok(names)
    }

    /// The name shown to the user: the repository's for a folder in the hub's cache, the folder's otherwise.
    pub fn name(&self) -> String {
        if let Some(repository) = &self.repository {
            return repository.clone();
        }
        // A checkpoint in memory keeps its name, whatever a folder of that name links to.
        let canonical = if self.in_memory.is_none() { self.dir.canonicalize().ok() } else { None };
        let dir = canonical.as_deref().unwrap_or(&self.dir);
        dir.file_name().map_or_else(|| dir.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// Returns every tensor of every weight file. Those of a candidate over a base are the base's.
    pub(super) fn read_tensors(&self) -> anyhow::Result<Vec<StoredTensor>> {
        if let Some(lent) = &self.lent {
            return lent.base().read_tensors();
        }
        let mut tensors = Vec::new();
        for name in &self.weight_files {
            let mut of_file = self.read_tensors_of(name)?;
            if name.starts_with(TEXT_MODEL_FOLDER) {
                of_file.iter_mut().for_each(|tensor| tensor.key = format!("{TEXT_MODEL_FOLDER}/{}", tensor.key));
            }
            tensors.extend(of_file);
        }
        self.check_against_index(&tensors)?;
        quantised::refuse_tensors(&tensors)?;
        Ok(tensors)
    }

    /// Returns the tensors of the file `name` (`.safetensors`, else a PyTorch archive).
    pub(super) fn read_tensors_of(&self, name: &str) -> anyhow::Result<Vec<StoredTensor>> {
        let path = self.dir.join(name);
        match self.in_memory.as_ref().and_then(|files| files.get(name)) {
            Some(bytes) => safetensors_file::tensors_of(&MappedFile::in_memory(&path, Arc::clone(bytes))),
            None => read_tensors_of_file(&path),
        }
    }

    /// Returns warnings about other weight files in the folder whose values differ from those that are read. Only the
    /// first few values of each tensor are compared.
    ///
    /// # Errors
    /// A weight file that is read is damaged.
    pub fn differing_weights(&self) -> anyhow::Result<Vec<String>> {
        if self.in_memory.is_some() {
            return Ok(Vec::new());
        }
        let has = |name: &str| self.dir.join(name).is_file();
        let names = LAYOUTS.iter().find(|(config, _)| *config == self.config_file).map_or(&[][..], |(_, names)| names);
        let mut present = names.iter().copied().filter(|name| has(name));
        let (Some(first), others) = (present.next(), present.collect::<Vec<_>>()) else { return Ok(Vec::new()) };
        if others.is_empty() {
            return Ok(Vec::new());
        }
        let own = self.read_tensors()?;
        let differs = |name: &&str| {
            // A file that is not used need not be readable.
            let shards = list_shards(&self.dir, name).map(|(shards, _)| shards).unwrap_or_default();
            let tensors =
                shards.iter().flat_map(|shard| read_tensors_of_file(&self.dir.join(shard)).unwrap_or_default());
            differ(&own, &tensors.collect::<Vec<_>>())
        };
        let told = others.into_iter().filter(differs).map(|other| twice(&self.dir, first, other));
        Ok(told.collect())
    }

    fn check_against_index(&self, tensors: &[StoredTensor]) -> anyhow::Result<()> {
        let found: BTreeSet<(&str, Option<&str>)> = tensors
            .iter()
            .map(|tensor| (tensor.key.as_str(), tensor.file.path().file_name().and_then(|name| name.to_str())))
            .collect();
        for (key, file) in &self.index {
            ensure!(
                found.contains(&(key.as_str(), Some(file.as_str()))),
                "failed to read `{}`: the index says that it holds `{key}`, but it does not; hint: index and shards \
                 come from different downloads, get them again together",
                self.dir.join(file).display()
            );
        }
        Ok(())
    }
}

/// Chooses the file that describes a checkpoint, and the file of its weights or their index. `has` says which files
/// exist.
pub(super) fn choose_layout(has: impl Fn(&str) -> bool) -> Option<(&'static str, Option<&'static str>)> {
    let described: Vec<_> = LAYOUTS.into_iter().filter(|(config, _)| has(config)).collect();
    let (first_config, _) = described.first()?;
    let with_weights = described
        .iter()
        .find_map(|(config, weights)| Some((*config, Some(weights.iter().copied().find(|name| has(name))?))));
    Some(with_weights.unwrap_or((first_config, None)))
}

/// Reads a text file that the user named, such as a chat template.
///
/// # Errors
/// The file is missing, unreadable or not UTF-8.
pub fn read_text_file(path: &Path) -> anyhow::Result<String> {
    let place = || format!("failed to read `{}`", path.display());
    let bytes = std::fs::read(path).with_context(place)?;
    Ok(text::decode(&bytes).with_context(place)?.to_owned())
}

pub(super) fn parse_json(path: &Path, bytes: &[u8]) -> anyhow::Result<Value> {
    let text = text::decode(bytes).with_context(|| format!("failed to read `{}`", path.display()))?;
    serde_json::from_str(text).map_err(|error| {
        anyhow::anyhow!("failed to read `{}`: {error}; hint: the file must be JSON, copy it again", path.display())
    })
}

/// Formats a warning that the file `other` is ignored and `first` is read.
pub(super) fn twice(dir: &Path, first: &str, other: &str) -> String {
    format!(
        "`{}` has weights in `{first}` and different ones in `{other}`: `{first}` is read, as transformers reads it; \
         hint: remove the one that is wrong",
        dir.display()
    )
}

/// Returns whether tensors of one name differ in shape, or in their first values by more than the rounding of the
/// narrower type.
pub(super) fn differ(ours: &[StoredTensor], theirs: &[StoredTensor]) -> bool {
    let ours: BTreeMap<&str, &StoredTensor> = ours.iter().map(|tensor| (tensor.key.as_str(), tensor)).collect();
    let pairs = theirs.iter().filter_map(|other| Some((*ours.get(other.key.as_str())?, other)));
    pairs.into_iter().any(|(own, other)| own.shape != other.shape || own.first_numbers_differ(other))
}

/// Returns the tensors of one file (`.safetensors`, else a PyTorch archive).
pub(super) fn read_tensors_of_file(path: &Path) -> anyhow::Result<Vec<StoredTensor>> {
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        safetensors_file::read_tensors(path)
    } else {
        torch_archive::read_tensors(path)
    }
}

pub(super) fn read_optional(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to read `{}`", path.display())),
    }
}

/// Refuses a file whose name ends with `.gguf`.
pub(super) fn refuse_gguf(path: &Path) -> anyhow::Result<()> {
    ensure!(!has_extension(path, "gguf"), "failed to open `{}`: {GGUF}", path.display());
    Ok(())
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(wanted))
}

fn refuse_what_is_no_folder(dir: &Path) -> anyhow::Result<()> {
    refuse_gguf(dir)?;
    ensure!(
        dir.exists(),
        "failed to open `{}`: there is no such folder; hint: give the folder that holds `config.json`",
        dir.display()
    );
    ensure!(
        dir.is_dir(),
        "failed to open `{}`: it is a file; hint: give the folder that holds it and `config.json`",
        dir.display()
    );
    Ok(())
}

fn explain_missing_config(dir: &Path) -> String {
    if has_file_with_extension(dir, "gguf") {
        GGUF.to_owned()
    } else if dir.join(PEFT_CONFIG).is_file() {
        format!(
            "it is an adapter, not a model (`{PEFT_CONFIG}`, no `config.json`); hint: give its base model{} and the \
             folder as `--adapter`",
            base_of_adapter(dir)
        )
    } else if dir.join(ADDED_WEIGHTS).is_file() {
        format!(
            "it has `{ADDED_WEIGHTS}`, which OpenFlamingo's training adds to other models, but not these; hint: put the \
             text model into the folder `{TEXT_MODEL_FOLDER}` in it, and the open_clip into `{TOWER_FOLDER}`"
        )
    } else {
        "it has no `config.json`; hint: give the folder of a checkpoint as transformers or open_clip save it".to_owned()
    }
}

/// Returns the base that the adapter in `dir` names, for a hint.
fn base_of_adapter(dir: &Path) -> String {
    let config = read_optional(&dir.join(PEFT_CONFIG)).ok().flatten();
    let config: Option<Value> = config.and_then(|bytes| serde_json::from_slice(text::without_mark(&bytes)).ok());
    let name = config.as_ref().and_then(|config| config.get("base_model_name_or_path")).and_then(Value::as_str);
    match name.map(|name| (name, QuantisedName::parse(name))) {
        None => String::new(),
        Some((name, None)) => format!(" `{name}`"),
        Some((name, Some(QuantisedName { unquantised, method }))) => {
            format!(" unquantised, as `{unquantised}` (`{name}` is quantised: {method}, which is not read),")
        }
    }
}

fn has_file_with_extension(dir: &Path, extension: &str) -> bool {
    std::fs::read_dir(dir).is_ok_and(|entries| entries.flatten().any(|entry| has_extension(&entry.path(), extension)))
}

fn explain_missing_weights(dir: &Path) -> &'static str {
    if has_file_with_extension(dir, "gguf") {
        GGUF
    } else if dir.join(PEFT_CONFIG).is_file() || dir.join("mm_projector.bin").is_file() {
        "it holds an adapter or a projector, but no model weights; hint: give its base model, and this folder as \
         `--adapter`"
    } else if holds_part_of_otter(dir) {
        "it holds only what Otter's training changed (`final_weights.pt` or `checkpoint_N.pt`), not the whole model; hint: \
         load it over its base with Otter's code and save all of it (`save_pretrained`, or train with `--save_hf_model`)"
    } else {
        "it has no weights; hint: `model.safetensors` (or its shards with `model.safetensors.index.json`) or \
         `pytorch_model.bin` must be next to `config.json`"
    }
}

/// Whether `dir` has the tensors that Otter's training saves by default.
fn holds_part_of_otter(dir: &Path) -> bool {
    let is_part = |name: &str| name == "final_weights.pt" || (name.starts_with("checkpoint_") && name.ends_with(".pt"));
    std::fs::read_dir(dir)
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_str().is_some_and(is_part)))
}

/// Returns the files of the weights, and the index's map. `name` is the single file, or the index of its shards.
fn list_shards(dir: &Path, name: &str) -> anyhow::Result<(Vec<String>, BTreeMap<String, String>)> {
    if !name.ends_with(".index.json") {
        return Ok((vec![name.to_owned()], BTreeMap::new()));
    }
    let index = read_index(&dir.join(name))?;
    let shards: BTreeSet<&String> = index.values().collect();
    let n_shards = shards.len();
    let missing: Vec<&str> =
        shards.iter().filter(|shard| !dir.join(shard).is_file()).map(|shard| shard.as_str()).collect();
    ensure!(
        missing.is_empty(),
        "failed to open `{}`: {} of {n_shards} shards that `{name}` names are missing: {}; hint: copy or download them \
         into that folder",
        dir.display(),
        missing.len(),
        missing.join(", ")
    );
    Ok((shards.into_iter().cloned().collect(), index))
}

/// Reads the `weight_map` of the index at `path`: tensor name to the name of a file in the same folder.
pub(super) fn read_index(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let bytes = read_optional(path)?.unwrap_or_default();
    let json = parse_json(path, &bytes)?;
    let map = json.get("weight_map").and_then(Value::as_object).with_context(|| {
        format!("failed to read `{}`: it has no `weight_map`; hint: copy the index again", path.display())
    })?;
    ensure!(!map.is_empty(), "failed to read `{}`: `weight_map` is empty; hint: copy the index again", path.display());
    map.iter()
        .map(|(key, file)| {
            let file = file.as_str().filter(|file| !file.is_empty() && !file.contains(['/', '\\']) && *file != "..");
            let file = file.with_context(|| {
                format!(
                    "failed to read `{}`: `weight_map` of `{key}` is not the name of a file next to it; hint: copy the \
                     index again",
                    path.display()
                )
            })?;
            Ok((key.clone(), file.to_owned()))
        })
        .collect()
}

/// Keys of `config.json` that do not affect results, and differ between a model and its fine-tuned versions.
const KEYS_OF_PROVENANCE: [&str; 4] = ["_name_or_path", "transformers_version", "dtype", "torch_dtype"];

/// Returns a hash of the configurations of `checkpoints`. With the weights, it decides the tower's output for pixels.
pub fn config_hash<'a>(checkpoints: impl Iterator<Item = &'a Checkpoint>) -> String {
    let mut hasher = blake3::Hasher::new();
    for config in checkpoints.map(Checkpoint::config) {
        let keys = config.as_object().into_iter().flatten();
        // Sorted by name, whatever the order in the file.
        let kept: BTreeMap<_, _> = keys.filter(|(key, _)| !KEYS_OF_PROVENANCE.contains(&key.as_str())).collect();
        for (key, value) in kept {
            hasher.update(format!("{key} {value}\n").as_bytes());
        }
    }
    format!("blake3:{}", hasher.finalize().to_hex())
}
