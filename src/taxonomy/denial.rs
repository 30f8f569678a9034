//! Finds what an answer denies or takes back: `not X but Y`, `X? No, Y`, `I first thought X, but it is Y`.

use super::tokens::{Mark, Token};
use super::words::{
    ADVERSATIVES, BELIEFS, COMPARISONS, CORRECTIONS, HARMLESS_NEGATIONS, NP_DENIALS, SETTLING, UNDECIDED, UNSURE,
    WEAK_BELIEFS, ends_denial, is_absence, is_function_word, is_negator,
};

/// The denied words of an answer.
#[derive(Clone, Debug, Default)]
pub struct Denials {
    /// By word, whether it is denied, taken back, or part of the denial.
    pub is_denied: Vec<bool>,
    /// The answer says that it is undecided.
    pub is_undecided: bool,
    /// The answer denies or corrects something.
    pub has_any: bool,
    /// An apology in the answer is a correction.
    pub is_sorry: bool,
}

/// Finds the denied words. `is_name` marks words of a name that counts. `is_bound` marks words of any phrase of the
/// labels, so that the `not` of `not normal` is no denial.
pub fn denials(tokens: &[Token], is_name: &[bool], is_bound: &[bool]) -> Denials {
    let mut reader = Reader {
        tokens,
        is_name,
        is_bound,
        found: Denials { is_denied: vec![false; tokens.len()], ..Denials::default() },
    };
    reader.read();
    reader.take_back_beliefs();
    reader.found
}

struct Reader<'a> {
    tokens: &'a [Token],
    is_name: &'a [bool],
    is_bound: &'a [bool],
    found: Denials,
}

