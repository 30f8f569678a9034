//! The lexicon: aliases and hypernyms of labels, from text that the caller passes in.

use std::collections::{BTreeMap, BTreeSet};

use super::tokens::phrase;
use crate::domain::Label;

/// Why a lexicon is invalid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line} of the lexicon: {problem}")]
pub struct LexiconError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// The index of a synset in the lexicon.
pub(super) type SynsetIndex = usize;

/// Aliases (lemmas) and hypernyms by WordNet id and by label name. An empty lexicon has no words.
#[derive(Clone, Debug, Default)]
pub struct Lexicon {
    synsets: Vec<Synset>,
    by_id: BTreeMap<String, SynsetIndex>,
    by_name: BTreeMap<String, SynsetIndex>,
    by_lemma: BTreeMap<String, Vec<SynsetIndex>>,
    compounds: Vec<(String, Vec<SynsetIndex>)>,
}

#[derive(Clone, Debug)]
struct Synset {
    /// Lemmas with this meaning only; listed only for synsets that are labels of some dataset.
    aliases: Vec<String>,
    parents: Vec<SynsetIndex>,
}

impl Lexicon {
    /// Parses the rows that `tests/golden/make_lexicon.py` writes; its header describes them.
    ///
    /// # Errors
    /// A row is of an unknown kind, lacks a field, or names a synset without a row. The first such row is reported.
    pub fn parse(text: &str) -> Result<Self, LexiconError> {
        let mut lexicon = Self::default();
        let rows: Vec<(usize, Vec<&str>)> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.starts_with('#') && !line.trim().is_empty())
            .map(|(index, line)| (index + 1, line.split('\t').collect()))
            .collect();
        for (line, row) in &rows {
            if let ["S", id, ..] = row[..]
                && lexicon.by_id.insert(id.to_owned(), lexicon.by_id.len()).is_some()
            {
                return Err(LexiconError { line: *line, problem: format!("synset `{id}` has two rows") });
            }
        }
        for (line, row) in &rows {
            lexicon.add(row).map_err(|problem| LexiconError { line: *line, problem })?;
        }
        Ok(lexicon)
    }

    fn add(&mut self, row: &[&str]) -> Result<(), String> {
        match *row {
            ["S", _, aliases, others, parents] => {
                let index = self.synsets.len();
                let parents = self.indices(parents)?;
                let words = |field: &str| -> Vec<String> {
                    field.split('|').filter(|word| !word.is_empty()).map(str::to_owned).collect()
                };
                let aliases = words(aliases);
                for lemma in aliases.iter().chain(&words(others)) {
                    let known = self.by_lemma.entry(phrase(lemma).join(" ")).or_default();
                    if !known.contains(&index) {
                        known.push(index);
                    }
                }
                self.synsets.push(Synset { aliases, parents });
                Ok(())
            }
            ["N", name, id] => {
                let index = self.index(id)?;
                self.by_name.entry(phrase(name).join(" ")).or_insert(index);
                Ok(())
            }
            ["C", compound, ids] => {
                let indices = self.indices(ids)?;
                self.compounds.push((phrase(compound).join(" "), indices));
                Ok(())
            }
            _ => Err("it is neither S with five fields, N with three, nor C with three".to_owned()),
        }
    }

    fn index(&self, id: &str) -> Result<SynsetIndex, String> {
        self.by_id.get(id).copied().ok_or_else(|| format!("synset `{id}` has no row"))
    }

    fn indices(&self, ids: &str) -> Result<Vec<SynsetIndex>, String> {
        ids.split(',').filter(|id| !id.is_empty()).map(|id| self.index(id)).collect()
    }

    /// The number of synsets.
    pub(super) fn len(&self) -> usize {
        self.synsets.len()
    }

    /// Returns the synset of `label`: by its WordNet id, else by its name, else by a lemma with only one synset.
    pub(super) fn resolve(&self, label: &Label) -> Option<SynsetIndex> {
        if let Some(index) = label.wordnet_id.as_ref().and_then(|id| self.by_id.get(id)) {
            return Some(*index);
        }
        let name = phrase(&label.name).join(" ");
        self.by_name.get(&name).copied().or_else(|| match self.by_lemma.get(&name).map(Vec::as_slice) {
            Some(&[index]) => Some(index),
            _ => None,
        })
    }

    /// Whether `words` are a lemma or a class name.
    pub(super) fn knows(&self, words: &str) -> bool {
        self.by_lemma.contains_key(words) || self.by_name.contains_key(words)
    }

    /// Returns the other names of a label with this synset.
    pub(super) fn aliases(&self, synset: SynsetIndex) -> &[String] {
        &self.synsets[synset].aliases
    }

    /// Returns all hypernyms, without the synset itself.
    pub(super) fn ancestors(&self, synset: SynsetIndex) -> BTreeSet<SynsetIndex> {
        let mut found = BTreeSet::new();
        let mut stack = vec![synset];
        while let Some(next) = stack.pop() {
            for &parent in &self.synsets[next].parents {
                if found.insert(parent) {
                    stack.push(parent);
                }
            }
        }
        found
    }

    /// Iterates over the lemmas, as words, with the synsets that each may mean.
    pub(super) fn lemmas(&self) -> impl Iterator<Item = (&str, &[SynsetIndex])> {
        self.by_lemma.iter().map(|(lemma, synsets)| (lemma.as_str(), synsets.as_slice()))
    }

    /// Iterates over nouns that end in a label's name, with the labels' synsets that they are a kind of (`hot dog`:
    /// none).
    pub(super) fn compounds(&self) -> impl Iterator<Item = (&str, &[SynsetIndex])> {
        self.compounds.iter().map(|(compound, synsets)| (compound.as_str(), synsets.as_slice()))
    }

    /// Iterates over the class names of all datasets.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests;
