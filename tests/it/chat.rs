//! The chat client against a server that misbehaves in each of the ways that servers do.

use std::time::{Duration, Instant};

use emt::api::{ChatClient, ChatConfig, ChatError, ChatReply, ChatRequest, Finish, Message, Secret};
use serde_json::json;

use crate::http_server::{HttpServer, Reply, Request};

pub const KEY: &str = "sk-very-secret-0123456789";

/// A complete chat completion.
pub fn completion(content: &str) -> Reply {
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"});
    Reply::json(200, &json!({"id": "c", "choices": [choice], "usage": {"total_tokens": 50}}))
}

pub fn error(status: u16, message: &str) -> Reply {
    Reply::json(status, &json!({"error": {"message": message, "type": "t", "param": null, "code": null}}))
}

/// Settings that make a test quick.
pub fn quick(server: &HttpServer) -> ChatConfig {
    let mut config = ChatConfig::new(server.url(), "judge-1");
    config.api_key = Secret::new(KEY);
    config.timeout_ms = 20_000;
    config.retry_base_ms = 5;
    config.max_attempts = 4;
    config
}

fn question(text: &str) -> ChatRequest {
    ChatRequest { messages: vec![Message::user(text)], temperature: Some(0.0), max_tokens: 8, ..ChatRequest::default() }
}

fn ask(client: &ChatClient, text: &str) -> Result<ChatReply, ChatError> {
    client.submit(question(text), 7);
    let (ticket, result) = client.recv_timeout(Duration::from_secs(20)).expect("a ticket always comes back");
    assert_eq!(ticket, 7);
    result
}

/// Asks once a server that answers with `first`, and well from the second request on.
fn after(first: Reply) -> (Result<ChatReply, ChatError>, HttpServer, Duration) {
    let server = HttpServer::start(move |request| if request.index == 0 { first.clone() } else { completion("Yes") });
    let client = ChatClient::new(quick(&server)).unwrap();
    let start = Instant::now();
    let result = ask(&client, "?");
    (result, server, start.elapsed())
}

/// Asks once a server that always answers so.
fn against(reply: Reply) -> (ChatError, usize) {
    let server = HttpServer::start(move |_| reply.clone());
    let client = ChatClient::new(quick(&server)).unwrap();
    (ask(&client, "?").unwrap_err(), server.n_requests())
}

#[test]
fn a_request_is_put_as_the_interface_asks_and_carries_the_key() {
    let (result, server, _) = after(completion("Yes"));
    let reply = result.unwrap();
    assert_eq!((reply.content.as_str(), reply.finish, reply.n_tokens), ("Yes", Finish::Stop, Some(50)));
    let request = &server.requests()[0];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/chat/completions"));
    assert_eq!(request.headers["authorization"], format!("Bearer {KEY}"));
    let expected = json!({"model": "judge-1", "messages": [{"role": "user", "content": "?"}],
        "max_tokens": 8, "temperature": 0.0, "stream": false});
    assert_eq!(request.json(), expected);
}

