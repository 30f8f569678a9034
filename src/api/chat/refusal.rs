//! Reads a server's error in the forms that servers use.

use serde_json::Value;

/// One complaint of an error: its text, and the request's field if it names one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Complaint {
    /// The text.
    pub(super) message: String,
    /// The field, as the server writes it.
    pub(super) field: Option<String>,
    /// The kind of error, as the server names it.
    pub(super) code: String,
}

/// Keys of the text.
const MESSAGES: [&str; 8] = ["message", "msg", "detail", "error", "error_message", "description", "reason", "errors"];
/// Keys of the field.
const FIELDS: [&str; 5] = ["param", "field", "parameter", "loc", "property"];
/// Keys of lists of complaints: pydantic's, Google's, and others'.
const LISTS: [&str; 6] = ["detail", "details", "errors", "fieldViolations", "issues", "choices"];
/// Errors are nested at most three deep, and deeper if a gateway wraps them.
const DEPTH_MAX: usize = 6;

/// Returns all complaints of a body; a body that is not JSON is one complaint.
pub(super) fn complaints(body: &str) -> Vec<Complaint> {
    let mut found = Vec::new();
    match parse(body) {
        Some(value) => collect(&value, &mut found, 0),
        None => found.push(plain(body)),
    }
    found
}

/// Returns the text of a body's first complaint, or the body itself if there is none.
pub(super) fn first_message(body: &str) -> String {
    let found = complaints(body);
    match found.iter().find(|complaint| !complaint.message.is_empty()) {
        Some(Complaint { message, field: Some(field), .. }) if !message.contains(field.as_str()) => {
            format!("{field}: {message}")
        }
        Some(complaint) => complaint.message.clone(),
        None => body.to_owned(),
    }
}

/// Parses a JSON object or list, even with text around it, as gateways add.
fn parse(text: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(text.trim()).ok()?;
    (value.is_object() || value.is_array()).then_some(value)
}

fn plain(text: &str) -> Complaint {
    Complaint { message: text.trim().to_owned(), ..Complaint::default() }
}

fn collect(value: &Value, found: &mut Vec<Complaint>, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, found, depth + 1)),
        Value::String(text) => match inner(text) {
            Some(inner) => collect(&inner, found, depth + 1),
            None => found.push(plain(text)),
        },
        Value::Object(fields) => {
            // The more precise comes first: a list of complaints before the text that summarises it.
            for name in LISTS {
                if let Some(list) = fields.get(name).filter(|list| list.is_array()) {
                    collect(list, found, depth + 1);
                }
            }
            let field = FIELDS.iter().filter_map(|name| fields.get(*name)).find_map(field_name);
            let text = |name: &&str| fields.get(*name).and_then(Value::as_str).unwrap_or_default();
            let code = ["code", "type", "error_code", "error_type"].iter().map(text).collect::<Vec<_>>().join(" ");
            for name in MESSAGES {
                match fields.get(name) {
                    Some(Value::String(text)) => match inner(text) {
                        Some(inner) => collect(&inner, found, depth + 1),
                        None => {
                            let message = text.trim().to_owned();
                            found.push(Complaint { message, field: field.clone(), code: code.clone() });
                        }
                    },
                    Some(nested @ Value::Object(_)) => collect(nested, found, depth + 1),
                    Some(nested @ Value::Array(_)) if !LISTS.contains(&name) => collect(nested, found, depth + 1),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// Returns a JSON error that a gateway embedded as text.
fn inner(text: &str) -> Option<Value> {
    let (start, end) = (text.find('{')?, text.rfind('}')?);
    parse(text.get(start..=end)?).filter(|value| {
        let mut nested = Vec::new();
        collect(value, &mut nested, DEPTH_MAX - 1);
        !nested.is_empty()
    })
}

/// Returns the last part of `generationConfig.seed`, or of pydantic's `["body", "seed"]`.
fn field_name(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.as_str(),
        Value::Array(path) => path.iter().rev().find_map(Value::as_str)?,
        _ => return None,
    };
    let last = text.rsplit('.').next()?.trim_matches(|c: char| !c.is_alphanumeric() && c != '_');
    // LiteLLM writes Python's `None`.
    (!last.is_empty() && last != "None" && last != "null" && last != "body").then(|| last.to_owned())
}

#[cfg(test)]
mod tests;
