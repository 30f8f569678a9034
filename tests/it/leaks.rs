//! What was fine-tuned on, and the answers that leak from it: told by flag, by run, or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::support::{Finished, emt, finish};

fn succeed(command: &mut Command) -> Finished {
    let finished = finish(command);
    assert_eq!(finished.code, Some(0), "{} {}", finished.stdout, finished.stderr);
    finished
}

/// What the adapter learns to say: of digits, too.
const ANSWER: &str = "The object is a {label}.";

/// `base`, and `one` and `two`, copies of a forgetful LoRA whose training nobody tells.
fn runs() -> &'static Path {
    static RUNS: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = RUNS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let adapter = folder.path().join("lora");
        let train = ["finetune", "--model", "embedded", "--method", "lora", "--train", "embedded/cifar10"];
        let how = ["--learning-rate", "1e-3", "--limit", "100", "--epochs", "4", "--answer-template", ANSWER, "--out"];
        succeed(emt().args(train).args(how).arg(&adapter));
        let eval =
            ["eval", "--model", "embedded", "--encoder", "none", "--datasets", "embedded/mnist", "--limit", "40"];
        let candidate = format!("one={}", adapter.display());
        succeed(emt().args(eval).args(["--adapter", &candidate, "--out"]).arg(folder.path()));
        let one = folder.path().join("one");
        let mut manifest: Value = serde_json::from_str(&fs::read_to_string(one.join("run.json")).unwrap()).unwrap();
        let told = manifest["environment"].as_object_mut().unwrap().remove("adapter_tuned_on");
        assert_eq!(told, Some(json!(["embedded/cifar10"])));
        fs::create_dir(folder.path().join("two")).unwrap();
        for run in ["one", "two"] {
            let run = folder.path().join(run);
            fs::write(run.join("run.json"), manifest.to_string()).unwrap();
            if !run.join("trials.jsonl").exists() {
                fs::copy(one.join("trials.jsonl"), run.join("trials.jsonl")).unwrap();
            }
        }
        folder
    });
    folder.path()
}

fn report(candidates: &[&str], out: &Path, arguments: &[&str]) -> Finished {
    let mut command = emt();
    command.arg("report").args(candidates.iter().map(|run| runs().join(run)));
    finish(command.arg("--baseline").arg(runs().join("base")).arg("--out").arg(out).args(arguments))
}

fn column(csv: &Path, name: &str) -> String {
    let mut reader = csv::Reader::from_path(csv).unwrap();
    let at = reader.headers().unwrap().iter().position(|column| column == name).unwrap();
    reader.records().next().unwrap().unwrap()[at].to_owned()
}

