//! The catalog of datasets, and the names of ImageNet's classes.

/// `datasets.toml`.
pub const DATASETS_TOML: &str = include_str!("../../datasets.toml");

/// WordNet id, CLIP's name and synonyms of the 1,000 classes of ImageNet-1k, one per line, tab-separated.
pub const IMAGENET_NAMES: &str = include_str!("imagenet_names.tsv");
