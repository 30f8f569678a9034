//! Rules that decide what an answer means; pure.
//!
//! An answer passes through the modules in this order. `markup` removes what is not part of it, `tokens` splits it into
//! words, `vocabulary` finds the labels' names, and `denial` finds what it takes back. [`Grader`] gathers the evidence,
//! and [`weigh()`] gives it exactly one code. The [`Lexicon`] is passed in as text.

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

/// The version of these rules. Two runs are only comparable if it is the same.
pub const RULES_VERSION: &str = "2";
