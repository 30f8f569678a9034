//! What a checkpoint's generation configuration does to a run.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::bad_input::{copy_of_model, eval_alone};
use super::support;

/// Writes `settings` beside what the model's generation configuration has.
fn set(model: &Path, settings: &Value) {
    let path = model.join("generation_config.json");
    let mut config: Value =
        serde_json::from_str(fs::read_to_string(&path).unwrap().trim_start_matches('\u{feff}')).unwrap();
    config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    // As an editor on Windows saves it.
    fs::write(&path, format!("\u{feff}{config}")).unwrap();
}

fn manifest(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("run.json")).unwrap()).unwrap()
}

#[test]
fn settings_that_change_answers_are_applied_recorded_and_compared_and_can_be_left_out() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of_model(&shared, folder.path());
    let data = shared.join("data");
    let run = |name: &str, flags: &[&str]| {
        let out = folder.path().join(name);
        let finished = support::finish(eval_alone(&model, &data, "mnist", &out).args(flags));
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        (out, finished.stderr)
    };
    let (plain, _) = run("plain", &[]);
    // What sampling takes has no effect on greedy answers.
    set(&model, &json!({"do_sample": true, "temperature": 0.1, "top_k": 1, "repetition_penalty": 1.0}));
    let (sampled, _) = run("sampled", &[]);
    assert_eq!(manifest(&sampled)["identity"], manifest(&plain)["identity"]);
    set(&model, &json!({"min_new_tokens": 6, "num_beams": 4}));
    let (longer, told) = run("longer", &[]);
    assert!(told.contains("`num_beams` is 4") && told.contains("generation_config.json"), "{told}");
    let of_longer = manifest(&longer);
    assert_ne!(of_longer["identity"], manifest(&plain)["identity"]);
    assert_eq!(of_longer["spec"]["model"]["generation_config"], json!({"min_new_tokens": 6}));
    assert_eq!(of_longer["comparable"]["generation_config"], json!({"generate": {"min_new_tokens": 6}}));
    let trials = fs::read_to_string(longer.join("trials.jsonl")).unwrap();
    for line in trials.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let n_tokens = line.get("n_answer_tokens").or_else(|| line["answer"].get("n_answer_tokens"));
        assert!(n_tokens.and_then(Value::as_u64).is_none_or(|n| n >= 6), "{line}");
    }
    let (ignored, _) = run("ignored", &["--generation-config", "ignore"]);
    assert_eq!(manifest(&ignored)["identity"], manifest(&plain)["identity"]);
    assert_eq!(
        fs::read(ignored.join("trials.jsonl")).unwrap(),
        fs::read(plain.join("trials.jsonl")).unwrap(),
        "without the settings the run is the same to the byte"
    );
    let report = |flags: &[&str]| {
        let mut command = support::emt();
        command.arg("report").arg(&longer).arg("--baseline").arg(&plain).arg("--out").arg(folder.path().join("report"));
        support::finish(command.args(flags))
    };
    let refused = report(&[]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("`generation_config` (generate)"), "{}", refused.stderr);
    let allowed = report(&["--allow-different", "generation_config"]);
    assert_eq!(allowed.code, Some(0), "{}", allowed.stderr);
}

#[test]
fn a_setting_of_another_form_is_refused_and_can_be_left_out() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of_model(&shared, folder.path());
    set(&model, &json!({"bad_words_ids": ["cat"]}));
    let out = folder.path().join("run");
    let refused = support::finish(&mut eval_alone(&model, &shared.join("data"), "mnist", &out));
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    for word in ["bad_words_ids", "generation_config.json", "--generation-config ignore"] {
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
    let ignored =
        eval_alone(&model, &shared.join("data"), "mnist", &out).args(["--generation-config", "ignore"]).output();
    assert!(ignored.unwrap().status.success());
}
