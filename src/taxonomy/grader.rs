//! Grades an answer: gathers the evidence, which [`weigh`] turns into a finding.

use std::collections::{BTreeMap, BTreeSet};

use super::decide::{Evidence, Finding, Labels, Relation, weigh};
use super::denial::{Denials, denials};
use super::lexicon::{Lexicon, SynsetIndex};
use super::tokens::{Token, fold, phrase, tokens};
use super::vocabulary::{LeakPhrases, Meaning, Span, Vocabulary, find, plural, singular, without_camel_case};
use super::words::{
    APOLOGIES, CATEGORIES, NUMBER_WORDS, OPTIONS, REFUSALS, WEAK_REFUSALS, is_alternative, is_attributive,
    is_function_word, is_harmless_adjective, is_hedge, is_helping_verb, is_pronoun_one, takes_over_as_head,
};
use crate::domain::{AnswerType, Judgement, LabelSet};

/// The fewest labels in prompt order, and the smallest share of the set, that make a list an echo. The thresholds are
/// our own; we know of no published ones.
const N_ECHO_MIN: usize = 3;
const ECHO_SHARE_MIN: f64 = 0.3;

/// The most content words of an answer that the rules can be certain about.
const N_CERTAIN_WORDS_MAX: usize = 6;

/// The longest phrases of lexicon and fine-tuning sets that are searched, in words.
const N_PHRASE_WORDS_MAX: usize = 8;

/// A finding, and whether the rules may decide it without a language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reading {
    /// The finding.
    pub finding: Finding,
    /// Whether no other reading of the answer is likely. It never depends on the fine-tuning sets.
    pub certain: bool,
    /// Whether the answer names an ancestor of the label (`dog` for a hound), with any code.
    pub names_ancestor: bool,
}

impl Reading {
    /// Returns the verdict of the judge `rules` if it decides alone: nothing is undecided.
    pub fn verdict(&self) -> Judgement {
        match self.finding {
            Finding::Correct { .. } => Judgement::Correct,
            Finding::Error(_) => Judgement::Incorrect,
        }
    }

    /// Returns the verdict of the judge `rules` next to another judge: undecided if it is not certain.
    pub fn verdict_where_certain(&self) -> Judgement {
        if self.certain { self.verdict() } else { Judgement::Undecided }
    }
}

/// The rules compiled for one dataset.
#[derive(Clone, Debug)]
pub struct Grader {
    n_labels: usize,
    answer_type: AnswerType,
    vocabulary: Vocabulary,
    /// Labels' names as whole answers. A label without a letter or digit can only match here.
    names: BTreeMap<String, Option<usize>>,
    leaks: LeakPhrases,
    /// Names of things that clash with a number; empty for object labels.
    objects: BTreeSet<String>,
    relatives: BTreeMap<String, Vec<SynsetIndex>>,
    kin: Vec<Kin>,
}

/// The position of a label in the lexicon.
#[derive(Clone, Debug, Default)]
struct Kin {
    synset: Option<SynsetIndex>,
    ancestors: BTreeSet<SynsetIndex>,
    descendants: BTreeSet<SynsetIndex>,
    /// The proper endings of its name: `dog` of `African hunting dog`.
    heads: BTreeSet<String>,
    /// Whether the lexicon lists its name as a noun, in any sense.
    is_noun: bool,
}

/// A phrase of the vocabulary in an answer, with its role.
#[derive(Clone, Copy, Debug)]
struct Sighting {
    span: Span,
    meaning: Meaning,
    is_answer: bool,
}

/// The content of an answer, independent of the right label.
struct Scan {
    tokens: Vec<Token>,
    sightings: Vec<Sighting>,
    /// The labels that the answer may mean, in order, each with those that the answer cannot distinguish from it.
    mentions: Vec<Vec<usize>>,
    /// Positions of content words outside the mentions.
    residue: Vec<usize>,
    denials: Denials,
    is_refusal: bool,
}

