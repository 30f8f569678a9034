//! The JSON of the interface, separate from our own types.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::negotiation::Negotiated;
use super::stream;
use super::{ChatConfig, ChatError};

/// The speaker of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// The one who asks.
    User,
    /// The one who answers.
    Assistant,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// Text.
    Text(String),
    /// An image as a `data:` address, shared because several requests use it.
    Image(Arc<str>),
}

impl Part {
    /// Returns an image with these PNG bytes.
    pub fn png(bytes: &[u8]) -> Self {
        Self::Image(format!("data:image/png;base64,{}", STANDARD.encode(bytes)).into())
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => json!({"type": "text", "text": text}),
            // Sent as an object, because some servers refuse a plain string and one fails on it.
            Self::Image(url) => json!({"type": "image_url", "image_url": {"url": &**url}}),
        }
    }

    fn n_tokens_estimate(&self) -> u64 {
        match self {
            Self::Text(text) => text.len().div_ceil(BYTES_PER_TOKEN) as u64,
            Self::Image(_) => N_TOKENS_PER_IMAGE,
        }
    }
}

/// English has about four bytes per token; an estimate should not be too low.
const BYTES_PER_TOKEN: usize = 3;
/// A typical image for a typical model; the server's own count replaces the estimate.
const N_TOKENS_PER_IMAGE: u64 = 1_000;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The speaker.
    pub role: Role,
    /// The parts.
    pub parts: Vec<Part>,
}

impl Message {
    /// Returns a user's message of plain text.
    pub fn user(text: impl Into<String>) -> Self {
        Self { role: Role::User, parts: vec![Part::Text(text.into())] }
    }

    fn to_json(&self) -> Value {
        let role = match self.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        // Plain text is sent as a string, because older servers accept nothing else.
        let content = match self.parts.as_slice() {
            [Part::Text(text)] => json!(text),
            parts => parts.iter().map(Part::to_json).collect(),
        };
        json!({"role": role, "content": content})
    }
}

/// A request to a chat server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatRequest {
    /// The model, if it is not the client's own.
    pub model: Option<String>,
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Omitted if `None` or if the server refuses it.
    pub temperature: Option<f64>,
    /// The most tokens of the reply; sent under the name that the server accepts.
    pub max_tokens: u32,
    /// Omitted if `None` or if the server refuses it.
    pub seed: Option<u64>,
    /// Omitted if `None` or if the server refuses it.
    pub top_p: Option<f64>,
    /// Further fields, sent unchanged; they replace the fields above of the same name.
    pub extra: Map<String, Value>,
}

impl ChatRequest {
    /// Returns the request as it is sent to the server.
    pub(super) fn to_json(&self, config: &ChatConfig, negotiated: &Negotiated) -> Value {
        let mut body = Map::new();
        body.insert("model".into(), json!(self.model.as_deref().unwrap_or(&config.model)));
        body.insert("messages".into(), self.messages.iter().map(Message::to_json).collect());
        body.insert(negotiated.token_limit().into(), json!(negotiated.n_tokens(self.max_tokens)));
        let sampling = [
            ("temperature", self.temperature.map(|value| json!(value))),
            ("top_p", self.top_p.map(|value| json!(value))),
            ("seed", self.seed.map(|value| json!(value))),
        ];
        for (name, value) in sampling {
            if let Some(value) = value {
                body.insert(name.into(), value);
            }
        }
        body.insert("stream".into(), json!(false));
        body.extend(self.extra.clone());
        body.extend(config.extra_body.clone());
        body.retain(|name, value| !negotiated.omits(name) && !value.is_null());
        for (name, value) in negotiated.changed() {
            if let Some(sent) = body.get_mut(name) {
                *sent = value.clone();
            }
        }
        Value::Object(body)
    }

    /// Estimates the tokens of prompt and reply from above.
    pub(super) fn n_tokens_estimate(&self) -> u64 {
        let parts = self.messages.iter().flat_map(|message| &message.parts);
        parts.map(Part::n_tokens_estimate).sum::<u64>() + u64::from(self.max_tokens)
    }
}

/// Why a reply ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model finished.
    Stop,
    /// `max_tokens` cut it off.
    Length,
    /// Any other reason, as the server gave it, or none.
    Other(String),
}

/// A reply with text.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatReply {
    /// The text, verbatim; empty if the whole reply is a thought.
    pub content: String,
    /// The model's thought, if the server separates it from the text.
    pub thought: Option<String>,
    /// Why the reply ended.
    pub finish: Finish,
    /// Tokens of prompt and reply, if the server counts them.
    pub n_tokens: Option<u64>,
    /// Tokens of the prompt, if the server reports them.
    pub n_prompt_tokens: Option<u32>,
    /// Tokens of the reply, if the server reports them.
    pub n_reply_tokens: Option<u32>,
    /// One entry per token of the reply, if they were requested and the server returns them.
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// vLLM's `prompt_logprobs`, if they were requested: one entry per token of the prompt, `None` for the first.
    pub prompt_logprobs: Option<Vec<Option<PromptToken>>>,
    /// What the reply reveals about its server.
    pub server: ReplyServer,
}

