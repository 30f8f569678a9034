//! The prompt of a language-model judge, and the reading of its reply.

use unicode_normalization::UnicodeNormalization;

use super::JudgedDataset;
use crate::assets::judge_prompts;
use crate::domain::{AnswerType, Judgement, Label, LabelSet};

/// The prompt of a language-model judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JudgePrompt {
    /// Includes question, label and classes, and quotes the answer as data; replies are CORRECT or INCORRECT.
    Strict,
    /// The paper's, verbatim; replies are yes or no.
    Emt,
    /// The text of a user's template, with at least `{label}` and `{answer}`; replies may be of either pair.
    File(String),
}

/// Why a template is not a judge's prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// A required name is missing.
    #[error("the judge's prompt has no `{{{0}}}`; hint: `{{{0}_json}}` does as well, and quotes it")]
    Missing(&'static str),
    /// An unknown name, which would be sent unchanged.
    #[error("the judge's prompt has `{{{0}}}`, which means nothing; hint: the names are {names}", names = NAMES.join(", "))]
    Unknown(String),
}

/// The names allowed in braces. With the suffix `_json` they become a quoted JSON string or a list of them.
const NAMES: [&str; 5] = ["question", "label", "aliases", "classes", "answer"];

/// A checked prompt.
#[derive(Clone, Debug)]
pub(super) struct Template {
    text: String,
    words: &'static [(&'static str, Judgement)],
}

/// The label in the fixed questions, and their right answer.
pub(super) const FIXED_LABEL: &str = "cat";
/// Their wrong answer.
pub(super) const FIXED_WRONG: &str = "dog";

/// Formats a verdict word as in the prompts.
fn shown(word: &str) -> String {
    if word.ends_with("correct") { word.to_uppercase() } else { word.to_owned() }
}

const CORRECT_INCORRECT: [(&str, Judgement); 2] =
    [("correct", Judgement::Correct), ("incorrect", Judgement::Incorrect)];
const YES_NO: [(&str, Judgement); 2] = [("yes", Judgement::Correct), ("no", Judgement::Incorrect)];
const EITHER: [(&str, Judgement); 4] = [CORRECT_INCORRECT[0], CORRECT_INCORRECT[1], YES_NO[0], YES_NO[1]];

impl Template {
    pub(super) fn new(prompt: &JudgePrompt) -> Result<Self, PromptError> {
        let (text, words): (&str, &[_]) = match prompt {
            JudgePrompt::Strict => (judge_prompts::STRICT, &CORRECT_INCORRECT),
            JudgePrompt::Emt => (judge_prompts::EMT, &YES_NO),
            JudgePrompt::File(text) => (text, &EITHER),
        };
        // Line ends differ between checkouts, but a prompt and its hash must not.
        let text = text.replace("\r\n", "\n").trim_end().to_owned();
        for required in ["label", "answer"] {
            let is_there = pieces(&text).any(|piece| matches!(piece, Piece::Name(name) if base_name(name) == required));
            if !is_there {
                return Err(PromptError::Missing(required));
            }
        }
        if let Some(unknown) = pieces(&text).find_map(|piece| match piece {
            Piece::Name(name) if !NAMES.contains(&base_name(name)) => Some(name.to_owned()),
            _ => None,
        }) {
            return Err(PromptError::Unknown(unknown));
        }
        Ok(Self { text, words })
    }

    /// Returns `blake3:…` of the template and of the words that count as a verdict.
    pub(super) fn hash(&self) -> String {
        let words: Vec<&str> = self.words.iter().map(|(word, _)| *word).collect();
        let hash = blake3::hash(format!("{}\0{}", words.join(" "), self.text).as_bytes());
        format!("blake3:{}", hash.to_hex())
    }

    /// Renders the prompt for one pair. Values are inserted once: braces inside an answer stay braces.
    pub(super) fn render(&self, dataset: &JudgedDataset, label: usize, answer: &str) -> String {
        self.render_pair(&dataset.question, &dataset.labels, label, answer)
    }

