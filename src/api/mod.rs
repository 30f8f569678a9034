//! The network: a plain download, the model hub, and a client of OpenAI-compatible chat servers.
//!
//! This is the only user of tokio. One runtime on its own thread serves the whole process. Every function here blocks
//! its caller and must not be called from an asynchronous task.

mod chat;
mod download;
mod hub;
mod hub_cache;
mod retry;
mod runtime;
mod secret;

pub use chat::{
    ChatClient, ChatConfig, ChatCounters, ChatError, ChatReply, ChatRequest, ConfigError, Finish, Message, Part,
    PromptToken, ReplyServer, Role, ServedModel, SideError, TokenLogprob,
};
pub use download::{Checksum, Download, DownloadError, download};
pub use hub::{HubClient, HubError, HubFile, HubRevision};
pub use hub_cache::{HubEvent, HubFetch, HubKind, RepositoryId, cached_commit};
pub use secret::Secret;
