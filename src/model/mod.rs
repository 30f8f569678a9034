//! Checkpoints and forward passes.

pub mod weights;

pub mod tokenizer;

pub mod template;

pub mod preprocess;
