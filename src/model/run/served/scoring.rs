//! Which label would the model say? By what a server really does, and not by what it says that it does.
//!
//! Best are vLLM's `prompt_logprobs`: the label and the end-of-answer token as the assistant's turn, and the sum of
//! their log-probabilities, as label scoring has it everywhere. Elsewhere a constraint lets the model say nothing but a
//! label; servers ignore constraints that they do not know, so one is used only where a model was seen to obey it, and every
//! answer is looked up among the labels.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::{ProbedModel, ask};
use crate::api::{ChatClient, ChatError, ChatReply, ChatRequest, Finish, Message, Part, PromptToken, Role};

/// Nobody says these unasked.
const UNLIKELY: [&str; 2] = ["quartzite ledger", "umbrella oath"];
const QUESTION: &str = "What is in this image?";
/// A label of many rare tokens, and room for a model that wraps it in JSON.
const N_TOKENS_MAX: usize = 64;

/// How labels are scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelScoring {
    /// By the log-probabilities of label and end-of-answer token, which has this text.
    PromptLogprobs {
        /// `</s>`, `<|im_end|>`, …
        end: String,
    },
    /// By letting the model say nothing but a label.
    Constraint(Constraint),
}

/// How a server is told that only labels may be said.
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

/// A label's tokens with those of the prompt before it: their numbers and log-probabilities; nothing for the first.
pub type LabelTokens = Vec<Option<(u32, f32)>>;

impl LabelScoring {
    /// As `run.json` has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PromptLogprobs { .. } => "prompt_logprobs",
            Self::Constraint(Constraint::Choice) => "choice",
            Self::Constraint(Constraint::JsonSchema) => "json_schema",
            Self::Constraint(Constraint::Grammar) => "grammar",
        }
    }

    /// What is asked about one image: a request a label, or one for all.
    pub fn requests(&self, model: &ProbedModel, question: &str, image: &Part, labels: &[String]) -> Vec<ChatRequest> {
        match self {
            Self::PromptLogprobs { end } => {
                let of_label = |label: &String| label_request(model, question, image, &format!("{label}{end}"));
                labels.iter().map(of_label).collect()
            }
            Self::Constraint(constraint) => vec![constraint.request(model, question, image, labels)],
        }
    }
}

impl Constraint {
    fn request(self, model: &ProbedModel, question: &str, image: &Part, labels: &[String]) -> ChatRequest {
        let mut request = model.request(question, image, N_TOKENS_MAX);
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
                // JSON's quoting of strings is GBNF's, too.
                let quoted: Vec<String> = labels.iter().map(|label| json!(label).to_string()).collect();
                json!({"grammar": format!("root ::= {}", quoted.join(" | "))})
            }
        };
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    /// The label that was chosen; a reply that is none of `labels`, or was cut off, is no choice.
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

/// The label as the assistant's turn, which the server is to go on with rather than to close.
fn label_request(model: &ProbedModel, question: &str, image: &Part, turn: &str) -> ChatRequest {
    let mut request = model.request(question, image, 1);
    request.messages.push(Message { role: Role::Assistant, parts: vec![Part::Text(turn.to_owned())] });
    request.extra.insert("continue_final_message".into(), json!(true));
    request.extra.insert("add_generation_prompt".into(), json!(false));
    request.extra.insert("prompt_logprobs".into(), json!(0));
    request
}

/// The tokens of a reply to a request about one label; an error where they do not end with `end`.
pub fn label_tokens(reply: &ChatReply, end: &str) -> Result<LabelTokens, String> {
    let tokens = reply.prompt_logprobs.as_ref().ok_or("the server gave no log-probabilities of the prompt")?;
    if !matches!(tokens.last(), Some(Some(PromptToken { text, .. })) if text == end) {
        return Err(format!("the prompt that the server read does not end with `{end}`"));
    }
    Ok(tokens.iter().map(|token| token.as_ref().map(|token| (token.id, token.logprob))).collect())
}

/// Each label's score: the sum of log-probabilities behind what all labels' tokens have in common, which is the prompt and
/// takes nothing from their order. Also the length of that common part.
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

