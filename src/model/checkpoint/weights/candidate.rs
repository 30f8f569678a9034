//! A candidate's own settings. A checkpoint or an adapter's folder may contain a configuration, an image processor, a
//! tokenizer, a chat template and generation settings. They replace those of its base.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;

use super::checkpoint::{Checkpoint, parse_json, read_optional};

/// Groups of files that are taken together from one folder, because files of different checkpoints do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnFiles {
    /// `config.json`.
    Config,
    /// `generation_config.json`.
    Generation,
    /// The image preparation.
    Processor,
    /// The tokenizer.
    Tokenizer,
    /// The chat template.
    Template,
}

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
const PROCESSOR: &str = "processor_config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// A candidate has its own tokenizer if it has one of these files.
const TOKENIZERS: [&str; 3] = ["tokenizer.json", "tokenizer.model", "vocab.json"];
const TEMPLATES: [&str; 2] = ["chat_template.jinja", "chat_template.json"];

impl OwnFiles {
    /// Returns the group of the file `name`, or `None` if it is in no group.
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            CONFIG => Self::Config,
            GENERATION => Self::Generation,
            PREPROCESSOR | PROCESSOR => Self::Processor,
            "tokenizer.json"
            | "tokenizer.model"
            | "vocab.json"
            | "merges.txt"
            | "spiece.model"
            | TOKENIZER_CONFIG
            | "special_tokens_map.json"
            | "added_tokens.json" => Self::Tokenizer,
            name if TEMPLATES.contains(&name) => Self::Template,
            _ => return None,
        })
    }
}

/// The files of a candidate, with its base's for those that it lacks.
#[derive(Debug)]
pub(super) struct Lent {
    base: Checkpoint,
    /// The candidate's folders, the innermost first.
    folders: Vec<PathBuf>,
    own: BTreeSet<OwnFiles>,
}

impl Lent {
    /// The checkpoint whose weights the candidate changes.
    pub(super) fn base(&self) -> &Checkpoint {
        &self.base
    }

    /// Returns the bytes of the file `name`, or `None` if there is none.
    pub(super) fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match OwnFiles::of(name) {
            Some(kind) if !self.own.contains(&kind) => self.base.read_file(name),
            _ => read_from(&self.folders, name),
        }
    }
}

fn read_from(folders: &[PathBuf], name: &str) -> Result<Option<Vec<u8>>> {
    for folder in folders {
        if let Some(bytes) = read_optional(&folder.join(name))? {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// A candidate's folder with its own settings.
#[derive(Debug)]
pub struct OwnSettings {
    /// A checkpoint with its files over its base's.
    pub checkpoint: Checkpoint,
    /// The groups that are its own.
    pub own: BTreeSet<OwnFiles>,
}

impl OwnSettings {
    /// Finds the settings files in `folders`, the innermost first, or returns `None` if there are none. `is_whole` is
    /// whether the folders hold a complete checkpoint. A configuration is used only if it `may_configure` the base's
    /// model.
    ///
    /// # Errors
    /// A file exists and cannot be read.
    pub(super) fn find(
        base: &Checkpoint,
        folders: &[PathBuf],
        is_whole: bool,
        may_configure: &dyn Fn(&Checkpoint) -> bool,
    ) -> Result<Option<Self>> {
        let Some(dir) = folders.first() else { return Ok(None) };
        let json = |name: &str| -> Result<Option<Value>> {
            let bytes = read_from(folders, name)?;
            bytes.map(|bytes| parse_json(&dir.join(name), &bytes)).transpose()
        };
        let has = |name: &&str| folders.iter().any(|folder| folder.join(name).is_file());
        let states = |config: &Option<Value>, key: &str| {
            config.as_ref().and_then(|config| config.get(key)).is_some_and(|value| !value.is_null())
        };
        let (processor, tokenizer_config) = (json(PROCESSOR)?, json(TOKENIZER_CONFIG)?);
        let mut own = BTreeSet::new();
        let with_config = |config: Value, own: &BTreeSet<OwnFiles>| {
            let lent = Lent { base: base.clone(), folders: folders.to_vec(), own: own.clone() };
            base.with_own_files(lent, dir, Some(config))
        };
        let config = json(CONFIG)?.filter(|config| may_configure(&with_config(config.clone(), &own)));
        if config.is_some() {
            own.insert(OwnFiles::Config);
        }
        // A whole checkpoint without the file uses its own configuration, even if its base has the file.
        if has(&GENERATION) || is_whole {
            own.insert(OwnFiles::Generation);
        }
        if has(&PREPROCESSOR) || states(&processor, "image_processor") {
            own.insert(OwnFiles::Processor);
        }
        if TOKENIZERS.iter().any(has) {
            own.insert(OwnFiles::Tokenizer);
        }
        let in_configs = states(&processor, "chat_template") || states(&tokenizer_config, "chat_template");
        if TEMPLATES.iter().any(has) || in_configs {
            own.insert(OwnFiles::Template);
        }
        if own.is_empty() {
            return Ok(None);
        }
        let lent = Lent { base: base.clone(), folders: folders.to_vec(), own: own.clone() };
        Ok(Some(Self { checkpoint: base.with_own_files(lent, dir, config), own }))
    }
}
