//! The language-model judge: its settings, its requests, and what its replies amount to.

use serde_json::{Map, Value, json};

use super::JudgePrompt;
use super::prompt::Template;
use crate::api::{ChatConfig, ChatError, ChatReply, ChatRequest, Finish, Message};
use crate::domain::{JudgeKind, JudgeSpec, JudgeVerdict, Judgement, SplitReply, UnscoredReason};
use crate::taxonomy::RULES_VERSION;

/// So many characters of a reply are kept.
const N_CHARS_KEPT: usize = 2_000;
/// Room for a reasoning model to think before it says one word; others stop after the word.
pub(super) const N_TOKENS_DEFAULT: u32 = 2_048;
/// The paper's room, for one word.
const N_TOKENS_PAPER: u32 = 64;
/// How replies are read, for the run's identity: since 2, a verdict stands after the thought.
const READING_VERSION: u32 = 2;

/// Sampling parameters under one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JudgePreset {
    /// The EMT paper's: temperature 0.2, 64 tokens, top_p 1, no penalties (Zhai et al. 2023, appendix C.1).
    Paper,
}

/// A language model as a judge.
#[derive(Clone, Debug)]
pub struct LlmJudge {
    /// The server, the model, and the limits of their use.
    pub chat: ChatConfig,
    /// What it is asked.
    pub prompt: JudgePrompt,
    /// How it samples; temperature 0 without.
    pub preset: Option<JudgePreset>,
    /// The most tokens of a reply, thoughts included; if `None` 2,048, or fewer where the server takes fewer, and 64 with the
    /// paper's preset.
    pub max_tokens: Option<u32>,
    /// Further fields of each request, such as `reasoning_effort`, in place of the judge's own; a null leaves one out.
    pub extra: Map<String, Value>,
}

impl LlmJudge {
    /// The judge with the default prompt at temperature 0.
    pub fn new(chat: ChatConfig) -> Self {
        Self { chat, prompt: JudgePrompt::Strict, preset: None, max_tokens: None, extra: Map::new() }
    }

    pub(super) fn request(&self, text: String) -> ChatRequest {
        let mut request = ChatRequest {
            messages: vec![Message::user(text)],
            temperature: Some(0.0),
            max_tokens: self.max_tokens.unwrap_or(N_TOKENS_DEFAULT),
            ..ChatRequest::default()
        };
        if let Some(JudgePreset::Paper) = self.preset {
            request.max_tokens = self.max_tokens.unwrap_or(N_TOKENS_PAPER);
            request.temperature = Some(0.2);
            request.top_p = Some(1.0);
            for penalty in ["frequency_penalty", "presence_penalty"] {
                request.extra.entry(penalty).or_insert(json!(0));
            }
        }
        request
    }

    /// The client's settings.
    pub(super) fn chat_config(&self) -> ChatConfig {
        ChatConfig {
            extra_body: self.extra.clone(),
            may_lower_token_limit: self.max_tokens.is_none(),
            ..self.chat.clone()
        }
    }

    /// What decides its verdicts: neither address nor key. `parameters` of the panel come on top.
    pub(super) fn spec(&self, template: &Template, panel: &[(&str, Value)]) -> JudgeSpec {
        let request = self.request(String::new());
        let mut parameters = Map::new();
        parameters.insert("temperature".into(), json!(request.temperature));
        parameters.insert("max_tokens".into(), json!(request.max_tokens));
        if let Some(top_p) = request.top_p {
            parameters.insert("top_p".into(), json!(top_p));
        }
        parameters.extend(request.extra);
        parameters.extend(self.extra.clone());
        parameters.insert("replies".into(), json!(READING_VERSION));
        // The rules give the code of each incorrect answer, whoever decided that it is one.
        parameters.insert("codes".into(), json!(RULES_VERSION));
        parameters.extend(panel.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        JudgeSpec {
            judge: JudgeKind::Llm.name().to_owned(),
            model: self.chat.model.clone(),
            prompt: Some(template.hash()),
            parameters: Value::Object(parameters),
        }
    }
}

/// How the error of a reply begins that holds no more than a thought, and of one that was cut off.
const CUT_THOUGHT: &str = "the reply is a thought without a verdict after it";
const CUT_REPLY: &str = "the reply was cut off at the token limit";

/// What a person can do about a judge's replies like this one; `None` where the verdict is one, or was no reply.
pub fn mend_of_reply(prompt: &JudgePrompt, verdict: &JudgeVerdict) -> Option<String> {
    let error = verdict.result.as_ref().err()?;
    if error.starts_with(CUT_THOUGHT) || error.starts_with(CUT_REPLY) {
        return Some(
            "--judge-reply-tokens N gives its replies more room, and --judge-extra-body \
             '{\"chat_template_kwargs\":{\"enable_thinking\":false}}' keeps many models from thinking"
                .to_owned(),
        );
    }
    let reply = verdict.reply.as_deref()?;
    Some(match prompt {
        JudgePrompt::Strict if is_led_by(reply, &["yes", "no"]) => "--judge-prompt emt asks for yes or no".to_owned(),
        JudgePrompt::Emt if is_led_by(reply, &["correct", "incorrect"]) => {
            "--judge-prompt strict asks for CORRECT or INCORRECT".to_owned()
        }
        _ => "another --judge-model, or a --judge-prompt that it follows".to_owned(),
    })
}

/// The beginning and the end of a reply in one line, for a message.
pub fn excerpt(reply: &str) -> String {
    const N_CHARS_SHOWN: usize = 160;
    let line: Vec<char> =
        reply.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).collect();
    if line.len() <= N_CHARS_SHOWN {
        return line.into_iter().collect();
    }
    let half = N_CHARS_SHOWN / 2;
    let (start, end): (String, String) = (line[..half].iter().collect(), line[line.len() - half..].iter().collect());
    format!("{start} … {end}")
}

