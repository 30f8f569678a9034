//! Splits an answer into normalised words, without repeated sentences and framing phrases.

use unicode_normalization::UnicodeNormalization;

use super::markup;
use super::words::{NUMBER_WORDS, TEMPLATES, ends_phrase, is_function_word, is_locative, is_score};

/// The strongest mark between a word and the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// Only a space, a quotation mark or a bracket.
    #[default]
    None,
    /// A comma or a colon.
    Comma,
    /// A semicolon or a dash.
    Dash,
    /// The end of a sentence, or an ellipsis.
    Stop,
    /// A question mark.
    Question,
}

/// One word of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Lower-case text without a possessive ending.
    pub text: String,
    /// It is joined to the previous word by a hyphen (`bee-eater`), or follows a minus sign.
    pub is_joined: bool,
    /// It had an ending `'s`, which makes it a modifier of the next word.
    pub is_possessive: bool,
    /// It follows punctuation or a removed framing phrase.
    pub starts_clause: bool,
    /// It is the place of something else (`tank` in `a fish in a tank`).
    pub is_background: bool,
    /// The mark before it.
    pub mark: Mark,
    /// It represents the `/` between two words.
    pub is_slash: bool,
    /// It follows a removed framing phrase, so the clause already has a subject.
    pub follows_template: bool,
    /// The index of its sentence.
    sentence: usize,
}

/// Folds text: NFKC, lower case, plain apostrophes, ASCII digits and stops for those of other scripts, no invisible
/// characters.
pub fn fold(text: &str) -> String {
    let folded: String = text
        .nfkc()
        .filter(|c| !matches!(c, '\u{200b}'..='\u{200f}' | '\u{feff}' | '\u{ad}' | '\u{2060}'))
        .map(|c| match c {
            '\u{2018}' | '\u{2019}' | '\u{2bc}' => '\'',
            '\u{3002}' | '\u{6d4}' | '\u{964}' => '.',
            '\u{3001}' | '\u{60c}' => ',',
            '\u{61b}' => ';',
            '\u{61f}' => '?',
            _ => digit(c).unwrap_or(c),
        })
        .collect();
    folded.to_lowercase().nfkc().collect()
}

/// The zeros of scripts whose ten digits are consecutive.
#[rustfmt::skip]
const ZEROS: &[u32] = &[
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20, 0x1040,
    0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0,
    0xa9f0, 0xaa50, 0xabf0,
];

/// Returns the ASCII digit for a digit `c` of another script.
fn digit(c: char) -> Option<char> {
    let c = c as u32;
    let zero = ZEROS.iter().find(|&&zero| (zero..zero + 10).contains(&c))?;
    char::from_digit(c - zero, 10)
}

/// Returns the words of a label's name or alias, in the same form as an answer's words.
pub fn phrase(text: &str) -> Vec<String> {
    split(&fold(text)).into_iter().map(|token| token.text).collect()
}

/// Separates words in a phrase at punctuation: `st | bernard`.
pub const CLAUSE_SEPARATOR: &str = " | ";

/// Returns [`phrase`] as one string that keeps the positions of punctuation.
pub fn punctuated_phrase(text: &str) -> String {
    let mut words = String::new();
    for token in split(&fold(text)) {
        if !words.is_empty() {
            words.push_str(if token.starts_clause { CLAUSE_SEPARATOR } else { " " });
        }
        words.push_str(&token.text);
    }
    words
}

