//! Files that are compiled into the binary.

pub mod lexicon;
pub mod prompts;
