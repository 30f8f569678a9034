//! Models behind a server with OpenAI's chat interface: requests to them, and how their replies are interpreted.
//!
//! Servers differ in what they accept and in what they silently ignore. Each [`Server`] is therefore probed before a
//! run (`probe.rs`): its reply to a fixed prompt is recorded, and label scoring (`scoring.rs`) uses a method only after
//! its effect was observed.

mod probe;
mod scoring;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::api::{
    ChatClient, ChatConfig, ChatError, ChatReply, ChatRequest, Finish, Message, Part, Role, ServedModel, SideError,
};
use crate::dataset::png;
use crate::domain::{Answer, Conversation, Item, ServedSpec, Stop, Turn, with_thought_opened};
pub use probe::Probe;
pub use scoring::{Constraint, LabelScoring, LabelTokens, label_tokens, scores};

/// The seed of every request. At temperature 0 it should have no effect.
const SEED: u64 = 0;

/// A model that the user named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedName {
    /// The name of its run, if the user gave one.
    pub name: Option<String>,
    /// The model's name in requests.
    pub model: String,
}

/// The user's request for a server.
#[derive(Clone, Debug)]
pub struct ServerRequest {
    /// The server's address and its request limits.
    pub chat: ChatConfig,
    /// The models. If empty, the only model that the server lists.
    pub models: Vec<ServedName>,
    /// Whether to request log-probabilities with each answer.
    pub asks_logprobs: bool,
    /// Whether the tokenizer puts its special tokens around the rendered chat. If `None`, it does so where vLLM would
    /// leave out the beginning-of-sequence token.
    pub adds_special_tokens: Option<bool>,
    /// Whether labels will be scored.
    pub scores_labels: bool,
}

/// A server that was probed.
pub struct Server {
    client: ChatClient,
    asks_logprobs: bool,
    /// The fields that the user adds to every request.
    extra_body: Map<String, Value>,
    models: Vec<ProbedModel>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// One of the server's models.
#[derive(Clone, Debug)]
pub struct ProbedModel {
    /// Its name.
    pub name: ServedName,
    /// Its entry in the server's list; null if it has none.
    pub entry: Value,
    /// Whether requests ask for the tokenizer's special tokens. `None` if it is unknown whether they are needed.
    pub adds_special_tokens: Option<bool>,
    /// Its reply to a fixed prompt.
    pub probe: Probe,
    /// How its labels are scored, if they are.
    pub label_scoring: Option<LabelScoring>,
}

impl Server {
    /// Finds the models, and probes each.
    pub fn open(request: ServerRequest) -> Result<Self> {
        let extra_body = request.chat.extra_body.clone();
        let client = ChatClient::new(ChatConfig { takes_empty_replies: true, ..request.chat })?;
        let listed = match client.models() {
            Ok(models) => models,
            // Not every server has a list.
            Err(SideError::Refused { .. }) => Vec::new(),
            Err(error @ SideError::Fatal(_)) => return Err(error.into()),
        };
        let names = if request.models.is_empty() { vec![only_model(&listed)?] } else { request.models };
        let mut warnings = Vec::new();
        let mut models: Vec<ProbedModel> = Vec::with_capacity(names.len());
        for name in names {
            let entry = listed.iter().find(|listed| listed.id == name.model);
            if entry.is_none() && !listed.is_empty() {
                warnings.push(format!(
                    "the server does not list `{}`: some servers answer any name with the same model; it lists {}",
                    name.model,
                    list(&listed)
                ));
            }
            let entry = entry.map_or(Value::Null, |listed| listed.entry.clone());
            models.push(probe::open(&client, name, entry, &request.adds_special_tokens, request.scores_labels)?);
        }
        refuse_twins(&models)?;
        for model in &models {
            warnings.extend(model.warnings(request.asks_logprobs));
        }
        warnings.extend(client.learned());
        Ok(Self { client, asks_logprobs: request.asks_logprobs, extra_body, models, warnings })
    }

    /// The client, for requests such as those of [`Server::generate_request`].
    pub fn client(&self) -> &ChatClient {
        &self.client
    }

    /// The models, in the order in which they were named.
    pub fn models(&self) -> &[ProbedModel] {
        &self.models
    }

