//! Requests for models, adapters and an encoder.

use std::path::{Path, PathBuf};

use crate::domain::{ImageAttention, ModelPart};
use crate::model::checkpoint::weights::{HashMemory, Hub};
use crate::model::run::generation_config::GenerationChoice;
use crate::model::vision::preprocess::PixelLimits;

/// Which encoder is evaluated next to the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncoderChoice {
    /// The encoder that the checkpoint names, if it is found; for the miniature model, the miniature encoder.
    Auto,
    /// No encoder; values that need one are null.
    None,
    /// A folder, `embedded`, or a name on the hub.
    Folder(PathBuf),
}

/// A requested adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterRequest {
    /// The name given to it; by default its folder's or repository's name.
    pub name: Option<String>,
    /// Its folder or file, or its name on the hub; `None` if nothing is put over the model.
    pub path: Option<PathBuf>,
    /// The part of it that is used.
    pub part: ModelPart,
}

impl AdapterRequest {
    /// Requests all of the adapter in `path`, under `name` if one is given.
    pub fn new(name: Option<String>, path: PathBuf) -> Self {
        Self { name, path: Some(path), part: ModelPart::default() }
    }
}

/// A request for subjects.
#[derive(Clone, Debug)]
pub struct SubjectsRequest<'a> {
    /// The model's folder, `embedded`, or its name on the hub.
    pub model: &'a Path,
    /// The encoder.
    pub encoder: EncoderChoice,
    /// Whether the encoder answers; if not, it only serves as a place to find a tower that the checkpoint names.
    pub is_zero_shot: bool,
    /// A chat template that replaces the checkpoint's.
    pub template: Option<&'a str>,
    /// Limits on the pixels of an image.
    pub pixels: PixelLimits,
    /// Which generation settings apply to greedy answers.
    pub generation: GenerationChoice,
    /// Adapters over the model; each is a separate run.
    pub adapters: &'a [AdapterRequest],
    /// Whether the model without an adapter is also a run.
    pub has_base: bool,
    /// Whether adapter updates are merged into the weights.
    pub is_merged: bool,
    /// How the language models attend to images.
    pub image_attention: ImageAttention,
    /// Whether an adapter that changes nothing is allowed.
    pub allows_idle: bool,
    /// Known hashes of weights.
    pub hashes: Option<HashMemory>,
    /// Resolves hub names, including those of towers that the checkpoint only names.
    pub hub: &'a Hub<'a>,
}

impl<'a> SubjectsRequest<'a> {
    /// Requests only the model, with all defaults.
    pub fn new(model: &'a Path, hub: &'a Hub<'a>) -> Self {
        Self {
            model,
            encoder: EncoderChoice::Auto,
            is_zero_shot: true,
            template: None,
            pixels: PixelLimits::default(),
            generation: GenerationChoice::Checkpoint,
            adapters: &[],
            has_base: true,
            is_merged: false,
            image_attention: ImageAttention::Full,
            allows_idle: false,
            hashes: None,
            hub,
        }
    }
}
