//! Whether two runs may be compared, field by field.

use serde_json::{Map, Value};

use super::FieldDifference;

/// The key of `--allow-different` that allows trials without a partner.
pub const SAMPLES: &str = "samples";

/// The number of outer levels of a field that are keys: dataset, subject and mode. Keys that only one run has are left
/// out.
fn n_levels(field: &str) -> usize {
    match field {
        "split" | "label_set" | "preprocessing" | "generation_limits" | "comparator" | "served" => 1,
        "prompt_text" | "prompt_ids" => 3,
        _ => 0,
    }
}

/// Returns the places in which two runs differ, from their `comparable` objects in `run.json`. Only fields, datasets,
/// subjects and modes that both have are compared.
pub fn field_differences(baseline: &Map<String, Value>, candidate: &Map<String, Value>) -> Vec<FieldDifference> {
    let mut found = Vec::new();
    let is_absent_in_some = |field: &str| [GENERATION_CONFIG, LABEL_SCORING].contains(&field);
    for (field, before) in baseline.iter().filter(|(field, _)| !is_absent_in_some(field)) {
        let Some(after) = candidate.get(field) else { continue };
        collect(field, &mut Vec::new(), n_levels(field), before, after, &mut found);
    }
    found.extend(generation_difference(baseline, candidate));
    found.extend(scoring_difference(baseline, candidate));
    found
}

/// The key of the checkpoint settings used in decoding; a run without it uses none.
pub const GENERATION_CONFIG: &str = "generation_config";

/// The key of the version of label scoring; a run without it uses version 1.
pub const LABEL_SCORING: &str = "label_scoring";

/// Returns the difference in decoding settings if both runs generate answers.
fn generation_difference(baseline: &Map<String, Value>, candidate: &Map<String, Value>) -> Option<FieldDifference> {
    // Every run that generates has generation limits.
    let generates = |fields: &Map<String, Value>| {
        fields.get("generation_limits").is_some_and(|modes| modes.get("generate").is_some())
    };
    let generate = generates(baseline) && generates(candidate);
    generate.then(|| difference_in_mode(GENERATION_CONFIG, "generate", &Value::Null, [baseline, candidate]))?
}

/// Returns the difference in the version of label scoring if both runs score labels.
fn scoring_difference(baseline: &Map<String, Value>, candidate: &Map<String, Value>) -> Option<FieldDifference> {
    let scores = |fields: &Map<String, Value>| {
        let datasets = fields.get("prompt_text").and_then(Value::as_object);
        datasets.is_some_and(|datasets| datasets.values().any(|subjects| subjects.pointer("/model/score").is_some()))
    };
    let score = scores(baseline) && scores(candidate);
    score.then(|| difference_in_mode(LABEL_SCORING, "score", &Value::from(1), [baseline, candidate]))?
}

/// Returns the difference in a field. A run without the field has the value `absent`.
fn difference_in_mode(
    field: &str,
    mode: &str,
    absent: &Value,
    runs: [&Map<String, Value>; 2],
) -> Option<FieldDifference> {
    let [baseline, candidate] =
        runs.map(|fields| fields.get(field).and_then(|by_mode| by_mode.get(mode)).unwrap_or(absent).clone());
    let (field, place) = (field.to_owned(), mode.to_owned());
    (baseline != candidate).then_some(FieldDifference { field, place, baseline, candidate })
}

fn collect<'a>(
    field: &str,
    place: &mut Vec<&'a str>,
    n_levels: usize,
    before: &'a Value,
    after: &'a Value,
    found: &mut Vec<FieldDifference>,
) {
    match (n_levels, before, after) {
        (1.., Value::Object(before), Value::Object(after)) => {
            for (key, before) in before {
                let Some(after) = after.get(key) else { continue };
                place.push(key);
                collect(field, place, n_levels - 1, before, after, found);
                place.pop();
            }
        }
        _ if before == after => {}
        _ => found.push(FieldDifference {
            field: field.to_owned(),
            place: place.join("."),
            baseline: before.clone(),
            candidate: after.clone(),
        }),
    }
}

#[cfg(test)]
mod tests;
