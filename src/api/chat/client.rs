//! The client's queue: it takes requests with tickets and returns completions.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderValue;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::attempt::{Shared, lock};
use super::config::completions_url;
use super::limits::Ledger;
use super::negotiation::Negotiated;
use super::{ChatConfig, ChatError, ChatReply, ChatRequest, ConfigError};
use crate::api::runtime;

/// The client's totals so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChatCounters {
    /// Requests sent, retries included.
    pub n_calls: u64,
    /// Requests that were not the first attempt.
    pub n_retries: u64,
    /// Tokens of prompts and replies, estimated if the server does not count them.
    pub n_tokens: u64,
}

/// The most connections; no server accepts more.
const N_CONNECTIONS_MAX: usize = 4_096;

type Completion = (u64, Result<ChatReply, ChatError>);

/// A client of one chat server and model.
///
/// At most [`ChatClient::capacity`] submitted tickets can be without a received completion; after that
/// [`ChatClient::submit`] waits for a [`ChatClient::recv_timeout`]. Dropping the client abandons the rest.
pub struct ChatClient {
    pub(super) shared: Arc<Shared>,
    capacity: usize,
    n_outstanding: Mutex<usize>,
    received: Condvar,
    sender: SyncSender<Completion>,
    receiver: Mutex<Receiver<Completion>>,
    tasks: Mutex<JoinSet<()>>,
}

impl ChatClient {
    /// Checks the configuration; does not contact the server.
    pub fn new(config: ChatConfig) -> Result<Self, ConfigError> {
        let url = completions_url(&config)?;
        check_numbers(&config)?;
        let config = ChatConfig { max_connections: config.max_connections.min(N_CONNECTIONS_MAX), ..config };
        if let Some(key) = &config.api_key
            && HeaderValue::from_str(key.expose()).is_err()
        {
            return Err(ConfigError::Key(config.api_key_variable));
        }
        runtime::handle().map_err(ConfigError::Network)?;
        let http = runtime::client_builder(&url)
            // A redirected POST would become a GET.
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(config.max_connections)
            .build()
            .map_err(|error| ConfigError::Network(runtime::describe(error)))?;
        // One request in progress per connection, and as many queued.
        let capacity = config.max_connections * 2;
        let (sender, receiver) = sync_channel(capacity);
        let shared = Shared {
            connections: Semaphore::new(config.max_connections),
            ledger: Mutex::new(Ledger::new(&config)),
            negotiated: Mutex::new(Negotiated::default()),
            fatal: watch::Sender::new(None),
            n_retries: AtomicU64::new(0),
            was_reached: AtomicBool::new(false),
            n_lost_in_row: AtomicU32::new(0),
            config,
            http,
            url,
        };
        Ok(Self {
            shared: Arc::new(shared),
            capacity,
            n_outstanding: Mutex::new(0),
            received: Condvar::new(),
            sender,
            receiver: Mutex::new(receiver),
            tasks: Mutex::new(JoinSet::new()),
        })
    }

    /// The most submitted tickets with an outstanding completion.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The number of submitted tickets without a received completion.
    pub fn n_outstanding(&self) -> usize {
        *lock(&self.n_outstanding)
    }

    /// Submits a request; waits while the client is full. A thread that both submits and receives must keep
    /// [`ChatClient::n_outstanding`] below [`ChatClient::capacity`].
    pub fn submit(&self, request: ChatRequest, ticket: u64) {
        let mut n_outstanding = lock(&self.n_outstanding);
        while *n_outstanding >= self.capacity {
            n_outstanding = self.received.wait(n_outstanding).unwrap_or_else(PoisonError::into_inner);
        }
        *n_outstanding += 1;
        drop(n_outstanding);
        let (shared, sender) = (Arc::clone(&self.shared), self.sender.clone());
        let task = async move {
            let result = shared.ask(&request).await;
            // Never waits, because the channel has room for everything outstanding.
            let _ = sender.send((ticket, result));
        };
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        match runtime::handle() {
            Ok(handle) => {
                tasks.spawn_on(task, handle);
            }
            Err(message) => {
                let _ = self.sender.send((ticket, Err(ChatError::Unreachable(message))));
            }
        }
    }

    /// Returns the next completion, in order of completion; `None` after `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<(u64, Result<ChatReply, ChatError>)> {
        let completion = lock(&self.receiver).recv_timeout(timeout).ok()?;
        *lock(&self.n_outstanding) -= 1;
        self.received.notify_one();
        Some(completion)
    }

    /// Returns the totals so far.
    pub fn counters(&self) -> ChatCounters {
        let ledger = lock(&self.shared.ledger);
        ChatCounters {
            n_calls: ledger.n_calls(),
            n_retries: self.shared.n_retries.load(Ordering::Relaxed),
            n_tokens: ledger.n_tokens_used(),
        }
    }

    /// Returns, for the run record, how requests are sent to this server after what its errors taught.
    pub fn effective_parameters(&self) -> Value {
        lock(&self.shared.negotiated).to_json()
    }

    /// Describes for the user what requests omit or change because the server would refuse them.
    pub fn learned(&self) -> Option<String> {
        lock(&self.shared.negotiated).told()
    }

    /// Returns the error if no request can succeed any more.
    pub fn fatal_error(&self) -> Option<ChatError> {
        self.shared.fatal.borrow().clone()
    }
}

fn check_numbers(config: &ChatConfig) -> Result<(), ConfigError> {
    let numbers = [
        ("--max-connections", config.max_connections as u64),
        ("--timeout", config.timeout_ms),
        ("the number of attempts", u64::from(config.max_attempts)),
        ("the requests per minute", config.requests_per_minute.unwrap_or(1)),
        ("the tokens per minute", config.tokens_per_minute.unwrap_or(1)),
    ];
    match numbers.into_iter().find(|(_, number)| *number == 0) {
        Some((name, _)) => Err(ConfigError::Zero(name)),
        None => Ok(()),
    }
}