/// Tries what a server might do, and returns what it was seen to do.
pub(super) fn find(client: &ChatClient, model: &ProbedModel, image: &Part) -> Result<LabelScoring> {
    let labels = UNLIKELY.map(str::to_owned);
    let mut tried = Vec::new();
    for constraint in CONSTRAINTS {
        let asked = constraint.request(model, QUESTION, image, &labels);
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
                    Some(end) => prompt_logprobs(client, model, image, &labels, end)?,
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

/// The end-of-answer token: what the reply's tokens spell behind its text. A token alone may be told without its space.
fn end_of(reply: &ChatReply, said: &str) -> Option<String> {
    let without_spaces = |text: &str| text.split_whitespace().collect::<String>();
    let (last, before) = reply.logprobs.as_ref()?.split_last()?;
    let spelled: String = before.iter().map(|token| token.token.as_str()).collect();
    (without_spaces(&spelled) == without_spaces(said) && !last.token.is_empty()).then(|| last.token.clone())
}

/// Whether the server gives the log-probabilities of what it is told that it said, `end` included.
fn prompt_logprobs(
    client: &ChatClient,
    model: &ProbedModel,
    image: &Part,
    labels: &[String],
    end: String,
) -> Result<Option<LabelScoring>, ChatError> {
    let scoring = LabelScoring::PromptLogprobs { end: end.clone() };
    let mut tokens = Vec::with_capacity(labels.len());
    for request in scoring.requests(model, QUESTION, image, labels) {
        match ask(client, request).map(|reply| label_tokens(&reply, &end)) {
            Ok(Ok(of_label)) => tokens.push(of_label),
            Err(error) if error.is_fatal() => return Err(error),
            Ok(Err(_)) | Err(_) => return Ok(None),
        }
    }
    Ok(scores(&tokens).is_ok().then_some(scoring))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[u32]) -> LabelTokens {
        std::iter::once(None).chain(ids.iter().map(|&id| Some((id, -(id as f32))))).collect()
    }

    #[test]
    fn a_label_is_scored_behind_what_all_labels_share() {
        let (sums, n_common) =
            scores(&[tokens(&[5, 6, 1, 2]), tokens(&[5, 6, 1, 3, 2]), tokens(&[5, 6, 4, 2])]).unwrap();
        assert_eq!((sums, n_common), (vec![-3.0, -6.0, -6.0], 3));
        // One label is the beginning of another: the terminator tells them apart.
        let (sums, _) = scores(&[tokens(&[9, 1, 2]), tokens(&[9, 1, 3, 2])]).unwrap();
        assert_eq!(sums, [-2.0, -5.0]);
    }

    #[test]
    fn labels_that_the_server_did_not_read_are_no_scores() {
        assert!(scores(&[tokens(&[5, 6]), tokens(&[5, 6])]).is_err());
        assert!(scores(&[tokens(&[5, 6]), tokens(&[5, 6, 7])]).is_err());
        assert!(scores(&[]).is_err());
    }

    #[test]
    fn the_end_of_an_answer_is_the_token_behind_its_text() {
        let reply = |tokens: &[&str]| ChatReply {
            content: "umbrella oath".to_owned(),
            thought: None,
            finish: Finish::Stop,
            n_tokens: None,
            n_prompt_tokens: None,
            n_reply_tokens: None,
            logprobs: Some(
                tokens
                    .iter()
                    .map(|&token| crate::api::TokenLogprob { token: token.to_owned(), logprob: 0.0, top: vec![] })
                    .collect(),
            ),
            prompt_logprobs: None,
            server: crate::api::ReplyServer::default(),
        };
        assert_eq!(end_of(&reply(&["umb", "rella", "oath", "</s>"]), "umbrella oath"), Some("</s>".to_owned()));
        assert_eq!(end_of(&reply(&["umb", "rella", " oath"]), "umbrella oath"), None, "the server leaves it out");
    }

    #[test]
    fn a_grammar_quotes_what_labels_hold() {
        let fields = Constraint::Grammar.fields(&["a \"b\"".to_owned(), "c".to_owned()]);
        assert_eq!(fields["grammar"], r#"root ::= "a \"b\"" | "c""#);
    }
}
