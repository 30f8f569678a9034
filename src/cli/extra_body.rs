//! Additional fields of requests to a server, from the command line.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::api::ChatConfig;

/// Fields that make a request what it is.
const OWN_FIELDS: [&str; 2] = ["messages", "stream"];
/// Words in the names of fields that hold keys.
const SECRET_WORDS: [&str; 7] =
    ["api_key", "apikey", "secret", "password", "authorization", "credential", "access_token"];

/// The fields of `texts`, each a JSON object or NAME=VALUE, where a value that is no JSON is text.
///
/// # Errors
/// A text that is neither, a field that emt sets itself (`taken` names the flags that set them), and a field that holds a key,
/// since the run's record shows all fields.
pub(super) fn parse(
    flag: &str,
    texts: &[String],
    chat: &ChatConfig,
    taken: &[(&str, &str)],
) -> Result<Map<String, Value>> {
    let mut fields = Map::new();
    for text in texts {
        fields.extend(parse_one(flag, text)?);
    }
    for (name, value) in &fields {
        if let Some((_, other)) = taken.iter().find(|(taken, _)| taken == name) {
            bail!("{flag} has `{name}`, which another flag sets; hint: {other}");
        }
        ensure!(!OWN_FIELDS.contains(&name.as_str()), "{flag} has `{name}`, which emt sets itself; hint: leave it out");
        if let Some(secret) = secret_in(name, value, chat) {
            bail!(
                "{flag} has `{secret}`, which would be stored in the run's record; hint: set {} instead",
                chat.api_key_variable
            );
        }
    }
    Ok(fields)
}

fn parse_one(flag: &str, text: &str) -> Result<Map<String, Value>> {
    let hint = "hint: a JSON object, such as '{\"top_k\":1}', or NAME=VALUE, such as top_k=1";
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).with_context(|| format!("{flag} `{text}` is not a JSON object; {hint}"));
    }
    let (name, value) = text.split_once('=').with_context(|| format!("{flag} `{text}` has no value; {hint}"))?;
    let (name, value) = (name.trim(), value.trim());
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    ensure!(is_name, "{flag} `{text}`: `{name}` is not a field name; {hint}");
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok(Map::from_iter([(name.to_owned(), value)]))
}

/// The name of a field that holds a key, at any depth.
fn secret_in(name: &str, value: &Value, chat: &ChatConfig) -> Option<String> {
    let plain = name.to_lowercase().replace('-', "_");
    if SECRET_WORDS.iter().any(|word| plain.contains(word)) {
        return Some(name.to_owned());
    }
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, value)| secret_in(name, value, chat)),
        Value::Array(items) => items.iter().find_map(|item| secret_in(name, item, chat)),
        Value::String(text) => chat.api_key.as_ref().is_some_and(|key| key.is_in(text)).then(|| name.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
