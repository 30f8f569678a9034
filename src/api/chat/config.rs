//! The server, and the limits on its load.

use reqwest::Url;
use serde_json::{Map, Value};

use crate::api::Secret;

/// A chat server and the limits of its use.
#[derive(Clone, Debug)]
pub struct ChatConfig {
    /// With or without `/v1`, or the full address of `…/chat/completions`.
    pub base_url: String,
    /// Sent as a bearer token.
    pub api_key: Option<Secret>,
    /// The environment variable that is named in messages about a missing or wrong key.
    pub api_key_variable: &'static str,
    /// The model's name on the server.
    pub model: String,
    /// The most requests in progress, at least 1.
    pub max_connections: usize,
    /// The time limit of one attempt, from the first byte sent to the last received.
    pub timeout_ms: u64,
    /// The first wait between attempts if the server names none; it doubles.
    pub retry_base_ms: u64,
    /// Attempts per request, including the first.
    pub max_attempts: u32,
    /// No attempt of a request begins after this time.
    pub total_ms_max: u64,
    /// Requests per minute, evenly spaced; no limit if `None`.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute, estimated and corrected by the server's counts; no limit if `None`.
    pub tokens_per_minute: Option<u64>,
    /// The most requests in total, retries included.
    pub max_calls: Option<u64>,
    /// The most tokens of prompts and replies in total.
    pub max_tokens_total: Option<u64>,
    /// Whether an empty text is a reply. It is an answer from a model under test, but not from a judge.
    pub takes_empty_replies: bool,
    /// Fields of every request that the user set, in place of the client's own; null omits a field. If a server refuses
    /// one of them, the request fails.
    pub extra_body: Map<String, Value>,
    /// Whether the token limit may be lowered if the server accepts no more.
    pub may_lower_token_limit: bool,
}

impl ChatConfig {
    /// Creates the configuration of a server without key, rate limit or budget.
    pub fn new(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            api_key: None,
            api_key_variable: "EMT_JUDGE_API_KEY",
            model: model.into(),
            max_connections: 8,
            timeout_ms: 120_000,
            retry_base_ms: 500,
            max_attempts: 6,
            total_ms_max: 900_000,
            requests_per_minute: None,
            tokens_per_minute: None,
            max_calls: None,
            max_tokens_total: None,
            takes_empty_replies: false,
            extra_body: Map::new(),
            may_lower_token_limit: false,
        }
    }
}

/// Why a client cannot be created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The address is invalid.
    #[error(
        "`{url}` is not the address of a chat server: {message}; hint: an address looks like http://localhost:8000/v1"
    )]
    Address {
        /// The address, without any password.
        url: String,
        /// The reason.
        message: String,
    },
    /// The address contains a password, which messages would show.
    #[error("the address of the chat server contains a user name or password; hint: set {0} instead")]
    PasswordInAddress(&'static str),
    /// The key cannot be sent in a header.
    #[error("the key of the chat server contains characters that are not allowed in a key; hint: check {0}")]
    Key(&'static str),
    /// A limit of zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// The network cannot be used.
    #[error("{0}")]
    Network(String),
}

/// Returns the address to post to. Adds `/v1` if the path has no version.
pub(super) fn completions_url(config: &ChatConfig) -> Result<Url, ConfigError> {
    let text = config.base_url.trim();
    let mut url = Url::parse(text).map_err(|error| address_error(text, error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ConfigError::PasswordInAddress(config.api_key_variable));
    }
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(address_error(text, "it is neither http:// nor https://".to_owned()));
    }
    let mut segments: Vec<String> =
        url.path().split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect();
    if !segments.ends_with(&["chat".to_owned(), "completions".to_owned()]) {
        let is_version = |segment: &String| {
            let digits = segment.strip_prefix('v').unwrap_or_default();
            digits.starts_with(|first: char| first.is_ascii_digit())
        };
        let is_azure_deployment = segments.iter().any(|segment| segment == "deployments");
        if !is_azure_deployment && !segments.iter().any(is_version) {
            segments.push("v1".to_owned());
        }
        segments.extend(["chat".to_owned(), "completions".to_owned()]);
    }
    url.set_path(&segments.join("/"));
    url.set_fragment(None);
    Ok(url)
}

fn address_error(text: &str, message: String) -> ConfigError {
    // An unparsable address may still contain a password.
    let shown = match text.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => text.to_owned(),
    };
    ConfigError::Address { url: shown, message }
}

#[cfg(test)]
mod tests;
