//! The language-model judge: its settings, its requests, and what its replies amount to.

use serde_json::{Map, Value, json};

use super::JudgePrompt;
use super::prompt::Template;
use crate::api::{ChatConfig, ChatError, ChatReply, ChatRequest, Finish, Message};
use crate::domain::{JudgeSpec, JudgeVerdict, UnscoredReason, Verdict};
use crate::taxonomy::RULES_VERSION;

/// So many characters of a reply are kept.
const N_CHARS_KEPT: usize = 2_000;
/// Room for one word, and for a reply that is no verdict to show what it is.
const N_TOKENS_DEFAULT: u32 = 64;

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
    /// The most tokens of a reply, 64 if `None`.
    pub max_tokens: Option<u32>,
    /// Further fields of each request, such as `reasoning_effort`.
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
            extra: self.extra.clone(),
            ..ChatRequest::default()
        };
        if let Some(JudgePreset::Paper) = self.preset {
            request.temperature = Some(0.2);
            request.top_p = Some(1.0);
            for penalty in ["frequency_penalty", "presence_penalty"] {
                request.extra.entry(penalty).or_insert(json!(0));
            }
        }
        request
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
        // The rules give the code of each incorrect answer, whoever decided that it is one.
        parameters.insert("codes".into(), json!(RULES_VERSION));
        parameters.extend(panel.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        JudgeSpec {
            judge: "llm".to_owned(),
            model: self.chat.model.clone(),
            prompt: Some(template.hash()),
            parameters: Value::Object(parameters),
        }
    }
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
            (Ok(Verdict::Correct | Verdict::Incorrect), _) => None,
            (Err(_), Some(_)) => Some(UnscoredReason::JudgeUnparsable),
            (Ok(Verdict::Undecided) | Err(_), _) => return None,
        };
        (verdict.judge == "llm").then(|| Self { verdict: verdict.clone(), unscored })
    }

    fn of_reply(template: &Template, reply: &ChatReply) -> Self {
        let result = match (&reply.finish, template.read(&reply.content)) {
            // "CORRECT" may have been about to go on.
            (Finish::Length, _) => Err("the reply was cut off at the token limit".to_owned()),
            (_, Some(verdict)) => Ok(verdict),
            (_, None) => Err("the reply is not a verdict".to_owned()),
        };
        let unscored = result.is_err().then_some(UnscoredReason::JudgeUnparsable);
        let reply = reply.content.chars().take(N_CHARS_KEPT).collect();
        Self { verdict: JudgeVerdict { judge: "llm".to_owned(), result, reply: Some(reply) }, unscored }
    }

    fn of_error(error: &ChatError) -> Self {
        let reason = match error {
            ChatError::Budget { .. } => UnscoredReason::JudgeBudget,
            // It answered, and there is no verdict in the answer; asking again would bring the same.
            ChatError::NoContent { .. } | ChatError::ContentFilter => UnscoredReason::JudgeUnparsable,
            _ => UnscoredReason::JudgeFailed,
        };
        let verdict = JudgeVerdict { judge: "llm".to_owned(), result: Err(error.to_string()), reply: None };
        Self { verdict, unscored: Some(reason) }
    }
}
