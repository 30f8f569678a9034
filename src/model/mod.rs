//! Checkpoints and forward passes: the only module, beside training and diagnostics, that knows of tensors.
//!
//! From disk to answer: [`weights`] opens a folder, [`tokenizer`], [`template`] and [`preprocess`] prepare text and
//! images, [`layers`], over `kernels` on a CPU, make [`vision`], [`language`], [`encoders`] and [`mllm`], a [`prefix`] is a
//! prompt that was read, [`generate`] writes answers and [`scoring`] ranks labels. [`served`] asks models that run elsewhere,
//! [`zero_shot`] is the encoder beside them, and [`features`] are what towers made of an image.

mod built_in_templates;
pub mod config;
mod conversation;
mod duplicates;
pub mod encoders;
pub mod features;
pub mod generate;
pub mod generation_config;
#[cfg(test)]
mod kernel_sets_tests;
pub mod kernels;
mod known_bad;
pub mod language;
pub mod layers;
pub mod logits_processors;
pub mod memory;
pub mod mllm;
pub mod overlay;
mod placement;
pub mod prefix;
pub mod preprocess;
pub mod scoring;
pub mod served;
pub mod spans;
pub mod subjects;
pub mod template;
mod template_environment;
pub mod tokenizer;
pub mod tower;
mod trainer_template;
pub mod vision;
pub mod vision_qwen;
pub mod weights;
pub mod zero_shot;

#[cfg(test)]
pub(crate) mod testing;

pub use kernels::{choose as choose_kernels, chosen_name as kernels_name};
pub use placement::Placement;