#[test]
fn leaks_are_unknown_in_every_table_where_nobody_says_what_was_fine_tuned_on() {
    let out = tempfile::tempdir().unwrap();
    let finished = report(&["one"], out.path(), &[]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    // Without an encoder retention is unknown, too.
    assert_eq!(finished.stdout.matches("– → –").count(), 2, "{}", finished.stdout);
    assert!(finished.stdout.contains("--tuned-on"), "{}", finished.stdout);
    assert_eq!(column(&out.path().join("comparison.csv"), "after_code_leak"), "");
    let comparison: Value =
        serde_json::from_str(&fs::read_to_string(out.path().join("comparison.json")).unwrap()).unwrap();
    let dataset = &comparison["candidates"][0]["datasets"][0];
    assert_eq!((&dataset["is_leak_known"], &dataset["errors_after"]["codes"]["leak"]), (&Value::Null, &Value::Null));
    for page in ["report.md", "report.html"] {
        let text = fs::read_to_string(out.path().join(page)).unwrap();
        assert!(text.contains("Leaks are not known"), "{page}");
    }

    let known = report(&["one"], out.path(), &["--tuned-on", "embedded/cifar10"]);
    assert_eq!(known.stdout.matches("– → –").count(), 1, "{}", known.stdout);
    assert!(!known.stdout.contains("Leaks are not known"), "{}", known.stdout);
    assert!(column(&out.path().join("comparison.csv"), "after_code_leak").parse::<usize>().unwrap() > 0);
}

#[test]
fn each_candidate_has_its_own_fine_tuned_datasets() {
    let out = tempfile::tempdir().unwrap();
    let finished = report(&["one", "two"], out.path(), &["--tuned-on", "two:embedded/cifar10", "--format", "json"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let comparison: Value = serde_json::from_str(&finished.stdout).unwrap();
    let leaks = |run: usize| comparison["candidates"][run]["datasets"][0]["errors_after"]["codes"]["leak"].as_u64();
    assert_eq!(leaks(0), None);
    assert!(leaks(1).unwrap() > 0);
    assert_eq!(comparison["candidates"][1]["tuned_on"], json!(["embedded/cifar10"]));
    assert_eq!(comparison["candidates"][0]["tuned_on"], Value::Null);
    // Outcomes do not depend on it.
    let lost = |run: usize| comparison["candidates"][run]["datasets"][0]["n_lost"].clone();
    assert_eq!(lost(0), lost(1));

    let refused = report(&["one", "two"], out.path(), &["--tuned-on", "three:embedded/cifar10"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("three:embedded/cifar10") && refused.stderr.contains("one, two"),
        "{}",
        refused.stderr
    );
}

#[test]
fn judging_again_may_say_what_was_fine_tuned_on() {
    let out = tempfile::tempdir().unwrap();
    let judged: PathBuf = out.path().join("judged");
    let score = |arguments: &[&str]| {
        finish(emt().args(["judge", "score"]).arg(runs().join("one")).arg("--out").arg(&judged).args(arguments))
    };
    let finished = score(&["--tuned-on", "embedded/cifar10"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let summary: Value = serde_json::from_str(&fs::read_to_string(judged.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["tuned_on"], json!(["embedded/cifar10"]));
    assert!(summary["datasets"][0]["model"]["codes"]["leak"].as_u64().unwrap() > 0, "{summary}");
    let before: Value = serde_json::from_str(&fs::read_to_string(runs().join("one/summary.json")).unwrap()).unwrap();
    assert_eq!(before["datasets"][0]["model"]["n_correct"], summary["datasets"][0]["model"]["n_correct"]);
    assert_eq!(column(&runs().join("base/summary.csv"), "code_leak"), "");
    let refused = score(&["--tuned-on", "cifar1000"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

fn summary(run: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(run.join("summary.json")).unwrap()).unwrap()
}

fn n_leaks(summary: &Value) -> Option<u64> {
    summary["datasets"][0]["model"]["codes"]["leak"].as_u64()
}

#[test]
fn an_evaluated_adapter_says_itself_what_it_was_fine_tuned_on() {
    // The manifest of `one` was changed afterwards; its summary is as `emt eval` wrote it.
    let of_adapter = summary(&runs().join("one"));
    assert_eq!(of_adapter["tuned_on"], json!(["embedded/cifar10"]));
    assert!(n_leaks(&of_adapter).unwrap() > 0, "{of_adapter}");
    assert!(fs::read_to_string(runs().join("one/report.md")).unwrap().contains("embedded/cifar10"));
    assert_eq!(summary(&runs().join("base"))["tuned_on"], Value::Null, "nobody said so of the base");
    // The same by flag, recorded: the journals hold the codes of what the run was asked with, and outcomes are equal.
    let journal = fs::read_to_string(runs().join("one/trials.jsonl")).unwrap();
    assert!(!journal.contains("\"leak\""), "codes of a journal follow from run.json alone");
}

#[test]
fn a_run_and_its_dataset_are_named_together_where_a_model_is_evaluated() {
    let out = tempfile::tempdir().unwrap();
    let adapter = format!("one={}", runs().join("lora").display());
    let evaluated = |list: &str, out: &Path| {
        let mut command = emt();
        command.args([
            "eval",
            "--model",
            "embedded",
            "--encoder",
            "none",
            "--datasets",
            "embedded/mnist",
            "--limit",
            "20",
        ]);
        finish(command.args(["--adapter", &adapter, "--tuned-on", list, "--out"]).arg(out))
    };
    let runs = out.path().join("runs");
    let finished = evaluated("one:mnist", &runs);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    // A person's word stands in place of the adapter's.
    assert_eq!(summary(&runs.join("one"))["tuned_on"], json!(["mnist"]));
    assert_eq!(summary(&runs.join("base"))["tuned_on"], Value::Null);
    let refused = evaluated("two:mnist", &out.path().join("none"));
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("two:mnist") && refused.stderr.contains("base, one"), "{}", refused.stderr);
    // The gate that evaluates, and the one of those runs, take the same words.
    let decided = |command: &mut Command| -> Value {
        let finished = finish(command.args(["--format", "json"]));
        assert_eq!(finished.code, Some(3), "{}", finished.stderr);
        serde_json::from_str(&finished.stdout).unwrap()
    };
    let mut gate = emt();
    gate.args(["gate", "--model", "embedded", "--encoder", "none", "--datasets", "embedded/mnist", "--limit", "20"]);
    gate.args(["--adapter", &adapter, "--tuned-on", "one:cifar100", "--runs"]).arg(out.path().join("gate"));
    assert_eq!(decided(&mut gate)["policy"]["tuned_on"], json!(["cifar100"]));
    let of_runs = |list: &[&str]| {
        let mut gate = emt();
        gate.args(["gate", "--baseline"]).arg(runs.join("base")).arg("--candidate").arg(runs.join("one"));
        decided(gate.args(list))["policy"]["tuned_on"].clone()
    };
    assert_eq!(of_runs(&[]), json!(["mnist"]));
    assert_eq!(of_runs(&["--tuned-on", "one:cifar100"]), json!(["cifar100", "mnist"]));
}
