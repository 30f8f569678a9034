//! The names of a dataset's labels, and longer names that merely contain a label.

use std::collections::{BTreeMap, BTreeSet};

use super::lexicon::{Lexicon, SynsetIndex};
use super::same::{owners_of_names, same_names};
use super::tokens::{CLAUSE_SEPARATOR, Token, is_letter, key, key_of, phrase, punctuated_phrase};
use super::words::{DENIALS_IN_NAMES, NUMBER_WORDS, NUMERALS};
use crate::domain::{AnswerType, Label, LabelSet};

/// The meaning of a phrase in a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A label, or labels that this phrase cannot distinguish: see [`Vocabulary::claims`].
    Label(usize),
    /// Ambiguous: several labels, or a thing with a label in its name (`hot dog`).
    Opaque,
}

/// Words `start..end` of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first word.
    pub start: usize,
    /// One past the last.
    pub end: usize,
}

impl Span {
    /// Whether the two share a word.
    pub fn overlaps(self, other: Span) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Phrases of a dataset's labels.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    phrases: BTreeMap<String, Meaning>,
    /// Other spellings of the phrases, as [`key`] returns them.
    keys: BTreeMap<String, Meaning>,
    n_words_max: usize,
    /// By [`Meaning::Label`], the labels that a phrase may mean: first one label with those of the same name, then sets
    /// of labels.
    claims: Vec<Vec<usize>>,
    /// By label, its opposite: `without mask` for `with mask`.
    opposites: Vec<Option<usize>>,
    /// The phrases, without longer names that only end in one of them.
    names: BTreeSet<String>,
}

impl Vocabulary {
    /// Collects the names of all labels: names precede aliases, and aliases precede derived forms. A name, or a part of
    /// a name between commas, that two labels share means both. Any other phrase that means two labels at the same
    /// level means neither.
    pub fn new(labels: &LabelSet, lexicon: &Lexicon) -> Self {
        let synsets: Vec<Option<SynsetIndex>> = labels.labels().iter().map(|label| lexicon.resolve(label)).collect();
        let mut vocabulary = Self { claims: same_names(labels), ..Self::default() };
        vocabulary.opposites = opposites(labels);
        let mut tiers: [Vec<(String, usize)>; 5] = Default::default();
        for (index, label) in labels.labels().iter().enumerate() {
            let mut short = short_forms(&label.name);
            short.extend(bare_name(label, index, &vocabulary.opposites));
            let direct = [vec![label.name.clone()], label.aliases.clone(), short];
            for (tier, texts) in direct.into_iter().enumerate() {
                tiers[tier].extend(texts.into_iter().map(|text| (text, index)));
            }
            let lemmas = synsets[index].map_or(&[][..], |synset| lexicon.aliases(synset));
            tiers[3].extend(lemmas.iter().map(|lemma| (lemma.clone(), index)));
            tiers[3].extend(number_words(label, labels.answer_type()).map(|word| (word, index)));
        }
        tiers[4] = tiers[..4].concat().iter().flat_map(|(text, index)| inflections(text, *index)).collect();
        vocabulary.add_shared_names(labels);
        let has_keys = labels.answer_type() == AnswerType::Object;
        for tier in tiers {
            vocabulary.add_tier(tier, has_keys);
        }
        vocabulary.names = vocabulary.phrases.keys().cloned().collect();
        vocabulary.add_compounds(&synsets, lexicon);
        if has_keys {
            let keys: Vec<(String, Meaning)> =
                vocabulary.phrases.iter().map(|(words, meaning)| (key_of(words), *meaning)).collect();
            for (key, meaning) in keys {
                vocabulary.keys.entry(key).or_insert(meaning);
            }
        }
        vocabulary
    }

    /// Adds names, parts of names between commas, and the plurals of both that several labels share.
    fn add_shared_names(&mut self, labels: &LabelSet) {
        for (words, owners) in owners_of_names(labels) {
            let id = self.claims.iter().position(|known| *known == owners).unwrap_or_else(|| {
                self.claims.push(owners);
                self.claims.len() - 1
            });
            self.add(words, Meaning::Label(id));
        }
    }

    /// Returns the labels that the [`Meaning::Label`] with this index accepts.
    pub fn claims(&self, meaning: usize) -> &[usize] {
        &self.claims[meaning]
    }

    /// Returns the label's opposite, if the set has one.
    pub fn opposite(&self, label: usize) -> Option<usize> {
        self.opposites.get(label).copied().flatten()
    }

