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
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_run_without_generation_settings_decodes_by_none() {
        let limits = json!({"generate": {"max_new_tokens": 32}});
        let plain = fields(json!({ "generation_limits": limits }));
        let penalised = fields(json!({
            "generation_limits": limits,
            "generation_config": {"generate": {"repetition_penalty": 1.05}},
        }));
        for (before, after) in [(&plain, &penalised), (&penalised, &plain)] {
            let found = field_differences(before, after);
            let named: Vec<_> = found.iter().map(|found| (found.field.as_str(), found.place.as_str())).collect();
            assert_eq!(named, [("generation_config", "generate")]);
        }
        assert!(field_differences(&penalised, &penalised).is_empty());
        let scored = fields(json!({ "generation_limits": {} }));
        assert!(field_differences(&scored, &penalised).is_empty(), "a run that only scores labels decodes nothing");
    }

    #[test]
    fn a_run_without_a_version_of_label_scoring_scores_by_the_first() {
        let scored = |version: Option<u32>| {
            let mut fields = fields(json!({"prompt_text": {"mnist": {"model": {"score": "What?"}}}}));
            fields.extend(version.map(|version| (LABEL_SCORING.to_owned(), json!({ "score": version }))));
            fields
        };
        assert!(field_differences(&scored(None), &scored(Some(1))).is_empty());
        let found = field_differences(&scored(None), &scored(Some(2)));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].field.as_str(), &found[0].baseline), (LABEL_SCORING, &json!(1)));
        let generated = fields(json!({"prompt_text": {"mnist": {"model": {"generate": "What?"}}}}));
        assert!(field_differences(&generated, &scored(Some(2))).is_empty(), "only one of them scores labels");
    }

    #[test]
    fn what_only_one_run_has_is_left_out_and_the_rest_is_named_by_its_place() {
        let before = fields(json!({
            "sample_seed": 7,
            "prompt_text": {"mnist": {"model": {"generate": "What?"}, "encoder": {"zero_shot": "{}"}}, "cifar10": {}},
            "generation_limits": {"generate": {"max_new_tokens": 32}},
            "judges": [{"judge": "rules", "model": "1"}],
        }));
        let after = fields(json!({
            "sample_seed": 7,
            "prompt_text": {"mnist": {"model": {"generate": "Which?", "score": "Which?"}}},
            "generation_limits": {},
            "judges": [{"judge": "rules", "model": "1"}, {"judge": "llm", "model": "x"}],
        }));
        let found = field_differences(&before, &after);
        let named: Vec<(&str, &str)> =
            found.iter().map(|difference| (difference.field.as_str(), difference.place.as_str())).collect();
        assert_eq!(named, [("prompt_text", "mnist.model.generate"), ("judges", "")]);
        assert_eq!(found[0].candidate, "Which?");
        assert!(field_differences(&before, &before).is_empty());
    }
}
