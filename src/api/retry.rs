//! The only retry loop, for failures that may pass.

use std::time::{Duration, Instant};

use super::runtime::backoff;

/// The limits on retries of files and of the hub's metadata.
pub(super) const PATIENCE_OF_DOWNLOADS: Patience =
    Patience { base_ms: 300, n_failures_max: 5, wait_max: Duration::from_secs(60), total_max: Duration::MAX };

/// The limits on retries of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// The first wait if the server names none, in milliseconds; it doubles.
    pub(super) base_ms: u64,
    /// Consecutive failures after which a request is given up.
    pub(super) n_failures_max: u32,
    /// The longest wait that a server may request.
    pub(super) wait_max: Duration,
    /// No attempt begins after this time.
    pub(super) total_max: Duration,
}

/// A failed attempt. `P` is an error; `T` becomes an error once the request is given up.
pub(super) enum Failure<P, T> {
    /// A retry cannot help.
    Permanent(P),
    /// A retry may help.
    Transient(Box<Transient<T>>),
}

impl<P, T> Failure<P, T> {
    /// Returns a transient failure of an attempt without progress; `wait` is the wait that the server requests.
    pub(super) fn transient(error: T, wait: Option<Duration>) -> Self {
        Self::Transient(Box::new(Transient { error, wait, made_progress: false }))
    }
}

impl<P, T> From<P> for Failure<P, T> {
    fn from(error: P) -> Self {
        Self::Permanent(error)
    }
}

/// A failure that may pass.
pub(super) struct Transient<T> {
    pub(super) error: T,
    /// The wait that the server requests.
    pub(super) wait: Option<Duration>,
    /// Whether the attempt made progress over the one before; its failure then counts as the first.
    pub(super) made_progress: bool,
}

/// The last failure of a request that is given up.
pub(super) struct GivenUp<T> {
    pub(super) error: T,
    /// Consecutive failures.
    pub(super) n_failures: u32,
    /// The wait that the server requested, if it is too long and the request is given up for it.
    pub(super) wait: Option<Duration>,
}

/// A request that may be retried.
pub(super) trait Attempts {
    /// The result of a successful attempt.
    type Output;
    /// An error that ends the request.
    type Error;
    /// A failure that may pass.
    type Transient;

    /// Makes one attempt.
    async fn attempt(&mut self) -> Result<Self::Output, Failure<Self::Error, Self::Transient>>;

    /// Returns the error of a request that is given up.
    fn give_up(&self, last: GivenUp<Self::Transient>) -> Self::Error;

    /// Waits before the next attempt.
    async fn pause(&mut self, wait: Duration) -> Result<(), Self::Error> {
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Makes attempts until one succeeds, one fails permanently, or `patience` ends.
pub(super) async fn with_retries<A: Attempts>(patience: &Patience, attempts: &mut A) -> Result<A::Output, A::Error> {
    let start = Instant::now();
    let mut n_failures = 0;
    loop {
        let Transient { error, wait, made_progress } = match attempts.attempt().await {
            Ok(output) => return Ok(output),
            Err(Failure::Permanent(error)) => return Err(error),
            Err(Failure::Transient(transient)) => *transient,
        };
        n_failures = if made_progress { 1 } else { n_failures + 1 };
        let pause = wait.unwrap_or_else(|| backoff(patience.base_ms, n_failures));
        let is_too_long = wait.is_some_and(|wait| wait > patience.wait_max)
            || start.elapsed().saturating_add(pause) > patience.total_max;
        if is_too_long || n_failures >= patience.n_failures_max {
            return Err(attempts.give_up(GivenUp { error, n_failures, wait: wait.filter(|_| is_too_long) }));
        }
        attempts.pause(pause).await?;
    }
}

#[cfg(test)]
mod tests;