    fn render_pair(&self, question: &str, set: &LabelSet, label: usize, answer: &str) -> String {
        let labels = set.labels();
        let (name, aliases) =
            labels.get(label).map_or(("", &[][..]), |label| (label.name.as_str(), label.aliases.as_slice()));
        let aliases: Vec<&str> = aliases.iter().map(String::as_str).collect();
        let classes: Vec<&str> = set.names().collect();
        pieces(&self.text)
            .map(|piece| match piece {
                Piece::Text(text) => text.to_owned(),
                Piece::Name("question") => question.to_owned(),
                Piece::Name("label") => name.to_owned(),
                Piece::Name("aliases") => listed(&aliases, str::to_owned),
                Piece::Name("classes") => listed(&classes, str::to_owned),
                Piece::Name("answer") => answer.to_owned(),
                Piece::Name("question_json") => quoted(question),
                Piece::Name("label_json") => quoted(name),
                Piece::Name("aliases_json") => listed(&aliases, quoted),
                Piece::Name("classes_json") => listed(&classes, quoted),
                Piece::Name("answer_json") => quoted(answer),
                Piece::Name(_) => String::new(),
            })
            .collect()
    }

    /// Returns the words of one verdict, for messages.
    pub(super) fn words_of(&self, verdict: Judgement) -> String {
        let words = self.words.iter().filter(|(_, of)| *of == verdict).map(|(word, _)| shown(word));
        words.collect::<Vec<_>>().join(" or ")
    }

    /// Returns the words of all verdicts, for messages.
    pub(super) fn expected(&self) -> String {
        self.words.iter().map(|(word, _)| shown(word)).collect::<Vec<_>>().join(" or ")
    }

    /// Renders a question, independent of any run, with [`FIXED_LABEL`] as its label and `answer` as the answer. The
    /// verdicts on a right and a wrong answer show whether the judge can be used.
    pub(super) fn fixed_question(&self, answer: &str) -> String {
        const QUESTION: &str = "What is the object in the image? Please only answer a single object in cat, dog.";
        let labels = [FIXED_LABEL, FIXED_WRONG].map(Label::named).to_vec();
        // Two different names always form a label set.
        let Ok(labels) = LabelSet::new(labels, AnswerType::Object) else { return String::new() };
        self.render_pair(QUESTION, &labels, 0, answer)
    }

    /// Returns the verdict in a reply; `None` if it is anything else or contains more.
    pub(super) fn read(&self, reply: &str) -> Option<Judgement> {
        let word = bare(reply).to_ascii_lowercase();
        self.words.iter().find(|(verdict_word, _)| *verdict_word == word).map(|(_, verdict)| *verdict)
    }
}

/// Normalises an answer for sending and comparing: NFKC, white space collapsed and trimmed.
pub fn normalise(answer: &str) -> String {
    let composed: String = answer.nfkc().collect();
    composed.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Marks around a whole reply that label it as the answer.
const ANSWER_MARKS: [(&str, &str); 4] =
    [("<answer>", "</answer>"), ("$\\boxed{", "}$"), ("\\boxed{", "}"), ("\\text{", "}")];
/// End-of-turn tokens, which some servers leave in the text.
const END_TOKENS: [&str; 7] =
    ["</s>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<end_of_turn>", "<|end|>", "<eos>"];

/// Strips what does not change a reply's meaning: end-of-turn tokens, answer marks, white space, one full stop, and one
/// pair of quotation or Markdown marks around all of it.
fn bare(reply: &str) -> &str {
    let mut reply = reply.trim();
    while let Some(rest) = END_TOKENS.iter().find_map(|token| reply.strip_suffix(token)) {
        reply = rest.trim_end();
    }
    while let Some(inner) = ANSWER_MARKS.iter().find_map(|(open, close)| reply.strip_prefix(open)?.strip_suffix(close))
    {
        reply = inner.trim();
    }
    let without_stop = |text: &'_ str| -> usize { text.trim().strip_suffix('.').unwrap_or(text.trim()).len() };
    let trimmed = reply.trim();
    let trimmed = &trimmed[..without_stop(trimmed)];
    for mark in ["**", "\"", "'", "`"] {
        if let Some(inner) = trimmed.strip_prefix(mark).and_then(|rest| rest.strip_suffix(mark)) {
            // The full stop may be inside or outside the marks, but not both.
            return if trimmed.len() == reply.trim().len() { inner.strip_suffix('.').unwrap_or(inner) } else { inner };
        }
    }
    trimmed
}

/// Quotes as JSON and also escapes angle brackets, so that an answer can close neither its quotation mark nor its tag.
fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string().replace('<', "\\u003c").replace('>', "\\u003e")
}

