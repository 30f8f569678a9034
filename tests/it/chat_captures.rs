//! The chat client against what five real servers answered: vLLM 0.12.0, llama-server, llama-cpp-python 0.3.36, and LiteLLM
//! 1.106.2 before vLLM, once by its own provider and once by OpenAI's. The same requests went to each, about one image.

use std::time::Duration;

use emt::api::{ChatClient, ChatConfig, ChatError, ChatReply, ChatRequest, Finish, Message};
use emt::model::run::served::{Constraint, label_tokens};
use serde_json::Value;

use super::chat::quick;
use super::http_server::{HttpServer, Reply};

/// The servers' names and what they answered, by request.
pub const CAPTURES: [(&str, &str); 5] = [
    ("vllm", include_str!("../golden/chat/vllm.json")),
    ("llama-server", include_str!("../golden/chat/llama-server.json")),
    ("llama-cpp-python", include_str!("../golden/chat/llama-cpp-python.json")),
    ("litellm-vllm", include_str!("../golden/chat/litellm-vllm.json")),
    ("litellm-openai", include_str!("../golden/chat/litellm-openai.json")),
];

/// What `name` answered.
pub fn captured(name: &str) -> Value {
    let (_, text) = CAPTURES.iter().find(|(known, _)| *known == name).expect("the server is known");
    serde_json::from_str(text).expect("a capture is JSON")
}

/// A captured answer as it came over the wire, its length aside.
pub fn reply_of(case: &Value) -> Reply {
    let body = case["body"].as_str().map_or_else(|| case["body"].to_string(), str::to_owned);
    let headers = case["headers"].as_object().expect("headers are an object");
    headers.iter().fold(Reply::new(case["status"].as_u64().unwrap() as u16, body), |reply, (name, value)| {
        reply.with(name, value.as_str().unwrap())
    })
}

/// What the client makes of one captured answer, and how often it asked.
fn ask(name: &str, case: &str) -> (Result<ChatReply, ChatError>, usize) {
    let reply = reply_of(&captured(name)[case]);
    let server = HttpServer::start(move |_| reply.clone());
    let client = ChatClient::new(ChatConfig { takes_empty_replies: true, ..quick(&server) }).unwrap();
    let request = ChatRequest { messages: vec![Message::user("?")], max_tokens: 8, ..ChatRequest::default() };
    client.submit(request, 1);
    let (_, result) = client.recv_timeout(Duration::from_secs(20)).expect("a ticket always comes back");
    (result, server.n_requests())
}

/// By server, in the order of [`CAPTURES`].
fn by_server<T>(case: &str, of: impl Fn(Result<ChatReply, ChatError>) -> T) -> Vec<T> {
    CAPTURES.iter().map(|(name, _)| of(ask(name, case).0)).collect()
}

#[test]
fn an_answer_about_an_image_is_read_with_its_end_and_its_tokens() {
    let expected = [(34, 12), (32, 12), (62, 13), (34, 12), (34, 12)];
    for ((name, _), (n_prompt_tokens, n_reply_tokens)) in CAPTURES.iter().zip(expected) {
        let reply = ask(name, "image").0.unwrap();
        let captured = captured(name);
        assert_eq!(
            Some(reply.content.as_str()),
            captured["image"]["body"]["choices"][0]["message"]["content"].as_str()
        );
        assert_eq!(reply.finish, Finish::Length, "{name}");
        assert_eq!(
            (reply.n_prompt_tokens, reply.n_reply_tokens),
            (Some(n_prompt_tokens), Some(n_reply_tokens)),
            "{name}"
        );
        assert_eq!(reply.logprobs, None, "{name}: none were asked for");
    }
}

#[test]
fn a_server_says_who_it_is_or_nothing() {
    let software = by_server("image", |reply| reply.unwrap().server.software);
    assert_eq!(
        software[..3].iter().map(Option::as_deref).collect::<Vec<_>>(),
        [Some("uvicorn"), Some("llama.cpp"), Some("uvicorn")]
    );
    assert_eq!(software[3..], [None, None]);
    let fingerprints = by_server("image", |reply| reply.unwrap().server.system_fingerprint);
    assert_eq!(fingerprints.iter().flatten().collect::<Vec<_>>(), ["b1-0c1e570"]);
}

#[test]
fn log_probabilities_are_read_however_few_there_are() {
    let n_tokens = by_server("logprobs", |reply| {
        let tokens = reply.unwrap().logprobs.unwrap();
        for token in &tokens {
            // llama-cpp-python gives fewer than the five that were asked for.
            assert!(token.logprob <= 0.0 && (1..=5).contains(&token.top.len()), "{token:?}");
            assert!(token.top.windows(2).all(|pair| pair[0] >= pair[1]), "{token:?}");
        }
        tokens.len()
    });
    // llama-server joins tokens that are parts of one character.
    assert_eq!(n_tokens, [12, 10, 13, 12, 12]);
}

