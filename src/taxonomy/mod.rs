//! What an answer means, decided by rules; pure.
//!
//! In the order in which an answer passes through it: `markup` takes out what is no part of it, `tokens` makes words of it,
//! `vocabulary` knows what the labels are called, `denial` what the answer takes back, [`Grader`] gathers the evidence, [`weigh()`] gives it exactly one code. The [`Lexicon`]
//! is passed in as text.

mod decide;
mod denial;
mod grader;
mod lexicon;
mod markup;
mod same;
mod tokens;
mod vocabulary;
mod words;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod forms;
#[cfg(test)]
mod references;

pub use decide::{Evidence, Finding, Labels, Relation, weigh};
pub use grader::{Grader, Reading};
pub use lexicon::{Lexicon, LexiconError};
pub use same::{SharedName, is_same_name, shared_names};

/// The version of these rules: two runs are alike only where it is the same.
pub const RULES_VERSION: &str = "2";
