//! Datasets: the catalog, one reader per format, decoding, fetching.
//!
//! [`open`] turns the user's text (`cifar10`, `photos/val`, `mine=photos`) into a [`Dataset`]. Its samples are listed
//! without decoding an image, and [`Dataset::read`] decodes one of them. Decoding equals Pillow's `convert("RGB")` bit
//! for bit, see [`decode`](decode()).

mod catalog;
mod checksum;
mod decode;
mod encode;
mod fetch;
mod hub;
mod labels;
mod missing;
mod open;
mod path;
mod readers;
mod texts;
mod training;
mod verify;

use std::sync::Arc;

use crate::domain::{LabelSet, RgbImage, Sample};

pub use catalog::Catalog;
pub use decode::{Orientation, decode};
pub use encode::png;
pub use fetch::{FetchEvent, FetchRequest, fetch};
pub use hub::{DatasetHub, FoundOnHub};
pub use open::{Available, DataRoots, Exif, OpenRequest, available, open, said_name};
pub use texts::{TextSample, read_texts};
pub use training::open_training;
pub use verify::{FileCheck, Verification, verify};

/// An open dataset: its samples are known, and its images are read one by one on demand.
///
/// It dereferences to its [`DatasetDescription`], so that `dataset.name` is the name.
#[derive(Clone)]
pub struct Dataset {
    /// Everything except samples and images.
    pub description: DatasetDescription,
    /// Warnings: classes without samples, fewer samples than published.
    pub warnings: Vec<String>,
    /// Notes that are not problems: images that were recognised by their first bytes, link loops.
    pub notes: Vec<String>,
    /// How to treat stored orientations, if not as Pillow does: `apply` or `ignore`.
    pub exif: Option<String>,
    /// All available splits, if the held-out one was taken by default; empty otherwise.
    pub chosen_of: Vec<String>,
    /// Whether it is a table (CSV, JSON lines, Parquet, Arrow), whose columns the user may name.
    pub is_table: bool,
    /// All samples of the split, in the order of the file or in byte order of paths.
    pub samples: Vec<Sample>,
    reader: Arc<dyn readers::ReadImage>,
}

/// Everything about a dataset except its samples and images.
#[derive(Clone, Debug)]
pub struct DatasetDescription {
    /// `cifar10`, or the last two parts of a path (`imagenet20/val`).
    pub name: String,
    /// `test`, `val`, `train`, or `all` if a path names none.
    pub split: String,
    /// Whether it is a training split; every report says so.
    pub is_training_split: bool,
    /// The classes as the model sees them.
    pub labels: LabelSet,
    /// The noun in the prompt: `object` or `number`.
    pub noun: String,
    /// The encoder's caption with `{}` for the label: `a photo of a {}.`
    pub caption_template: String,
    /// Further captions for a prompt ensemble; may be empty.
    pub caption_ensemble: Vec<String>,
    /// Whether reports may show the images.
    pub may_redistribute: bool,
    /// The licence, as text.
    pub licence: String,
    /// The catalog's seed of the order of samples.
    pub sample_seed: u64,
}

impl std::ops::Deref for Dataset {
    type Target = DatasetDescription;

    fn deref(&self) -> &DatasetDescription {
        &self.description
    }
}

impl Dataset {
    /// Reads and decodes the image of `samples[position]`. Many threads may call it at once.
    pub fn read(&self, position: usize) -> Result<RgbImage, UnreadableImage> {
        self.reader.read(position)
    }

    /// Returns a note on which split was taken by default among several.
    pub fn split_note(&self) -> Option<String> {
        (!self.chosen_of.is_empty()).then(|| {
            let (split, all) = (&self.split, self.chosen_of.join(", "));
            format!("using the split `{split}` of {all}; hint: --split NAME chooses another one")
        })
    }
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Dataset")
            .field("name", &self.name)
            .field("split", &self.split)
            .field("n_labels", &self.labels.len())
            .field("n_samples", &self.samples.len())
            .finish_non_exhaustive()
    }
}

/// An image that could not be decoded; it becomes an unscored trial, never an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read the image `{path}`: {message}")]
pub struct UnreadableImage {
    /// The file, or the archive and the entry in it.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
    /// `file:` + blake3 of the raw bytes, the trial's content.
    pub content: String,
}
