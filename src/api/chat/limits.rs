//! Client-side rate limits and budgets.

use std::time::{Duration, Instant};

use super::{ChatConfig, ChatError};

const MINUTE_S: f64 = 60.0;

/// A booked call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Booking {
    /// The earliest time to send it.
    pub(super) start: Instant,
    /// The most tokens that it may use; this many are reserved from the budget.
    n_tokens: u64,
    /// Tokens that delay the next call; at most the most that any call has used, once one has finished.
    n_tokens_paced: u64,
}

/// What has been spent, and when the next request may be sent.
#[derive(Debug)]
pub(super) struct Ledger {
    seconds_per_request: Option<f64>,
    seconds_per_token: Option<f64>,
    max_calls: Option<u64>,
    max_tokens_total: Option<u64>,
    n_calls: u64,
    n_tokens_used: u64,
    /// Estimated tokens of requests in progress.
    n_tokens_reserved: u64,
    /// The most tokens that a call has used.
    n_tokens_used_most: Option<u64>,
    next_request: Option<Instant>,
    next_token: Option<Instant>,
}

impl Ledger {
    pub(super) fn new(config: &ChatConfig) -> Self {
        let seconds_per = |rate: Option<u64>| rate.map(|rate| MINUTE_S / rate.max(1) as f64);
        Self {
            seconds_per_request: seconds_per(config.requests_per_minute),
            seconds_per_token: seconds_per(config.tokens_per_minute),
            max_calls: config.max_calls,
            max_tokens_total: config.max_tokens_total,
            n_calls: 0,
            n_tokens_used: 0,
            n_tokens_reserved: 0,
            n_tokens_used_most: None,
            next_request: None,
            next_token: None,
        }
    }

    /// Books one call of at most `n_tokens`, or fails if the budget does not allow it.
    pub(super) fn book(&mut self, n_tokens: u64, now: Instant) -> Result<Booking, ChatError> {
        if let Some(limit) = self.max_calls.filter(|&limit| self.n_calls >= limit) {
            return Err(ChatError::Budget { limit, unit: "calls" });
        }
        let n_tokens_after = self.n_tokens_used.saturating_add(self.n_tokens_reserved).saturating_add(n_tokens);
        if let Some(limit) = self.max_tokens_total.filter(|&limit| n_tokens_after > limit) {
            return Err(ChatError::Budget { limit, unit: "tokens" });
        }
        self.n_calls += 1;
        self.n_tokens_reserved += n_tokens;
        let n_tokens_paced = self.n_tokens_used_most.map_or(n_tokens, |most| most.min(n_tokens));
        let start = [self.next_request, self.next_token].into_iter().flatten().fold(now, Instant::max);
        if let Some(seconds) = self.seconds_per_request {
            self.next_request = Some(start + seconds_f64(seconds));
        }
        if let Some(seconds) = self.seconds_per_token {
            self.next_token = Some(start + seconds_f64(seconds * n_tokens_paced as f64));
        }
        Ok(Booking { start, n_tokens, n_tokens_paced })
    }

    /// Cancels a booking that was never sent.
    pub(super) fn cancel(&mut self, booking: Booking) {
        self.n_calls -= 1;
        self.n_tokens_reserved -= booking.n_tokens;
    }

    /// Replaces the estimate of a call by its use. A failed call uses 0; if the server does not count, the estimate
    /// remains.
    pub(super) fn settle(&mut self, booking: Booking, n_tokens_used: u64) {
        self.n_tokens_reserved -= booking.n_tokens;
        self.n_tokens_used = self.n_tokens_used.saturating_add(n_tokens_used);
        if n_tokens_used > 0 {
            self.n_tokens_used_most = self.n_tokens_used_most.max(Some(n_tokens_used));
        }
        if let (Some(seconds), Some(next)) = (self.seconds_per_token, self.next_token) {
            let correction = seconds_f64(seconds * booking.n_tokens_paced.abs_diff(n_tokens_used) as f64);
            let is_more = n_tokens_used >= booking.n_tokens_paced;
            self.next_token = if is_more { Some(next + correction) } else { next.checked_sub(correction) };
        }
    }

    pub(super) fn n_calls(&self) -> u64 {
        self.n_calls
    }

    pub(super) fn n_tokens_used(&self) -> u64 {
        self.n_tokens_used
    }
}

/// A wait of more than a year is as good as endless, and must not overflow a clock.
fn seconds_f64(seconds: f64) -> Duration {
    const YEAR_S: f64 = 365.0 * 86_400.0;
    Duration::from_secs_f64(seconds.clamp(0.0, YEAR_S))
}

#[cfg(test)]
mod tests;
