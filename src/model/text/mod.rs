//! Conversion between text and tokens: tokenizers, and chat templates that turn questions into prompts.

mod built_in_templates;
mod conversation;
pub mod template;
mod template_environment;
pub mod tokenizer;
mod trainer_template;