impl Grader {
    /// Compiles `labels` with their aliases. `tuned_on` are the label sets of the fine-tuning data. They change the
    /// code of an error, never whether an answer is an error.
    pub fn new(labels: &LabelSet, tuned_on: &[&LabelSet], lexicon: &Lexicon) -> Self {
        let vocabulary = Vocabulary::new(labels, lexicon);
        let mut names: BTreeMap<String, Option<usize>> = BTreeMap::new();
        for (index, name) in labels.names().enumerate() {
            let meaning = match vocabulary.meaning(&phrase(name).join(" ")) {
                Some(Meaning::Label(shared)) if vocabulary.claims(shared).contains(&index) => shared,
                _ => index,
            };
            let is_same = |known: usize| vocabulary.claims(known) == vocabulary.claims(meaning);
            let named = names.entry(fold(name).trim().to_owned()).or_insert(Some(meaning));
            *named = named.filter(|&known| is_same(known));
        }
        let is_number = labels.answer_type() == AnswerType::Number;
        let objects = if is_number { lexicon.names().map(str::to_owned).collect() } else { BTreeSet::new() };
        let kin = kin(labels, &vocabulary, lexicon);
        Self {
            n_labels: labels.len(),
            answer_type: labels.answer_type(),
            names,
            leaks: LeakPhrases::new(tuned_on, &vocabulary, lexicon),
            objects,
            relatives: relatives(&kin, lexicon),
            kin,
            vocabulary,
        }
    }

    /// Grades `answer` against the label at index `label` of the set.
    pub fn grade(&self, label: usize, answer: &str) -> Reading {
        if let Some(Some(named)) = self.names.get(fold(answer).trim()) {
            return self.plain_reading(label, *named);
        }
        let scan = self.scan(answer);
        let relation = self.relation(label, &scan);
        let leaks = self.leak_spans(&scan);
        let labels = self.labels(label, &scan);
        let has_label = matches!(labels, Labels::Right | Labels::Other);
        let evidence = Evidence {
            has_content: !scan.mentions.is_empty() || !scan.residue.is_empty() || scan.denials.has_any,
            is_refusal: scan.is_refusal,
            is_unclear: scan.is_unclear(),
            labels,
            has_type_clash: has_label && self.has_type_clash(&scan),
            has_leak: !leaks.is_empty(),
            relation,
            has_residue: scan.residue.iter().any(|&at| !leaks.iter().any(|span| (span.start..span.end).contains(&at))),
        };
        let finding = weigh(&evidence);
        let names_ancestor = relation == Some(Relation::Ancestor)
            || scan.mentions.iter().flatten().any(|&mention| self.is_ancestor(mention, label));
        Reading { finding, certain: is_certain(&evidence, &scan), names_ancestor }
    }

    /// Returns the reading of an answer that is exactly a label's name. `named` is the meaning of that name.
    fn plain_reading(&self, label: usize, named: usize) -> Reading {
        let evidence = Evidence {
            has_content: true,
            is_refusal: false,
            is_unclear: false,
            labels: if self.vocabulary.claims(named).contains(&label) { Labels::Right } else { Labels::Other },
            has_type_clash: false,
            has_leak: false,
            relation: None,
            has_residue: false,
        };
        let names_ancestor = self.vocabulary.claims(named).iter().any(|&named| self.is_ancestor(named, label));
        Reading { finding: weigh(&evidence), certain: true, names_ancestor }
    }