    fn add_tier(&mut self, entries: Vec<(String, usize)>, has_keys: bool) {
        let mut tier: BTreeMap<String, Meaning> = BTreeMap::new();
        let mut keys: BTreeMap<String, Meaning> = BTreeMap::new();
        let add = |to: &mut BTreeMap<String, Meaning>, text: String, index: usize| {
            let meaning = to.entry(text).or_insert(Meaning::Label(index));
            if *meaning != Meaning::Label(index) && !self.means_the_same(*meaning, index) {
                *meaning = Meaning::Opaque;
            }
        };
        for (text, index) in entries {
            for words in [punctuated_phrase(&text), phrase(&text).join(" ")] {
                if !words.is_empty() && !self.phrases.contains_key(&words) {
                    add(&mut tier, words, index);
                }
            }
            for key in [key_of(&text), key_of(&text).replace(' ', "")] {
                if has_keys && !key.is_empty() && !self.keys.contains_key(&key) {
                    add(&mut keys, key, index);
                }
            }
        }
        for (words, meaning) in tier {
            self.add(words, meaning);
        }
        self.keys.extend(keys);
    }

    fn means_the_same(&self, meaning: Meaning, index: usize) -> bool {
        matches!(meaning, Meaning::Label(known) if self.claims[known] == self.claims[index])
    }

    fn add(&mut self, words: String, meaning: Meaning) {
        self.n_words_max = self.n_words_max.max(words.split(' ').count());
        self.phrases.insert(words, meaning);
    }

    /// Adds longer names that end in a label: a kind of it (`school bus`), or something else (`sea lion`).
    fn add_compounds(&mut self, synsets: &[Option<SynsetIndex>], lexicon: &Lexicon) {
        let kinds = lexicon.lemmas().map(|(lemma, senses)| {
            let above: Vec<SynsetIndex> =
                senses.iter().flat_map(|&sense| lexicon.ancestors(sense).into_iter().chain([sense])).collect();
            (lemma, above)
        });
        let compounds = lexicon.compounds().map(|(compound, above)| (compound, above.to_vec()));
        let mut found = Vec::new();
        for (words, above) in kinds.chain(compounds).filter(|(words, _)| words.contains(' ')) {
            let Some(index) = self.label_at_end(words) else { continue };
            let is_kind =
                self.claims[index].iter().any(|&label| synsets[label].is_some_and(|synset| above.contains(&synset)));
            let meaning = if is_kind { Meaning::Label(index) } else { Meaning::Opaque };
            found.push((words.to_owned(), meaning));
            found.extend(plural(words).map(|words| (words, meaning)));
        }
        // One sense that is a kind of the label is enough to mean the label.
        found.sort_by_key(|(_, meaning)| *meaning == Meaning::Opaque);
        for (words, meaning) in found {
            if !self.phrases.contains_key(&words) {
                self.add(words, meaning);
            }
        }
    }

    fn label_at_end(&self, words: &str) -> Option<usize> {
        if self.phrases.contains_key(words) {
            return None;
        }
        let mut rest = words;
        while let Some((_, tail)) = rest.split_once(' ') {
            if let Some(Meaning::Label(index)) = self.phrases.get(tail) {
                return Some(*index);
            }
            rest = tail;
        }
        None
    }

    /// Returns the meaning of a phrase, if it has one.
    pub fn meaning(&self, words: &str) -> Option<Meaning> {
        self.phrases.get(words).copied()
    }

    /// Finds the longest phrases in `tokens`, in order and without overlaps.
    pub fn find(&self, tokens: &[Token]) -> Vec<(Span, Meaning)> {
        let of_key = |key: &str| self.keys.get(key).copied();
        find_spelled(tokens, self.n_words_max + N_WORDS_SPLIT_MAX, |words| self.meaning(words), of_key)
    }
}

/// Finds the phrases that `lookup` accepts, in the order of the answer; of overlapping ones the longest wins. None
/// starts or ends inside a hyphenated word (`bee-eater` is not a bee). Punctuation must be where the phrase has it.
pub fn find<T>(tokens: &[Token], n_words_max: usize, lookup: impl Fn(&str) -> Option<T>) -> Vec<(Span, T)> {
    find_spelled(tokens, n_words_max, lookup, |_| None)
}