fn listed(items: &[&str], show: impl Fn(&str) -> String) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items.iter().map(|item| show(item)).collect::<Vec<_>>().join(", ")
}

fn base_name(name: &str) -> &str {
    name.strip_suffix("_json").unwrap_or(name)
}

enum Piece<'a> {
    Text(&'a str),
    Name(&'a str),
}

/// Splits the template at each `{name}`; other braces, such as those of JSON examples, are text.
fn pieces(template: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = template;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some((name, after)) = leading_name(rest) {
            rest = after;
            return Some(Piece::Name(name));
        }
        let n_skipped = rest.chars().next().map_or(0, char::len_utf8);
        let end = rest
            .match_indices('{')
            .map(|(start, _)| start)
            .find(|&start| start >= n_skipped && leading_name(&rest[start..]).is_some())
            .unwrap_or(rest.len());
        let (text, after) = rest.split_at(end);
        rest = after;
        Some(Piece::Text(text))
    })
}

fn leading_name(text: &str) -> Option<(&str, &str)> {
    let (name, after) = text.strip_prefix('{')?.split_once('}')?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    is_name.then_some((name, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(prompt: &JudgePrompt, reply: &str) -> Option<Judgement> {
        Template::new(prompt).unwrap().read(reply)
    }

    #[test]
    fn the_whole_reply_must_be_a_verdict() {
        for reply in ["Yes", "yes.", " YES \n", "\"Yes\"", "'yes'.", "**Yes**", "**Yes.**", "**Yes**.", "`yes`"] {
            assert_eq!(check(&JudgePrompt::Emt, reply), Some(Judgement::Correct), "{reply}");
        }
        for reply in ["No", "no.", "\"No.\""] {
            assert_eq!(check(&JudgePrompt::Emt, reply), Some(Judgement::Incorrect), "{reply}");
        }
        for reply in [
            "",
            ".",
            "**",
            "\"",
            "''",
            "Yes, but no",
            "yes no",
            "Yes!",
            "yes..",
            "\"yes.\".",
            "**yes",
            "I cannot say yes",
            "maybe",
            "no answer",
            "yes\nno",
            "correct",
        ] {
            assert_eq!(check(&JudgePrompt::Emt, reply), None, "{reply}");
        }
    }

    #[test]
    fn marks_of_an_answer_and_the_end_of_a_turn_are_no_part_of_a_verdict() {
        for reply in [
            "\\boxed{CORRECT}",
            "$\\boxed{\\text{CORRECT}}$",
            "<answer>CORRECT</answer>",
            "CORRECT</s>",
            "CORRECT.<|im_end|>\n",
        ] {
            assert_eq!(check(&JudgePrompt::Strict, reply), Some(Judgement::Correct), "{reply}");
        }
        assert_eq!(check(&JudgePrompt::Strict, "\\boxed{CORRECT} or not"), None);
    }

    #[test]
    fn the_fixed_question_is_one_of_every_prompt() {
        let own = JudgePrompt::File("{label_json}? {answer} of {classes}".into());
        let template = Template::new(&own).unwrap();
        assert_eq!(template.fixed_question(FIXED_LABEL), "\"cat\"? cat of cat, dog");
        assert_eq!(template.fixed_question(FIXED_WRONG), "\"cat\"? dog of cat, dog");
        assert_eq!(template.words_of(Judgement::Incorrect), "INCORRECT or no");
        let strict = Template::new(&JudgePrompt::Strict).unwrap();
        assert!(strict.fixed_question(FIXED_LABEL).contains("Right label: \"cat\""));
        assert_eq!(strict.words_of(Judgement::Correct), "CORRECT");
        assert_eq!(
            (strict.expected().as_str(), Template::new(&JudgePrompt::Emt).unwrap().expected().as_str()),
            ("CORRECT or INCORRECT", "yes or no")
        );
    }

    #[test]
    fn each_prompt_has_its_own_words() {
        assert_eq!(check(&JudgePrompt::Strict, "CORRECT"), Some(Judgement::Correct));
        assert_eq!(check(&JudgePrompt::Strict, "Incorrect."), Some(Judgement::Incorrect));
        assert_eq!(check(&JudgePrompt::Strict, "yes"), None);
        assert_eq!(check(&JudgePrompt::Strict, "not correct"), None);
        let own = JudgePrompt::File("{label} {answer}".into());
        assert_eq!(check(&own, "yes"), Some(Judgement::Correct));
        assert_eq!(check(&own, "incorrect"), Some(Judgement::Incorrect));
    }

    #[test]
    fn line_ends_of_a_checkout_do_not_change_the_hash() {
        let hash = |text: &str| Template::new(&JudgePrompt::File(text.into())).unwrap().hash();
        assert_eq!(hash("{label}\r\n{answer}\r\n"), hash("{label}\n{answer}"));
        assert_ne!(hash("{label}\n{answer}"), hash("{label} {answer}"));
    }

    #[test]
    fn braces_that_are_no_names_are_text() {
        let own = JudgePrompt::File("{\"label\": {label}, \"{\": {}} é{ {answer}".into());
        let labels = vec![crate::domain::Label::named("cat"), crate::domain::Label::named("dog")];
        let labels = crate::domain::LabelSet::new(labels, crate::domain::AnswerType::Object).unwrap();
        let grader = crate::taxonomy::Grader::new(&labels, &[], &crate::taxonomy::Lexicon::default());
        let dataset = JudgedDataset { question: "?".into(), labels, grader };
        let text = Template::new(&own).unwrap().render(&dataset, 0, "{label}");
        assert_eq!(text, "{\"label\": cat, \"{\": {}} é{ {label}");
    }

    #[test]
    fn answers_that_differ_in_form_alone_are_one() {
        for answer in ["a cat", " a\u{a0}cat\r\n", "a \u{3000} ｃat"] {
            assert_eq!(normalise(answer), "a cat");
        }
        assert_ne!(normalise("A cat"), normalise("a cat"));
    }
    proptest! {
        #[test]
        fn any_reply_is_a_verdict_by_its_one_word_or_none(reply in "[YyEeSsNnOo.*\"'` \n]{0,12}|.{0,40}") {
            let word: String = reply.chars().filter(|c| c.is_alphabetic()).collect();
            match check(&JudgePrompt::Emt, &reply) {
                Some(Judgement::Correct) => prop_assert!(word.eq_ignore_ascii_case("yes"), "{reply}"),
                Some(Judgement::Incorrect) => prop_assert!(word.eq_ignore_ascii_case("no"), "{reply}"),
                _ => {}
            }
        }

        #[test]
        fn any_text_is_a_judges_prompt_or_an_error(text in "[a-c{}_ é]{0,30}", tail in ".{0,30}") {
            let _ = Template::new(&JudgePrompt::File(text.clone()));
            let text = format!("{text}{{label}}{{answer_json}}{tail}");
            if let Ok(template) = Template::new(&JudgePrompt::File(text)) {
                let _ = template.read(&tail);
            }
        }
    }
}