    fn scan(&self, answer: &str) -> Scan {
        let tokens = tokens(answer, self.answer_type == AnswerType::Number);
        let mut found = self.vocabulary.find(&tokens);
        found.retain(|(span, _)| !is_no_noun(&tokens, *span));
        let is_answer: Vec<bool> = (0..found.len()).map(|i| self.is_answer(&tokens, &found, i)).collect();
        let mut sightings: Vec<Sighting> = found
            .into_iter()
            .zip(is_answer)
            .map(|((span, meaning), is_answer)| Sighting { span, meaning, is_answer })
            .collect();
        let denials = denials_in(&tokens, &sightings);
        let mut denied = Vec::new();
        let mut mentions = Vec::new();
        for sighting in &mut sightings {
            let Meaning::Label(meaning) = sighting.meaning else { continue };
            if !sighting.is_answer {
                continue;
            }
            if denials.is_denied[sighting.span.start] {
                sighting.is_answer = false;
                denied.push(meaning);
            } else {
                mention(&mut mentions, self.vocabulary.claims(meaning));
            }
        }
        // `There is no mask` means `without mask`.
        if mentions.is_empty() && !denials.is_undecided {
            for opposite in denied.into_iter().filter_map(|label| self.vocabulary.opposite(label)) {
                mention(&mut mentions, self.vocabulary.claims(opposite));
            }
        }
        let mut is_covered = denials.is_denied.clone();
        for sighting in sightings.iter().filter(|sighting| sighting.is_answer && sighting.meaning != Meaning::Opaque) {
            is_covered[sighting.span.start..sighting.span.end].fill(true);
        }
        let residue = (0..tokens.len())
            .filter(|&at| !is_covered[at] && (is_content(&tokens, at) || is_sighted(&sightings, at)))
            .collect();
        let is_refusal = is_refusal(answer, !mentions.is_empty(), denials.is_sorry);
        Scan { tokens, sightings, mentions, residue, denials, is_refusal }
    }

    fn labels(&self, label: usize, scan: &Scan) -> Labels {
        match scan.mentions[..] {
            [] => Labels::None,
            [ref only] if only.contains(&label) => Labels::Right,
            [_] => Labels::Other,
            ref several => {
                let n_echo = (ECHO_SHARE_MIN * self.n_labels as f64).max(N_ECHO_MIN as f64);
                Labels::Several { is_echo: several.is_sorted() && several.len() as f64 >= n_echo }
            }
        }
    }

    /// Whether the answer has a clash. Among objects it is a digit that counts nothing (`The airplane is 8.`), among
    /// numbers the name of a thing.
    fn has_type_clash(&self, scan: &Scan) -> bool {
        if self.answer_type == AnswerType::Number {
            let objects = find(&scan.tokens, N_PHRASE_WORDS_MAX, |words| self.objects.contains(words).then_some(()));
            return objects.iter().any(|(span, ())| !scan.is_answer_at(*span) && scan.is_head(*span));
        }
        (0..scan.tokens.len()).any(|at| {
            let span = Span { start: at, end: at + 1 };
            let word = scan.tokens[at].text.as_str();
            // `one` is more often a pronoun than a digit.
            let is_digit = word.len() == 1 && word.as_bytes()[0].is_ascii_digit()
                || word != "one" && NUMBER_WORDS[..10].contains(&word);
            let is_option = at == 0 || OPTIONS.contains(&scan.tokens[at - 1].text.as_str());
            let is_list_number = is_option && scan.tokens.get(at + 1).is_some_and(|next| next.starts_clause);
            is_digit
                && !is_list_number
                && !scan.denials.is_denied[at]
                && !scan.tokens[at].is_joined
                && !scan.is_answer_at(span)
                && !scan.counts_something(at)
                && !scan.tokens[at].is_background
        })
    }

    /// Returns the spans of the fine-tuning sets' labels. The longest phrase counts, from whichever set: an `aircraft
    /// carrier` is not an aircraft. Phrases that mean this set's labels are kept, since the fine-tuning sets must not
    /// change outcomes.
    fn leak_spans(&self, scan: &Scan) -> Vec<Span> {
        let is_longer = |span: Span| {
            scan.sightings.iter().filter(|sighting| sighting.span.overlaps(span)).all(|sighting| {
                let (start, end) = (sighting.span.start, sighting.span.end);
                !sighting.is_answer && span.start <= start && end <= span.end && end - start < span.end - span.start
            })
        };
        let spans = self.leaks.find(&scan.tokens, N_PHRASE_WORDS_MAX).into_iter();
        spans
            .filter(|span| (scan.is_free(*span) || is_longer(*span)) && scan.is_head(*span) && !scan.is_denied(*span))
            .collect()
    }

