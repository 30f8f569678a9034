//! One request, from its first attempt to its result.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION, SERVER};
use reqwest::{Client, RequestBuilder, Url};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use super::limits::{Booking, Ledger};
use super::negotiation::Negotiated;
use super::refusal::first_message;
use super::wire::{self, Body};
use super::{ChatConfig, ChatError, ChatReply, ChatRequest};
use crate::api::retry::{Attempts, Failure, GivenUp, Patience, with_retries};
use crate::api::runtime;

/// A larger response is not a reply to our request.
pub(super) const BODY_BYTES_MAX: usize = 8 << 20;
/// The number of characters shown of a server's text.
const N_CHARS_SHOWN: usize = 300;
/// This many consecutive requests must use up all attempts before a server that has worked counts as gone.
const N_LOST_MIN: u32 = 8;

/// State that all requests of a client share.
pub(super) struct Shared {
    pub(super) config: ChatConfig,
    pub(super) http: Client,
    pub(super) url: Url,
    pub(super) connections: Semaphore,
    pub(super) ledger: Mutex<Ledger>,
    pub(super) negotiated: Mutex<Negotiated>,
    /// Set once, when no request can succeed any more.
    pub(super) fatal: watch::Sender<Option<ChatError>>,
    pub(super) n_retries: AtomicU64,
    /// Whether any HTTP response was ever received.
    pub(super) was_reached: AtomicBool,
    /// Consecutive requests that used up their attempts.
    pub(super) n_lost_in_row: AtomicU32,
}

/// The result of one attempt.
enum Attempt {
    Settled(Result<ChatReply, ChatError>),
    /// The server rejects a field; the next attempt leaves it out.
    Renegotiated,
    Transient(TransientFailure),
}

/// A failure that may pass.
struct TransientFailure {
    kind: TransientKind,
    /// The wait that the server requests.
    wait: Option<Duration>,
    /// If equal in two consecutive attempts, the failure is permanent.
    fingerprint: Option<String>,
}