impl Reader<'_> {
    fn read(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            if self.is_bound[at] {
                at += 1;
                continue;
            }
            if let Some(n_words) = self.matches(at, HARMLESS_NEGATIONS) {
                self.deny(at, at + n_words);
                at += n_words;
            } else if let Some(n_words) = self.correction(at) {
                self.found.is_sorry |= self.word(at) == "sorry";
                self.deny(0, at + n_words);
                at += n_words;
            } else if let Some(n_words) = self.matches(at, NP_DENIALS) {
                at = self.deny_scope(at, n_words, true);
            } else if UNSURE.contains(&self.word(at)) {
                self.found.is_undecided = true;
                self.deny(at, at + 1);
                at += 1;
            } else if matches!(self.word(at), "wrong" | "incorrect" | "false") {
                let (start, end) = (self.clause_start(at), self.clause_end(at));
                self.deny(start, end);
                at = end;
            } else if self.word(at) != "instead" && is_negator(self.word(at)) || self.word(at).ends_with("n't") {
                at = self.deny_scope(at, 1, is_absence(self.word(at)));
            } else {
                at += 1;
            }
        }
    }

    fn word(&self, at: usize) -> &str {
        &self.tokens[at].text
    }

    fn deny(&mut self, start: usize, end: usize) {
        self.found.is_denied[start..end].fill(true);
        self.found.has_any = true;
    }

    /// Returns the length of the longest phrase of `phrases` that starts at `at`.
    fn matches(&self, at: usize, phrases: &[&str]) -> Option<usize> {
        let is_there = |phrase: &&&str| {
            phrase.split(' ').enumerate().all(|(offset, word)| {
                self.tokens.get(at + offset).is_some_and(|token| token.text == word) && !self.is_bound[at + offset]
            })
        };
        phrases.iter().filter(is_there).map(|phrase| phrase.split(' ').count()).max()
    }

    /// Returns the length of a phrase, or of an isolated `no`, at `at` that takes back an earlier name.
    fn correction(&self, at: usize) -> Option<usize> {
        let has_name_before =
            self.is_name[..at].iter().zip(&self.found.is_denied).any(|(name, denied)| *name && !denied);
        if !has_name_before {
            return None;
        }
        if let Some(n_words) = self.matches(at, CORRECTIONS) {
            return Some(n_words);
        }
        let stands_alone = self.tokens.get(at + 1).is_none_or(|next| next.mark >= Mark::Comma || next.follows_template);
        let is_answer = self.tokens[at].mark == Mark::Question && !self.is_name.get(at + 1).is_some_and(|name| *name);
        let is_no = matches!(self.word(at), "no" | "nope" | "nah");
        (is_no && (stands_alone || is_answer)).then_some(1)
    }

    /// Denies the scope of the word at `at`, and returns where reading continues.
    fn deny_scope(&mut self, at: usize, n_words: usize, is_of_noun: bool) -> usize {
        // The `No` of `No, it is a dog.` and `No. 4` denies nothing after it.
        let start = at + n_words;
        let is_interjection = n_words == 1
            && matches!(self.word(at), "no" | "nope" | "nah")
            && self.tokens.get(start).is_some_and(|next| next.mark >= Mark::Comma);
        if is_interjection {
            self.deny(at, start);
            return start;
        }
        let end = self.scope_end(start, is_of_noun);
        let has_name = self.is_name[start..end].iter().any(|name| *name);
        let is_word = |words: &[&str]| (start..end).any(|at| words.contains(&self.word(at)));
        self.found.is_undecided |= !has_name && is_word(UNDECIDED);
        // The subject is denied in `The cat is not visible` and `A cat it is not`.
        let first = (start..end).find(|&at| !is_function_word(self.word(at)));
        let is_of_subject = first.is_none_or(|first| SETTLING.contains(&self.word(first)));
        let from = if is_of_subject && !is_of_noun { self.clause_start(at) } else { at };
        self.deny(from, end);
        // In `nothing except a cat` the exception is meant.
        let is_exception = matches!(self.tokens.get(end).map(|token| token.text.as_str()), Some("except" | "besides"));
        end + usize::from(is_exception)
    }

    fn scope_end(&self, start: usize, is_of_noun: bool) -> usize {
        let mut has_content = false;
        let mut end = start;
        while let Some(token) = self.tokens.get(end) {
            let word = token.text.as_str();
            let is_list = || self.is_list_item(end);
            let is_new_clause = has_content && (token.follows_template || ends_denial(word, is_of_noun))
                || token.mark == Mark::Comma && has_content && !is_list();
            let is_other_denial = end > start && !self.is_bound[end] && matches!(word, "not" | "neither" | "nor");
            if token.mark >= Mark::Dash || ADVERSATIVES.contains(&word) || is_new_clause || is_other_denial {
                break;
            }
            if matches!(word, "except" | "besides") && !self.is_bound[end] {
                break;
            }
            has_content |= self.is_name[end] || !is_function_word(word);
            end += 1;
        }
        end
    }

    /// Whether a list continues after the comma before `at`: `not a cat, a dog, or a horse`.
    fn is_list_item(&self, at: usize) -> bool {
        let rest = &self.tokens[at..];
        let end = rest.iter().position(|token| {
            token.mark >= Mark::Dash || token.follows_template || ADVERSATIVES.contains(&token.text.as_str())
        });
        let words = &rest[..end.filter(|&end| end > 0).unwrap_or(rest.len())];
        !rest[0].follows_template
            && words.iter().any(|token| matches!(token.text.as_str(), "or" | "nor") && !token.is_slash)
            && !words.iter().any(|token| ends_denial(&token.text, false))
    }

    fn clause_start(&self, at: usize) -> usize {
        let begins = |&at: &usize| self.tokens[at].mark >= Mark::Dash || ADVERSATIVES.contains(&self.word(at));
        let start = (0..=at).rev().find(begins).unwrap_or(0);
        // `Deer? Not.`
        let is_alone = (start..at).all(|at| is_function_word(self.word(at)) && !self.is_name[at]);
        if is_alone && self.tokens[start].mark == Mark::Question { 0 } else { start }
    }

    fn clause_end(&self, at: usize) -> usize {
        let ends = |&at: &usize| self.tokens[at].mark >= Mark::Dash || ADVERSATIVES.contains(&self.word(at));
        (at + 1..self.tokens.len()).find(ends).unwrap_or(self.tokens.len())
    }

    /// Denies a belief if a later name replaces it: `I thought it was a dog, but it is a cat`.
    fn take_back_beliefs(&mut self) {
        let clauses = self.clauses();
        for (index, &(start, end)) in clauses.iter().enumerate() {
            let has = |words: &[&str]| (start..end).any(|at| self.matches(at, words).is_some());
            let is_weak = has(WEAK_BELIEFS);
            let is_turned = clauses.get(index + 1).is_some_and(|&(next, _)| ADVERSATIVES.contains(&self.word(next)))
                || (0..end).any(|at| self.matches(at, COMPARISONS).is_some());
            let later_name = clauses[index + 1..].iter().find_map(|&(start, end)| {
                (start..end).find(|&at| self.is_name[at] && !self.found.is_denied[at]).map(|at| (start, at))
            });
            let Some((later_start, name)) = later_name else { continue };
            let is_open = (later_start..name).any(|at| WEAK_BELIEFS.contains(&self.word(at)));
            let is_settled =
                (later_start..name).any(|at| self.matches(at, &["actually", "really", "fact", "reality"]).is_some());
            let has_name = (start..end).any(|at| self.is_name[at] && !self.found.is_denied[at]);
            if has_name && (has(BELIEFS) || is_weak && !is_open && (is_turned || is_settled)) {
                self.deny(start, end);
            }
        }
    }

    /// Returns the clauses of the answer. A clause starts at a strong mark, at words such as `but`, and at a comma
    /// before a sentence.
    fn clauses(&self) -> Vec<(usize, usize)> {
        let begins = |&at: &usize| {
            let token = &self.tokens[at];
            let is_sentence =
                token.follows_template || matches!(token.text.as_str(), "it" | "it's" | "this" | "that's" | "the");
            token.mark >= Mark::Dash
                || ADVERSATIVES.contains(&token.text.as_str())
                || token.mark == Mark::Comma && is_sentence
        };
        let starts: Vec<usize> = std::iter::once(0).chain((1..self.tokens.len()).filter(begins)).collect();
        let ends = starts.iter().skip(1).copied().chain([self.tokens.len()]);
        starts.iter().copied().zip(ends).filter(|(start, end)| start < end).collect()
    }
}
