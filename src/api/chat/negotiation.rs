//! What a server turned out not to take, learned from its error texts once and kept.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Fields that a request can do without.
const OPTIONAL: [&str; 8] = [
    "temperature",
    "top_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "top_logprobs",
    "logprobs",
    "add_special_tokens",
];

/// How requests are put to this server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Negotiated {
    takes_max_completion_tokens: bool,
    omitted: BTreeSet<&'static str>,
}

impl Negotiated {
    pub(super) fn token_limit(&self) -> &'static str {
        if self.takes_max_completion_tokens { "max_completion_tokens" } else { "max_tokens" }
    }

    pub(super) fn omits(&self, name: &str) -> bool {
        // The one means nothing without the other.
        self.omitted.contains(name) || (name == "top_logprobs" && self.omitted.contains("logprobs"))
    }

    pub(super) fn to_json(&self) -> Value {
        json!({"token_limit": self.token_limit(), "omitted": self.omitted})
    }

    /// What to send instead after a 400 with this body to a request of these fields; `None` where the
    /// error is about something else, or the field was not sent.
    pub(super) fn after_refusal(&self, sent: &Value, body: &str) -> Option<Negotiated> {
        let error: Value = serde_json::from_str(body).unwrap_or(Value::Null);
        let error = if error["error"].is_object() { &error["error"] } else { &error };
        let param = error["param"].as_str().unwrap_or_default();
        let message = error["message"].as_str().unwrap_or(body).to_lowercase();
        let code = error["code"].as_str().unwrap_or_default();
        let is_unsupported = code.starts_with("unsupported_")
            || ["support", "not allowed", "not permitted", "unrecognized", "unknown", "deprecated", "extra inputs"]
                .iter()
                .any(|word| message.contains(word));
        let is_about = |name: &str| {
            sent.get(name).is_some()
                && is_unsupported
                && (param == name || (param.is_empty() && mentions(&message, name)))
        };
        let mut next = self.clone();
        if !self.takes_max_completion_tokens && is_about("max_tokens") {
            next.takes_max_completion_tokens = true;
            return Some(next);
        }
        let name = OPTIONAL.into_iter().find(|name| is_about(name))?;
        next.omitted.insert(name).then_some(next)
    }
}

/// Whether `name` stands in `message` as a word of its own (`max_tokens` is no part of `xmax_tokens`).
fn mentions(message: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    message.match_indices(name).any(|(start, found)| {
        !message[..start].ends_with(is_word) && !message[start + found.len()..].starts_with(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: fn() -> Value = || json!({"model": "m", "max_tokens": 64, "temperature": 0.0});

    #[test]
    fn a_reasoning_model_gets_max_completion_tokens_and_no_temperature() {
        let first = Negotiated::default();
        let body = r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","param":"max_tokens","code":"unsupported_parameter"}}"#;
        let second = first.after_refusal(&SENT(), body).unwrap();
        assert_eq!(second.token_limit(), "max_completion_tokens");
        let sent = json!({"model": "m", "max_completion_tokens": 64, "temperature": 0.0});
        let body = r#"{"error":{"message":"Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.","param":"temperature","code":"unsupported_value"}}"#;
        let third = second.after_refusal(&sent, body).unwrap();
        assert!(third.omits("temperature"));
        assert_eq!(third.after_refusal(&json!({"model": "m", "max_completion_tokens": 64}), body), None);
    }

    #[test]
    fn an_error_about_something_else_changes_nothing() {
        for body in [
            r#"{"error":{"message":"This model's maximum context length is 8 tokens"}}"#,
            r#"{"error":{"message":"Unsupported value: model","param":"model"}}"#,
            "temperature",
            "",
        ] {
            assert_eq!(Negotiated::default().after_refusal(&SENT(), body), None, "{body}");
        }
    }
}
