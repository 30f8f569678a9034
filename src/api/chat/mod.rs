//! A client of any server with OpenAI's chat interface.
//!
//! [`ChatClient`] takes requests under tickets and gives back, under the same tickets, what became of
//! them: every ticket exactly once. What is retried, and what is permanent, is decided in [`attempt`].

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

/// What became of a request that has no reply. No text here ever holds the key.
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
    /// The server was never reached with all attempts, or failed for many requests in a row: no further
    /// request is sent.
    #[error("{0}")]
    Unreachable(String),
    /// The server refuses this request (another 4xx).
    #[error("the server refused the request with {status}: {message}")]
    Rejected {
        /// The HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// 429 until attempts or time ran out.
    #[error("the server's rate limit held for {n_attempts} attempts{reason}")]
    RateLimited {
        /// Attempts made.
        n_attempts: u32,
        /// `; …` why no further one was made, or nothing.
        reason: String,
    },
    /// 408, 409 or 5xx until attempts or time ran out, or the same 500 twice.
    #[error("the server failed with {status} ({n_attempts} attempts): {message}")]
    Server {
        /// The HTTP status.
        status: u16,
        /// Attempts made.
        n_attempts: u32,
        /// What the server said.
        message: String,
    },
    /// No answer in time, in each attempt.
    #[error("no answer within {timeout_ms} ms ({n_attempts} attempts)")]
    Timeout {
        /// The time each attempt was given.
        timeout_ms: u64,
        /// Attempts made.
        n_attempts: u32,
    },
    /// The connection failed or broke, in each attempt.
    #[error("the connection failed ({n_attempts} attempts): {message}")]
    Connection {
        /// Attempts made.
        n_attempts: u32,
        /// The cause.
        message: String,
    },
    /// 200 with something that is no chat completion: a web page, text, half a JSON document.
    #[error("the server answered 200 with {what} instead of a chat completion: {start}")]
    NotACompletion {
        /// `a web page`, `text` or `half a document`.
        what: &'static str,
        /// How the body begins.
        start: String,
    },
    /// A completion without a choice.
    #[error("the server's completion has no choices")]
    NoChoices,
    /// A choice without text: a refusal, or a tool call.
    #[error("the reply has no text (finish_reason `{finish_reason}`){hint}")]
    NoContent {
        /// As the server gave it.
        finish_reason: String,
        /// `; hint: …` or nothing.
        hint: String,
    },
    /// The server's content filter stepped in.
    #[error("the server's content filter withheld the reply")]
    ContentFilter,
    /// The budget of calls or tokens is spent; the request was not sent (again).
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
    /// Whether the server, or the way to it, failed: the same request may succeed another time.
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