#[test]
fn a_429_with_retry_after_is_asked_again_after_that_time() {
    let (result, server, took) = after(error(429, "slow down").with("retry-after", 1));
    assert_eq!(result.unwrap().content, "Yes");
    assert_eq!(server.n_requests(), 2);
    assert!(took >= Duration::from_secs(1), "{took:?}");
    let (_, _, took) = after(error(429, "slow down").with("retry-after", 30).with("retry-after-ms", 200));
    assert!((200..5_000).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn a_429_without_retry_after_is_asked_again_soon() {
    let (result, server, took) = after(error(429, "slow down"));
    assert_eq!(result.unwrap().content, "Yes");
    assert_eq!(server.n_requests(), 2);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn passing_failures_are_asked_again() {
    for reply in [
        error(500, "oops"),
        error(503, "overloaded"),
        error(408, "timeout"),
        error(409, "conflict"),
        Reply::json(200, &json!({"error": {"message": "upstream", "code": 502}})),
        completion("Yes").cut_after(20),
        Reply::new(200, r#"{"choices":[{"message":{"cont"#),
        Reply::new(200, "<html>gateway</html>"),
        Reply::Silence(Duration::ZERO),
    ] {
        let shown = format!("{reply:?}");
        let (result, server, _) = after(reply);
        assert_eq!(result.expect(&shown).content, "Yes");
        assert_eq!(server.n_requests(), 2, "{shown}");
    }
}

#[test]
fn a_500_that_repeats_itself_is_permanent_and_one_that_changes_is_not() {
    let (failure, n_requests) = against(error(500, "this image is broken"));
    assert_eq!(failure, ChatError::Server { status: 500, n_attempts: 2, message: "this image is broken".into() });
    assert_eq!(n_requests, 2);
    let server = HttpServer::start(|request| error(500, &format!("request {}", request.index)));
    let client = ChatClient::new(quick(&server)).unwrap();
    assert!(matches!(ask(&client, "?"), Err(ChatError::Server { n_attempts: 4, .. })));
}

#[test]
fn an_overloaded_server_that_says_so_each_time_gets_all_attempts() {
    let (failure, n_requests) = against(error(503, "overloaded"));
    assert!(matches!(failure, ChatError::Server { status: 503, n_attempts: 4, .. }), "{failure}");
    assert_eq!(n_requests, 4);
    let (failure, n_requests) = against(error(429, "slow down"));
    assert!(matches!(failure, ChatError::RateLimited { n_attempts: 4, .. }), "{failure}");
    assert_eq!(n_requests, 4);
}

#[test]
fn azures_deployments_get_the_key_in_their_own_header() {
    let server = HttpServer::start(|_| completion("Yes"));
    let base_url = format!("{}/openai/deployments/judge/chat/completions?api-version=1", server.url());
    let client = ChatClient::new(ChatConfig { base_url, ..quick(&server) }).unwrap();
    assert_eq!(ask(&client, "?").unwrap().content, "Yes");
    let request = &server.requests()[0];
    assert_eq!(request.headers["api-key"], KEY);
    assert!(!request.headers.contains_key("authorization"));
}

#[test]
fn a_wait_beyond_all_patience_is_not_waited_for() {
    let (failure, n_requests) = against(error(429, "tomorrow").with("retry-after", 86_400));
    assert!(failure.to_string().contains("86400 s"), "{failure}");
    assert_eq!(n_requests, 1);
}

#[test]
fn a_wrong_key_ends_all_requests_and_is_never_shown() {
    let server = HttpServer::start(|request| {
        error(401, &format!("Incorrect API key provided: {}", request.headers["authorization"]))
    });
    let client = ChatClient::new(ChatConfig { max_connections: 2, ..quick(&server) }).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..200).for_each(|ticket| client.submit(question("?"), ticket)));
        let mut tickets: Vec<u64> = Vec::new();
        for _ in 0..200 {
            let (ticket, result) = client.recv_timeout(Duration::from_secs(20)).unwrap();
            let message = result.unwrap_err().to_string();
            assert!(message.contains("EMT_JUDGE_API_KEY") && message.contains("Incorrect API key"), "{message}");
            assert!(!message.contains("secret"), "{message}");
            tickets.push(ticket);
        }
        tickets.sort_unstable();
        assert_eq!(tickets, (0..200).collect::<Vec<_>>());
    });
    assert!(server.n_requests() <= 2, "{} requests", server.n_requests());
    assert!(client.fatal_error().is_some());
}

#[test]
fn a_missing_key_an_unknown_model_and_an_empty_account_end_all_requests() {
    for (reply, expected) in [
        (error(403, "no"), "asks for a key"),
        (error(404, "The model `judge-1` does not exist"), "no model `judge-1`"),
        (error(400, "/chat/completions: Invalid model name passed in model=judge-1."), "no model `judge-1`"),
        (
            Reply::json(429, &json!({"error": {"message": "pay first", "code": "insufficient_quota"}})),
            "no quota left: pay first",
        ),
        (Reply::new(301, "").with("location", "https://elsewhere/v1"), "redirects to https://elsewhere/v1"),
    ] {
        let server = HttpServer::start(move |_| reply.clone());
        let client = ChatClient::new(ChatConfig { api_key: None, ..quick(&server) }).unwrap();
        let message = ask(&client, "?").unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert!(message.contains("hint: "), "{message}");
        assert_eq!(ask(&client, "?").unwrap_err().to_string(), message);
        assert_eq!(server.n_requests(), 1);
    }
}

#[test]
fn a_request_that_the_server_refuses_does_not_end_the_others() {
    let server =
        HttpServer::start(
            |request| {
                if request.index == 0 { error(400, "context length exceeded") } else { completion("No") }
            },
        );
    let client = ChatClient::new(quick(&server)).unwrap();
    let refused = ChatError::Rejected { status: 400, message: "context length exceeded".into() };
    assert_eq!(ask(&client, "?"), Err(refused));
    assert_eq!(ask(&client, "?").unwrap().content, "No");
}