    /// Returns the relation to the label of the first related thing in the answer.
    fn relation(&self, label: usize, scan: &Scan) -> Option<Relation> {
        let kin = &self.kin[label];
        let relation = |words: &str| {
            let synsets = self.relatives.get(words).map_or(&[][..], Vec::as_slice);
            if kin.heads.contains(words) || synsets.iter().any(|synset| kin.ancestors.contains(synset)) {
                Some(Relation::Ancestor)
            } else {
                synsets.iter().any(|synset| kin.descendants.contains(synset)).then_some(Relation::Descendant)
            }
        };
        let found = find(&scan.tokens, N_PHRASE_WORDS_MAX, relation);
        let is_said = |span: Span| scan.is_free(span) && scan.is_head(span) && !scan.is_denied(span);
        found.into_iter().find(|(span, _)| is_said(*span)).map(|(_, relation)| relation)
    }

    /// Whether the phrase at `index` may be the answer: not a modifier (`bird cage`), not a place (`in a tank`).
    fn is_answer(&self, tokens: &[Token], found: &[(Span, Meaning)], index: usize) -> bool {
        let (span, meaning) = found[index];
        let last = &tokens[span.end - 1];
        // The first word decides, since a `through arch bridge` has a preposition in its name.
        if tokens[span.start].is_background {
            return false;
        }
        let Some(next) = next_in_clause(tokens, span.end) else { return true };
        let follower = found.get(index + 1).filter(|(other, _)| other.start == span.end).map(|(_, meaning)| *meaning);
        match follower {
            Some(same) if same == meaning => true,
            Some(Meaning::Label(_)) => {
                let is_one_word = span.end - span.start == 1;
                !(last.is_possessive || is_one_word && is_attributive(&last.text))
            }
            Some(Meaning::Opaque) => false,
            None => !takes_over_as_head(&next.text) || self.is_category_behind(tokens, span, meaning),
        }
    }

    /// Whether the word after a label only names the label's category: `a tulip flower`, `residential area`.
    fn is_category_behind(&self, tokens: &[Token], span: Span, meaning: Meaning) -> bool {
        let Meaning::Label(meaning) = meaning else { return false };
        let word = tokens[span.end].text.as_str();
        let is_last = next_in_clause(tokens, span.end + 1).is_none_or(|next| !takes_over_as_head(&next.text));
        let synsets = self.relatives.get(word).map_or(&[][..], Vec::as_slice);
        let is_above = |&label: &usize| {
            let kin = &self.kin[label];
            let is_known = kin.synset.is_some() || kin.is_noun && span.end - span.start == 1;
            if is_known {
                synsets.iter().any(|synset| kin.ancestors.contains(synset))
            } else {
                CATEGORIES.contains(&word)
            }
        };
        is_last && !tokens[span.end - 1].is_possessive && self.vocabulary.claims(meaning).iter().all(is_above)
    }

    fn is_ancestor(&self, candidate: usize, label: usize) -> bool {
        let kin = &self.kin[label];
        self.kin[candidate].synset.is_some_and(|synset| kin.ancestors.contains(&synset))
    }
}

impl Scan {
    /// Whether `span` overlaps a label that the answer may mean.
    fn is_answer_at(&self, span: Span) -> bool {
        self.sightings.iter().any(|sighting| {
            sighting.is_answer && sighting.span.overlaps(span) && matches!(sighting.meaning, Meaning::Label(_))
        })
    }

    /// Whether no phrase of the labels' vocabulary overlaps `span`; an unclear phrase at exactly `span` is allowed.
    fn is_free(&self, span: Span) -> bool {
        !self.sightings.iter().any(|sighting| {
            sighting.span.overlaps(span) && (sighting.span != span || sighting.meaning != Meaning::Opaque)
        })
    }

    /// Whether the words are the thing itself, not a modifier of the next word and not the place of something else.
    fn is_head(&self, span: Span) -> bool {
        let next = next_in_clause(&self.tokens, span.end);
        !self.tokens[span.start].is_background && !next.is_some_and(|next| takes_over_as_head(&next.text))
    }

    /// Whether the number at `at` counts what follows (`two cats`).
    fn counts_something(&self, at: usize) -> bool {
        next_in_clause(&self.tokens, at + 1).is_some_and(|next| takes_over_as_head(&next.text))
    }

    fn is_denied(&self, span: Span) -> bool {
        self.denials.is_denied[span.start]
    }

