//! The reply of a model to one fixed image and question.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{LabelScoring, ProbedModel, ServedName, ask, messages_with, request, said, scoring};
use crate::api::{ChatClient, ChatError, ChatReply, ChatRequest, Finish, Part, ReplyServer};
use crate::dataset;
use crate::domain::{Conversation, RgbImage, SplitReply};

/// Longer answers give no more information.
const N_TOKENS_MAX: usize = 32;
/// Room for a thought about a small image.
const N_TOKENS_OF_THOUGHT: u32 = 2_048;
const QUESTION: &str = "What is in this image? Answer in one sentence.";
const SIDE_PX: u32 = 64;

/// A model's reply to the probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// What the reply reports about its server.
    pub server: ReplyServer,
    /// The number of prompt tokens, including image positions, if the server counts them. Another chat template, a
    /// missing beginning-of-sequence token or another resolution changes it.
    pub n_prompt_tokens: Option<u32>,
    /// The answer, verbatim.
    pub answer: String,
    /// The log-probability of each of its tokens, if the server gives them.
    pub logprobs: Option<Vec<f32>>,
    /// Whether the same question got the same answer twice.
    pub is_repeatable: bool,
    /// Whether the chat template opens a thought, so that replies begin inside one and contain only the mark that
    /// closes it.
    pub begins_in_thought: bool,
}

impl Probe {
    /// Returns a hash of the answer, which is part of a run's identity, or `None` if the answer is not repeatable. The
    /// last digits of log-probabilities depend on the server's other load, so they are compared with a tolerance and
    /// are not part of it.
    pub(super) fn identity(&self) -> Option<String> {
        self.is_repeatable.then(|| format!("blake3:{}", blake3::hash(self.answer.as_bytes()).to_hex()))
    }

    pub(super) fn to_json(&self) -> Value {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.answer.as_bytes());
        for logprob in self.logprobs.iter().flatten() {
            hasher.update(&logprob.to_le_bytes());
        }
        let mut probe = json!({
            "question": QUESTION,
            "answer": self.answer,
            "n_prompt_tokens": self.n_prompt_tokens,
            "logprobs": self.logprobs,
            "hash": format!("blake3:{}", hasher.finalize().to_hex()),
        });
        if self.begins_in_thought {
            probe["begins_in_thought"] = json!(true);
        }
        probe
    }
}

/// Returns the image of the probe: two colour gradients, and a dark square that is not in the middle.
pub(super) fn image() -> Result<Part> {
    let mut pixels = Vec::with_capacity((SIDE_PX * SIDE_PX * 3) as usize);
    for y in 0..SIDE_PX {
        for x in 0..SIDE_PX {
            let is_dark = (12..32).contains(&x) && (24..44).contains(&y);
            let pixel = if is_dark { [20, 30, 40] } else { [(x * 4) as u8, (y * 4) as u8, 160] };
            pixels.extend_from_slice(&pixel);
        }
    }
    let image = RgbImage::new(SIDE_PX, SIDE_PX, pixels).context("the probe's image is not whole")?;
    Ok(Part::png(&dataset::png(&image)?))
}

