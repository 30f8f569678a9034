//! `comparison.json`.

use super::{STAGES_SCHEMA, StageReport};
use crate::chart::words;
use crate::compare::Comparison;

/// Returns `comparison` as JSON of its public schema, indented, with a final newline.
pub fn comparison_json(comparison: &Comparison) -> String {
    let text = serde_json::to_string_pretty(comparison).expect("a comparison holds only strings as keys");
    inert(&text)
}

/// Returns the stages as JSON, indented, with a final newline.
pub fn stages_json(stages: &StageReport) -> String {
    let mut value = serde_json::json!({ "schema": STAGES_SCHEMA });
    let fields = serde_json::to_value(stages).expect("stages hold only strings as keys");
    if let (Some(all), serde_json::Value::Object(fields)) = (value.as_object_mut(), fields) {
        all.extend(fields);
    }
    inert(&serde_json::to_string_pretty(&value).expect("a value is JSON"))
}

/// Escapes characters in JSON that steer a terminal or change the direction of text. The result parses to an equal
/// value.
///
/// Apart from the line breaks of the layout, such characters only occur within strings.
fn inert(json: &str) -> String {
    let mut text = String::with_capacity(json.len() + 1);
    for letter in json.chars() {
        match u16::try_from(u32::from(letter)) {
            Ok(unit) if letter != '\n' && (letter.is_control() || words::steers(letter)) => {
                text.push_str(&format!("\\u{unit:04x}"));
            }
            _ => text.push(letter),
        }
    }
    text.push('\n');
    text
}
