//! `emt demo`: the whole story in miniature.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::support;

fn accuracy(dir: &Path, run: &str, dataset: &str) -> f64 {
    let text = std::fs::read_to_string(dir.join(run).join("summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&text).unwrap();
    let datasets = summary["datasets"].as_array().unwrap();
    let found = datasets.iter().find(|one| one["dataset"] == dataset).unwrap();
    found["model"]["accuracy"].as_f64().unwrap()
}

#[test]
fn the_demo_gains_digits_and_loses_the_rest_and_the_gate_lets_the_gentle_arm_pass() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("reports/demo");
    let mut command = support::emt();
    // Quiet, so that what is printed is the result alone.
    command.current_dir(folder.path()).args(["demo", "--limit", "200", "--quiet"]);
    // Killed while it trains, the same command goes on in the same folder.
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !dir.join("finetune/linear/training.json").is_file() {
        assert!(child.try_wait().unwrap().is_none(), "it trains");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let finished = support::finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(!finished.stderr.contains("learns") && !folder.path().join("reports/demo-2").exists());
    for file in ["report.html", "rose.svg", "rose.png", "base/report.html", "linear/trials.jsonl", "lora/run.json"] {
        assert!(dir.join(file).is_file(), "{file}");
    }
    for file in ["linear/curve.svg", "lora/curve.svg", "gentle/curve.svg", "lora/adapter_config.json"] {
        assert!(dir.join("finetune").join(file).is_file(), "{file}");
    }
    let page = std::fs::read_to_string(dir.join("report.html")).unwrap();
    for words in
        ["Before", "After linear", "After lora", "After gentle", "Fall, points", "Fine-tuned on embedded/mnist"]
    {
        assert!(page.contains(words), "{words}");
    }
    let change = |run: &str, dataset: &str| accuracy(&dir, run, dataset) - accuracy(&dir, "base", dataset);
    for run in ["linear", "lora", "gentle"] {
        let gain = change(run, "embedded/mnist");
        assert!(gain > 0.03, "{run} learns what it is tuned on: {gain}");
    }
    for run in ["linear", "lora"] {
        let lost = change(run, "embedded/cifar10");
        assert!(lost < -0.08, "{run} loses what it is not tuned on: {lost}");
    }
    let kept = ["embedded/cifar10", "embedded/cifar100"].map(|dataset| change("gentle", dataset));
    assert!(kept.iter().all(|kept| *kept > -0.03), "gentle loses next to nothing: {kept:?}");
    for (run, file, exit_code) in
        [("linear", "decision-linear.json", 1), ("lora", "decision.json", 1), ("gentle", "decision-gentle.json", 0)]
    {
        let text = std::fs::read_to_string(dir.join(file)).unwrap();
        let decision: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&decision["candidate"]["run"], &decision["exit_code"]), (&run.into(), &exit_code.into()));
        let verdict = if exit_code == 0 { "lets it pass (exit code 0)." } else { "stops it (exit code 1)." };
        let is_told = |line: &str| line.starts_with(&format!("`{run}` gained ")) && line.ends_with(verdict);
        assert!(finished.stdout.lines().any(is_told), "{}", finished.stdout);
    }

    // The same command again goes into a folder of its own: here it is the default one that exists.
    let mut again = support::emt();
    again.current_dir(folder.path()).args(["demo", "--limit", "1", "--epochs", "0"]);
    let refused = support::finish(&mut again);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("reports/demo-2") && refused.stderr.contains("--epochs"), "{}", refused.stderr);
}