/// Returns a key that ignores how words are joined: `lawn mower`, `lawn-mower` and `lawnmower` share a key, as do `love
/// in the mist` and `love-in-a-mist`. Function words stay separate; inner articles and accents are dropped.
pub fn key(tokens: &[Token]) -> String {
    let mut key = String::new();
    let is_spelled_out = tokens.len() >= 3 && tokens.iter().all(is_letter);
    for (at, token) in tokens.iter().enumerate() {
        let is_inner_article = at > 0 && matches!(token.text.as_str(), "a" | "an" | "the");
        let is_letter_of_code = is_letter(token) && tokens.get(at + 1).is_some_and(|next| next.is_joined);
        if (token.is_slash || is_inner_article) && !is_spelled_out {
            continue;
        }
        if is_spelled_out || is_letter_of_code {
            key.push_str(&token.text);
        } else if is_function_word(&token.text) && !matches!(token.text.as_str(), "no" | "not" | "non") {
            key.push_str(&format!(" {} ", token.text));
        } else {
            key.extend(token.text.nfd().filter(|c| !('\u{300}'..='\u{36f}').contains(c)));
            key.push_str(if token.is_possessive { "s" } else { "" });
        }
    }
    key.trim().replace("  ", " ")
}

/// Returns the [`key`] of a label's name or alias.
pub fn key_of(text: &str) -> String {
    key(&split(&fold(text)))
}

/// Whether the token is a single letter.
pub fn is_letter(token: &Token) -> bool {
    token.text.chars().count() == 1 && token.text.chars().all(char::is_alphabetic)
}

/// Splits an answer into words. `is_number` says that the dataset's answers are numbers, so that `number` and `digit`
/// carry no content.
pub fn tokens(answer: &str, is_number: bool) -> Vec<Token> {
    // The paper's fine-tuning data contain a literal "a(n)", which recurs in answers.
    let tokens = split(&fold(&markup::plain(answer, is_number)).replace("a(n)", "a "));
    let tokens = without_scores(without_repeated_sentences(tokens));
    let mut tokens = without_templates(tokens, is_number);
    mark_background(&mut tokens);
    tokens
}

fn split(text: &str) -> Vec<Token> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens: Vec<Token> = Vec::new();
    let (mut sentence, mut starts_clause, mut mark) = (0, true, Mark::None);
    let mut at = 0;
    while at < characters.len() {
        let c = characters[at];
        if c.is_alphanumeric() {
            let previous = at.checked_sub(1).map(|i| characters[i]);
            let before_previous = at.checked_sub(2).map(|i| characters[i]);
            let is_joined = matches!(previous, Some('-' | '\u{2010}' | '\u{2011}' | '\u{2013}' | '\u{2212}'))
                && (before_previous.is_some_and(char::is_alphanumeric) || c.is_numeric());
            let (mut text, end) = initials(&characters, at).unwrap_or_else(|| {
                let end = word_end(&characters, at);
                (characters[at..end].iter().collect(), end)
            });
            let is_possessive = text.ends_with("'s") && !is_function_word(&text);
            if is_possessive {
                text.truncate(text.len() - 2);
            }
            let token = plain_token(&text, sentence);
            tokens.push(Token { is_joined, is_possessive, starts_clause, mark, ..token });
            (starts_clause, mark) = (false, Mark::None);
            at = end;
            continue;
        }
        let is_between_letters = at > 0
            && characters[at - 1].is_alphabetic()
            && characters.get(at + 1).is_some_and(|next| next.is_alphabetic());
        mark = mark.max(mark_of(&characters, at));
        match c {
            '.' | '!' | '?' | '\n' => {
                sentence += 1;
                starts_clause = true;
            }
            ',' | ';' | ':' | '(' | ')' | '[' | ']' | '"' | '|' | '\u{2014}' => starts_clause = true,
            // "cat/dog" offers a choice.
            '/' if is_between_letters => tokens.push(Token { is_slash: true, ..plain_token("or", sentence) }),
            _ => {}
        }
        at += 1;
    }
    tokens
}

fn plain_token(text: &str, sentence: usize) -> Token {
    Token {
        text: text.to_owned(),
        is_joined: false,
        is_possessive: false,
        starts_clause: false,
        is_background: false,
        mark: Mark::None,
        is_slash: false,
        follows_template: false,
        sentence,
    }
}

