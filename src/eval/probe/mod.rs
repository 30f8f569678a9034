//! Probes on the models' own towers: which training images they learn from, and what they say of an image.

mod fitted;
mod shots;

pub(super) use fitted::{ProbeChoice, TowerProbes, probe_trial};
pub use shots::{ProbeRequest, Shots};
