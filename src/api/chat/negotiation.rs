//! Optional fields that a server refuses: learned once from its error texts, and remembered.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::refusal::{Complaint, complaints};

/// Fields that a request can omit, with other words that servers use for them. If two exclude each other, the later one
/// is omitted.
const OPTIONAL: [(&str, &[&str]); 12] = [
    ("temperature", &[]),
    ("top_p", &["nucleus"]),
    ("seed", &["random_seed"]),
    ("frequency_penalty", &["penalty", "penalties"]),
    ("presence_penalty", &["penalty", "penalties"]),
    ("top_logprobs", &[]),
    ("logprobs", &["logprob", "log_probs", "log_probabilities", "response_logprobs"]),
    ("add_special_tokens", &[]),
    ("guided_choice", &[]),
    ("structured_outputs", &[]),
    ("n", &[]),
    ("stream", &[]),
];
/// The names of the reply's token limit.
const TOKEN_LIMITS: [&str; 5] =
    ["max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "maximum_tokens"];
/// Words of a server that does not know a field or lacks a feature.
const UNSUPPORTED: [&str; 25] = [
    "unsupported",
    "not supported",
    "not support",
    "n't support",
    "no support",
    "not allowed",
    "not permitted",
    "forbidden",
    "unrecognized",
    "unrecognised",
    "unknown",
    "unexpected",
    "not recognized",
    "not enabled",
    "not available",
    "unavailable",
    "not implemented",
    "disabled",
    "deprecated",
    "extra input",
    "extra field",
    "additional propert",
    "cannot find field",
    "not accept",
    "不支持",
];
/// Words of a server that does not accept a value, or not together with another field.
const WRONG_VALUE: [&str; 26] = [
    "must be",
    "must in",
    "should be",
    "has to be",
    "invalid",
    "not valid",
    "is not of type",
    "not a multiple",
    "greater than",
    "less than",
    "larger than",
    "at most",
    "at least",
    "below minimum",
    "above maximum",
    "out of range",
    "too large",
    "too high",
    "too small",
    "too low",
    "maximum",
    "cannot both",
    "cannot be used",
    "mutually exclusive",
    "only the default",
    "参数非法",
];
/// Words for two fields of which one must be omitted.
const EXCLUSIVE: [&str; 6] = ["both", "mutually exclusive", "only one", "one of", "together with", "either"];
/// Words of an error about something else, whatever fields it also names.
const ELSEWHERE: [&str; 18] = [
    "context length",
    "context window",
    "maximum context",
    "prompt is too long",
    "input is too long",
    "too many tokens",
    "api key",
    "api_key",
    "unauthorized",
    "authentication",
    "rate limit",
    "too many requests",
    "quota",
    "billing",
    "model_not_found",
    "model not found",
    "invalid model",
    "does not exist",
];
/// Words that precede lists of what a server accepts.
const LISTS_OF_TAKEN: [&str; 6] = [
    "supported parameters",
    "supported fields",
    "allowed parameters",
    "valid parameters",
    "supported params",
    "did you mean",
];
/// Words that specify which penalty is meant.
const QUALIFIERS: [&str; 5] = ["presence", "frequency", "repetition", "repeat", "length"];
/// The largest distance in bytes between a word and the field that it is about.
const DISTANCE_MAX: usize = 120;
/// So close to greedy decoding that only near-ties differ.
const LEAST_TEMPERATURE: f64 = 0.01;
/// A judge's default token limit is not lowered below this: one word and a little more.
const N_TOKENS_LEAST: u32 = 64;

/// How requests are sent to this server.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Negotiated {
    takes_max_completion_tokens: bool,
    omitted: BTreeSet<&'static str>,
    /// Fields that are sent with another value than requested.
    changed: BTreeMap<&'static str, Value>,
    /// The smallest and largest token limits that the server accepts.
    n_tokens_min: Option<u32>,
    n_tokens_max: Option<u32>,
}

