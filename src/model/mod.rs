//! Checkpoints and forward passes.

pub mod weights;
