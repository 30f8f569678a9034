//! Checkpoints and forward passes: the only module, beside training and diagnostics, that knows of tensors.
//!
//! From disk to answer: [`checkpoint`] opens a folder, [`text`] and [`vision`] prepare what is asked and what is seen,
//! [`layers`], over [`kernels`] on a CPU, make the towers of [`vision`], the decoders of [`language`] and, of both, the
//! [`families`]; [`run`] reads prompts, writes answers, ranks labels, and asks models that run elsewhere.

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
