//! Attempts that `--history` counts: a candidate is its model, and a history is of the test data.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::gate::{decision, gate_runs};
use super::gate_safety::{DIGITS, base, copied, night, read_json, text, two_datasets, wide_policy};

/// A folder with a history, and nights 1 and 2, which are decided on already.
struct Kept {
    folder: tempfile::TempDir,
}

impl Kept {
    fn new() -> Self {
        let kept = Self { folder: tempfile::tempdir().unwrap() };
        for (n, name) in ["night1", "night2"].into_iter().enumerate() {
            let run = night(kept.folder.path(), name, n + 1);
            assert_eq!(kept.attempt(&base(), &run, &[]), n as u64 + 1);
        }
        kept
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn attempt(&self, baseline: &Path, candidate: &Path, arguments: &[&str]) -> u64 {
        let history = text(&self.path("history"));
        let all = [&["--policy", wide_policy(), "--history", history.as_str(), "--format", "json"], arguments].concat();
        let finished = gate_runs(baseline, candidate, &all);
        assert!(finished.code.is_some_and(|code| code != 2), "{}", finished.stderr);
        decision(&finished)["attempt"].as_u64().unwrap()
    }

    /// A copy of `from` with another identity, changed.
    fn changed(&self, from: &Path, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let to = self.path(name);
        copied(from, &to, |manifest, _| {
            manifest["identity"] = json!(format!("blake3:{}", blake3::hash(name.as_bytes()).to_hex()));
            change(manifest);
        });
        to
    }

    /// Files of the history, each with the attempt in it.
    fn decisions(&self) -> Vec<(String, u64)> {
        let entries = fs::read_dir(self.path("history")).unwrap();
        let attempt = |path: PathBuf| (text(&path), read_json(&path)["attempt"].as_u64().unwrap());
        entries.map(|entry| attempt(entry.unwrap().path())).collect()
    }
}

fn in_bf16(manifest: &mut Value) {
    manifest["spec"]["compute_type"] = json!("bf16");
    manifest["comparable"]["compute_type"] = json!("bf16");
}

#[test]
fn a_candidate_keeps_its_number_however_its_run_is_called() {
    let kept = Kept::new();
    let first = kept.path("night1");
    let before = read_json(&first.join("run.json"))["identity"].clone();
    let grown = kept.changed(&first, "grown", |manifest| {
        manifest["environment"]["earlier_identities"] = json!([before]);
        manifest["spec"]["modes"] = json!(["generate", "score"]);
    });
    assert_eq!(kept.attempt(&base(), &grown, &[]), 1, "a run that gained a mode");
    let merged = kept.changed(&first, "merged", |manifest| manifest["spec"]["model"]["merged"] = json!(true));
    assert_eq!(kept.attempt(&base(), &merged, &[]), 1, "the same adapter, merged");
    assert_eq!(kept.attempt(&base(), &kept.path("night2"), &[]), 2);
    assert_eq!(kept.attempt(&base(), &night(kept.folder.path(), "night3", 3), &[]), 3, "and nobody counts twice");
}

#[test]
fn a_run_that_grew_is_known_to_decisions_of_earlier_versions() {
    let kept = Kept::new();
    for (path, _) in kept.decisions() {
        let mut older = read_json(Path::new(&path));
        for run in ["baseline", "candidate"] {
            older[run].as_object_mut().unwrap().remove("model");
        }
        fs::write(path, older.to_string()).unwrap();
    }
    let second = kept.path("night2");
    let before = read_json(&second.join("run.json"))["identity"].clone();
    let grown = kept.changed(&second, "grown", |manifest| {
        manifest["environment"]["earlier_identities"] = json!([before]);
    });
    assert_eq!(kept.attempt(&base(), &grown, &[]), 2);
}

#[test]
fn another_run_of_the_baseline_does_not_begin_the_count_anew() {
    let kept = Kept::new();
    let third = night(kept.folder.path(), "night3", 3);
    let merged = kept.changed(&base(), "merged-base", |manifest| manifest["spec"]["model"]["merged"] = json!(true));
    assert_eq!(kept.attempt(&merged, &third, &[]), 3, "a new candidate after two others on the same images");
    let leaky = kept.changed(&base(), "leaky-base", |manifest| {
        let labels = json!({"labels": [{"name": "cat"}, {"name": "dog"}], "answer_type": "object"});
        manifest["spec"]["tuned_on"] = json!({"pets": labels});
    });
    assert_eq!(kept.attempt(&leaky, &night(kept.folder.path(), "night4", 4), &[]), 4);
    let bf16 = kept.changed(&base(), "bf16-base", in_bf16);
    let same = kept.changed(&kept.path("night1"), "bf16-night1", in_bf16);
    assert_eq!(kept.attempt(&bf16, &same, &[]), 1, "the first candidate in other numbers");
    let fifth = night(kept.folder.path(), "night5", 5);
    let fifth = kept.changed(&fifth, "bf16-night5", in_bf16);
    assert_eq!(kept.attempt(&bf16, &fifth, &[]), 5);
}

#[test]
fn test_data_wears_out_dataset_by_dataset_and_no_decision_is_forgotten() {
    let kept = Kept::new();
    let [wide, tuned] = two_datasets(kept.folder.path(), 3);
    assert_eq!(kept.attempt(&wide, &tuned, &["--datasets", "more/digits"]), 1, "images that nobody was tried on");
    // With the others beside them it is the third candidate on those.
    assert_eq!(kept.attempt(&wide, &tuned, &[]), 3);
    let n_files = kept.decisions().len();
    assert_eq!(n_files, 4, "{:?}", kept.decisions());
    for _ in 0..2 {
        assert_eq!(kept.attempt(&wide, &tuned, &["--datasets", "more/digits"]), 1);
        assert_eq!(kept.attempt(&wide, &tuned, &[]), 3);
        assert_eq!(kept.attempt(&wide, &tuned, &["--datasets", DIGITS]), 3);
    }
    assert_eq!(kept.decisions().len(), n_files + 1);
    assert_eq!(kept.attempt(&base(), &night(kept.folder.path(), "night4", 4), &[]), 4);
}

#[test]
fn a_name_on_a_server_is_another_candidate_when_another_model_answers_under_it() {
    let kept = Kept::new();
    let served = |name: &str, logprob: f64| {
        kept.changed(&night(kept.folder.path(), name, 1), &format!("served-{name}"), |manifest| {
            manifest["identity"] = json!("blake3:served");
            manifest["spec"]["model"]["weights"] = Value::Null;
            manifest["spec"]["model"]["adapter"] = Value::Null;
            manifest["spec"]["model"]["served"] =
                json!({"model": "nightly", "request": {}, "n_probe_tokens": 30, "probe_answer": "blake3:cat"});
            manifest["environment"]["server"] = json!({"probe": {"logprobs": [logprob, -0.5]}});
        })
    };
    let (one, other) = (served("a", -0.1), served("b", -0.9));
    assert_eq!(kept.attempt(&base(), &one, &[]), 3);
    assert_eq!(kept.attempt(&base(), &other, &[]), 4, "the name is the same, the model is not");
    assert_eq!(kept.attempt(&base(), &one, &[]), 3, "both are remembered");
    assert_eq!(kept.attempt(&base(), &other, &[]), 4);
    assert_eq!(kept.attempt(&base(), &served("c", -0.1001), &[]), 3, "what else the server does moves the last digits");
}
