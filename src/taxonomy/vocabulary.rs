//! What the labels of a dataset are called, and which longer names only contain a label.

use std::collections::{BTreeMap, BTreeSet};

use super::lexicon::{Lexicon, SynsetIndex};
use super::tokens::{CLAUSE_SEPARATOR, Token, phrase, punctuated_phrase};
use super::words::NUMBER_WORDS;
use crate::domain::{AnswerType, Label, LabelSet};

/// What a phrase means in a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The label of that index.
    Label(usize),
    /// Nothing that can be told: several labels, or a thing that only has a label in its name (`hot dog`).
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
    n_words_max: usize,
}

impl Vocabulary {
    /// All that the labels are called: names before aliases, aliases before what is derived from either. A phrase
    /// that means two labels on the same footing means neither.
    pub fn new(labels: &LabelSet, lexicon: &Lexicon) -> Self {
        let synsets: Vec<Option<SynsetIndex>> = labels.labels().iter().map(|label| lexicon.resolve(label)).collect();
        let mut vocabulary = Self::default();
        let mut tiers: [Vec<(String, usize)>; 5] = Default::default();
        for (index, label) in labels.labels().iter().enumerate() {
            let direct = [vec![label.name.clone()], label.aliases.clone(), short_forms(&label.name)];
            for (tier, texts) in direct.into_iter().enumerate() {
                tiers[tier].extend(texts.into_iter().map(|text| (text, index)));
            }
            let lemmas = synsets[index].map_or(&[][..], |synset| lexicon.aliases(synset));
            tiers[3].extend(lemmas.iter().map(|lemma| (lemma.clone(), index)));
            tiers[3].extend(number_words(label, labels.answer_type()).map(|word| (word, index)));
        }
        tiers[4] = tiers[..4].concat().iter().flat_map(|(text, index)| inflections(text, *index)).collect();
        for tier in tiers {
            vocabulary.add_tier(tier);
        }
        vocabulary.add_compounds(&synsets, lexicon);
        vocabulary
    }

    fn add_tier(&mut self, entries: Vec<(String, usize)>) {
        let mut tier: BTreeMap<String, Meaning> = BTreeMap::new();
        for (text, index) in entries {
            for words in [punctuated_phrase(&text), phrase(&text).join(" ")] {
                if words.is_empty() || self.phrases.contains_key(&words) {
                    continue;
                }
                let meaning = tier.entry(words).or_insert(Meaning::Label(index));
                if *meaning != Meaning::Label(index) {
                    *meaning = Meaning::Opaque;
                }
            }
        }
        for (words, meaning) in tier {
            self.add(words, meaning);
        }
    }

    fn add(&mut self, words: String, meaning: Meaning) {
        self.n_words_max = self.n_words_max.max(words.split(' ').count());
        self.phrases.insert(words, meaning);
    }

    /// Longer names that end in a label: a kind of it (`school bus`), or something else (`sea lion`).
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
            let is_kind = synsets[index].is_some_and(|synset| above.contains(&synset));
            let meaning = if is_kind { Meaning::Label(index) } else { Meaning::Opaque };
            found.push((words.to_owned(), meaning));
            found.extend(plural(words).map(|words| (words, meaning)));
        }
        // One sense that is a kind of the label is enough to keep the label.
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

    /// What a phrase means, if anything.
    pub fn meaning(&self, words: &str) -> Option<Meaning> {
        self.phrases.get(words).copied()
    }

    /// The longest phrases of `tokens`, in order, none overlapping.
    pub fn find(&self, tokens: &[Token]) -> Vec<(Span, Meaning)> {
        find(tokens, self.n_words_max, |words| self.meaning(words))
    }
}

/// The phrases that `lookup` knows, longest first, in the order of the answer; none overlaps another, and none
/// begins or ends inside a hyphenated word (`bee-eater` is no bee). Punctuation has to stand where the phrase has it.
pub fn find<T>(tokens: &[Token], n_words_max: usize, lookup: impl Fn(&str) -> Option<T>) -> Vec<(Span, T)> {
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
            let is_cut = tokens.get(end).is_some_and(|next| next.is_joined && !next.starts_clause);
            if let (false, Some(found)) = (is_cut, lookup(&words)) {
                candidates.push((Span { start, end }, found));
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

/// The phrases of the fine-tuning sets' labels, without labels that this dataset has too.
pub fn leak_phrases(tuned_on: &[&LabelSet], own: &Vocabulary, lexicon: &Lexicon) -> BTreeSet<String> {
    let mut phrases = BTreeSet::new();
    for set in tuned_on {
        let vocabulary = Vocabulary::new(set, lexicon);
        let mut shared = BTreeSet::new();
        for (words, meaning) in &vocabulary.phrases {
            if let (Meaning::Label(index), Some(Meaning::Label(_))) = (meaning, own.meaning(words)) {
                shared.insert(*index);
            }
        }
        for (words, meaning) in &vocabulary.phrases {
            if let Meaning::Label(index) = meaning
                && !shared.contains(index)
            {
                phrases.insert(words.clone());
            }
        }
    }
    phrases
}

/// `kite (bird of prey)` is a kite, and `tench, Tinca tinca` and `wool / yarn` are either.
fn short_forms(name: &str) -> Vec<String> {
    let mut forms: Vec<String> = Vec::new();
    if let Some((before, _)) = name.split_once('(') {
        forms.push(before.trim().to_owned());
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
    let word = value.filter(|_| answer_type == AnswerType::Number).and_then(|value| NUMBER_WORDS.get(value));
    word.map(|word| (*word).to_owned()).into_iter()
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

/// The plural of the last word, and the singular where it is one already.
fn inflections(text: &str, index: usize) -> Vec<(String, usize)> {
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

fn singular(words: &str) -> Option<String> {
    let (stem, is_long) = (words.strip_suffix('s')?, words.rsplit(' ').next().is_some_and(|last| last.len() > 3));
    let is_plural = is_long && !stem.ends_with(['s', 'u', 'i']) && !words.ends_with("ies");
    match words.strip_suffix("ies") {
        Some(stem) if is_long => Some(format!("{stem}y")),
        _ => is_plural.then(|| stem.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_follow_the_spelling() {
        for (one, many) in [
            ("cat", "cats"),
            ("bus", "buses"),
            ("butterfly", "butterflies"),
            ("ray", "rays"),
            ("pickup truck", "pickup trucks"),
            ("woman", "women"),
            ("wolf", "wolves"),
        ] {
            assert_eq!(plural(one).unwrap(), many);
        }
        assert_eq!(singular("cows").unwrap(), "cow");
        assert_eq!(singular("bus"), None);
        assert_eq!(singular("kine"), None);
    }

    #[test]
    fn a_name_beats_an_alias_and_equals_cancel() {
        let mut dog = Label::named("dog");
        dog.aliases = vec!["cat".into(), "pet".into()];
        let mut cat = Label::named("cat");
        cat.aliases = vec!["pet".into()];
        let labels = LabelSet::new(vec![dog, cat], AnswerType::Object).unwrap();
        let vocabulary = Vocabulary::new(&labels, &Lexicon::default());
        assert_eq!(vocabulary.meaning("cat"), Some(Meaning::Label(1)));
        assert_eq!(vocabulary.meaning("pet"), Some(Meaning::Opaque));
        assert_eq!(vocabulary.meaning("dogs"), Some(Meaning::Label(0)));
    }
}
