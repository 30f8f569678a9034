//! Prompts: templates of `prompts/`, or the user's own, filled in for a dataset.

mod template;

pub use template::{PromptTemplate, load, names};
