//! A server with OpenAI's chat interface that sees: it knows every image that it is sent, says what a test wants said of it, and
//! answers in the form of one of the captured servers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use emt::dataset::{Catalog, DataRoots, Dataset, OpenRequest, decode, open};
use serde_json::{Value, json};

use super::chat_captures::{captured, reply_of};
use super::http_server::{HttpServer, Reply, Request};

/// An image that the server knows.
#[derive(Clone, Debug)]
pub struct Known {
    pub label: String,
}

/// A request about an image, understood.
#[derive(Clone, Debug)]
pub struct Asked {
    pub model: String,
    /// `None`: the probe's.
    pub image: Option<Known>,
    pub content: String,
    pub body: Value,
}

impl Asked {
    /// What the label scoring of a model asks, by any of its ways.
    pub fn is_scoring(&self) -> bool {
        ["structured_outputs", "grammar", "response_format", "prompt_logprobs"]
            .iter()
            .any(|name| self.body.get(name).is_some())
    }
}

/// What the model says of an image, or what happens instead.
pub enum Said {
    Text(String),
    Instead(Reply),
}

/// The digits that are part of the program.
pub fn digits() -> Dataset {
    let request = OpenRequest { text: "embedded/mnist", split: None, labels_file: None, ..OpenRequest::default() };
    open(&Catalog::embedded(), &DataRoots::default(), &request).unwrap()
}

/// By content, what each image of `dataset` is.
pub fn known(dataset: &Dataset) -> HashMap<String, Known> {
    let label = |label: usize| dataset.labels.labels()[label].name.clone();
    let of = |(position, sample): (usize, &emt::domain::Sample)| {
        let content = dataset.read(position).unwrap().content();
        (content, Known { label: label(sample.label) })
    };
    dataset.samples.iter().enumerate().map(of).collect()
}

/// A model that is right about seven images of ten, and says another digit of the rest; its mind is made up by the image.
pub fn mostly_right(asked: &Asked) -> Said {
    let Some(image) = &asked.image else { return Said::Text("A dark square before colours.".to_owned()) };
    Said::Text(match is_known_to(asked) {
        true => format!("The number in the image is {}.", image.label),
        false => format!("The number in the image is {}.", wrong_digit(&image.label)),
    })
}

/// Whether [`mostly_right`] is right about the image.
pub fn is_known_to(asked: &Asked) -> bool {
    is_known(&asked.content)
}

/// The same, of a content.
pub fn is_known(content: &str) -> bool {
    let digits = content.strip_prefix("blake3:").unwrap_or(content);
    u64::from_str_radix(&digits[..8], 16).unwrap() % 10 < 7
}

pub fn wrong_digit(label: &str) -> String {
    ((label.parse::<u32>().unwrap() + 1) % 10).to_string()
}

/// The server and what it was asked.
pub struct ModelServer {
    pub http: HttpServer,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl ModelServer {
    /// A server of `kind` with the models of its captured list, which knows `dataset`.
    pub fn start(kind: &'static str, dataset: &Dataset, say: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> Self {
        Self::with_models(kind, None, dataset, say)
    }

    /// The same with models of these names.
    pub fn with_models(
        kind: &'static str,
        models: Option<&[&str]>,
        dataset: &Dataset,
        say: impl Fn(&Asked) -> Said + Send + Sync + 'static,
    ) -> Self {
        let mut capture = captured(kind);
        if let Some(models) = models {
            let first = capture["models"]["body"]["data"][0].clone();
            let entry = |id: &&str| {
                let mut entry = first.clone();
                entry["id"] = json!(id);
                entry
            };
            capture["models"]["body"]["data"] = models.iter().map(entry).collect();
        }
        let (known, asked) = (known(dataset), Arc::new(Mutex::new(Vec::new())));
        let of_requests = Arc::clone(&asked);
        let http = HttpServer::start(move |request| answer(kind, &capture, &known, &of_requests, &say, request));
        Self { http, asked }
    }

    pub fn url(&self) -> String {
        self.http.url()
    }

    /// All requests about images, probes included.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Those about samples.
    pub fn asked_of_samples(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.image.is_some()).collect()
    }
}