impl Negotiated {
    pub(super) fn token_limit(&self) -> &'static str {
        if self.takes_max_completion_tokens { "max_completion_tokens" } else { "max_tokens" }
    }

    /// Returns the token limit that is sent for `wanted`.
    pub(super) fn n_tokens(&self, wanted: u32) -> u32 {
        wanted.min(self.n_tokens_max.unwrap_or(u32::MAX)).max(self.n_tokens_min.unwrap_or(0))
    }

    pub(super) fn omits(&self, name: &str) -> bool {
        // `top_logprobs` is meaningless without `logprobs`.
        self.omitted.contains(name) || (name == "top_logprobs" && self.omitted.contains("logprobs"))
    }

    pub(super) fn changed(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.changed.iter().map(|(name, value)| (*name, value))
    }

    /// Describes for the user what requests omit or change; `None` if they are sent as requested.
    pub(super) fn told(&self) -> Option<String> {
        let omitted = self.omitted.iter().map(|name| format!("without `{name}`"));
        let changed = self.changed.iter().map(|(name, value)| format!("with `{name}` {value}"));
        let most = self.n_tokens_max.map(|n| format!("with at most {n} reply tokens"));
        let least = self.n_tokens_min.map(|n| format!("with room for at least {n} reply tokens"));
        let all: Vec<String> = omitted.chain(changed).chain(most).chain(least).collect();
        (!all.is_empty())
            .then(|| format!("requests are sent {}, because the server refuses them otherwise", all.join(", ")))
    }

    pub(super) fn to_json(&self) -> Value {
        let mut json = json!({"token_limit": self.token_limit(), "omitted": self.omitted});
        if !self.changed.is_empty() {
            json["changed"] = json!(self.changed);
        }
        for (name, number) in [("min_tokens", self.n_tokens_min), ("max_tokens", self.n_tokens_max)] {
            if let Some(number) = number {
                json[name] = json!(number);
            }
        }
        json
    }

    /// Returns what to send after an error with this body to a request of these fields. `None` if the error is about
    /// something else, about a field that was not sent, or about one that the user requested (`wanted`). `may_lower`:
    /// whether the token limit may be lowered if the server accepts fewer.
    pub(super) fn after_refusal(
        &self,
        sent: &Value,
        body: &str,
        wanted: &dyn Fn(&str) -> bool,
        may_lower: bool,
    ) -> Option<Negotiated> {
        let complaints = complaints(body);
        let about = |words: &[&str]| {
            complaints.iter().any(|one| {
                let text = format!("{} {}", one.message, one.code).to_lowercase();
                words.iter().any(|word| text.contains(word))
            })
        };
        let sent_limit = sent[self.token_limit()].as_u64().and_then(|n| u32::try_from(n).ok());
        if about(&ELSEWHERE) {
            return if may_lower && about(&["context"]) { self.with_less_room(sent_limit?) } else { None };
        }
        complaints.iter().find_map(|complaint| {
            let complaint =
                Complaint { message: without_lists(&complaint.message.to_lowercase()), ..complaint.clone() };
            self.after_complaint(&complaint, sent, sent_limit, wanted, may_lower)
        })
    }

    fn after_complaint(
        &self,
        complaint: &Complaint,
        sent: &Value,
        sent_limit: Option<u32>,
        wanted: &dyn Fn(&str) -> bool,
        may_lower: bool,
    ) -> Option<Negotiated> {
        let is_required = complaint.message.contains("required") && !complaint.message.contains("not required");
        if is_required || complaint.code.contains("missing") {
            return None;
        }
        let named = complaint.field.as_deref().map(|field| folded(&snake(field)));
        let places =
            |names: &[&str]| names.iter().flat_map(|name| mentions(&complaint.message, name)).collect::<Vec<_>>();
        // The distance of a refusal's words. A field that the error itself names needs none.
        let nearness = |names: &[&str]| match &named {
            Some(field) if names.iter().any(|name| folded(name) == *field) => Some(0),
            Some(field) if is_field(field) => None,
            _ => nearest(&complaint.message, &places(names), &complaint.code),
        };
        let limit = sent_limit.and_then(|limit| Some((nearness(&TOKEN_LIMITS)?, limit)));
        let fields = OPTIONAL.iter().enumerate().filter(|(_, (name, _))| sent.get(name).is_some() && !wanted(name));
        let field = fields.filter_map(|(rank, (name, others))| {
            // A word that several fields share means one of them only if nothing qualifies it.
            let is_alone = |other: &&str| {
                !other.starts_with("penalt") || !QUALIFIERS.iter().any(|word| complaint.message.contains(word))
            };
            let names: Vec<&str> = std::iter::once(*name).chain(others.iter().copied().filter(is_alone)).collect();
            Some((nearness(&names)?, rank, *name))
        });
        let found: Vec<(usize, usize, &'static str)> = field.collect();
        let nearest = found.iter().min().copied();
        match (limit, nearest) {
            (Some((distance, limit)), nearest) if nearest.is_none_or(|(other, ..)| distance <= other) => {
                self.with_another_limit(complaint, limit, may_lower)
            }
            (_, Some((_, _, name))) => {
                let is_exclusive = found.len() > 1 && EXCLUSIVE.iter().any(|word| complaint.message.contains(word));
                let last = found.iter().max_by_key(|(_, rank, _)| *rank).map_or(name, |(_, _, last)| *last);
                self.without(if is_exclusive { last } else { name }, complaint, sent)
            }
            (_, None) => None,
        }
    }

    /// Changes the field if another value may work, and otherwise omits it.
    fn without(&self, name: &'static str, complaint: &Complaint, sent: &Value) -> Option<Negotiated> {
        let mut next = self.clone();
        let message = &complaint.message;
        let is_unsupported = UNSUPPORTED.iter().any(|word| message.contains(word));
        let is_zero = sent[name].as_f64() == Some(0.0);
        let is_of_positive = ["positive", "greater than", "> 0", ">0", ">= 0.0", "at least", "(0", "larger than"]
            .iter()
            .any(|word| message.contains(word));
        if name == "temperature" && is_zero && is_of_positive && !is_unsupported {
            next.changed.insert(name, json!(LEAST_TEMPERATURE));
            return Some(next);
        }
        // If a server returns only the likeliest token, its log-probability is better than none.
        let is_of_logprobs = name == "logprobs" || name == "top_logprobs";
        let is_limited = ["maximum", "max ", "at most", "greater than", "less than", "<= 1"]
            .iter()
            .any(|word| message.contains(word));
        if is_of_logprobs && is_limited && !is_unsupported && sent.get("top_logprobs").is_some() {
            if sent["top_logprobs"].as_u64() > Some(1) && has_number(message, "1") {
                next.changed.insert("top_logprobs", json!(1));
                return Some(next);
            }
            next.changed.remove("top_logprobs");
            return next.omitted.insert("top_logprobs").then_some(next);
        }
        next.changed.remove(name);
        next.omitted.insert(name).then_some(next)
    }

    /// Sends the token limit under its other name, or within the server's bounds.
    fn with_another_limit(&self, complaint: &Complaint, sent: u32, may_lower: bool) -> Option<Negotiated> {
        let message = &complaint.message;
        let mut next = self.clone();
        let is_too_small = ["below minimum", "too small", "at least", ">=", "greater than or equal", "minimum"]
            .iter()
            .any(|word| message.contains(word));
        let is_too_large = [
            "too large",
            "too high",
            "at most",
            "<=",
            "less than or equal",
            "maximum value",
            "exceed",
            "larger than",
            "supports at most",
        ]
        .iter()
        .any(|word| message.contains(word));
        let others = numbers(message).filter(|number| *number != sent);
        if is_too_small && let Some(least) = others.clone().filter(|number| *number > sent).min() {
            return (next.n_tokens_min.replace(least) != Some(least)).then_some(next);
        }
        if is_too_large {
            if !may_lower {
                return None;
            }
            return match others.filter(|number| (N_TOKENS_LEAST..sent).contains(number)).max() {
                Some(most) => (next.n_tokens_max.replace(most) != Some(most)).then_some(next),
                None => self.with_less_room(sent),
            };
        }
        if self.takes_max_completion_tokens {
            return None;
        }
        next.takes_max_completion_tokens = true;
        Some(next)
    }

    fn with_less_room(&self, sent: u32) -> Option<Negotiated> {
        let less = (sent / 2).max(N_TOKENS_LEAST);
        (less < sent).then(|| Negotiated { n_tokens_max: Some(less), ..self.clone() })
    }
}

