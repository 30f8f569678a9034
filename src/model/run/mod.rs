//! Running models: reading prompts, generating answers, scoring labels, sharing work between subjects, and estimating
//! memory.

pub mod blocks;
pub mod features;
pub mod generate;
pub mod generation_config;
pub mod image_attention;
pub mod logits_processors;
pub mod media;
pub mod memory;
pub(in crate::model) mod placement;
pub mod prefix;
pub mod scoring;
pub mod served;
pub mod spans;
pub mod subjects;
mod tower_pass;

#[cfg(test)]
mod subjects_tests;
