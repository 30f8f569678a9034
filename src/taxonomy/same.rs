//! Labels that no answer can distinguish.

use std::collections::{BTreeMap, BTreeSet};

use super::tokens::{fold, key_of, phrase};
use super::vocabulary::{inflections, singular};
use crate::domain::LabelSet;

/// A name that several labels share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedName {
    /// The name, as words.
    pub name: String,
    /// The labels' indices in the set.
    pub labels: Vec<usize>,
}

/// Whether two names differ only in case, spaces, punctuation or number, so that an answer or a caption with one may
/// also mean the other: `Cat` and `cat`, `lawn mower` and `lawnmower`. `C` and `C++` differ.
pub fn is_same_name(one: &str, other: &str) -> bool {
    one == other || name_key(one) == name_key(other)
}

fn name_key(name: &str) -> String {
    let words = phrase(name).join(" ");
    if words.is_empty() {
        return fold(name).trim().to_owned();
    }
    let has_letters = words.chars().any(char::is_alphabetic);
    let key = if has_letters { key_of(&singular(&words).unwrap_or(words)) } else { words };
    key + &marks(name)
}

/// Returns, by label, the labels that have [the same name](is_same_name), including itself.
pub(super) fn same_names(labels: &LabelSet) -> Vec<Vec<usize>> {
    let mut of_key: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let keys: Vec<String> = labels.names().map(name_key).collect();
    for (index, key) in keys.iter().enumerate() {
        of_key.entry(key.clone()).or_default().push(index);
    }
    keys.iter().map(|key| of_key[key].clone()).collect()
}

/// Returns the names that several labels share, one for each set of labels. An answer with such a name counts for all
/// of them. ImageNet has `crane` twice, and both `maillot` and `maillot, tank suit`.
pub fn shared_names(labels: &LabelSet) -> Vec<SharedName> {
    let mut found: Vec<SharedName> = Vec::new();
    for (name, owners) in owners_of_names(labels) {
        match found.iter_mut().find(|known| known.labels == owners) {
            Some(known) if known.name.len() > name.len() => known.name = name,
            Some(_) => {}
            None => found.push(SharedName { name, labels: owners }),
        }
    }
    found.sort_by(|one, other| one.labels.cmp(&other.labels));
    found
}

/// Returns the names, the parts of names between commas, and the plurals of both that several labels share, with these
/// labels.
pub(super) fn owners_of_names(labels: &LabelSet) -> BTreeMap<String, Vec<usize>> {
    let same = same_names(labels);
    // `C` and `C++` share a word but are different names.
    let marked: BTreeSet<String> =
        labels.names().filter(|name| !marks(name).is_empty()).map(|name| phrase(name).join(" ")).collect();
    let mut owners: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (index, label) in labels.labels().iter().enumerate() {
        let names = synonyms(&label.name);
        let inflected = names.iter().flat_map(|name| inflections(name, index)).map(|(words, _)| words);
        for words in names.iter().map(|name| phrase(name).join(" ")).chain(inflected) {
            owners.entry(words).or_default().extend(&same[index]);
        }
    }
    owners
        .into_iter()
        .filter(|(words, owners)| owners.len() > 1 && !words.is_empty() && !marked.contains(words))
        .map(|(words, owners)| (words, owners.into_iter().collect()))
        .collect()
}

/// Returns a name and its synonyms if it lists any: `tench, Tinca tinca`.
fn synonyms(name: &str) -> Vec<String> {
    let parts = name.split(", ").flat_map(|part| part.split(" / ")).map(|part| part.trim().to_owned());
    std::iter::once(name.to_owned()).chain(parts).filter(|part| !part.is_empty()).collect()
}

/// Returns the marks of a name that are not punctuation: `++` of `C++`, `-` of `A-`.
fn marks(name: &str) -> String {
    let characters: Vec<char> = fold(name).trim().chars().collect();
    let is_word = |at: Option<usize>| at.and_then(|at| characters.get(at)).is_some_and(|c| c.is_alphanumeric());
    let is_mark = |at: &usize| match characters[*at] {
        '-' => !(is_word(at.checked_sub(1)) && is_word(Some(at + 1))),
        c => !c.is_alphanumeric() && !c.is_whitespace() && !"'\"_.,;:/()[]!?`".contains(c),
    };
    (0..characters.len()).filter(is_mark).map(|at| characters[at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AnswerType, Label};

    fn shared(names: &[&str]) -> Vec<(String, Vec<usize>)> {
        let labels = LabelSet::new(names.iter().copied().map(Label::named).collect(), AnswerType::Object).unwrap();
        shared_names(&labels).into_iter().map(|shared| (shared.name, shared.labels)).collect()
    }

    #[test]
    fn names_that_differ_in_case_spaces_or_number_alone_are_one() {
        for (one, other) in [
            ("Cat", "cat"),
            ("cat", "cat "),
            ("cat", "cats"),
            ("lawn mower", "lawnmower"),
            ("T-shirt", "T shirt"),
            ("a_b", "a b"),
        ] {
            assert!(is_same_name(one, other), "{one} {other}");
            assert_eq!(
                shared(&[one, "dog", other]).first().map(|(_, labels)| labels.clone()),
                Some(vec![0, 2]),
                "{one} {other}"
            );
        }
        for (one, other) in
            [("C", "C++"), ("A+", "A-"), ("cat", "car"), ("737-300", "737-400"), ("1", "01"), ("+", "-")]
        {
            assert!(!is_same_name(one, other), "{one} {other}");
            assert_eq!(shared(&[one, "dog", other]), [], "{one} {other}");
        }
    }

    #[test]
    fn a_synonym_that_is_another_labels_name_is_shared() {
        assert_eq!(shared(&["crane", "drake", "crane"]), [("crane".to_owned(), vec![0, 2])]);
        assert_eq!(shared(&["maillot", "maillot, tank suit"]), [("maillot".to_owned(), vec![0, 1])]);
        assert_eq!(shared(&["sunglass", "sunglasses, dark glasses"]), [("sunglasses".to_owned(), vec![0, 1])]);
        assert_eq!(shared(&["kite (bird of prey)", "kite"]), []);
    }
}
