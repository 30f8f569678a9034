//! `emt diagnose` on the built-in model.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::support;

/// Trains low-rank updates of the built-in model for one epoch at `rate`.
fn trained(dir: &Path, rate: &str) {
    let arguments =
        ["finetune", "--model", "embedded", "--method", "lora", "--train", "embedded/mnist", "--limit", "40"];
    let numbers = ["--epochs", "1", "--eval-datasets", "none", "--learning-rate", rate, "--out"];
    let finished = support::run(arguments.into_iter().chain(numbers).chain([dir.to_str().unwrap()]));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

fn diagnose(folder: &Path, out: &str) -> std::process::Command {
    let mut command = support::emt();
    command.current_dir(folder).args(["diagnose", "--model", "embedded", "--adapter", "lora", "--limit", "12"]);
    command.args(["--datasets", "embedded/cifar10", "--max-new-tokens", "8", "--out", out]);
    command
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_diagnosis_that_was_killed_ends_equal_to_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    trained(&folder.path().join("lora"), "2e-2");
    let whole = support::finish(&mut diagnose(folder.path(), "whole"));
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    assert!(whole.stderr.contains("models answer about each image"), "{}", whole.stderr);
    assert!(whole.stdout.starts_with("embedded/cifar10: "), "{}", whole.stdout);
    let diagnosis = read(&folder.path().join("whole/diagnosis.json"));
    assert_eq!(diagnosis["schema"], "emt.diagnosis/1");
    let dataset = &diagnosis["datasets"][0];
    let count = |list: &Value| list.as_array().unwrap().iter().map(|one| one["n"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(count(&dataset["causes"]), dataset["n_lost"].as_u64().unwrap());
    assert!(dataset["n_lost"].as_u64().unwrap() > 0, "such a rate loses something: {dataset:#}");
    let components: Vec<&str> =
        dataset["swap"].as_array().unwrap().iter().map(|share| share["component"].as_str().unwrap()).collect();
    assert!(components.starts_with(&["projector", "attention", "mlp"]), "{components:?}");
    for file in ["diagnosis.md", "diagnosis.html", "images.jsonl", "runs/base/report.html", "runs/lora/run.json"] {
        assert!(folder.path().join("whole").join(file).is_file(), "{file}");
    }

    let mut command = diagnose(folder.path(), "killed");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !folder.path().join("killed/runs/lora/trials.jsonl").is_file() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let _ = child.kill();
    child.wait().unwrap();
    let resumed = support::finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    for file in ["diagnosis.json", "images.jsonl", "diagnosis.md"] {
        let text = |out: &str| std::fs::read_to_string(folder.path().join(out).join(file)).unwrap();
        assert_eq!(text("whole"), text("killed"), "{file}");
    }
}

#[test]
fn a_candidate_that_lost_nothing_says_so_and_a_served_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    trained(&folder.path().join("lora"), "1e-7");
    let finished = support::finish(&mut diagnose(folder.path(), "out"));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.contains("Nothing was lost here."), "{}", finished.stdout);
    let diagnosis = read(&folder.path().join("out/diagnosis.json"));
    assert_eq!(diagnosis["datasets"][0]["causes"], Value::Array(Vec::new()));

    let served = ["diagnose", "--model", "http://localhost:8000/v1", "--adapter", "lora", "--out", "out"];
    let refused = support::run(served);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("served model") && refused.stderr.contains("--adapter DIR"), "{}", refused.stderr);
}
