use proptest::prelude::*;

use super::*;

fn check(body: &str) -> Result<ChatReply, ChatError> {
    match read_body(body.as_bytes(), false) {
        Body::Completion(reply, _) => reply,
        Body::Error { status } => panic!("an error {status}"),
        Body::Other(what) => panic!("{what}"),
    }
}

fn other(body: &str) -> &'static str {
    match read_body(body.as_bytes(), false) {
        Body::Other(what) => what,
        _ => "a completion",
    }
}

#[test]
fn a_reply_in_content_parts_is_read() {
    let body = r#"{"choices":[{"message":{"content":[{"type":"text","text":"Yes"}]},"finish_reason":"stop"}]}"#;
    assert_eq!(check(body).unwrap().content, "Yes");
}

#[test]
fn replies_without_text_are_told_apart() {
    assert_eq!(check(r#"{"choices":[]}"#), Err(ChatError::NoChoices));
    let filtered = r#"{"choices":[{"message":{"content":"Yes"},"finish_reason":"content_filter"}]}"#;
    assert_eq!(check(filtered), Err(ChatError::ContentFilter));
    let refused = r#"{"choices":[{"message":{"content":null,"refusal":"I must not"},"finish_reason":"stop"}]}"#;
    assert!(check(refused).unwrap_err().to_string().contains("I must not"));
}

#[test]
fn what_is_no_completion_is_named() {
    assert_eq!(other(r#"{"choices":[{"mess"#), "half a document");
    assert_eq!(other("<!doctype html><html>"), "a web page");
    assert_eq!(other("upstream went away"), "text");
    assert_eq!(other(""), "nothing");
    assert_eq!(other(r#"{"ok":true}"#), "JSON");
}

#[test]
fn an_error_inside_a_200_keeps_its_status() {
    let body = br#"{"error":{"message":"slow down","code":429}}"#;
    assert!(matches!(read_body(body, false), Body::Error { status: 429 }));
    assert!(matches!(read_body(br#"{"error":"oops"}"#, false), Body::Error { status: 500 }));
}
/// JSON of any shape, with the interface's own names in likely and unlikely places.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z]{0,6}|stop|length|content_filter|Yes".prop_map(Value::from),
    ];
    let name = "choices|message|content|text|finish_reason|error|code|usage|total_tokens|refusal";
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..4).prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn no_body_makes_the_reader_panic_and_no_text_is_made_up(
        body in any_json(), choice in any_json(), bytes in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let _ = read_body(&bytes, true);
        let choices = json!({"choices": [choice]});
        for body in [body, choices] {
            let text = body.to_string();
            if let Body::Completion(Ok(reply), _) = read_body(text.as_bytes(), false) {
                prop_assert!(!reply.content.trim().is_empty() && !reply.content.contains("null"), "{text}");
            }
            let _ = read_body(&text.as_bytes()[..text.len() / 2], true);
        }
    }
}