    fn is_unclear(&self) -> bool {
        let is_choice = self.tokens.iter().enumerate().any(|(at, token)| {
            is_alternative(&token.text) && !is_sighted(&self.sightings, at) && !self.denials.is_denied[at]
        });
        let offers_something_else = self.mentions.len() == 1 && !self.has_harmless_residue() && is_choice;
        self.denials.is_undecided || offers_something_else || self.calls_it_something_else()
    }

    /// Whether a label is called an unknown thing: `rocket is a ship` means neither. Another label would make it
    /// several.
    fn calls_it_something_else(&self) -> bool {
        let word = |at| next_in_clause(&self.tokens, at).map(|token| token.text.as_str());
        self.mentions.len() == 1
            && self.sightings.iter().filter(|sighting| sighting.is_answer).any(|sighting| {
                let after = sighting.span.end + 2;
                let is_equation =
                    matches!(word(after - 2), Some("is" | "are")) && matches!(word(after - 1), Some("a" | "an"));
                let n_words = self.tokens.iter().skip(after).take_while(|token| !token.starts_clause).count();
                let rest = Span { start: after, end: after + n_words };
                is_equation
                    && !self.is_answer_at(rest)
                    && self.residue.iter().any(|&at| {
                        (rest.start..rest.end).contains(&at) && !is_harmless_adjective(&self.tokens[at].text)
                    })
            })
    }

    /// Whether two labels are adjacent: `couch bed` may be a list or one thing.
    fn has_adjacent_labels(&self) -> bool {
        self.sightings.windows(2).any(|pair| {
            pair[0].span.end == pair[1].span.start
                && pair[0].meaning != pair[1].meaning
                && next_in_clause(&self.tokens, pair[1].span.start).is_some()
        })
    }

    fn has_harmless_residue(&self) -> bool {
        self.residue.iter().all(|&at| is_harmless_adjective(&self.tokens[at].text))
    }
}

/// Adds the labels of one more mention. They narrow down an earlier mention that may mean the same.
fn mention(mentions: &mut Vec<Vec<usize>>, labels: &[usize]) {
    for known in &mut *mentions {
        let both: Vec<usize> = known.iter().copied().filter(|label| labels.contains(label)).collect();
        if !both.is_empty() {
            *known = both;
            return;
        }
    }
    mentions.push(labels.to_vec());
}

fn denials_in(tokens: &[Token], sightings: &[Sighting]) -> Denials {
    let covered = |counts: &dyn Fn(&Sighting) -> bool| {
        let mut covered = vec![false; tokens.len()];
        for sighting in sightings.iter().filter(|sighting| counts(sighting)) {
            covered[sighting.span.start..sighting.span.end].fill(true);
        }
        covered
    };
    let is_name = covered(&|sighting| sighting.is_answer && sighting.meaning != Meaning::Opaque);
    denials(tokens, &is_name, &covered(&|_| true))
}

/// Whether the answer declines. An apology that only corrects does not count.
fn is_refusal(answer: &str, has_label: bool, is_correction: bool) -> bool {
    let words = format!(" {} ", phrase(answer).join(" "));
    let says = |turns: &[&str]| turns.iter().any(|turn| words.contains(&format!(" {turn} ")));
    REFUSALS.iter().any(|turn| says(&[turn]) && !(has_label && is_correction && APOLOGIES.contains(turn)))
        || !has_label && says(WEAK_REFUSALS)
}

fn is_sighted(sightings: &[Sighting], at: usize) -> bool {
    sightings.iter().any(|sighting| (sighting.span.start..sighting.span.end).contains(&at))
}

fn is_content(tokens: &[Token], at: usize) -> bool {
    !is_function_word(&tokens[at].text) && !is_no_noun(tokens, Span { start: at, end: at + 1 })
}

fn next_in_clause(tokens: &[Token], at: usize) -> Option<&Token> {
    tokens.get(at).filter(|token| !token.starts_clause)
}

