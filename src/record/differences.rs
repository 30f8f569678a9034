//! Where two specifications differ.

use std::fmt;

use serde_json::Value;

use super::identity::identifying;
use crate::domain::RunSpec;

/// One field in which two specifications differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The field's path, such as `datasets[0].split`.
    pub field: String,
    /// Its value in the folder, shortened; `absent` if there is none.
    pub recorded: String,
    /// Its value in the command, also shortened.
    pub asked: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{}` is {} there and {} here", self.field, self.recorded, self.asked)
    }
}

/// Returns the identifying fields in which `asked` differs from `recorded`, in the order of the specification.
pub fn differences(recorded: &RunSpec, asked: &RunSpec) -> Vec<Difference> {
    value_differences(&identifying(recorded), &identifying(asked))
}

/// Returns the fields in which two specifications of any kind differ.
pub(super) fn value_differences(recorded: &Value, asked: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    walk("", Some(recorded), Some(asked), &mut found);
    found
}

fn walk(field: &str, recorded: Option<&Value>, asked: Option<&Value>, found: &mut Vec<Difference>) {
    if recorded == asked {
        return;
    }
    match (recorded, asked) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let added = after.keys().filter(|key| !before.contains_key(*key));
            for key in before.keys().chain(added) {
                let below = if field.is_empty() { key.clone() } else { format!("{field}.{key}") };
                walk(&below, before.get(key), after.get(key), found);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) if are_alike(before, after) => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                walk(&format!("{field}[{index}]"), Some(before), Some(after), found);
            }
        }
        _ => found.push(Difference { field: field.to_owned(), recorded: shortened(recorded), asked: shortened(asked) }),
    }
}

/// Whether two lists are compared entry by entry: they must be objects with the same names in the same order. Token ids
/// and lists of labels are shown as a whole, since one inserted entry would make all later ones differ.
fn are_alike(before: &[Value], after: &[Value]) -> bool {
    before.len() == after.len()
        && before.iter().zip(after).all(|(a, b)| a.is_object() && b.is_object() && name_of(a) == name_of(b))
}

/// Returns the name of a list entry, if it has one.
fn name_of(value: &Value) -> Option<String> {
    ["dataset", "judge", "subject"].iter().find_map(|key| value.get(key)).map(Value::to_string)
}

/// The most characters of a value that are shown.
const N_CHARS_SHOWN_MAX: usize = 80;

fn shortened(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => return "absent".to_owned(),
        Some(Value::Array(entries)) if entries.iter().any(|entry| name_of(entry).is_some()) => {
            let names: Vec<String> = entries.iter().filter_map(name_of).collect();
            format!("[{}]", names.join(","))
        }
        Some(value) => value.to_string(),
    };
    match text.char_indices().nth(N_CHARS_SHOWN_MAX) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests;