#[test]
fn replies_without_a_text_are_final_and_told_apart() {
    let choice =
        |message, reason: &str| Reply::json(200, &json!({"choices": [{"message": message, "finish_reason": reason}]}));
    let (failure, n_requests) = against(Reply::json(200, &json!({"choices": []})));
    assert_eq!((failure, n_requests), (ChatError::NoChoices, 1));
    let (failure, n_requests) = against(choice(json!({"content": null}), "stop"));
    assert!(matches!(failure, ChatError::NoContent { .. }), "{failure}");
    assert_eq!(n_requests, 1);
    let (failure, _) = against(choice(json!({"content": ""}), "length"));
    assert!(failure.to_string().contains("reasoning"), "{failure}");
    let (failure, _) = against(choice(json!({"content": "Yes"}), "content_filter"));
    assert_eq!(failure, ChatError::ContentFilter);
}

#[test]
fn a_page_that_stays_a_page_is_given_up() {
    let (failure, n_requests) = against(Reply::new(200, "<!doctype html><title>Sign in</title>"));
    assert!(matches!(failure, ChatError::NotACompletion { what: "a web page", .. }), "{failure}");
    assert_eq!(n_requests, 2);
}

#[test]
fn silence_is_a_timeout_and_a_server_that_was_never_heard_ends_all_requests() {
    let server = HttpServer::start(|request| match request.index {
        0 => completion("Yes"),
        _ => Reply::Silence(Duration::from_secs(3)),
    });
    let config = ChatConfig { timeout_ms: 700, max_attempts: 2, ..quick(&server) };
    let client = ChatClient::new(config.clone()).unwrap();
    assert!(ask(&client, "?").is_ok());
    assert_eq!(ask(&client, "?"), Err(ChatError::Timeout { timeout_ms: 700, n_attempts: 2 }));
    assert_eq!(server.n_requests(), 3);
    let stranger = ChatClient::new(config).unwrap();
    let message = ask(&stranger, "?").unwrap_err().to_string();
    assert!(message.contains("gave up on the server") && message.contains("no answer within 700 ms"), "{message}");
    assert!(stranger.fatal_error().is_some());
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let server = HttpServer::start(|_| completion("Yes"));
    let mut config = quick(&server);
    config.base_url = "http://127.0.0.1:1/v1".into();
    let client = ChatClient::new(config).unwrap();
    let message = ask(&client, "?").unwrap_err().to_string();
    assert!(message.contains("http://127.0.0.1:1/v1/chat/completions"), "{message}");
    assert!(message.contains("refused") && message.contains("hint: "), "{message}");
}

#[test]
fn a_server_that_dies_on_the_way_is_not_asked_for_ever() {
    let server = HttpServer::start(|request| match request.index {
        0 => completion("Yes"),
        _ => error(502, "bad gateway"),
    });
    let config = ChatConfig { max_connections: 1, max_attempts: 2, ..quick(&server) };
    let client = ChatClient::new(config).unwrap();
    assert!(ask(&client, "?").is_ok());
    for _ in 0..100 {
        assert!(ask(&client, "?").is_err());
    }
    assert!(client.fatal_error().unwrap().to_string().contains("502"));
    assert!(server.n_requests() < 20, "{} requests", server.n_requests());
}

#[test]
fn what_a_server_does_not_take_is_learned_once() {
    let server = HttpServer::start(|request: &Request| {
        let body = request.json();
        let refusal = |message: &str, param: &str, code: &str| {
            Reply::json(400, &json!({"error": {"message": message, "param": param, "code": code}}))
        };
        if body.get("max_tokens").is_some() {
            refusal("Use 'max_completion_tokens' instead.", "max_tokens", "unsupported_parameter")
        } else if body.get("temperature").is_some() {
            refusal("Only the default (1) value is supported.", "temperature", "unsupported_value")
        } else {
            completion("Yes")
        }
    });
    let client = ChatClient::new(quick(&server)).unwrap();
    assert_eq!(ask(&client, "?").unwrap().content, "Yes");
    assert_eq!(server.n_requests(), 3);
    assert_eq!(ask(&client, "?").unwrap().content, "Yes");
    assert_eq!(server.n_requests(), 4);
    assert_eq!(server.requests()[3].json()["max_completion_tokens"], 8);
    let expected = json!({"token_limit": "max_completion_tokens", "omitted": ["temperature"]});
    assert_eq!(client.effective_parameters(), expected);
}

