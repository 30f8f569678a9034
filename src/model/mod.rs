//! Checkpoints and forward passes: the only module, apart from training and diagnostics, that uses tensors.
//!
//! [`checkpoint`] opens a folder; [`text`] and [`vision`] prepare text and images. [`layers`], which run on [`kernels`]
//! on a CPU, form the towers of [`vision`] and the decoders of [`language`]. [`families`] combine both. [`run`] reads
//! prompts, writes answers, ranks labels, and queries remote models.

pub mod checkpoint;
pub mod families;
#[cfg(test)]
mod kernel_sets_tests;
pub mod kernels;
pub mod language;
pub mod layers;
pub mod run;
pub mod text;
pub mod vision;

#[cfg(test)]
pub(crate) mod testing;

pub use kernels::{choose as choose_kernels, chosen_name as kernels_name};
pub use run::placement::Placement;
