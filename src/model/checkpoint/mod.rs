//! The contents of a checkpoint's folder: tensors, adapters over them, and configurations.

pub mod config;
pub(in crate::model) mod duplicates;
pub(in crate::model) mod known_bad;
pub mod overlay;
pub mod weights;