/// A token of a reply.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Its text.
    pub token: String,
    /// Its log-probability.
    pub logprob: f32,
    /// The log-probabilities of the likeliest tokens in its place, falling, at most as many as requested.
    pub top: Vec<f32>,
}

/// A token of a prompt, as vLLM reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptToken {
    /// Its number in the vocabulary.
    pub id: u32,
    /// Its log-probability given all tokens before it.
    pub logprob: f32,
    /// Its text.
    pub text: String,
}

/// What a reply reveals about its server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyServer {
    /// The `Server` header.
    pub software: Option<String>,
    /// `system_fingerprint`.
    pub system_fingerprint: Option<String>,
}

/// The kind of body of a 200.
pub(super) enum Body {
    /// A completion, with a reply or the reason why there is none.
    Completion(Result<ChatReply, ChatError>, Option<u64>),
    /// An error that a gateway sent with a 200.
    Error { status: u16 },
    /// Not a completion.
    Other(&'static str),
}

#[derive(Deserialize)]
struct WireCompletion {
    #[serde(default)]
    choices: Option<Vec<WireChoice>>,
    #[serde(default)]
    error: Option<Value>,
    #[serde(default)]
    usage: Option<WireUsage>,
    #[serde(default)]
    system_fingerprint: Option<Value>,
    #[serde(default)]
    prompt_logprobs: Option<Value>,
}

#[derive(Deserialize)]
struct WireChoice {
    #[serde(default)]
    message: Option<WireMessage>,
    #[serde(default)]
    finish_reason: Option<Value>,
    #[serde(default)]
    logprobs: Option<Value>,
    /// A gateway's error: the upstream server failed.
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Default, Deserialize)]
struct WireMessage {
    #[serde(default)]
    content: Option<Value>,
    #[serde(default)]
    refusal: Option<Value>,
    /// A reasoning model's thought, as named by vLLM and DeepSeek, by OpenRouter and vLLM, and by Ollama.
    #[serde(default)]
    reasoning_content: Option<Value>,
    #[serde(default)]
    reasoning: Option<Value>,
    #[serde(default)]
    thinking: Option<Value>,
}

#[derive(Deserialize)]
struct WireUsage {
    #[serde(default)]
    total_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
}

/// Reads the body of a 200. If `takes_empty`, an empty text is a valid reply; a missing text never is.
pub(super) fn read_body(bytes: &[u8], takes_empty: bool) -> Body {
    let streamed = stream::completion(bytes);
    let parsed = match &streamed {
        Some(whole) => WireCompletion::deserialize(whole),
        None => serde_json::from_slice(bytes),
    };
    let completion = match parsed {
        Ok(completion) => completion,
        Err(error) if error.is_eof() && bytes.trim_ascii_start().starts_with(b"{") => {
            return Body::Other("half a document");
        }
        Err(_) if bytes.trim_ascii_start().starts_with(b"<") => return Body::Other("a web page"),
        Err(_) if bytes.trim_ascii().is_empty() => return Body::Other("nothing"),
        Err(_) => return Body::Other("text"),
    };
    let in_choice = || completion.choices.iter().flatten().find_map(|choice| choice.error.as_ref());
    if let Some(error) = completion.error.as_ref().filter(|error| !error.is_null()).or_else(in_choice) {
        let code = &error["code"];
        let code = code.as_u64().or_else(|| code.as_str()?.parse().ok());
        let status = code.and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
        return Body::Error { status: status.unwrap_or(500) };
    }
    let usage = completion.usage;
    let n_tokens = usage.as_ref().and_then(|usage| usage.total_tokens);
    let reply = match completion.choices {
        None => return Body::Other("JSON"),
        Some(choices) => match choices.into_iter().next() {
            None => Err(ChatError::NoChoices),
            Some(choice) => read_choice(choice, takes_empty),
        },
    };
    let count = |of: fn(&WireUsage) -> Option<u64>| usage.as_ref().and_then(of).and_then(|n| n.try_into().ok());
    let fingerprint = completion.system_fingerprint.and_then(|value| value.as_str().map(str::to_owned));
    let reply = reply.map(|reply| ChatReply {
        n_tokens,
        n_prompt_tokens: count(|usage| usage.prompt_tokens),
        n_reply_tokens: count(|usage| usage.completion_tokens),
        prompt_logprobs: completion.prompt_logprobs.as_ref().and_then(prompt_logprobs),
        server: ReplyServer { software: None, system_fingerprint: fingerprint },
        ..reply
    });
    Body::Completion(reply, n_tokens)
}