fn answer(
    kind: &str,
    capture: &Value,
    known: &HashMap<String, Known>,
    all: &Mutex<Vec<Asked>>,
    say: &(impl Fn(&Asked) -> Said + Send + Sync),
    request: &Request,
) -> Reply {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/v1/models") => return reply_of(&capture["models"]),
        ("POST", "/tokenize") if kind == "vllm" => return tokenize(&request.json()),
        ("POST", "/v1/chat/completions") => {}
        _ => return reply_of(&capture["no_such_path"]),
    }
    let body = request.json();
    let model = body["model"].as_str().unwrap_or_default().to_owned();
    let lists =
        |model: &str| capture["models"]["body"]["data"].as_array().unwrap().iter().any(|entry| entry["id"] == model);
    if !lists(&model) && !kind.starts_with("llama") {
        return reply_of(&capture["unknown_model"]);
    }
    let parts = &body["messages"][0]["content"];
    // The image first, as an object, and then the question.
    let (Some(url), Some("text")) = (parts[0]["image_url"]["url"].as_str(), parts[1]["type"].as_str()) else {
        return reply_of(&capture["image_url_string"]);
    };
    let bytes = STANDARD.decode(url.strip_prefix("data:image/png;base64,").unwrap_or_default()).unwrap_or_default();
    let Ok(image) = decode(&bytes) else { return reply_of(&capture["not_an_image"]) };
    let content = image.content();
    let asked = Asked { model, image: known.get(&content).cloned(), content, body };
    all.lock().unwrap().push(asked.clone());
    match say(&asked) {
        Said::Text(text) => completion(kind, capture, &asked, &text),
        Said::Instead(reply) => reply,
    }
}

/// vLLM's: a beginning-of-sequence token where it is asked for, and a template that has none.
fn tokenize(body: &Value) -> Reply {
    let mut tokens = if body.get("messages").is_some() { vec![831, 973, 861, 973] } else { vec![943] };
    if body["add_special_tokens"] == true {
        tokens.insert(0, 1);
    }
    Reply::json(200, &json!({"count": tokens.len(), "max_model_len": 256, "tokens": tokens}))
}

const END: &str = "</s>";

/// The captured completion with another text, and with what else was asked for as far as servers of the kind give it.
fn completion(kind: &str, capture: &Value, asked: &Asked, text: &str) -> Reply {
    let mut case = capture["image"].clone();
    let body = &mut case["body"];
    body["model"] = json!(asked.model);
    let label = asked
        .image
        .as_ref()
        .map(|image| if is_known_to(asked) { image.label.clone() } else { wrong_digit(&image.label) });
    let text = constrained(kind, &asked.body, label.as_deref()).unwrap_or_else(|| text.to_owned());
    body["choices"][0]["message"]["content"] = json!(text);
    body["choices"][0]["finish_reason"] = json!("stop");
    if asked.body["logprobs"] == true {
        let token = |text: &str| {
            json!({"token": text, "logprob": -0.25, "bytes": null,
            "top_logprobs": [{"token": text, "logprob": -0.25}, {"token": "?", "logprob": -1.75}]})
        };
        body["choices"][0]["logprobs"] = json!({"content": [token(&text), token(END)]});
    }
    if kind == "vllm" {
        let adds = asked.body["add_special_tokens"] == true;
        body["usage"]["prompt_tokens"] = json!(34 + u32::from(adds));
        if asked.body.get("prompt_logprobs").is_some() {
            body["prompt_logprobs"] = prompt_logprobs(&asked.body, label.as_deref());
        }
    }
    reply_of(&case)
}

/// What is said under a constraint that servers of the kind obey.
fn constrained(kind: &str, body: &Value, wanted: Option<&str>) -> Option<String> {
    let labels: Vec<String> = match kind {
        "vllm" | "litellm-vllm" | "litellm-openai" => {
            let choices = body["structured_outputs"]["choice"].as_array()?;
            choices.iter().map(|choice| choice.as_str().unwrap().to_owned()).collect()
        }
        _ => {
            let alternatives = body["grammar"].as_str()?.strip_prefix("root ::= ")?.split(" | ");
            alternatives.map(|quoted| serde_json::from_str(quoted).unwrap()).collect()
        }
    };
    labels.iter().find(|label| Some(label.as_str()) == wanted).or(labels.first()).cloned()
}

/// Nine tokens of a prompt, the letters of the assistant's turn, and the end where it is there; the wanted label is likely.
fn prompt_logprobs(body: &Value, wanted: Option<&str>) -> Value {
    let turn = body["messages"][1]["content"].as_str().expect("the assistant's turn");
    let (label, is_ended) = turn.strip_suffix(END).map_or((turn, false), |label| (label, true));
    let logprob = if Some(label) == wanted { -0.125 } else { -4.0 };
    let token = |id: u32, logprob: f64, text: &str| json!({id.to_string(): {"logprob": logprob, "rank": 1, "decoded_token": text}});
    let mut tokens: Vec<Value> = vec![Value::Null];
    tokens.extend((100..108).map(|id| token(id, -9.0, "x")));
    tokens.extend(label.chars().map(|letter| token(u32::from(letter), logprob, &letter.to_string())));
    if is_ended {
        tokens.push(token(2, -0.5, END));
    }
    tokens.into()
}
