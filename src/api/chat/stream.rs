//! Replies of servers that stream although the request did not ask for it.

use serde_json::{Map, Value, json};

/// Assembles a stream of server-sent events into a completion, in the form of one that is not streamed. `None` if the
/// bytes are not such a stream, or if it broke off.
pub(super) fn completion(bytes: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut events = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim).peekable();
    events.peek()?;
    let (mut message, mut finish, mut whole) = (Map::new(), Value::Null, Map::new());
    let (mut logprobs, mut is_done) = (Vec::new(), false);
    for event in events {
        if event == "[DONE]" {
            is_done = true;
            break;
        }
        let event: Value = serde_json::from_str(event).ok()?;
        for name in ["error", "usage", "system_fingerprint"] {
            if let Some(value) = event.get(name).filter(|value| !value.is_null()) {
                whole.insert(name.to_owned(), value.clone());
            }
        }
        let choice = &event["choices"][0];
        for (name, value) in choice["delta"].as_object().into_iter().flatten() {
            add(&mut message, name, value);
        }
        logprobs.extend(choice["logprobs"]["content"].as_array().into_iter().flatten().cloned());
        if !choice["finish_reason"].is_null() {
            finish = choice["finish_reason"].clone();
        }
    }
    if whole.contains_key("error") {
        return Some(whole.into());
    }
    let logprobs = if logprobs.is_empty() { Value::Null } else { json!({"content": logprobs}) };
    let choice = json!({"message": message, "finish_reason": finish, "logprobs": logprobs});
    whole.insert("choices".to_owned(), json!([choice]));
    (is_done || !finish.is_null()).then(|| whole.into())
}

/// Appends text to earlier text; anything else is replaced.
fn add(message: &mut Map<String, Value>, name: &str, value: &Value) {
    match (message.get_mut(name), value) {
        (Some(Value::String(before)), Value::String(more)) => before.push_str(more),
        (Some(_), Value::Null) => {}
        _ => {
            message.insert(name.to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests;