/// Whether the first word of what a reply says is one of `words`.
fn is_led_by(reply: &str, words: &[&str]) -> bool {
    let said = SplitReply::new(reply, false).answer.unwrap_or_default().to_lowercase();
    let first = said.split(|c: char| !c.is_alphabetic()).find(|word| !word.is_empty());
    first.is_some_and(|first| words.contains(&first))
}

/// What a language model made of a pair, or why nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ruling {
    pub(super) verdict: JudgeVerdict,
    /// What a trial becomes that depends on this judge, where it has no verdict.
    pub(super) unscored: Option<UnscoredReason>,
}

impl Ruling {
    /// Reads a completion.
    pub(super) fn new(template: &Template, completion: Result<ChatReply, ChatError>) -> Self {
        match completion {
            Ok(reply) => Self::of_reply(template, &reply),
            Err(error) => Self::of_error(&error),
        }
    }

    /// What an earlier part of the run knew; `None` where that settles nothing.
    pub(super) fn remembered(verdict: &JudgeVerdict) -> Option<Self> {
        let unscored = match (&verdict.result, &verdict.reply) {
            (Ok(Judgement::Correct | Judgement::Incorrect), _) => None,
            (Err(_), Some(_)) => Some(UnscoredReason::JudgeUnparsable),
            (Ok(Judgement::Undecided) | Err(_), _) => return None,
        };
        (verdict.judge == JudgeKind::Llm.name()).then(|| Self { verdict: verdict.clone(), unscored })
    }

    fn of_reply(template: &Template, reply: &ChatReply) -> Self {
        let split = SplitReply::new(&reply.content, false);
        let result = match (split.answer.filter(|said| !said.is_empty()), &reply.finish) {
            (None, Finish::Length) => Err(format!("{CUT_THOUGHT}, cut off at the token limit")),
            (None, _) => Err(format!("{CUT_THOUGHT} that was cut off or never closed")),
            // "CORRECT" may have been about to go on.
            (Some(_), Finish::Length) => Err(CUT_REPLY.to_owned()),
            (Some(said), _) => template
                .read(&said)
                .ok_or_else(|| format!("the reply is not a verdict; {} was expected", template.expected())),
        };
        let unscored = result.is_err().then_some(UnscoredReason::JudgeUnparsable);
        let is_thought_beside = reply.content.trim().is_empty();
        let shown = reply.thought.as_ref().filter(|_| is_thought_beside).unwrap_or(&reply.content);
        // A verdict stands behind its thought, and is kept.
        let n_left_out = if split.thought.is_some() { shown.chars().count().saturating_sub(N_CHARS_KEPT) } else { 0 };
        let kept = shown.chars().skip(n_left_out).take(N_CHARS_KEPT).collect();
        Self { verdict: JudgeVerdict { judge: JudgeKind::Llm.name().to_owned(), result, reply: Some(kept) }, unscored }
    }

    fn of_error(error: &ChatError) -> Self {
        let reason = match error {
            ChatError::Budget { .. } => UnscoredReason::JudgeBudget,
            // It answered, and there is no verdict in the answer; asking again would bring the same.
            ChatError::NoContent { .. } | ChatError::ContentFilter => UnscoredReason::JudgeUnparsable,
            _ => UnscoredReason::JudgeFailed,
        };
        let verdict =
            JudgeVerdict { judge: JudgeKind::Llm.name().to_owned(), result: Err(error.to_string()), reply: None };
        Self { verdict, unscored: Some(reason) }
    }
}