/// Returns the strength of the character at `at` as a separator.
fn mark_of(characters: &[char], at: usize) -> Mark {
    let is_space = |at: Option<usize>| at.and_then(|at| characters.get(at)).is_none_or(|c| c.is_whitespace());
    match characters[at] {
        '?' => Mark::Question,
        '.' | '!' | '\n' | '\u{2026}' => Mark::Stop,
        ';' | '\u{2014}' => Mark::Dash,
        '-' | '\u{2013}' if is_space(at.checked_sub(1)) && is_space(Some(at + 1)) => Mark::Dash,
        ',' | ':' => Mark::Comma,
        _ => Mark::None,
    }
}

/// Reads letters separated by full stops as one word (`t.v.`), and returns the word and its end.
fn initials(characters: &[char], start: usize) -> Option<(String, usize)> {
    let is_letter = |i: usize| characters.get(i).is_some_and(|c| c.is_alphabetic());
    let is_alphanumeric = |i: usize| characters.get(i).is_some_and(|c| c.is_alphanumeric());
    let mut text = String::new();
    let mut at = start;
    while is_letter(at) && characters.get(at + 1) == Some(&'.') && !is_alphanumeric(at.wrapping_sub(1)) {
        text.push(characters[at]);
        at += 2;
    }
    // The last letter may lack its full stop: `t.v`.
    if is_letter(at) && !is_alphanumeric(at + 1) && !text.is_empty() {
        text.push(characters[at]);
        at += 1;
    }
    (text.chars().count() >= 2).then_some((text, at))
}

/// Returns the end of the word that starts at `start`, including apostrophes between letters and marks between digits.
fn word_end(characters: &[char], start: usize) -> usize {
    let is_alphanumeric = |i: usize| characters.get(i).is_some_and(|c| c.is_alphanumeric());
    let is_digit = |i: usize| characters.get(i).is_some_and(char::is_ascii_digit);
    let mut end = start + 1;
    loop {
        match characters.get(end) {
            Some(c) if c.is_alphanumeric() => end += 1,
            Some('\'') if is_alphanumeric(end + 1) => end += 1,
            // 4.5, 3:45 and 3/4 are not 4, 3 or 5; neither is 1,000.
            Some('.' | ':' | '/') if is_digit(end - 1) && is_digit(end + 1) => end += 1,
            Some(',') if is_digit(end - 1) && (1..=3).all(|i| is_digit(end + i)) && !is_alphanumeric(end + 4) => {
                end += 1;
            }
            _ => return end,
        }
    }
}

/// Drops repeated sentences, and a last sentence that was cut off while repeating.
fn without_repeated_sentences(tokens: Vec<Token>) -> Vec<Token> {
    let mut sentences: Vec<Vec<Token>> = Vec::new();
    for token in tokens {
        match sentences.last_mut() {
            Some(last) if last[0].sentence == token.sentence => last.push(token),
            _ => sentences.push(vec![token]),
        }
    }
    let text = |sentence: &[Token]| sentence.iter().map(|token| token.text.as_str()).collect::<Vec<_>>().join(" ");
    let mut said: Vec<String> = Vec::new();
    let mut kept = Vec::new();
    let n_sentences = sentences.len();
    for (index, sentence) in sentences.into_iter().enumerate() {
        let words = text(&sentence);
        let is_cut_short = index + 1 == n_sentences && said.iter().any(|before| before.starts_with(&words));
        if !said.contains(&words) && !is_cut_short {
            said.push(words);
            kept.extend(sentence);
        }
    }
    kept
}

/// Drops statements of confidence: `confidence: 1`.
fn without_scores(tokens: Vec<Token>) -> Vec<Token> {
    let is_number = |token: &Token| token.text.starts_with(|c: char| c.is_ascii_digit());
    let mut kept: Vec<Token> = Vec::with_capacity(tokens.len());
    for token in tokens {
        let named = match &kept[..] {
            [.., score, copula]
                if matches!(copula.text.as_str(), "is" | "of" | "level" | "score") && is_score(&score.text) =>
            {
                2
            }
            [.., score] if is_score(&score.text) => 1,
            _ => 0,
        };
        if named > 0 && is_number(&token) {
            kept.truncate(kept.len() - named);
            continue;
        }
        kept.push(token);
    }
    kept
}

