use super::*;

fn ledger(change: impl FnOnce(&mut ChatConfig)) -> Ledger {
    let mut config = ChatConfig::new("http://h", "m");
    change(&mut config);
    Ledger::new(&config)
}

#[test]
fn requests_are_spaced_evenly() {
    let mut ledger = ledger(|config| config.requests_per_minute = Some(120));
    let now = Instant::now();
    let starts: Vec<f64> = (0..4).map(|_| (ledger.book(1, now).unwrap().start - now).as_secs_f64()).collect();
    assert_eq!(starts, [0.0, 0.5, 1.0, 1.5]);
}

#[test]
fn tokens_are_spaced_by_what_the_server_counts() {
    let mut ledger = ledger(|config| config.tokens_per_minute = Some(60));
    let now = Instant::now();
    let booking = ledger.book(100, now).unwrap();
    ledger.settle(booking, 10);
    let start = (ledger.book(1, now).unwrap().start - now).as_secs_f64();
    assert!((start - 10.0).abs() < 1e-6, "{start}");
}

#[test]
fn a_call_waits_for_what_calls_use_and_not_for_the_room_that_they_have() {
    let mut ledger = ledger(|config| config.tokens_per_minute = Some(60));
    let now = Instant::now();
    let booking = ledger.book(2_000, now).unwrap();
    ledger.settle(booking, 10);
    let second = ledger.book(2_000, now).unwrap();
    assert!(((second.start - now).as_secs_f64() - 10.0).abs() < 1e-6);
    let third = ledger.book(2_000, now).unwrap();
    assert!(((third.start - now).as_secs_f64() - 20.0).abs() < 1e-6);
    ledger.settle(second, 400);
    assert!(((ledger.book(2_000, now).unwrap().start - now).as_secs_f64() - 420.0).abs() < 1e-6);
}

#[test]
fn a_budget_is_never_exceeded_even_by_requests_under_way() {
    let mut ledger = ledger(|config| config.max_tokens_total = Some(100));
    let now = Instant::now();
    let booking = ledger.book(60, now).unwrap();
    assert_eq!(ledger.book(60, now), Err(ChatError::Budget { limit: 100, unit: "tokens" }));
    ledger.settle(booking, 20);
    assert!(ledger.book(60, now).is_ok());
}

#[test]
fn a_booking_that_was_not_sent_costs_no_call() {
    let mut ledger = ledger(|config| config.max_calls = Some(1));
    let now = Instant::now();
    let booking = ledger.book(1, now).unwrap();
    ledger.cancel(booking);
    ledger.book(1, now).unwrap();
    assert!(matches!(ledger.book(1, now), Err(ChatError::Budget { unit: "calls", .. })));
}
