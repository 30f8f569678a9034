//! Text in and out: tokenizers, and the chat templates that put a question between a model's own words.

mod built_in_templates;
mod conversation;
pub mod template;
mod template_environment;
pub mod tokenizer;
mod trainer_template;