fn without_templates(tokens: Vec<Token>, is_number: bool) -> Vec<Token> {
    let mut kept: Vec<Token> = Vec::with_capacity(tokens.len());
    let mut at = 0;
    let mut was_template = false;
    let mut mark = Mark::None;
    while at < tokens.len() {
        let n_words = template_length(&tokens[at..], is_number);
        if n_words > 0 {
            was_template = true;
            mark = tokens[at..at + n_words].iter().map(|token| token.mark).fold(mark, Mark::max);
            at += n_words;
            continue;
        }
        let mut token = tokens[at].clone();
        if was_template {
            token.starts_clause = true;
            token.follows_template = true;
            token.mark = token.mark.max(mark);
        }
        (was_template, mark) = (false, Mark::None);
        kept.push(token);
        at += 1;
    }
    kept
}

/// Returns the number of words of the longest framing phrase at the start of `tokens`; 0 if there is none.
fn template_length(tokens: &[Token], is_number: bool) -> usize {
    if is_number && matches!(tokens[0].text.as_str(), "number" | "digit") {
        return 1;
    }
    let matches = |template: &&str| {
        let mut rest = tokens.iter();
        let same = |word| rest.next().is_some_and(|token| token.text == word && !token.is_possessive);
        template.split(' ').all(same)
    };
    TEMPLATES.iter().filter(|template| matches(template)).map(|template| template.split(' ').count()).max().unwrap_or(0)
}

/// Marks the words of a phrase of place if something precedes it in the clause.
fn mark_background(tokens: &mut [Token]) {
    let (mut has_head, mut is_in_phrase, mut sentence) = (false, false, None);
    for token in tokens {
        if token.starts_clause || sentence != Some(token.sentence) {
            has_head = token.follows_template;
            is_in_phrase = false;
            sentence = Some(token.sentence);
        }
        let word = token.text.as_str();
        if is_locative(word) {
            is_in_phrase |= has_head;
        } else if ends_phrase(word) {
            is_in_phrase = false;
        } else if !is_function_word(word) || NUMBER_WORDS.contains(&word) {
            token.is_background = is_in_phrase;
            has_head = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(answer: &str) -> Vec<String> {
        tokens(answer, false).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn framing_phrases_and_repeated_sentences_go() {
        assert_eq!(
            texts("The object is a(n) aircraft carrier.The object is a(n) aircraft carrier."),
            ["a", "aircraft", "carrier"]
        );
        assert_eq!(texts("The object is a cat. The object is a c"), ["a", "cat"]);
        assert_eq!(texts("a close up of a tree"), ["a", "tree"]);
    }

    #[test]
    fn numbers_with_marks_are_one_word() {
        assert_eq!(texts("4.5 3:45 1,000 1, 2"), ["4.5", "3:45", "1,000", "1", "2"]);
        assert_eq!(texts("4."), ["4"]);
    }

    #[test]
    fn a_place_is_background_and_what_stands_there_is_not() {
        let background = |answer| -> Vec<String> {
            tokens(answer, false).into_iter().filter(|token| token.is_background).map(|token| token.text).collect()
        };
        assert_eq!(background("a picture of a fish in a tank"), ["tank"]);
        assert_eq!(background("a tree branch with a ladybug on it"), Vec::<String>::new());
        assert_eq!(background("in a tank"), Vec::<String>::new());
        assert_eq!(background("the animal on the road is a lion"), ["road"]);
    }

    #[test]
    fn widths_and_apostrophes_are_folded() {
        assert_eq!(texts("ＣＡＴ"), ["cat"]);
        assert_eq!(texts("a cat\u{2019}s ear"), ["a", "cat", "ear"]);
        assert!(tokens("a cat's ear", false)[1].is_possessive);
        assert!(!tokens("it's a cat", false)[0].is_possessive);
    }
}
