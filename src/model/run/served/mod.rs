//! Models behind a server with OpenAI's chat interface: how they are asked, and what their replies amount to.
//!
//! Servers differ in what they take and in what they silently ignore, so a [`Server`] is probed (`probe.rs`) before a run:
//! what it does with a fixed prompt is recorded, and label scoring (`scoring.rs`) is used only where its effect was seen.

mod probe;
mod scoring;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::api::{
    ChatClient, ChatConfig, ChatError, ChatReply, ChatRequest, Finish, Message, Part, Role, ServedModel, SideError,
};
use crate::domain::{Answer, ServedSpec, Stop, with_thought_opened};
pub use probe::Probe;
pub use scoring::{Constraint, LabelScoring, LabelTokens, label_tokens, scores};

/// The seed that every request carries; at temperature 0 it decides nothing that it should not.
const SEED: u64 = 0;

/// A model that a person named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedName {
    /// What its run is called, where it was given a name.
    pub name: Option<String>,
    /// The model's name in requests.
    pub model: String,
}

/// What a person asked of a server.
#[derive(Clone, Debug)]
pub struct ServerRequest {
    /// Its address, and how hard it may be asked.
    pub chat: ChatConfig,
    /// The models; none: the only one that the server lists.
    pub models: Vec<ServedName>,
    /// Whether log-probabilities are asked for with each answer.
    pub asks_logprobs: bool,
    /// Whether the tokenizer puts its special tokens around the rendered chat; `None`: where vLLM would leave the
    /// beginning-of-sequence token out.
    pub adds_special_tokens: Option<bool>,
    /// Whether labels will be scored.
    pub scores_labels: bool,
}

/// A server that was probed.
pub struct Server {
    client: ChatClient,
    asks_logprobs: bool,
    /// Fields of every request that a person asked for.
    extra_body: Map<String, Value>,
    models: Vec<ProbedModel>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// One of its models.
#[derive(Clone, Debug)]
pub struct ProbedModel {
    /// Which.
    pub name: ServedName,
    /// Its entry in the server's list; null where it has none.
    pub entry: Value,
    /// Whether requests ask for the tokenizer's special tokens; `None` where nobody knows whether they are needed.
    pub adds_special_tokens: Option<bool>,
    /// What it makes of a fixed prompt.
    pub probe: Probe,
    /// How its labels are scored, where they are.
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

    /// The client, for requests of [`Server::generate_request`] and the like.
    pub fn client(&self) -> &ChatClient {
        &self.client
    }

    /// The models, in the order in which they were named.
    pub fn models(&self) -> &[ProbedModel] {
        &self.models
    }

    /// What decides the answers of one of the models, as far as the server tells.
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

    /// What is recorded and shown of the server and one of its models, and never compared.
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

    /// Asks one of the models about an image.
    pub fn generate_request(&self, model: usize, question: &str, image: &Part, max_new_tokens: usize) -> ChatRequest {
        let mut request = self.models[model].request(question, image, max_new_tokens);
        if self.asks_logprobs {
            request.extra.insert("logprobs".into(), json!(true));
            request.extra.insert("top_logprobs".into(), json!(2));
        }
        request
    }

    /// What a reply of one of the models says, thought included, or why it is no answer.
    pub fn answer(&self, model: usize, reply: &ChatReply) -> Result<Answer, String> {
        let stop = match &reply.finish {
            Finish::Stop => Stop::Eos,
            Finish::Length => Stop::Length,
            Finish::Other(reason) if ["tool_calls", "function_call", "error", "abort"].contains(&reason.as_str()) => {
                return Err(format!("the reply ended with `{reason}`, and is not an answer"));
            }
            // Servers call the end of an answer many names.
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
    fn request(&self, question: &str, image: &Part, max_new_tokens: usize) -> ChatRequest {
        request(&self.name.model, self.adds_special_tokens, question, image, max_new_tokens)
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

fn request(
    model: &str,
    adds_special_tokens: Option<bool>,
    question: &str,
    image: &Part,
    max_new_tokens: usize,
) -> ChatRequest {
    let mut extra = Map::new();
    if adds_special_tokens == Some(true) {
        extra.insert("add_special_tokens".into(), json!(true));
    }
    // The image first: most templates put it there whatever the order, and those that keep it were trained so.
    let parts = vec![image.clone(), Part::Text(question.to_owned())];
    ChatRequest {
        model: Some(model.to_owned()),
        messages: vec![Message { role: Role::User, parts }],
        temperature: Some(0.0),
        seed: Some(SEED),
        max_tokens: max_new_tokens as u32,
        extra,
        ..ChatRequest::default()
    }
}

/// The text of a reply; where nothing was said but a thought, or a chat template opened one, with the mark that opens it, so that
/// whoever reads it sees a thought.
fn said(reply: &ChatReply, begins_in_thought: bool) -> String {
    match &reply.thought {
        Some(thought) if reply.content.trim().is_empty() => with_thought_opened(thought),
        None if begins_in_thought => with_thought_opened(&reply.content),
        _ => reply.content.clone(),
    }
}

/// Asks one request, and waits for what becomes of it; nothing else may be outstanding.
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

/// Two models whose probes agree to the last digit are one model under two names: a comparison would find no forgetting.
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