    /// Returns what decides the answers of one of the models, as far as the server reports it.
    pub fn spec(&self, model: usize) -> ServedSpec {
        let probed = &self.models[model];
        let (client, omitted) = (&self.client, self.omitted());
        let is_sent = |name: &str| !omitted.iter().any(|other| other == name);
        let mut request = Map::new();
        let parameters = client.effective_parameters();
        for (name, value) in [("temperature", json!(0)), ("seed", json!(SEED))] {
            let changed = parameters["changed"].get(name).cloned();
            request.insert(name.into(), if is_sent(name) { changed.unwrap_or(value) } else { Value::Null });
        }
        request.insert("add_special_tokens".into(), json!(probed.adds_special_tokens == Some(true)));
        request.insert("token_limit".into(), parameters["token_limit"].clone());
        if let Some(least) = parameters.get("min_tokens") {
            request.insert("min_tokens".into(), least.clone());
        }
        if !self.extra_body.is_empty() {
            request.insert("extra_body".into(), self.extra_body.clone().into());
        }
        ServedSpec {
            model: probed.name.model.clone(),
            request: request.into(),
            n_probe_tokens: probed.probe.n_prompt_tokens,
            probe_answer: probed.probe.identity(),
            label_scoring: probed.label_scoring.as_ref().map(|scoring| scoring.name().to_owned()),
        }
    }

    /// Returns details of the server and one of its models that are recorded and shown, but never compared.
    pub fn environment(&self, model: usize) -> Value {
        let probed = &self.models[model];
        json!({
            "address": self.client.address(),
            "server": probed.probe.server.software,
            "system_fingerprint": probed.probe.server.system_fingerprint,
            "model": probed.entry,
            "parameters": self.client.effective_parameters(),
            "add_special_tokens": probed.adds_special_tokens,
            "probe": probed.probe.to_json(),
        })
    }

    fn omitted(&self) -> Vec<String> {
        let parameters = self.client.effective_parameters();
        let names = parameters["omitted"].as_array().into_iter().flatten();
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    }

    /// Builds a request to one of the models to continue `messages`.
    pub fn generate_request(&self, model: usize, messages: &[Message], max_new_tokens: usize) -> ChatRequest {
        let mut request = self.models[model].request(messages, max_new_tokens);
        if self.asks_logprobs {
            request.extra.insert("logprobs".into(), json!(true));
            request.extra.insert("top_logprobs".into(), json!(2));
        }
        request
    }

    /// Converts a reply of one of the models to an answer, including its thought, or to the reason why it is not an
    /// answer.
    pub fn answer(&self, model: usize, reply: &ChatReply) -> Result<Answer, String> {
        let stop = match &reply.finish {
            Finish::Stop => Stop::Eos,
            Finish::Length => Stop::Length,
            Finish::Other(reason) if ["tool_calls", "function_call", "error", "abort"].contains(&reason.as_str()) => {
                return Err(format!("the reply ended with `{reason}`, and is not an answer"));
            }
            // Servers use many names for the end of an answer.
            Finish::Other(_) => Stop::Eos,
        };
        let gap = |token: &crate::api::TokenLogprob| Some(token.top.first()? - token.top.get(1)?);
        let logit_gap = match (self.asks_logprobs, &reply.logprobs) {
            (true, Some(tokens)) => tokens.iter().map(gap).collect::<Option<Vec<f32>>>(),
            _ => None,
        };
        Ok(Answer {
            text: said(reply, self.models[model].probe.begins_in_thought),
            stop,
            n_prompt_tokens: reply.n_prompt_tokens,
            n_answer_tokens: reply.n_reply_tokens,
            logit_gap: logit_gap.and_then(|gaps| gaps.into_iter().min_by(f32::total_cmp)),
        })
    }
}

impl ProbedModel {
    fn request(&self, messages: &[Message], max_new_tokens: usize) -> ChatRequest {
        request(&self.name.model, self.adds_special_tokens, messages, max_new_tokens)
    }

