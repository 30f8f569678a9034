//! What lies in a checkpoint's folder: tensors, adapters over them, and what configurations say.

pub mod config;
pub(in crate::model) mod duplicates;
pub(in crate::model) mod known_bad;
pub mod overlay;
pub mod weights;
