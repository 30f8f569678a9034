//! A chat server's endpoints other than completions: its models and its tokenizer.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{RequestBuilder, Url};
use serde_json::{Value, json};

use super::attempt::{BODY_BYTES_MAX, Shared};
use super::{ChatClient, ChatError};
use crate::api::retry::{Attempts, Failure, GivenUp, with_retries};
use crate::api::runtime;

/// A model that a server lists.
#[derive(Clone, Debug, PartialEq)]
pub struct ServedModel {
    /// Its name in requests.
    pub id: String,
    /// The entry, as the server returned it.
    pub entry: Value,
}

/// Why a server returned nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SideError {
    /// It lacks the endpoint, as many servers do; nothing can be concluded.
    #[error("{place} answered {status}: {message}")]
    Refused {
        /// The address.
        place: String,
        /// The HTTP status.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// No completion can succeed either.
    #[error("{0}")]
    Fatal(ChatError),
}

impl ChatClient {
    /// Returns the models that the server lists at `/models`, in its order.
    pub fn models(&self) -> Result<Vec<ServedModel>, SideError> {
        let url = self.shared.base_url(&["models"]);
        let body = self.shared.tell(|| self.shared.http.get(url.clone()), &url)?;
        let entries = body["data"].as_array().cloned().unwrap_or_default();
        let model = |entry: Value| Some(ServedModel { id: entry["id"].as_str()?.to_owned(), entry });
        Ok(entries.into_iter().filter_map(model).collect())
    }

    /// Returns the tokens of a user's message `text` after the model's chat template, by vLLM's `/tokenize`, which is
    /// outside `/v1`.
    pub fn chat_tokens(&self, model: &str, text: &str) -> Result<Vec<u64>, SideError> {
        let messages = json!([{"role": "user", "content": text}]);
        self.tokens(&json!({"model": model, "messages": messages, "add_special_tokens": false}))
    }

    /// Returns the tokens of a plain text, with or without those that the tokenizer adds.
    pub fn text_tokens(&self, model: &str, text: &str, adds_special: bool) -> Result<Vec<u64>, SideError> {
        self.tokens(&json!({"model": model, "prompt": text, "add_special_tokens": adds_special}))
    }

    /// Returns the server's address without path and query.
    pub fn address(&self) -> String {
        self.shared.url.origin().ascii_serialization()
    }

    fn tokens(&self, body: &Value) -> Result<Vec<u64>, SideError> {
        let url = self.shared.root_url(&["tokenize"]);
        let post =
            || self.shared.http.post(url.clone()).header(CONTENT_TYPE, "application/json").body(body.to_string());
        let reply = self.shared.tell(post, &url)?;
        let tokens = reply["tokens"].as_array().map(|tokens| tokens.iter().filter_map(Value::as_u64).collect());
        tokens.ok_or_else(|| SideError::Refused {
            place: url.to_string(),
            status: 200,
            message: "there are no tokens in it".to_owned(),
        })
    }
}

impl Shared {
    /// Returns an address next to `chat/completions`.
    fn base_url(&self, path: &[&str]) -> Url {
        let segments: Vec<&str> = self.url.path_segments().into_iter().flatten().collect();
        let base = &segments[..segments.len().saturating_sub(2)];
        self.url_of(&[base, path].concat())
    }

    /// Returns an address without the version.
    fn root_url(&self, path: &[&str]) -> Url {
        let segments: Vec<&str> = self.url.path_segments().into_iter().flatten().collect();
        let base = &segments[..segments.len().saturating_sub(2)];
        let base = match base.split_last() {
            Some((&"v1", root)) => root,
            _ => base,
        };
        self.url_of(&[base, path].concat())
    }

    fn url_of(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        url.set_path(&segments.join("/"));
        url
    }

    /// Sends requests until there is a JSON body, a refusal, or no attempt left.
    fn tell(&self, request: impl Fn() -> RequestBuilder, url: &Url) -> Result<Value, SideError> {
        let handle = runtime::handle().map_err(|message| SideError::Fatal(ChatError::Unreachable(message)))?;
        handle.block_on(with_retries(&self.patience(), &mut Telling { shared: self, request, url }))
    }
}

/// A request that may be retried.
struct Telling<'a, R> {
    shared: &'a Shared,
    request: R,
    url: &'a Url,
}

impl<R: Fn() -> RequestBuilder> Attempts for Telling<'_, R> {
    type Output = Value;
    type Error = SideError;
    type Transient = String;

    async fn attempt(&mut self) -> Result<Value, Failure<SideError, String>> {
        let (shared, url) = (self.shared, self.url);
        let request = shared.with_key((self.request)().timeout(Duration::from_millis(shared.config.timeout_ms)));
        let transient = |error: String, wait| Failure::transient(error, wait);
        let (status, headers, text) =
            read(request).await.map_err(|error| transient(shared.shown(&runtime::describe(error)), None))?;
        let message = shared.shown(&text);
        match status {
            200..300 => serde_json::from_str(&text)
                .map_err(|_| transient(format!("its answer to {url} is not JSON: {message}"), None)),
            401 | 403 => Err(Failure::Permanent(SideError::Fatal(shared.key_error(status, &message)))),
            408 | 409 | 429 | 500.. => Err(transient(format!("{status}: {message}"), runtime::retry_after(&headers))),
            _ => Err(Failure::Permanent(SideError::Refused { place: url.to_string(), status, message })),
        }
    }

    fn give_up(&self, last: GivenUp<String>) -> SideError {
        SideError::Fatal(ChatError::Unreachable(format!(
            "gave up on the server at {}: {} ({} attempts); hint: check its address and whether it runs",
            self.shared.place(),
            last.error,
            last.n_failures
        )))
    }
}

/// Returns status, headers and text of the response; the text is empty if it is too long.
async fn read(request: RequestBuilder) -> reqwest::Result<(u16, HeaderMap, String)> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let is_small = response.content_length().is_none_or(|n_bytes| n_bytes <= BODY_BYTES_MAX as u64);
    Ok((status, headers, if is_small { response.text().await? } else { String::new() }))
}
