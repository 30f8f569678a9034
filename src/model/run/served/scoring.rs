//! Label choice and label scores from a server, based on what it was observed to do.
//!
//! The best method is vLLM's `prompt_logprobs`: the label and the end-of-answer token form the assistant's turn, and
//! their log-probabilities are summed, as in local label scoring. On other servers a constraint limits the answer to
//! the labels. Servers ignore constraints that they do not know, so a constraint is used only after a model was
//! observed to obey it, and every answer is looked up among the labels.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::{ProbedModel, ask, messages_with};
use crate::api::{ChatClient, ChatError, ChatReply, ChatRequest, Finish, Message, Part, PromptToken, Role};
use crate::domain::Conversation;

/// Labels that no model says unless it is constrained.
const UNLIKELY: [&str; 2] = ["quartzite ledger", "umbrella oath"];
const QUESTION: &str = "What is in this image?";
/// Enough tokens for a label of many rare tokens, also wrapped in JSON.
const N_TOKENS_MAX: usize = 64;

/// How labels are scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelScoring {
    /// By the log-probabilities of the label and of the end-of-answer token.
    PromptLogprobs {
        /// The text of the end-of-answer token: `</s>`, `<|im_end|>`, …
        end: String,
    },
    /// By a constraint that limits the answer to the labels.
    Constraint(Constraint),
}

/// The request field that limits an answer to labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// vLLM's, under its names before and since 0.12.
    Choice,
    /// `response_format` with a JSON schema: OpenAI, SGLang, Ollama, LM Studio.
    JsonSchema,
    /// llama.cpp's grammar.
    Grammar,
}

const CONSTRAINTS: [Constraint; 3] = [Constraint::Choice, Constraint::JsonSchema, Constraint::Grammar];

/// The token ids and log-probabilities of the prompt and a label after it. The first has no log-probability and is
/// `None`.
pub type LabelTokens = Vec<Option<(u32, f32)>>;

impl LabelScoring {
    /// The name in `run.json`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PromptLogprobs { .. } => "prompt_logprobs",
            Self::Constraint(Constraint::Choice) => "choice",
            Self::Constraint(Constraint::JsonSchema) => "json_schema",
            Self::Constraint(Constraint::Grammar) => "grammar",
        }
    }

    /// Builds the requests that score labels after `messages`: one per label, or one for all labels.
    pub fn requests(&self, model: &ProbedModel, messages: &[Message], labels: &[String]) -> Vec<ChatRequest> {
        match self {
            Self::PromptLogprobs { end } => {
                let of_label = |label: &String| label_request(model, messages, &format!("{label}{end}"));
                labels.iter().map(of_label).collect()
            }
            Self::Constraint(constraint) => vec![constraint.request(model, messages, labels)],
        }
    }
}

impl Constraint {
    fn request(self, model: &ProbedModel, messages: &[Message], labels: &[String]) -> ChatRequest {
        let mut request = model.request(messages, N_TOKENS_MAX);
        request.extra.extend(self.fields(labels));
        request
    }