/// Works like [`find`], but also tries other spellings if `lookup` does not accept a phrase.
pub fn find_spelled<T>(
    tokens: &[Token],
    n_words_max: usize,
    lookup: impl Fn(&str) -> Option<T>,
    lookup_key: impl Fn(&str) -> Option<T>,
) -> Vec<(Span, T)> {
    let mut candidates: Vec<(Span, T)> = Vec::new();
    for start in 0..tokens.len() {
        if tokens[start].is_joined {
            continue;
        }
        let mut words = String::new();
        for (offset, token) in tokens[start..].iter().take(n_words_max).enumerate() {
            if offset > 0 {
                words.push_str(if token.starts_clause { CLAUSE_SEPARATOR } else { " " });
            }
            words.push_str(&token.text);
            let end = start + offset + 1;
            let span = Span { start, end };
            if tokens.get(end).is_some_and(|next| next.is_joined && !next.starts_clause) {
                continue;
            }
            let spelled = || is_spelling(tokens, span).then(|| lookup_key(&key(&tokens[start..end]))).flatten();
            if let Some(found) = lookup(&words).or_else(spelled) {
                candidates.push((span, found));
            }
        }
    }
    candidates.sort_by_key(|(span, _)| (std::cmp::Reverse(span.end - span.start), span.start));
    let mut taken: Vec<(Span, T)> = Vec::new();
    for (span, found) in candidates {
        if !taken.iter().any(|(other, _)| other.overlaps(span)) {
            taken.push((span, found));
        }
    }
    taken.sort_by_key(|(span, _)| span.start);
    taken
}

/// Whether the words may be one name in another spelling: nothing separates them, and neither end is a filler.
fn is_spelling(tokens: &[Token], span: Span) -> bool {
    let words = &tokens[span.start..span.end];
    let (first, last) = (&words[0], &words[words.len() - 1]);
    let is_article = |token: &Token| matches!(token.text.as_str(), "a" | "an" | "the");
    let is_whole = words.windows(2).all(|pair| !pair[1].starts_clause || is_letter(&pair[0]));
    let letters = words.iter().filter(|token| is_letter(token)).count();
    // `c a t` is spelled out if no other letter is adjacent.
    let is_spelled_out = letters == words.len() && letters >= 3;
    let has_neighbour = span.start.checked_sub(1).is_some_and(|at| is_letter(&tokens[at]))
        || tokens.get(span.end).is_some_and(is_letter);
    if is_spelled_out {
        return !has_neighbour;
    }
    let is_code = words.get(1).is_some_and(|next| next.is_joined);
    is_whole
        && !first.is_slash
        && !last.is_slash
        && (!is_article(first) || is_code || words.len() == 1)
        && !(is_article(last) && words.len() > 1)
}

/// The names of the fine-tuning sets' labels.
#[derive(Clone, Debug, Default)]
pub struct LeakPhrases {
    phrases: BTreeSet<String>,
    keys: BTreeSet<String>,
}

impl LeakPhrases {
    /// Collects the phrases of the fine-tuning sets' labels, without labels that this dataset also has.
    pub fn new(tuned_on: &[&LabelSet], own: &Vocabulary, lexicon: &Lexicon) -> Self {
        let mut leaks = Self::default();
        for set in tuned_on {
            let vocabulary = Vocabulary::new(set, lexicon);
            let mut shared: BTreeSet<usize> = BTreeSet::new();
            // Longer names that only end in a label's name (`pickup truck`) do not make a label shared.
            for words in &vocabulary.names {
                if let (Some(Meaning::Label(index)), Some(Meaning::Label(_))) =
                    (vocabulary.meaning(words), own.meaning(words))
                {
                    shared.extend(vocabulary.claims(index));
                }
            }
            let is_leak = |meaning: &Meaning| matches!(meaning, Meaning::Label(index) if !vocabulary.claims(*index).iter().any(|label| shared.contains(label)));
            leaks.phrases.extend(
                vocabulary.phrases.iter().filter(|(_, meaning)| is_leak(meaning)).map(|(words, _)| words.clone()),
            );
            leaks
                .keys
                .extend(vocabulary.keys.iter().filter(|(_, meaning)| is_leak(meaning)).map(|(key, _)| key.clone()));
        }
        leaks
    }

    /// Returns their spans in an answer.
    pub fn find(&self, tokens: &[Token], n_words_max: usize) -> Vec<Span> {
        let of = |known: &BTreeSet<String>, words: &str| known.contains(words).then_some(());
        let found = find_spelled(tokens, n_words_max, |words| of(&self.phrases, words), |key| of(&self.keys, key));
        found.into_iter().map(|(span, ())| span).collect()
    }
}

/// The most additional words into which an answer may split a name: `pick up truck`.
const N_WORDS_SPLIT_MAX: usize = 2;

/// Returns, by label, the label that denies it: `not x`, `no x`, `non-x`, and `without x` for `with x`.
fn opposites(labels: &LabelSet) -> Vec<Option<usize>> {
    let names: Vec<Vec<String>> = labels.names().map(phrase).collect();
    names
        .iter()
        .map(|words| {
            let base = words.strip_prefix(&["with".to_owned()][..]).unwrap_or(words);
            let denies = |other: &Vec<String>| {
                other.len() == base.len() + 1 && DENIALS_IN_NAMES.contains(&other[0].as_str()) && other[1..] == *base
            };
            names.iter().position(denies).filter(|_| !base.is_empty())
        })
        .collect()
}