enum TransientKind {
    RateLimited,
    Server { status: u16, message: String },
    Timeout,
    Connection { message: String },
    NotACompletion { what: &'static str, start: String },
}

/// A response, read to its end.
struct Response {
    status: u16,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Shared {
    /// Sends the request until there is a reply, a permanent failure, or no attempt left.
    pub(super) async fn ask(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        let result = self.ask_until_settled(request).await;
        match &result {
            Err(
                ChatError::Server { .. }
                | ChatError::Timeout { .. }
                | ChatError::Connection { .. }
                | ChatError::NotACompletion { .. },
            ) => {
                let n_lost = 1 + self.n_lost_in_row.fetch_add(1, Ordering::Relaxed);
                let n_lost_max = N_LOST_MIN.max(2 * u32::try_from(self.config.max_connections).unwrap_or(u32::MAX / 2));
                let is_unknown = !self.was_reached.load(Ordering::Relaxed);
                if let Err(error) = &result
                    && (is_unknown || n_lost >= n_lost_max)
                {
                    return Err(self.fail_all(ChatError::Unreachable(format!(
                        "gave up on the server at {}: {error}; hint: check its address and whether it runs",
                        self.place()
                    ))));
                }
            }
            Err(ChatError::Budget { .. } | ChatError::RateLimited { .. }) => {}
            _ => self.n_lost_in_row.store(0, Ordering::Relaxed),
        }
        result
    }

    async fn ask_until_settled(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        let Ok(_permit) = self.unless_fatal(self.connections.acquire()).await? else {
            return Err(ChatError::Closed);
        };
        let n_tokens = request.n_tokens_estimate();
        let mut asking = Asking { shared: self, request, n_tokens, n_failures: 0, last_fingerprint: None };
        with_retries(&self.patience(), &mut asking).await
    }

    /// Returns the configured limits on retries.
    pub(super) fn patience(&self) -> Patience {
        Patience {
            base_ms: self.config.retry_base_ms,
            n_failures_max: self.config.max_attempts,
            wait_max: Duration::MAX,
            total_max: Duration::from_millis(self.config.total_ms_max),
        }
    }

    /// Books a call and waits until the rate limits allow it.
    async fn wait_for_turn(&self, n_tokens: u64) -> Result<Booking, ChatError> {
        if let Some(error) = self.fatal.borrow().clone() {
            return Err(error);
        }
        let booking = lock(&self.ledger).book(n_tokens, Instant::now())?;
        let waited = self.unless_fatal(tokio::time::sleep_until(booking.start.into())).await;
        if waited.is_err() {
            lock(&self.ledger).cancel(booking);
        }
        waited.map(|()| booking)
    }

    async fn attempt(&self, request: &ChatRequest, n_tokens: u64, booking: Booking) -> Attempt {
        let negotiated = lock(&self.negotiated).clone();
        let sent = request.to_json(&self.config, &negotiated);
        let timeout = Duration::from_millis(self.config.timeout_ms);
        let response = tokio::time::timeout(timeout, self.post(&sent)).await;
        let (attempt, n_tokens_used) = match response {
            // A server that went silent may have done the work, so the estimate is counted.
            Err(_) => (transient(TransientKind::Timeout, None), n_tokens),
            Ok(Err(message)) => (transient(TransientKind::Connection { message: self.shown(&message) }, None), 0),
            Ok(Ok(response)) => {
                self.was_reached.store(true, Ordering::Relaxed);
                self.judge(response, &sent, &negotiated, n_tokens)
            }
        };
        lock(&self.ledger).settle(booking, n_tokens_used);
        attempt
    }

    /// Adds the key as the server expects it; Azure deployments use another header.
    pub(super) fn with_key(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.config.api_key {
            None => request,
            Some(key) if self.url.path().contains("/openai/deployments/") => request.header("api-key", key.expose()),
            Some(key) => request.bearer_auth(key.expose()),
        }
    }

    async fn post(&self, body: &Value) -> Result<Response, String> {
        // A value of strings, numbers and lists can always be represented.
        let bytes = serde_json::to_vec(body).map_err(|error| error.to_string())?;
        let post = self.http.post(self.url.clone()).header(CONTENT_TYPE, "application/json").body(bytes);
        let mut response = self.with_key(post).send().await.map_err(runtime::describe)?;
        let (status, headers) = (response.status().as_u16(), std::mem::take(response.headers_mut()));
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(runtime::describe)? {
            if bytes.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(format!("the response is longer than {BODY_BYTES_MAX} bytes"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Response { status, headers, bytes })
    }

    /// Decides what a complete response means, and how many tokens it cost.
    fn judge(&self, response: Response, sent: &Value, used: &Negotiated, n_tokens: u64) -> (Attempt, u64) {
        let text = String::from_utf8_lossy(&response.bytes);
        let wait = runtime::retry_after(&response.headers);
        let status = match response.status {
            200..300 => match wire::read_body(&response.bytes, self.config.takes_empty_replies) {
                Body::Completion(reply, n_tokens_counted) => {
                    let software = response.headers.get(SERVER).and_then(|value| value.to_str().ok()).map(excerpt);
                    let reply = reply
                        .map(|mut reply| {
                            reply.server.software = software;
                            self.without_key(reply)
                        })
                        .map_err(|error| self.without_key_in(error));
                    return (Attempt::Settled(reply), n_tokens_counted.unwrap_or(n_tokens));
                }
                Body::Other(what) => {
                    let kind = TransientKind::NotACompletion { what, start: self.shown(&text) };
                    return (transient(kind, wait).repeating(text.into_owned()), n_tokens);
                }
                Body::Error { status } => status,
            },
            status => status,
        };
        (self.judge_error(status, &text, &response.headers, sent, used, wait), 0)
    }

    fn judge_error(
        &self,
        status: u16,
        text: &str,
        headers: &HeaderMap,
        sent: &Value,
        used: &Negotiated,
        wait: Option<Duration>,
    ) -> Attempt {
        let message = self.shown(text);
        let fail_all = |error| Attempt::Settled(Err(self.fail_all(error)));
        if may_be_about_a_field(status) && self.renegotiate(text, sent, used) {
            return Attempt::Renegotiated;
        }
        match status {
            300..400 => {
                let target = headers.get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or("elsewhere");
                let target = self.shown(target);
                fail_all(ChatError::NotFound(format!(
                    "{} redirects to {target}; hint: give that address instead",
                    self.place()
                )))
            }
            401 | 403 => fail_all(self.key_error(status, &message)),
            404 | 410 => fail_all(self.not_found(status, &message, sent)),
            400 | 422 if is_about_model(text) => fail_all(self.not_found(status, &message, sent)),
            429 if text.contains("insufficient_quota") => fail_all(ChatError::Quota(format!(
                "the account at {} has no quota left: {message}; hint: check its plan and billing",
                self.place()
            ))),
            429 => transient(TransientKind::RateLimited, wait),
            // Overload (503 and similar) has the same text each time. Only a repeated 500 is about the request.
            500 => transient(TransientKind::Server { status, message }, wait).repeating(text.to_owned()),
            408 | 409 | 501.. => transient(TransientKind::Server { status, message }, wait),
            _ => Attempt::Settled(Err(ChatError::Rejected { status, message })),
        }
    }

    /// Whether the next attempt will differ, because this error or another request's taught something.
    fn renegotiate(&self, text: &str, sent: &Value, used: &Negotiated) -> bool {
        let mut current = lock(&self.negotiated);
        if *current != *used {
            return true;
        }
        let is_wanted = |name: &str| self.config.extra_body.contains_key(name);
        match current.after_refusal(sent, text, &is_wanted, self.config.may_lower_token_limit) {
            Some(next) => {
                *current = next;
                true
            }
            None => false,
        }
    }

    fn exhausted(&self, kind: TransientKind, n_attempts: u32, wait: Option<Duration>) -> ChatError {
        let reason = wait.map_or(String::new(), |wait| format!("; the server asks to wait {} s", wait.as_secs()));
        match kind {
            TransientKind::RateLimited => ChatError::RateLimited { n_attempts, reason },
            TransientKind::Server { status, message } => ChatError::Server { status, n_attempts, message },
            TransientKind::Timeout => ChatError::Timeout { timeout_ms: self.config.timeout_ms, n_attempts },
            TransientKind::Connection { message } => ChatError::Connection { n_attempts, message },
            TransientKind::NotACompletion { what, start } => ChatError::NotACompletion { what, start },
        }
    }

    /// Ends the client's work. All other requests fail with the first such error.
    fn fail_all(&self, error: ChatError) -> ChatError {
        self.fatal.send_if_modified(|fatal| match fatal {
            Some(_) => false,
            None => {
                *fatal = Some(error.clone());
                true
            }
        });
        self.fatal.borrow().clone().unwrap_or(error)
    }

    /// Returns the result of `future`, unless an error that ends all requests comes first.
    async fn unless_fatal<F: Future>(&self, future: F) -> Result<F::Output, ChatError> {
        let mut fatal = self.fatal.subscribe();
        let fatal = async move {
            let seen = fatal.wait_for(Option::is_some).await.ok();
            seen.and_then(|seen| seen.clone()).unwrap_or(ChatError::Closed)
        };
        tokio::select! {
            biased;
            error = fatal => Err(error),
            output = future => Ok(output),
        }
    }

    pub(super) fn key_error(&self, status: u16, message: &str) -> ChatError {
        let (place, variable) = (self.place(), self.config.api_key_variable);
        let fault = match &self.config.api_key {
            Some(_) => format!("the server at {place} refuses the key"),
            None => format!("the server at {place} asks for a key"),
        };
        ChatError::Authentication(format!("{fault} ({status}): {message}; hint: set {variable}"))
    }

    fn not_found(&self, status: u16, message: &str, sent: &Value) -> ChatError {
        let (place, model) = (self.place(), sent["model"].as_str().unwrap_or(&self.config.model));
        ChatError::NotFound(format!(
            "{place} has no model `{model}`, or no chat completions ({status}): {message}; hint: check the address and the model's name"
        ))
    }

    /// Returns the address without its query, which may hold a key.
    pub(super) fn place(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.to_string()
    }

    /// Returns a server's text for messages: its error message if it has one, on one line, never with the key.
    pub(super) fn shown(&self, text: &str) -> String {
        // The key is removed first, because cutting the text could leave half of it.
        let text = self.config.api_key.as_ref().map_or_else(|| text.to_owned(), |key| key.redact(text));
        let shown = excerpt(&first_message(&text));
        // A message inside JSON is unescaped only here.
        self.config.api_key.as_ref().map_or_else(|| shown.clone(), |key| key.redact(&shown))
    }

    fn without_key(&self, mut reply: ChatReply) -> ChatReply {
        if let Some(key) = self.config.api_key.as_ref().filter(|key| key.is_distinctive()) {
            reply.content = key.redact(&reply.content);
            reply.thought = reply.thought.map(|thought| key.redact(&thought));
        }
        reply
    }

    fn without_key_in(&self, error: ChatError) -> ChatError {
        match (error, &self.config.api_key) {
            (ChatError::NoContent { finish_reason, hint }, Some(key)) => {
                ChatError::NoContent { finish_reason: key.redact(&finish_reason), hint: key.redact(&hint) }
            }
            (error, _) => error,
        }
    }
}

/// A request in progress.
struct Asking<'a> {
    shared: &'a Shared,
    request: &'a ChatRequest,
    n_tokens: u64,
    n_failures: u32,
    last_fingerprint: Option<String>,
}

impl Attempts for Asking<'_> {
    type Output = ChatReply;
    type Error = ChatError;
    type Transient = TransientKind;

    async fn attempt(&mut self) -> Result<ChatReply, Failure<ChatError, TransientKind>> {
        let TransientFailure { kind, wait, fingerprint } = loop {
            let booking = self.shared.wait_for_turn(self.n_tokens).await?;
            match self.shared.attempt(self.request, self.n_tokens, booking).await {
                Attempt::Settled(result) => return result.map_err(Failure::Permanent),
                Attempt::Renegotiated => {}
                Attempt::Transient(transient) => break transient,
            }
        };
        self.n_failures += 1;
        let is_repeated = fingerprint.is_some() && fingerprint == self.last_fingerprint;
        self.last_fingerprint = fingerprint;
        Err(if is_repeated {
            Failure::Permanent(self.shared.exhausted(kind, self.n_failures, None))
        } else {
            Failure::transient(kind, wait)
        })
    }

    fn give_up(&self, last: GivenUp<TransientKind>) -> ChatError {
        self.shared.exhausted(last.error, last.n_failures, last.wait)
    }

    async fn pause(&mut self, wait: Duration) -> Result<(), ChatError> {
        self.shared.unless_fatal(tokio::time::sleep(wait)).await?;
        self.shared.n_retries.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn transient(kind: TransientKind, wait: Option<Duration>) -> Attempt {
    Attempt::Transient(TransientFailure { kind, wait, fingerprint: None })
}

impl Attempt {
    fn repeating(self, body: String) -> Self {
        match self {
            Self::Transient(transient) => Self::Transient(TransientFailure { fingerprint: Some(body), ..transient }),
            other => other,
        }
    }
}

/// Whether an error of this status may be about an optional field. Servers refuse fields with any bad-request status,
/// and some with 403 or 500. Waiting helps with 408 and 429, and other 5xx come from gateways.
fn may_be_about_a_field(status: u16) -> bool {
    matches!(status, 400..=422 | 500 | 501) && status != 408
}

/// Whether a 400 means that the model is unknown (as LiteLLM answers).
fn is_about_model(text: &str) -> bool {
    let text = text.to_lowercase();
    text.contains("model_not_found") || text.contains("invalid model name")
}

/// Returns the first characters of a text, on one line.
pub(super) fn excerpt(text: &str) -> String {
    let mut line = String::new();
    for (index, c) in text.split_whitespace().collect::<Vec<_>>().join(" ").chars().enumerate() {
        if index == N_CHARS_SHOWN {
            line.push('…');
            break;
        }
        line.push(if c.is_control() { ' ' } else { c });
    }
    line
}

/// Locks despite poisoning: the guarded value is valid after each statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
