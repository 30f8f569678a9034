//! Servers that refuse a field that a request can do without, in their own words and with their own codes.

use emt::api::{ChatClient, ChatConfig, ChatError, ChatReply, ChatRequest, Message};
use serde_json::{Map, Value, json};

use super::chat::{completion, error, quick};
use super::http_server::{HttpServer, Reply, Request};

fn full_request() -> ChatRequest {
    let extra = json!({"frequency_penalty": 0, "presence_penalty": 0, "logprobs": true, "top_logprobs": 2, "add_special_tokens": true});
    ChatRequest {
        messages: vec![Message::user("?")],
        temperature: Some(0.0),
        top_p: Some(1.0),
        seed: Some(0),
        max_tokens: 64,
        extra: extra.as_object().unwrap().clone(),
        ..ChatRequest::default()
    }
}

fn ask(config: ChatConfig) -> (Result<ChatReply, ChatError>, Value) {
    let client = ChatClient::new(config).unwrap();
    client.submit(full_request(), 1);
    let (_, result) = client.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    (result, client.effective_parameters())
}

/// A server that answers `refusal` as long as the request has `field`.
fn refusing(field: &'static str, refusal: Reply) -> HttpServer {
    HttpServer::start(move |request: &Request| match request.json().get(field) {
        Some(_) => refusal.clone(),
        None => completion("cat"),
    })
}

#[test]
fn a_refused_field_is_left_out_whatever_the_status_and_the_form_of_the_error() {
    let pydantic =
        |loc: &str| json!({"type": "extra_forbidden", "loc": ["body", loc], "msg": "Extra inputs are not permitted"});
    let cases: Vec<(&'static str, Reply)> = vec![
        ("logprobs", error(403, "You are not allowed to request logprobs from this model")),
        ("seed", error(404, "Unrecognized request argument supplied: seed")),
        ("seed", error(405, "seed is not supported")),
        ("top_p", error(501, "top_p is not implemented")),
        (
            "presence_penalty",
            Reply::json(
                400,
                &json!({"code": "Client specified an invalid argument", "error": "Argument not supported on this model: presencePenalty"}),
            ),
        ),
        (
            "logprobs",
            Reply::json(
                400,
                &json!([{"error": {"code": 400, "message": "Logprobs is not enabled for models/gemini-x", "status": "INVALID_ARGUMENT"}}]),
            ),
        ),
        ("seed", Reply::json(422, &json!({"detail": [pydantic("seed")]}))),
        (
            "top_logprobs",
            Reply::json(
                422,
                &json!({"object": "error", "message": {"detail": [pydantic("top_logprobs")]}, "type": "invalid_request_error"}),
            ),
        ),
        (
            "frequency_penalty",
            Reply::json(
                400,
                &json!({"type": "error", "error": {"type": "invalid_request_error", "message": "frequency_penalty: Extra inputs are not permitted"}}),
            ),
        ),
        (
            "temperature",
            Reply::json(200, &json!({"error": {"message": "temperature is not supported by this model", "code": 400}})),
        ),
        (
            "top_logprobs",
            Reply::json(
                400,
                &json!({"object": "error", "message": "Requested sample logprobs of 2, which is greater than max allowed: 1", "code": 400}),
            ),
        ),
        ("add_special_tokens", Reply::new(400, "unknown field `add_special_tokens`")),
        ("stream", error(400, "Unsupported parameter: stream")),
    ];
    for (field, refusal) in cases {
        let server = refusing(field, refusal);
        let (result, parameters) = ask(quick(&server));
        assert_eq!(result.unwrap_or_else(|error| panic!("{field}: {error}")).content, "cat");
        assert_eq!(parameters["omitted"], json!([field]), "{field}");
        let last = server.requests().last().unwrap().json();
        assert_eq!(last.as_object().unwrap().len(), 12 - if field == "logprobs" { 2 } else { 1 }, "{last}");
    }
}

#[test]
fn a_temperature_of_zero_that_is_refused_becomes_a_small_one() {
    let server = HttpServer::start(|request| match request.json()["temperature"].as_f64() {
        Some(0.0) => {
            Reply::json(422, &json!({"error": "Input validation error: `temperature` must be strictly positive"}))
        }
        _ => completion("cat"),
    });
    let (result, parameters) = ask(quick(&server));
    assert!(result.is_ok());
    assert_eq!((&parameters["changed"]["temperature"], &parameters["omitted"]), (&json!(0.01), &json!([])));
}

#[test]
fn what_cannot_be_done_without_ends_with_the_servers_own_words() {
    for (reply, expected) in [
        (Reply::json(400, &json!([{"error": {"code": 400, "message": "The image is too strange"}}])), "too strange"),
        (
            Reply::json(
                422,
                &json!({"detail": [{"loc": ["body", "messages"], "msg": "Field required", "type": "missing"}]}),
            ),
            "messages: Field required",
        ),
        (
            error(400, "This model's maximum context length is 8 tokens; temperature is not supported"),
            "maximum context length",
        ),
        (error(403, "Your plan does not include this model"), "does not include"),
    ] {
        let server = HttpServer::start(move |_| reply.clone());
        let (result, parameters) = ask(quick(&server));
        let message = result.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert_eq!((parameters["omitted"].clone(), server.n_requests()), (json!([]), 1), "{message}");
    }
}

#[test]
fn a_field_that_a_person_asked_for_is_sent_and_never_dropped() {
    let server = refusing("top_k", error(400, "top_k is not supported"));
    let extra_body: Map<String, Value> =
        [("top_k".to_owned(), json!(1)), ("seed".to_owned(), Value::Null)].into_iter().collect();
    let (result, _) = ask(ChatConfig { extra_body, ..quick(&server) });
    assert!(result.unwrap_err().to_string().contains("top_k is not supported"));
    let sent = server.requests()[0].json();
    assert_eq!((sent.get("top_k"), sent.get("seed")), (Some(&json!(1)), None));
}

#[test]
fn room_that_nobody_asked_for_is_lowered_to_what_the_server_takes() {
    let server = HttpServer::start(|request| match request.json()["max_tokens"].as_u64().unwrap() {
        n if n > 20 => error(
            400,
            &format!(
                "'max_tokens' is too large: {n}. This model's maximum context length is 512 tokens and your request has 480 input tokens"
            ),
        ),
        _ => completion("cat"),
    });
    let (result, _) = ask(quick(&server));
    assert!(result.unwrap_err().to_string().contains("context length"));
    let server = HttpServer::start(|request| match request.json()["max_tokens"].as_u64().unwrap() {
        n if n > 100 => {
            error(400, &format!("max_tokens is too large: {n}. This model supports at most 100 completion tokens"))
        }
        _ => completion("cat"),
    });
    let client = ChatClient::new(ChatConfig { may_lower_token_limit: true, ..quick(&server) }).unwrap();
    client.submit(ChatRequest { max_tokens: 2_048, ..full_request() }, 1);
    assert!(client.recv_timeout(std::time::Duration::from_secs(20)).unwrap().1.is_ok());
    assert_eq!(client.effective_parameters()["max_tokens"], 100);
}
