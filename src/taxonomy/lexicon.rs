//! Words: aliases and hypernyms of labels, from text that the caller passes in.

/// Why a lexicon cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line} of the lexicon: {problem}")]
pub struct LexiconError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// Aliases (lemmas) and hypernyms by WordNet id and by label name.
#[derive(Clone, Debug, Default)]
pub struct Lexicon {}

impl Lexicon {
    /// Reads the form that `tests/golden/make_lexicon.py` writes.
    pub fn parse(text: &str) -> Result<Self, LexiconError> {
        let _ = text;
        Ok(Self::default())
    }
}
