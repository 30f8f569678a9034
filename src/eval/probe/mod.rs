//! Probes on the models' own towers: their training images and their predictions.

mod fitted;
mod shots;

pub(super) use fitted::{ProbeChoice, TowerProbes, probe_trial};
pub use shots::{ProbeRequest, Shots};
