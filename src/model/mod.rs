//! Checkpoints and forward passes.