/// Probes one model. If `scores_labels`, also finds how its labels can be scored.
pub(super) fn open(
    client: &ChatClient,
    name: ServedName,
    entry: Value,
    adds_special_tokens: &Option<bool>,
    scores_labels: bool,
) -> Result<ProbedModel> {
    let image = image()?;
    let adds_special_tokens = match adds_special_tokens {
        Some(wanted) => Some(*wanted),
        None => lacks_first_token(client, &name.model, &entry)?,
    };
    let messages = messages_with(&Conversation::about_one_image(QUESTION), std::slice::from_ref(&image))?;
    let mut asked = request(&name.model, adds_special_tokens, &messages, N_TOKENS_MAX);
    asked.extra.insert("logprobs".into(), json!(true));
    asked.extra.insert("top_logprobs".into(), json!(2));
    let mut answers = Vec::with_capacity(2);
    // Twice: the second reply may come from a cache, as in the run itself.
    for _ in 0..2 {
        answers.push(match ask(client, asked.clone()) {
            Ok(reply) => reply,
            // An empty reply is an answer, not an error.
            Err(error) => bail!("{}", refusal(&name.model, &error)),
        });
    }
    let is_repeatable = said(&answers[0], false) == said(&answers[1], false);
    let first = answers.swap_remove(0);
    let begins_in_thought = begins_in_thought(client, &asked, &first)?;
    let probe = Probe {
        n_prompt_tokens: first.n_prompt_tokens,
        answer: said(&first, false),
        server: first.server,
        logprobs: first.logprobs.map(|tokens| tokens.iter().map(|token| token.logprob).collect()),
        is_repeatable,
        begins_in_thought,
    };
    let mut probed = ProbedModel { name, entry, adds_special_tokens, probe, label_scoring: None };
    if scores_labels {
        probed.label_scoring = Some(label_scoring(client, &probed, &image)?);
    }
    Ok(probed)
}

/// Returns whether the model's replies begin in a thought that the chat template opened. A reply that was cut off does
/// not show it, so the question is sent once more with room for a thought to end.
fn begins_in_thought(client: &ChatClient, asked: &ChatRequest, first: &ChatReply) -> Result<bool> {
    let is_lone_end = |reply: &ChatReply| {
        let split = SplitReply::new(&reply.content, false);
        split.thought.is_some() && split.answer.is_some() && !SplitReply::opens_a_thought(&reply.content)
    };
    if first.thought.is_some() || is_lone_end(first) || first.finish != Finish::Length {
        return Ok(is_lone_end(first));
    }
    if SplitReply::opens_a_thought(&first.content) {
        return Ok(false);
    }
    let with_room = ChatRequest { max_tokens: N_TOKENS_OF_THOUGHT, ..asked.clone() };
    match ask(client, with_room) {
        Ok(reply) => Ok(is_lone_end(&reply)),
        Err(error) if error.is_fatal() => bail!("{error}"),
        // A server without room for it gives no information.
        Err(_) => Ok(false),
    }
}

fn label_scoring(client: &ChatClient, model: &ProbedModel, image: &Part) -> Result<LabelScoring> {
    scoring::find(client, model, image)
        .with_context(|| format!("the labels of `{}` cannot be scored; hint: --modes generate", model.name.model))
}

fn refusal(model: &str, error: &ChatError) -> String {
    match error {
        ChatError::Rejected { .. } | ChatError::Server { .. } => format!(
            "`{model}` does not answer a question about a small image: {error}; hint: give a model that takes images, \
             and start its server so that it accepts them"
        ),
        error if error.is_fatal() => error.to_string(),
        error => format!("`{model}` does not answer a question about a small image: {error}"),
    }
}

/// Returns whether the chat template lacks the tokenizer's beginning-of-sequence token: vLLM renders a chat without it,
/// and transformers adds it. `None` if the server does not report it.
fn lacks_first_token(client: &ChatClient, model: &str, entry: &Value) -> Result<Option<bool>> {
    use crate::api::SideError;
    if entry["owned_by"] != "vllm" {
        return Ok(None);
    }
    let tell = || -> Result<bool, SideError> {
        let [with, without] = [true, false].map(|adds| client.text_tokens(model, "a", adds));
        let (with, without) = (with?, without?);
        let added = with.strip_suffix(without.as_slice()).and_then(<[u64]>::first);
        let Some(first) = added else { return Ok(false) };
        Ok(client.chat_tokens(model, "a")?.first() != Some(first))
    };
    match tell() {
        Ok(lacks) => Ok(Some(lacks)),
        Err(SideError::Refused { .. }) => Ok(None),
        Err(error @ SideError::Fatal(_)) => Err(error.into()),
    }
}
