use super::*;
use crate::api::runtime;

/// Fails as often as configured, then succeeds.
struct Flaky {
    n_left: u32,
    wait: Option<Duration>,
    makes_progress: bool,
    n_attempts: u32,
}

impl Attempts for Flaky {
    type Output = u32;
    type Error = String;
    type Transient = &'static str;

    async fn attempt(&mut self) -> Result<u32, Failure<String, &'static str>> {
        self.n_attempts += 1;
        if self.n_left == 0 {
            return Ok(self.n_attempts);
        }
        self.n_left -= 1;
        Err(Failure::Transient(Box::new(Transient {
            error: "busy",
            wait: self.wait,
            made_progress: self.makes_progress,
        })))
    }

    fn give_up(&self, last: GivenUp<&'static str>) -> String {
        format!("{} after {} failures, wait {:?}", last.error, last.n_failures, last.wait)
    }
}

fn ask(n_left: u32, wait: Option<Duration>, makes_progress: bool) -> Result<u32, String> {
    let patience =
        Patience { base_ms: 1, n_failures_max: 3, wait_max: Duration::from_secs(60), total_max: Duration::MAX };
    let mut flaky = Flaky { n_left, wait, makes_progress, n_attempts: 0 };
    runtime::handle().unwrap().block_on(with_retries(&patience, &mut flaky))
}

#[test]
fn a_request_is_repeated_until_it_is_good_or_failed_too_often() {
    assert_eq!(ask(0, None, false), Ok(1));
    assert_eq!(ask(2, None, false), Ok(3));
    assert_eq!(ask(3, None, false).unwrap_err(), "busy after 3 failures, wait None");
}

#[test]
fn failures_that_made_progress_do_not_add_up() {
    assert_eq!(ask(20, None, true), Ok(21));
}

#[test]
fn a_server_that_asks_for_a_long_wait_is_given_up_at_once() {
    let error = ask(1, Some(Duration::from_secs(61)), false).unwrap_err();
    assert_eq!(error, "busy after 1 failures, wait Some(61s)");
}
