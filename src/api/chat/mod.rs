//! A client of any server with OpenAI's chat interface.
//!
//! [`ChatClient`] takes requests with tickets and returns the result of every ticket exactly once. [`attempt`] decides
//! what is retried and what is permanent.

mod attempt;
mod client;
mod config;
mod limits;
mod negotiation;
mod refusal;
mod side;
mod stream;
mod wire;

pub use client::{ChatClient, ChatCounters};
pub use config::{ChatConfig, ConfigError};
pub use side::{ServedModel, SideError};
pub use wire::{ChatReply, ChatRequest, Finish, Message, Part, PromptToken, ReplyServer, Role, TokenLogprob};

/// Why a request has no reply. No text here ever contains the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// 401 or 403, not about a field of the request: no request can succeed, and no further one is sent.
    #[error("{0}")]
    Authentication(String),
    /// The server does not know the model or the address: no further request is sent.
    #[error("{0}")]
    NotFound(String),
    /// `insufficient_quota`: no further request is sent.
    #[error("{0}")]
    Quota(String),
    /// The server was never reached in any attempt, or failed for many requests in a row: no further request is sent.
    #[error("{0}")]
    Unreachable(String),
    /// The server refuses this request (another 4xx).
    #[error("the server refused the request with {status}: {message}")]
    Rejected {
        /// The HTTP status.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// 429 until attempts or time ran out.
    #[error("the server's rate limit held for {n_attempts} attempts{reason}")]
    RateLimited {
        /// Attempts made.
        n_attempts: u32,
        /// `; …` with why no further attempt was made, or empty.
        reason: String,
    },
    /// 408, 409 or 5xx until attempts or time ran out, or the same 500 twice.
    #[error("the server failed with {status} ({n_attempts} attempts): {message}")]
    Server {
        /// The HTTP status.
        status: u16,
        /// Attempts made.
        n_attempts: u32,
        /// The server's message.
        message: String,
    },
    /// Every attempt timed out.
    #[error("no answer within {timeout_ms} ms ({n_attempts} attempts)")]
    Timeout {
        /// The time limit of each attempt.
        timeout_ms: u64,
        /// Attempts made.
        n_attempts: u32,
    },
    /// The connection failed or broke in every attempt.
    #[error("the connection failed ({n_attempts} attempts): {message}")]
    Connection {
        /// Attempts made.
        n_attempts: u32,
        /// The cause.
        message: String,
    },
    /// 200 with something that is not a chat completion: a web page, text, or half a JSON document.
    #[error("the server answered 200 with {what} instead of a chat completion: {start}")]
    NotACompletion {
        /// `a web page`, `text` or `half a document`.
        what: &'static str,
        /// The beginning of the body.
        start: String,
    },
    /// A completion without a choice.
    #[error("the server's completion has no choices")]
    NoChoices,
    /// A choice without text: a refusal, or a tool call.
    #[error("the reply has no text (finish_reason `{finish_reason}`){hint}")]
    NoContent {
        /// The reason, as the server gave it.
        finish_reason: String,
        /// `; hint: …` or empty.
        hint: String,
    },
    /// The server's content filter intervened.
    #[error("the server's content filter withheld the reply")]
    ContentFilter,
    /// The budget of calls or tokens is spent; the request was not sent or not retried.
    #[error("the budget of {limit} {unit} is spent")]
    Budget {
        /// The budget.
        limit: u64,
        /// `calls` or `tokens`.
        unit: &'static str,
    },
    /// The client was dropped.
    #[error("the client was closed")]
    Closed,
}

impl ChatError {
    /// Whether the server or the connection failed, so that the same request may succeed later.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::RateLimited { .. }
                | Self::Server { .. }
                | Self::Timeout { .. }
                | Self::Connection { .. }
                | Self::NotACompletion { .. }
                | Self::Budget { .. }
                | Self::Closed
        )
    }

    /// Whether no request of this client can succeed any more.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Authentication(_) | Self::NotFound(_) | Self::Quota(_) | Self::Unreachable(_) | Self::Closed
        )
    }
}