    fn fields(self, labels: &[String]) -> Map<String, Value> {
        let fields = match self {
            Self::Choice => json!({"structured_outputs": {"choice": labels}, "guided_choice": labels}),
            Self::JsonSchema => json!({"response_format": {"type": "json_schema", "json_schema": {
                "name": "label", "strict": true,
                "schema": {"type": "object", "properties": {"label": {"type": "string", "enum": labels}},
                    "required": ["label"], "additionalProperties": false}}}}),
            Self::Grammar => {
                // JSON's quoting of strings is also valid GBNF.
                let quoted: Vec<String> = labels.iter().map(|label| json!(label).to_string()).collect();
                json!({"grammar": format!("root ::= {}", quoted.join(" | "))})
            }
        };
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    /// Returns the label that was chosen. A reply that is not one of `labels`, or that was cut off, is an error.
    pub fn choice(self, reply: &ChatReply, labels: &[String]) -> Result<String, String> {
        let said = match self {
            Self::Choice | Self::Grammar => reply.content.trim().to_owned(),
            Self::JsonSchema => {
                let parsed: Value = serde_json::from_str(reply.content.trim()).unwrap_or(Value::Null);
                parsed["label"].as_str().unwrap_or_default().to_owned()
            }
        };
        match (&reply.finish, labels.contains(&said)) {
            (Finish::Length, _) => Err("the constrained answer was cut off at the token limit".to_owned()),
            (_, true) => Ok(said),
            (_, false) => Err("the server did not restrict the answer to the labels".to_owned()),
        }
    }
}

/// Builds a request with `turn` as the assistant's turn, which the server must continue and not close.
fn label_request(model: &ProbedModel, messages: &[Message], turn: &str) -> ChatRequest {
    let mut request = model.request(messages, 1);
    request.messages.push(Message { role: Role::Assistant, parts: vec![Part::Text(turn.to_owned())] });
    request.extra.insert("continue_final_message".into(), json!(true));
    request.extra.insert("add_generation_prompt".into(), json!(false));
    request.extra.insert("prompt_logprobs".into(), json!(0));
    request
}

/// Returns the tokens of a reply to a request about one label. An error if they do not end with `end`.
pub fn label_tokens(reply: &ChatReply, end: &str) -> Result<LabelTokens, String> {
    let tokens = reply.prompt_logprobs.as_ref().ok_or("the server gave no log-probabilities of the prompt")?;
    if !matches!(tokens.last(), Some(Some(PromptToken { text, .. })) if text == end) {
        return Err(format!("the prompt that the server read does not end with `{end}`"));
    }
    Ok(tokens.iter().map(|token| token.as_ref().map(|token| (token.id, token.logprob))).collect())
}

/// Returns each label's score and the length of the tokens that all labels share. A score is the sum of
/// log-probabilities after these shared tokens, which are the prompt and do not change the ranking.
pub fn scores(labels: &[LabelTokens]) -> Result<(Vec<f32>, usize), String> {
    let first = labels.first().ok_or("there are no labels")?;
    let id = |token: &Option<(u32, f32)>| token.map(|(id, _)| id);
    let is_common = |place: usize| {
        labels.iter().all(|tokens| tokens.get(place).map(id) == first.get(place).map(id) && place < tokens.len())
    };
    let n_common = (0..first.len()).take_while(|&place| is_common(place)).count();
    if labels.iter().any(|tokens| tokens.len() <= n_common) {
        return Err("a label has no tokens of its own".to_owned());
    }
    let sum = |tokens: &LabelTokens| -> Option<f32> { tokens[n_common..].iter().map(|t| t.map(|(_, l)| l)).sum() };
    let sums: Option<Vec<f32>> = labels.iter().map(sum).collect();
    Ok((sums.ok_or("a label's token has no log-probability")?, n_common))
}

/// Tries the known methods, and returns the first that the server was observed to support.
pub(super) fn find(client: &ChatClient, model: &ProbedModel, image: &Part) -> Result<LabelScoring> {
    let labels = UNLIKELY.map(str::to_owned);
    let messages = messages_with(&Conversation::about_one_image(QUESTION), std::slice::from_ref(image))?;
    let mut tried = Vec::new();
    for constraint in CONSTRAINTS {
        let asked = constraint.request(model, &messages, &labels);
        let reply = match ask(client, without_ending(asked)) {
            Ok(reply) => reply,
            Err(error) if error.is_fatal() => return Err(error.into()),
            Err(error) => {
                tried.push(format!("{constraint:?}: {error}"));
                continue;
            }
        };
        match constraint.choice(&reply, &labels) {
            Ok(said) => {
                let end = (constraint == Constraint::Choice).then(|| end_of(&reply, &said)).flatten();
                let by_logprobs = match end {
                    Some(end) => prompt_logprobs(client, model, &messages, &labels, end)?,
                    None => None,
                };
                return Ok(by_logprobs.unwrap_or(LabelScoring::Constraint(constraint)));
            }
            Err(why) => tried.push(format!("{constraint:?}: {why}")),
        }
    }
    bail!(
        "its server neither gives a prompt's log-probabilities nor restricts an answer to given labels ({})",
        tried.join("; ")
    )
}

fn without_ending(mut request: ChatRequest) -> ChatRequest {
    request.extra.insert("logprobs".into(), json!(true));
    request.extra.insert("top_logprobs".into(), json!(1));
    request
}

/// Returns the end-of-answer token: the reply's last token, after those that spell its text. Spaces are ignored,
/// because servers may report a token without its space.
fn end_of(reply: &ChatReply, said: &str) -> Option<String> {
    let without_spaces = |text: &str| text.split_whitespace().collect::<String>();
    let (last, before) = reply.logprobs.as_ref()?.split_last()?;
    let spelled: String = before.iter().map(|token| token.token.as_str()).collect();
    (without_spaces(&spelled) == without_spaces(said) && !last.token.is_empty()).then(|| last.token.clone())
}

/// Returns [`LabelScoring::PromptLogprobs`] if the server gives the log-probabilities of a given assistant turn, `end`
/// included.
fn prompt_logprobs(
    client: &ChatClient,
    model: &ProbedModel,
    messages: &[Message],
    labels: &[String],
    end: String,
) -> Result<Option<LabelScoring>, ChatError> {
    let scoring = LabelScoring::PromptLogprobs { end: end.clone() };
    let mut tokens = Vec::with_capacity(labels.len());
    for request in scoring.requests(model, messages, labels) {
        match ask(client, request).map(|reply| label_tokens(&reply, &end)) {
            Ok(Ok(of_label)) => tokens.push(of_label),
            Err(error) if error.is_fatal() => return Err(error),
            Ok(Err(_)) | Err(_) => return Ok(None),
        }
    }
    Ok(scores(&tokens).is_ok().then_some(scoring))
}

#[cfg(test)]
mod tests;
