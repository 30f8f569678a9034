//! Files that are compiled into the binary.

pub mod catalog;
pub mod embedded;
pub mod font;
pub mod judge_prompts;
pub mod lexicon;
pub mod paper;
pub mod passages;
pub mod prompts;
