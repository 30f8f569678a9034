//! The WordNet excerpt; `tests/golden/make_lexicon.py` writes it.

/// Synonyms, hypernyms and compounds for the labels of the catalog; read by `taxonomy::Lexicon::parse`.
pub const LEXICON: &str = include_str!("lexicon.tsv");