/// Returns a message without its list of what the server accepts.
fn without_lists(message: &str) -> String {
    let end = LISTS_OF_TAKEN.iter().filter_map(|words| {
        let at = message.find(words)?;
        // "Unsupported parameters: …" lists what is refused.
        (!message[..at].ends_with("un")).then_some(at)
    });
    message[..end.min().unwrap_or(message.len())].to_owned()
}

/// Whether a server's name for a field is one that this module can change, or another field of a request. The error is
/// then about that field.
fn is_field(folded_name: &str) -> bool {
    let is_known = |name: &str| folded(name) == folded_name;
    let optional = OPTIONAL.iter().any(|(name, others)| is_known(name) || others.iter().any(|other| is_known(other)));
    let rest = ["model", "messages", "prompt", "content", "image_url", "response_format", "grammar", "tools", "input"];
    optional || TOKEN_LIMITS.iter().any(|name| is_known(name)) || rest.into_iter().any(is_known)
}

/// Converts `presencePenalty` to `presence_penalty`.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

/// Returns a name without its word separators.
fn folded(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Returns the places of `name` in a lower-case message, as separate words joined by `_`, `-`, a space, or nothing
/// (`topP`).
fn mentions(message: &str, name: &str) -> Vec<(usize, usize)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    // A single letter is a word only in quotation marks.
    let joined: Vec<String> = match name.len() {
        1 => ["'", "`", "\""].map(|mark| format!("{mark}{name}{mark}")).to_vec(),
        _ => ["_", "-", " ", ""].map(|joint| name.replace('_', joint)).to_vec(),
    };
    let mut found: Vec<(usize, usize)> = joined
        .iter()
        .flat_map(|form| message.match_indices(form.as_str()).map(|(at, form)| (at, at + form.len())))
        .filter(|&(start, end)| !message[..start].ends_with(is_word) && !message[end..].starts_with(is_word))
        .collect();
    found.dedup();
    found
}

/// Returns the distance in bytes between one of `places` and the nearest words of a refusal; `None` if none is near.
fn nearest(message: &str, places: &[(usize, usize)], code: &str) -> Option<usize> {
    if !places.is_empty() && (code.contains("unsupported_") || code.contains("extra_forbidden")) {
        return places.iter().map(|&(start, _)| start).min();
    }
    let words = UNSUPPORTED.iter().chain(&WRONG_VALUE);
    let distances = words.flat_map(|word| message.match_indices(word)).flat_map(|(at, word)| {
        let end = at + word.len();
        places.iter().map(move |&(start, stop)| if start >= end { start - end } else { at.saturating_sub(stop) })
    });
    distances.min().filter(|distance| *distance <= DISTANCE_MAX)
}

/// Returns the whole numbers in a message.
fn numbers(message: &str) -> impl Iterator<Item = u32> + Clone + '_ {
    message.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok())
}

fn has_number(message: &str, number: &str) -> bool {
    message.split(|c: char| !c.is_alphanumeric() && c != '.').any(|word| word.trim_matches('.') == number)
}

#[cfg(test)]
mod tests;