/// Returns the tokens of `logprobs.content`; `None` if there are none or one is malformed.
fn token_logprobs(logprobs: &Value) -> Option<Vec<TokenLogprob>> {
    let tokens = logprobs["content"].as_array().filter(|tokens| !tokens.is_empty())?.iter();
    tokens
        .map(|token| {
            let mut top: Vec<f32> =
                token["top_logprobs"].as_array().into_iter().flatten().filter_map(logprob).collect();
            top.sort_by(|a, b| b.total_cmp(a));
            Some(TokenLogprob { token: token["token"].as_str()?.to_owned(), logprob: logprob(token)?, top })
        })
        .collect()
}

fn logprob(entry: &Value) -> Option<f32> {
    entry["logprob"].as_f64().map(|logprob| logprob as f32).filter(|logprob| logprob.is_finite())
}

/// Returns each place's own token: the first entry of an object whose other entries are the likeliest tokens in its
/// place.
fn prompt_logprobs(places: &Value) -> Option<Vec<Option<PromptToken>>> {
    let place = |(index, place): (usize, &Value)| match place {
        Value::Null if index == 0 => Some(None),
        place => {
            let (id, entry) = place.as_object()?.iter().next()?;
            let text = entry["decoded_token"].as_str().unwrap_or_default().to_owned();
            Some(Some(PromptToken { id: id.parse().ok()?, logprob: logprob(entry)?, text }))
        }
    };
    places.as_array()?.iter().enumerate().map(place).collect()
}

/// Returns the text of a message's parts: either of its thoughts or of all others.
fn said(parts: &[Value], are_thoughts: bool) -> String {
    let is_thought = |part: &Value| {
        let kind = part["type"].as_str().unwrap_or_default();
        part["thought"] == true
            || ["thinking", "reasoning", "thought", "redacted_thinking"].iter().any(|name| kind.starts_with(name))
    };
    let text = |part: &Value| match are_thoughts {
        true => text_of(part),
        false => part["text"].as_str().or(part.as_str()).unwrap_or_default().to_owned(),
    };
    parts.iter().filter(|part| is_thought(part) == are_thoughts).map(text).collect()
}

/// Returns the text of a part of a message, or of a list of parts, whatever the field's name.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text_of).collect(),
        Value::Object(fields) => {
            let names = ["text", "thinking", "reasoning", "content", "summary"];
            names.iter().find_map(|name| fields.get(*name)).map(text_of).unwrap_or_default()
        }
        _ => String::new(),
    }
}

fn read_choice(choice: WireChoice, takes_empty: bool) -> Result<ChatReply, ChatError> {
    let finish_reason = match choice.finish_reason {
        Some(Value::String(reason)) => reason,
        _ => "none".to_owned(),
    };
    if finish_reason == "content_filter" {
        return Err(ChatError::ContentFilter);
    }
    let message = choice.message.unwrap_or_default();
    let is_refused = message.refusal.as_ref().is_some_and(|refusal| refusal.as_str().is_some_and(|s| !s.is_empty()));
    let (text, in_parts, is_text) = match message.content {
        Some(Value::String(text)) => (text, None, true),
        Some(Value::Array(parts)) => (said(&parts, false), Some(said(&parts, true)), true),
        _ => (String::new(), None, false),
    };
    let beside = [&message.reasoning_content, &message.reasoning, &message.thinking];
    let beside = beside.into_iter().flatten().map(text_of).find(|thought| !thought.is_empty());
    let thought = in_parts.filter(|thought| !thought.is_empty()).or(beside);
    let is_taken = takes_empty && is_text && !is_refused;
    if text.trim().is_empty() && thought.is_none() && !is_taken {
        let hint = match message.refusal {
            Some(Value::String(refusal)) if is_refused => {
                format!("; the model refused: {}", super::attempt::excerpt(&refusal))
            }
            _ if finish_reason == "length" => {
                "; hint: a reasoning model may have spent its tokens before it answered".to_owned()
            }
            _ => String::new(),
        };
        return Err(ChatError::NoContent { finish_reason, hint });
    }
    let finish = match finish_reason.as_str() {
        "stop" => Finish::Stop,
        "length" => Finish::Length,
        _ => Finish::Other(finish_reason),
    };
    Ok(ChatReply {
        content: text,
        thought,
        finish,
        n_tokens: None,
        n_prompt_tokens: None,
        n_reply_tokens: None,
        logprobs: choice.logprobs.as_ref().and_then(token_logprobs),
        prompt_logprobs: None,
        server: ReplyServer::default(),
    })
}

#[cfg(test)]
mod tests;