    fn warnings(&self, asks_logprobs: bool) -> Vec<String> {
        let model = &self.name.model;
        let mut warnings = Vec::new();
        if self.adds_special_tokens.is_none() && self.entry["owned_by"] == "vllm" {
            warnings.push(format!(
                "{model}: the server does not report whether its chat template begins with the tokenizer's \
                 beginning-of-sequence token, which vLLM leaves out otherwise; hint: --add-special-tokens true or false"
            ));
        }
        if !self.probe.is_repeatable {
            warnings.push(format!(
                "{model}: the same question gets a different answer each time; no run of it can be repeated"
            ));
        }
        if self.probe.n_prompt_tokens.is_none() {
            warnings.push(format!("{model}: the server does not count tokens, so its prompts cannot be compared"));
        }
        if asks_logprobs && self.probe.logprobs.is_none() {
            warnings.push(format!("{model}: the server gives no log-probabilities; answers have no `logit_gap`"));
        }
        warnings
    }
}

/// The messages of an item, with its images as PNG.
///
/// # Errors
/// An image cannot be encoded, or the conversation has places for another number of images.
pub fn messages(item: &Item<'_>) -> Result<Vec<Message>> {
    let images: Vec<Part> = item.images.iter().map(|image| Ok(Part::png(&png(image)?))).collect::<Result<_>>()?;
    messages_with(item.conversation, &images)
}

/// The messages of a conversation about `images`.
fn messages_with(conversation: &Conversation, images: &[Part]) -> Result<Vec<Message>> {
    ensure!(
        conversation.n_images() == images.len(),
        "a conversation about {} images is given {}",
        conversation.n_images(),
        images.len()
    );
    let (mut messages, mut images) = (Vec::new(), images.iter().cloned());
    for Turn { n_images, text, answer } in &conversation.turns {
        // Images come first: most templates put them there whatever the order, and those that keep the order were
        // trained this way.
        let mut parts: Vec<Part> = images.by_ref().take(*n_images).collect();
        parts.push(Part::Text(text.clone()));
        messages.push(Message { role: Role::User, parts });
        let said = |text: &String| Message { role: Role::Assistant, parts: vec![Part::Text(text.clone())] };
        messages.extend(answer.as_ref().map(said));
    }
    Ok(messages)
}

fn request(model: &str, adds_special_tokens: Option<bool>, messages: &[Message], max_new_tokens: usize) -> ChatRequest {
    let mut extra = Map::new();
    if adds_special_tokens == Some(true) {
        extra.insert("add_special_tokens".into(), json!(true));
    }
    ChatRequest {
        model: Some(model.to_owned()),
        messages: messages.to_vec(),
        temperature: Some(0.0),
        seed: Some(SEED),
        max_tokens: max_new_tokens as u32,
        extra,
        ..ChatRequest::default()
    }
}

/// Returns the text of a reply. If it is only a thought, or a chat template opened a thought, the text begins with the
/// mark that opens a thought, so that readers recognise it.
fn said(reply: &ChatReply, begins_in_thought: bool) -> String {
    match &reply.thought {
        Some(thought) if reply.content.trim().is_empty() => with_thought_opened(thought),
        None if begins_in_thought => with_thought_opened(&reply.content),
        _ => reply.content.clone(),
    }
}

/// Sends one request and waits for its result. No other request may be outstanding.
fn ask(client: &ChatClient, request: ChatRequest) -> Result<ChatReply, ChatError> {
    client.submit(request, 0);
    loop {
        if let Some((_, result)) = client.recv_timeout(Duration::from_secs(1)) {
            return result;
        }
    }
}

fn only_model(listed: &[ServedModel]) -> Result<ServedName> {
    match listed {
        [only] => Ok(ServedName { name: None, model: only.id.clone() }),
        [] => bail!("the server lists no model; hint: --served-model NAME, as it was started with"),
        several => bail!("the server has several models; hint: --served-model with one or more of {}", list(several)),
    }
}

fn list(models: &[ServedModel]) -> String {
    const N_SHOWN: usize = 20;
    let mut names: Vec<String> = models.iter().take(N_SHOWN).map(|model| format!("`{}`", model.id)).collect();
    if models.len() > N_SHOWN {
        names.push(format!("and {} more", models.len() - N_SHOWN));
    }
    names.join(", ")
}

/// Refuses two models whose probes agree to the last digit. They are one model under two names, and a comparison would
/// find no forgetting.
fn refuse_twins(models: &[ProbedModel]) -> Result<()> {
    for (index, one) in models.iter().enumerate() {
        for other in &models[..index] {
            let is_twin = one.probe.logprobs.is_some()
                && one.probe.answer == other.probe.answer
                && one.probe.logprobs == other.probe.logprobs;
            ensure!(
                !is_twin,
                "`{}` and `{}` answer the probe alike to the last digit: they are one model under two names, and a \
                 comparison would find no forgetting; hint: check that the adapter was loaded (vLLM: --enable-lora \
                 --lora-modules)",
                other.name.model,
                one.name.model
            );
        }
    }
    Ok(())
}