/// Hands in 60 requests; counts the replies, and checks that all others met the budget.
fn replies_of_60(client: &ChatClient) -> u64 {
    std::thread::scope(|scope| {
        scope.spawn(|| (0..60).for_each(|ticket| client.submit(question("?"), ticket)));
        let results = (0..60).map(|_| client.recv_timeout(Duration::from_secs(20)).unwrap().1);
        results.fold(0, |n_replies, result| match result {
            Ok(_) => n_replies + 1,
            Err(ChatError::Budget { .. }) => n_replies,
            Err(other) => panic!("{other}"),
        })
    })
}

#[test]
fn budgets_of_calls_and_tokens_hold_with_retries_and_many_connections() {
    let server = HttpServer::start(|request| match request.index % 3 {
        0 => error(429, "slow").with("retry-after-ms", 1),
        _ => Reply::json(200, &json!({"choices": [{"message": {"content": "Yes"}}], "usage": {"total_tokens": 5}})),
    });
    let client = ChatClient::new(ChatConfig { max_calls: Some(20), ..quick(&server) }).unwrap();
    let n_replies = replies_of_60(&client);
    assert_eq!((server.n_requests(), client.counters().n_calls), (20, 20));
    assert!((1..=13).contains(&n_replies), "{n_replies}");
    let client = ChatClient::new(ChatConfig { max_tokens_total: Some(100), ..quick(&server) }).unwrap();
    let n_replies = replies_of_60(&client);
    assert_eq!(client.counters().n_tokens, 5 * n_replies);
    assert!((2..=20).contains(&n_replies), "{n_replies}");
}

#[test]
fn the_rate_limit_is_kept_on_this_side() {
    let server = HttpServer::start(|_| completion("Yes"));
    let config = ChatConfig { requests_per_minute: Some(1_200), ..quick(&server) };
    let client = ChatClient::new(config).unwrap();
    let start = Instant::now();
    (0..11).for_each(|ticket| client.submit(question("?"), ticket));
    for _ in 0..11 {
        client.recv_timeout(Duration::from_secs(20)).unwrap().1.unwrap();
    }
    // Eleven requests, 50 ms apart.
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(server.n_requests(), 11);
}

#[test]
fn no_more_requests_are_under_way_than_connections_allow() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static N_NOW: AtomicUsize = AtomicUsize::new(0);
    static N_MAX: AtomicUsize = AtomicUsize::new(0);
    let server = HttpServer::start(|_| {
        N_MAX.fetch_max(1 + N_NOW.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        N_NOW.fetch_sub(1, Ordering::SeqCst);
        completion("Yes")
    });
    let client = ChatClient::new(ChatConfig { max_connections: 3, ..quick(&server) }).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..30).for_each(|ticket| client.submit(question("?"), ticket)));
        (0..30).for_each(|_| assert!(client.recv_timeout(Duration::from_secs(20)).is_some()));
    });
    assert_eq!(N_MAX.load(Ordering::SeqCst), 3);
}

#[test]
fn the_key_is_in_no_text_of_the_client() {
    let server = HttpServer::start(|_| {
        let content = format!("your key is {KEY}");
        let mut reply = completion(&content);
        if let Reply::Full { headers, .. } = &mut reply {
            headers.push(("x-key".into(), KEY.into()));
        }
        reply
    });
    let config = quick(&server);
    assert!(!format!("{config:?}").contains("secret"));
    let client = ChatClient::new(config).unwrap();
    assert_eq!(ask(&client, "?").unwrap().content, "your key is [redacted]");
    for reply in [
        error(400, &format!("bad {KEY}")),
        Reply::new(200, format!("<html>{KEY}")),
        error(500, KEY),
        Reply::json(200, &json!({"choices": [{"message": {"content": null, "refusal": KEY}, "finish_reason": KEY}]})),
        // The key stands where a long text is cut.
        error(422, &format!("{}{KEY}", "x".repeat(290))),
    ] {
        let (failure, _) = against(reply);
        let text = format!("{failure} {failure:?}");
        assert!(!text.contains("sk-very"), "{text}");
        assert!(!text.contains("0123"), "{text}");
    }
}

#[test]
fn settings_that_allow_nothing_are_refused() {
    let server = HttpServer::start(|_| completion("Yes"));
    for config in [
        ChatConfig { max_connections: 0, ..quick(&server) },
        ChatConfig { timeout_ms: 0, ..quick(&server) },
        ChatConfig { requests_per_minute: Some(0), ..quick(&server) },
        ChatConfig { api_key: Secret::new("line\nbreak"), ..quick(&server) },
        ChatConfig { base_url: "localhost:8000".into(), ..quick(&server) },
    ] {
        let message = ChatClient::new(config).err().expect("refused").to_string();
        assert!(!message.contains("break"), "{message}");
    }
}
