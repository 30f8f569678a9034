//! Probes on the models' own towers: their training images, and what they predict for an image.

mod fitted;
mod shots;

pub(super) use fitted::{ProbeChoice, TowerProbes, probe_trial};
pub use shots::{ProbeRequest, Shots};
