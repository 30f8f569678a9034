use serde_json::json;

use super::*;

#[test]
fn what_changes_nothing_is_not_recorded() {
    let settings = json!({
        "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "suppress_tokens": [], "do_sample": true,
        "temperature": 0.1, "top_p": 0.001, "top_k": 1, "renormalize_logits": false, "bad_words_ids": [[2]],
        "forced_eos_token_id": null, "eos_token_id": 2, "stop_strings": [],
    });
    let config = GenerationConfig::parse(&settings, "it", &[2]).unwrap();
    assert_eq!(config, GenerationConfig::default());
    assert_eq!(config.recorded(), Value::Null);
}

#[test]
fn what_changes_answers_is_recorded_as_it_is_written() {
    let settings = json!({"repetition_penalty": 1.05, "do_sample": true, "min_length": 4, "min_new_tokens": 2,
        "stop_strings": "###"});
    let config = GenerationConfig::parse(&settings, "it", &[2]).unwrap();
    // `min_new_tokens` takes precedence over `min_length`.
    assert_eq!(config.recorded(), json!({"repetition_penalty": 1.05, "min_new_tokens": 2, "stop_strings": "###"}));
    assert_eq!(config.stop_strings(), ["###"]);
}

#[test]
fn a_setting_of_another_form_is_refused_by_its_name() {
    for (key, value) in [
        ("repetition_penalty", json!(0.0)),
        ("repetition_penalty", json!("much")),
        ("no_repeat_ngram_size", json!(-1)),
        ("suppress_tokens", json!(["a"])),
        ("bad_words_ids", json!([5])),
        ("sequence_bias", json!({"5": 1.0})),
        ("exponential_decay_length_penalty", json!([1])),
        ("renormalize_logits", json!("yes")),
        ("stop_strings", json!(5)),
    ] {
        let error = GenerationConfig::parse(&json!({ key: value }), "generation_config.json", &[]).unwrap_err();
        for part in [key, "generation_config.json", "--generation-config ignore"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}

#[test]
fn what_cannot_be_applied_is_told_by_its_name() {
    let settings = json!({"num_beams": 4, "guidance_scale": 1.5, "num_beam_groups": 1, "penalty_alpha": 0.0,
        "watermarking_config": null, "token_healing": false});
    let told = not_applied(&settings, "it");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("`num_beams` is 4") && told[1].contains("`guidance_scale` is 1.5"), "{told:?}");
}