/// Returns `mask` for `with mask` if `without mask` is also a label.
fn bare_name(label: &Label, index: usize, opposites: &[Option<usize>]) -> Option<String> {
    opposites[index]?;
    let words = phrase(&label.name);
    words.strip_prefix(&["with".to_owned()][..]).map(|base| base.join(" "))
}

/// Splits camel case: `AnnualCrop` becomes `Annual Crop`.
pub fn without_camel_case(name: &str) -> String {
    let characters: Vec<char> = name.chars().collect();
    let mut split = String::with_capacity(name.len() + 4);
    for (at, &c) in characters.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| characters[at]);
        let begins = before.is_some_and(char::is_lowercase)
            || before.is_some_and(char::is_uppercase) && characters.get(at + 1).is_some_and(|next| next.is_lowercase());
        if c.is_uppercase() && begins {
            split.push(' ');
        }
        split.push(c);
    }
    split
}

/// Returns short forms: `kite` for `kite (bird of prey)`, and both parts of `tench, Tinca tinca` and `wool / yarn`.
fn short_forms(name: &str) -> Vec<String> {
    let mut forms: Vec<String> = Vec::new();
    if let Some((before, _)) = name.split_once('(') {
        forms.push(before.trim().to_owned());
    }
    if !name.contains(' ') && without_camel_case(name) != name {
        forms.push(without_camel_case(name));
    }
    for separator in [",", " / "] {
        if name.contains(separator) {
            forms.extend(name.split(separator).map(|part| part.trim().to_owned()));
        }
    }
    forms
}

fn number_words(label: &Label, answer_type: AnswerType) -> impl Iterator<Item = String> {
    let value: Option<usize> = label.name.trim().parse().ok();
    let value = value.filter(|_| answer_type == AnswerType::Number);
    let word = value.and_then(|value| NUMBER_WORDS.get(value).copied());
    let numeral = value.and_then(|value| NUMERALS.get(value).copied());
    word.into_iter().chain(numeral).map(str::to_owned)
}

const IRREGULAR_PLURALS: [(&str, &str); 14] = [
    ("man", "men"),
    ("woman", "women"),
    ("mouse", "mice"),
    ("wolf", "wolves"),
    ("leaf", "leaves"),
    ("knife", "knives"),
    ("goose", "geese"),
    ("foot", "feet"),
    ("tooth", "teeth"),
    ("child", "children"),
    ("ox", "oxen"),
    ("cactus", "cacti"),
    ("calf", "calves"),
    ("loaf", "loaves"),
];

/// Returns the plural of the last word, and the singular if it is already a plural.
pub(super) fn inflections(text: &str, index: usize) -> Vec<(String, usize)> {
    let words = phrase(text).join(" ");
    let is_word = words.chars().last().is_some_and(char::is_alphabetic);
    if !is_word || words.chars().count() < 2 {
        return Vec::new();
    }
    plural(&words).into_iter().chain(singular(&words)).map(|words| (words, index)).collect()
}

pub(super) fn plural(words: &str) -> Option<String> {
    let (before, last) = words.rsplit_once(' ').map_or(("", words), |(before, last)| (before, last));
    let join = |last: String| if before.is_empty() { last } else { format!("{before} {last}") };
    if let Some((_, plural)) = IRREGULAR_PLURALS.iter().find(|(singular, _)| *singular == last) {
        return Some(join((*plural).to_owned()));
    }
    for (singular, plural) in [("man", "men"), ("mouse", "mice")] {
        if let Some(stem) = last.strip_suffix(singular).filter(|stem| stem.len() > 2) {
            return Some(join(format!("{stem}{plural}")));
        }
    }
    let ends = |ending: &[&str]| ending.iter().any(|ending| last.ends_with(ending));
    if ends(&["s", "x", "z", "ch", "sh"]) {
        return Some(join(format!("{last}es")));
    }
    match last.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => Some(join(format!("{stem}ies"))),
        _ => Some(join(format!("{last}s"))),
    }
}

pub(super) fn singular(words: &str) -> Option<String> {
    let (stem, is_long) = (words.strip_suffix('s')?, words.rsplit(' ').next().is_some_and(|last| last.len() > 3));
    let is_plural = is_long && !stem.ends_with(['s', 'u', 'i']) && !words.ends_with("ies");
    match words.strip_suffix("ies") {
        Some(stem) if is_long => Some(format!("{stem}y")),
        _ => is_plural.then(|| stem.to_owned()),
    }
}

#[cfg(test)]
mod tests;