/// Whether the rules may decide without a language model. `has_leak` is not used, since outcomes must not depend on it.
fn is_certain(evidence: &Evidence, scan: &Scan) -> bool {
    if !evidence.has_content {
        return true;
    }
    if evidence.is_refusal {
        return scan.mentions.is_empty();
    }
    let is_short = scan.residue.len() + scan.mentions.len() <= N_CERTAIN_WORDS_MAX;
    let is_clash_only = evidence.has_type_clash
        && scan.residue.iter().all(|&at| {
            let word = scan.tokens[at].text.as_str();
            is_harmless_adjective(word) || word.len() == 1 || NUMBER_WORDS.contains(&word)
        });
    let is_plain = scan.has_harmless_residue() || is_clash_only;
    let is_hedged = scan.tokens.iter().any(|token| is_hedge(&token.text));
    match evidence.labels {
        _ if evidence.is_unclear || scan.denials.has_any => false,
        Labels::None => false,
        Labels::Several { is_echo: true } => true,
        Labels::Several { is_echo: false } => is_plain && !scan.has_adjacent_labels(),
        Labels::Right | Labels::Other => is_plain && is_short && !is_hedged,
    }
}

/// Whether a word is not a noun here: a helping verb, or the pronoun `one`.
fn is_no_noun(tokens: &[Token], span: Span) -> bool {
    if span.end - span.start > 1 {
        return false;
    }
    let word = tokens[span.start].text.as_str();
    let previous =
        span.start.checked_sub(1).filter(|_| !tokens[span.start].starts_clause).map(|at| tokens[at].text.as_str());
    let next = next_in_clause(tokens, span.end).map(|token| token.text.as_str());
    is_helping_verb(previous, word, next) || word == "one" && is_pronoun_one(previous, next)
}

fn kin(labels: &LabelSet, vocabulary: &Vocabulary, lexicon: &Lexicon) -> Vec<Kin> {
    let mut kin: Vec<Kin> = labels
        .labels()
        .iter()
        .map(|label| {
            let synset = lexicon.resolve(label);
            let ancestors = synset.map(|synset| lexicon.ancestors(synset)).unwrap_or_default();
            let name = phrase(&label.name).join(" ");
            let is_noun = lexicon.knows(&name) || lexicon.knows(&singular(&name).unwrap_or_default());
            Kin { synset, ancestors, descendants: BTreeSet::new(), heads: heads(&label.name, vocabulary), is_noun }
        })
        .collect();
    let mut labels_of: BTreeMap<SynsetIndex, Vec<usize>> = BTreeMap::new();
    for (index, synset) in kin.iter().enumerate().filter_map(|(index, kin)| Some((index, kin.synset?))) {
        labels_of.entry(synset).or_default().push(index);
    }
    for synset in 0..lexicon.len() {
        for above in lexicon.ancestors(synset) {
            for &label in labels_of.get(&above).map_or(&[][..], Vec::as_slice) {
                kin[label].descendants.insert(synset);
            }
        }
    }
    kin
}

/// Returns the proper endings of a name that are not labels themselves; they name a fine class coarsely.
fn heads(name: &str, vocabulary: &Vocabulary) -> BTreeSet<String> {
    let name = without_camel_case(name.split('(').next().unwrap_or(name));
    let words = phrase(name.split(',').next().unwrap_or(&name));
    (1..words.len())
        .map(|start| words[start..].join(" "))
        .filter(|end| vocabulary.meaning(end).is_none() && !is_function_word(end))
        .collect()
}

/// Returns the lemmas, singular and plural, of everything related to any label.
fn relatives(kin: &[Kin], lexicon: &Lexicon) -> BTreeMap<String, Vec<SynsetIndex>> {
    let near: BTreeSet<SynsetIndex> =
        kin.iter().flat_map(|kin| kin.ancestors.iter().chain(&kin.descendants).copied()).collect();
    let mut relatives: BTreeMap<String, Vec<SynsetIndex>> = BTreeMap::new();
    for (lemma, synsets) in lexicon.lemmas() {
        let synsets: Vec<SynsetIndex> = synsets.iter().copied().filter(|synset| near.contains(synset)).collect();
        if synsets.is_empty() {
            continue;
        }
        for words in plural(lemma).into_iter().chain([lemma.to_owned()]) {
            relatives.entry(words).or_default().extend(&synsets);
        }
    }
    relatives
}
