//! The process's only runtime.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();

/// Returns the handle of the process's runtime, which is started at its first use.
///
/// It is never shut down: no request is still needed when a process ends.
pub(super) fn handle() -> Result<&'static Handle, String> {
    let runtime = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("emt-network")
            .enable_all()
            .build()
            .map_err(|error| format!("failed to start the network thread: {error}"))
    });
    runtime.as_ref().map(Runtime::handle).map_err(Clone::clone)
}

/// Returns the settings that every client shares. The user agent names `emt`, and servers on this machine are not
/// accessed through a proxy, which could not reach them.
pub(super) fn client_builder(url: &reqwest::Url) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("emt/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(20));
    if is_loopback(url) { builder.no_proxy() } else { builder }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Describes a request error down to its cause, without the address (which may carry a signature).
pub(super) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Returns the wait requested by a `retry-after-ms` or `Retry-After` header (seconds or an HTTP date).
pub(super) fn retry_after(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(ms) = text("retry-after-ms").and_then(|value| value.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(ms / 1000.0).ok();
    }
    let value = text("retry-after")?;
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(value).ok()?;
    #[expect(clippy::disallowed_methods, reason = "an HTTP date is told by the clock on the wall")]
    let now = std::time::SystemTime::now();
    Some(date.duration_since(now).unwrap_or_default())
}

/// Returns the wait before attempt `n_failed + 1`: exponential, with jitter so that many clients do not retry at once.
pub(super) fn backoff(base_ms: u64, n_failed: u32) -> Duration {
    const WAIT_MS_MAX: u64 = 30_000;
    let full = base_ms.saturating_mul(1 << n_failed.saturating_sub(1).min(20)).min(WAIT_MS_MAX);
    Duration::from_millis(full / 2 + fastrand::u64(0..=full.div_ceil(2)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

    fn check(name: &'static str, value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        retry_after(&headers)
    }

    #[test]
    fn retry_after_is_read_in_all_three_forms() {
        assert_eq!(check("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(check("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        let date = httpdate::fmt_http_date(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000));
        assert!(check("retry-after", &date).unwrap() > Duration::from_secs(1_000_000));
        assert_eq!(check("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
    }

    #[test]
    fn nonsense_in_retry_after_is_no_wait() {
        for value in ["soon", "-1", "NaN", "inf", "1e300"] {
            assert_eq!(check("retry-after", value), None, "{value}");
        }
    }

    #[test]
    fn the_wait_doubles_and_is_capped() {
        for (n_failed, full) in [(1, 100), (2, 200), (4, 800), (40, 30_000)] {
            let wait = backoff(100, n_failed).as_millis() as u64;
            assert!((full / 2..=full).contains(&wait), "{n_failed}: {wait}");
        }
    }
}