#[test]
fn only_vllm_tells_of_a_prompts_tokens() {
    let n_tokens = by_server("chat_prompt_logprobs", |reply| reply.unwrap().prompt_logprobs.map(|tokens| tokens.len()));
    assert_eq!(n_tokens, [Some(35), None, None, Some(35), Some(35)]);
    let reply = ask("vllm", "chat_prompt_logprobs").0.unwrap();
    let tokens = reply.prompt_logprobs.as_ref().unwrap();
    assert_eq!(tokens[0], None);
    // The place's own token comes first, the likeliest behind it.
    let second = tokens[1].as_ref().unwrap();
    assert_eq!((second.id, second.text.as_str()), (476, "U"));
    assert!((second.logprob + 21.006_95).abs() < 1e-4);
    let last = tokens[34].as_ref().unwrap().text.clone();
    assert_eq!(label_tokens(&reply, &last).unwrap().len(), 35);
    assert!(label_tokens(&reply, "</s>").is_err(), "the captured turn was not ended");
}

#[test]
fn a_constraint_counts_only_where_it_was_obeyed() {
    let labels = ["cat".to_owned(), "dog".to_owned()];
    let obeyed = |case: &str, constraint: Constraint| {
        by_server(case, |reply| reply.ok().and_then(|reply| constraint.choice(&reply, &labels).ok()))
    };
    let [cat, dog] = [Some("cat".to_owned()), Some("dog".to_owned())];
    assert_eq!(obeyed("so_choice", Constraint::Choice), [dog.clone(), None, None, dog.clone(), dog.clone()]);
    // Ignored by all of them with 200: vLLM gave the field another name.
    assert_eq!(obeyed("guided_choice", Constraint::Choice), [None, None, None, None, None]);
    assert_eq!(obeyed("llamacpp_grammar", Constraint::Grammar), [None, cat, dog, None, None]);
    // White space up to the limit, a refusal, and a failure.
    assert_eq!(obeyed("json_schema", Constraint::JsonSchema), [None, None, None, None, None]);
}

#[test]
fn an_unknown_model_is_an_error_of_all_requests_where_the_server_says_so() {
    for name in ["vllm", "litellm-vllm", "litellm-openai"] {
        let (result, n_requests) = ask(name, "unknown_model");
        assert!(matches!(result, Err(ChatError::NotFound(_))), "{name}: {result:?}");
        assert_eq!(n_requests, 1, "{name}");
    }
    // These answer any name with the one model that they have.
    for name in ["llama-server", "llama-cpp-python"] {
        assert!(ask(name, "unknown_model").0.is_ok(), "{name}");
    }
    for (name, _) in CAPTURES {
        assert!(matches!(ask(name, "no_such_path").0, Err(ChatError::NotFound(_))), "{name}");
    }
}

#[test]
fn what_a_server_refuses_for_good_is_not_asked_again() {
    for case in ["not_an_image", "too_long"] {
        for name in ["vllm", "llama-server", "litellm-vllm", "litellm-openai"] {
            let (result, n_requests) = ask(name, case);
            let error = result.unwrap_err();
            assert!(matches!(error, ChatError::Rejected { status: 400, .. }), "{name}: {error:?}");
            assert!(!error.is_passing() && !error.is_fatal(), "{name}");
            assert_eq!(n_requests, 1, "{name}");
        }
        // A 500 could pass; the same 500 twice does not.
        let (result, n_requests) = ask("llama-cpp-python", case);
        assert!(matches!(result, Err(ChatError::Server { status: 500, n_attempts: 2, .. })), "{result:?}");
        assert_eq!(n_requests, 2);
    }
}

#[test]
fn the_list_of_models_is_read_in_every_dialect() {
    let names: Vec<Vec<String>> = CAPTURES
        .iter()
        .map(|(name, _)| {
            let reply = reply_of(&captured(name)["models"]);
            let server = HttpServer::start(move |_| reply.clone());
            let models = ChatClient::new(quick(&server)).unwrap().models().unwrap();
            assert_eq!(server.requests()[0].path, "/v1/models");
            models.into_iter().map(|model| model.id).collect()
        })
        .collect();
    assert_eq!(names[..2], [["tiny"], ["tiny"]]);
    assert_eq!(names[2], ["tiny-llava.gguf"]);
    assert_eq!(names[3..], [["tiny", "tiny-openai"], ["tiny", "tiny-openai"]]);
}
