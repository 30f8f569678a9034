//! `summary.json`.

use crate::compare::Summary;

/// Returns `summary` as JSON of the schema `emt.summary/1`, indented, with a final newline.
pub fn json(summary: &Summary) -> String {
    let mut text = serde_json::to_string_pretty(summary).expect("a summary holds only strings as keys");
    text.push('\n');
    text
}
