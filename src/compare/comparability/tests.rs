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
