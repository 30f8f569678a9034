//! The language-model judge: its settings, its requests, and the reading of its replies.

use serde_json::{Map, Value, json};

use super::JudgePrompt;
use super::prompt::Template;
use crate::api::{ChatConfig, ChatError, ChatReply, ChatRequest, Finish, Message};
use crate::domain::{JudgeKind, JudgeSpec, JudgeVerdict, Judgement, SplitReply, UnscoredReason};
use crate::taxonomy::RULES_VERSION;

/// The most characters of a reply that are kept.
const N_CHARS_KEPT: usize = 2_000;
/// Lets a reasoning model think before its one-word verdict; other models stop after the word.
pub(super) const N_TOKENS_DEFAULT: u32 = 2_048;
/// The paper's token limit, for one word.
const N_TOKENS_PAPER: u32 = 64;
/// The version of reading replies, part of the run's identity. Since version 2 a verdict follows the thought.
const READING_VERSION: u32 = 2;

/// A named set of sampling parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JudgePreset {
    /// The EMT paper's parameters: temperature 0.2, 64 tokens, top_p 1, no penalties (Zhai et al. 2023, appendix C.1).
    Paper,
}

/// A language model as a judge.
#[derive(Clone, Debug)]
pub struct LlmJudge {
    /// The server, the model and the usage limits.
    pub chat: ChatConfig,
    /// Its prompt.
    pub prompt: JudgePrompt,
    /// Its sampling parameters; `None` means temperature 0.
    pub preset: Option<JudgePreset>,
    /// The most tokens of a reply, thoughts included. `None` means 2,048, or fewer if the server takes fewer, and 64
    /// with the paper's preset.
    pub max_tokens: Option<u32>,
    /// Further fields of each request, such as `reasoning_effort`; they replace the judge's own, and a null removes
    /// one.
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

    /// Returns the client's settings.
    pub(super) fn chat_config(&self) -> ChatConfig {
        ChatConfig {
            extra_body: self.extra.clone(),
            may_lower_token_limit: self.max_tokens.is_none(),
            ..self.chat.clone()
        }
    }

    /// Returns what decides its verdicts, without address and key. The panel's `parameters` are added.
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
        // The rules give the code of each incorrect answer, whichever judge decided that it is incorrect.
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

/// The starts of the errors of a reply that is only a thought, and of a reply that was cut off.
const CUT_THOUGHT: &str = "the reply is a thought without a verdict after it";
const CUT_REPLY: &str = "the reply was cut off at the token limit";

/// Returns how the user can fix a judge's replies like this one; `None` if the verdict is valid, or if there was no
/// reply.
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

/// Returns the start and the end of a reply on one line, for a message.
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

/// Whether the first word of a reply is one of `words`.
fn is_led_by(reply: &str, words: &[&str]) -> bool {
    let said = SplitReply::new(reply, false).answer.unwrap_or_default().to_lowercase();
    let first = said.split(|c: char| !c.is_alphabetic()).find(|word| !word.is_empty());
    first.is_some_and(|first| words.contains(&first))
}

/// A language model's verdict on a pair, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ruling {
    pub(super) verdict: JudgeVerdict,
    /// Why a trial that depends on this judge is unscored, if there is no verdict.
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

    /// The ruling from an earlier sitting; `None` if it settles nothing.
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
            // A cut-off "CORRECT" may be incomplete.
            (Some(_), Finish::Length) => Err(CUT_REPLY.to_owned()),
            (Some(said), _) => template
                .read(&said)
                .ok_or_else(|| format!("the reply is not a verdict; {} was expected", template.expected())),
        };
        let unscored = result.is_err().then_some(UnscoredReason::JudgeUnparsable);
        let is_thought_beside = reply.content.trim().is_empty();
        let shown = reply.thought.as_ref().filter(|_| is_thought_beside).unwrap_or(&reply.content);
        // The verdict follows the thought, so the end is kept.
        let n_left_out = if split.thought.is_some() { shown.chars().count().saturating_sub(N_CHARS_KEPT) } else { 0 };
        let kept = shown.chars().skip(n_left_out).take(N_CHARS_KEPT).collect();
        Self { verdict: JudgeVerdict { judge: JudgeKind::Llm.name().to_owned(), result, reply: Some(kept) }, unscored }
    }

    fn of_error(error: &ChatError) -> Self {
        let reason = match error {
            ChatError::Budget { .. } => UnscoredReason::JudgeBudget,
            // The reply contains no verdict, and asking again would give the same.
            ChatError::NoContent { .. } | ChatError::ContentFilter => UnscoredReason::JudgeUnparsable,
            _ => UnscoredReason::JudgeFailed,
        };
        let verdict =
            JudgeVerdict { judge: JudgeKind::Llm.name().to_owned(), result: Err(error.to_string()), reply: None };
        Self { verdict, unscored: Some(reason) }
    }
}
