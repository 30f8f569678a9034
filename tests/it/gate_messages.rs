//! What a gate and its report say first, and before anything is asked.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::chat::completion;
use super::gate::{dataset, decision, gate_runs};
use super::gate_safety::{
    DIGITS, assert_refused, base, copied, night, report, text, trials, wide_policy, write_trials,
};
use super::http_server::HttpServer;
use super::support::{emt, finish};

fn gate_of_model(model: &str, arguments: &[&str]) -> Command {
    let mut command = emt();
    command.args(["gate", "--model", model, "--datasets", DIGITS, "--encoder", "none"]).args(arguments);
    command
}

#[test]
fn a_decision_whose_run_lost_trials_is_refused_for_that_and_not_for_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let run = night(folder.path(), "night", 1);
    // As the program that made it leaves it: with the number of its trials.
    copied(&run.clone(), &run, |manifest, lines| {
        let bytes: String = lines.iter().map(|trial| format!("{trial}\n")).collect();
        let hash = format!("blake3:{}", blake3::hash(bytes.as_bytes()).to_hex());
        manifest["environment"]["recorded"] = json!({"n_trials": lines.len(), "trials": hash});
    });
    let file = text(&folder.path().join("decision.json"));
    let gated = gate_runs(&base(), &run, &["--policy", wide_policy(), "--out", &file]);
    assert_eq!(gated.code, Some(0), "{}", gated.stderr);
    let mut fewer = trials(&run);
    fewer.truncate(400);
    write_trials(&run, &fewer);
    let refused = report(&[&run], &base(), &["--decision", &file]);
    assert_refused(&refused, &["holds 400", "run the command that made it again to fill in the missing ones"]);
    assert!(refused.stderr.starts_with("error: the run `night` ended with"), "{}", refused.stderr);
}

#[test]
fn a_gate_that_needs_a_new_folder_names_its_own_flag() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("tiny");
    let mut train = emt();
    train.args(["finetune", "--model", "embedded", "--method", "linear", "--train", "embedded/cifar10"]);
    train.args(["--learning-rate", "1e-7", "--limit", "20", "--epochs", "1", "--eval-datasets", "none", "--out"]);
    assert_eq!(finish(train.arg(&adapter)).code, Some(0));
    let (adapter, runs) = (text(&adapter), text(&folder.path().join("runs")));
    let arguments = ["--adapter", &adapter, "--runs", &runs, "--limit", "10"];
    assert_eq!(finish(&mut gate_of_model("embedded", &arguments)).code, Some(3));
    let refused = finish(gate_of_model("embedded", &arguments).arg("--fresh"));
    assert_refused(&refused, &["--fresh starts only in a new folder", "give another folder with --runs"]);
    let other = finish(gate_of_model("embedded", &arguments).args(["--max-new-tokens", "9"]));
    assert_refused(&other, &["max_new_tokens", "give another folder with --runs"]);
    let same = finish(gate_of_model("embedded", &arguments).arg("--allow-same"));
    assert_refused(&same, &["--allow-same has no effect", "--allow-noop-adapter"]);
}

#[test]
fn served_models_that_cannot_be_compared_are_refused_before_the_server_is_asked() {
    let server = HttpServer::start(|_| completion("cat"));
    for (names, words) in [
        ("a,a", &["two runs would be called `a`", "NAME=MODEL"][..]),
        ("a,b,c", &["the gate compares two served models", "names 3"]),
        ("a", &["the gate compares two served models", "names 1"]),
    ] {
        let refused = finish(&mut gate_of_model(&format!("{}/v1", server.url()), &["--served-model", names]));
        assert_refused(&refused, words);
    }
    assert_eq!(server.n_requests(), 0);
}

#[test]
fn each_parameter_in_which_images_are_prepared_otherwise_is_shown_whole_on_its_own_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = night(folder.path(), "night", 1);
    let mean = [0.481_454_66, 0.457_827_5, 0.408_210_73];
    let of = |mean: &[f64], scheme: &str| json!({"scheme": scheme.repeat(40), "mean": mean, "crop": {"height": 32}});
    let baseline = folder.path().join("baseline");
    copied(&base(), &baseline, |manifest, _| manifest["comparable"]["preprocessing"]["model"] = of(&mean, "ab"));
    copied(&run.clone(), &run, |manifest, _| {
        manifest["comparable"]["preprocessing"]["model"] = of(&[0.5, 0.5, 0.5], "cd");
    });
    let lines = [
        format!("scheme \"{}\" -> \"{}\"", "ab".repeat(40), "cd".repeat(40)),
        "mean [0.48145466, 0.4578275, 0.40821073] -> [0.5, 0.5, 0.5]".to_owned(),
    ];
    let refused = gate_runs(&baseline, &run, &[]);
    assert_refused(&refused, &["`preprocessing` (model) differs:", "--allow-different preprocessing"]);
    for line in &lines {
        assert!(refused.stderr.lines().any(|shown| shown.trim().starts_with(line)), "{line}: {}", refused.stderr);
    }
    let allowed = gate_runs(&baseline, &run, &["--policy", wide_policy(), "--allow-different", "preprocessing"]);
    assert_eq!(allowed.code, Some(0), "{}", allowed.stderr);
    for line in &lines {
        let line = format!("warning: `preprocessing` (model) differs: {line}\n");
        assert!(allowed.stdout.contains(&line), "{line}: {}", allowed.stdout);
    }
    assert!(!allowed.stdout.contains("crop"), "{}", allowed.stdout);
}

#[test]
fn leaks_are_unknown_beside_a_fine_tuned_dataset_whose_labels_nobody_knows() {
    let folder = tempfile::tempdir().unwrap();
    let run = night(folder.path(), "night", 1);
    copied(&run.clone(), &run, |manifest, _| {
        manifest["environment"]["adapter_tuned_on"] = json!(["embedded/cifar10", "my/photos"]);
    });
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, "margin = 0.08\nmax_leak = 0.5\n").unwrap();
    let refused = gate_runs(&base(), &run, &["--policy", &text(&policy)]);
    assert_refused(&refused, &["`max_leak`", "its labels are not known"]);
    // What a person says stands in its place.
    let known = ["--policy", &text(&policy), "--tuned-on", "embedded/cifar10", "--format", "json"];
    let decided = gate_runs(&base(), &run, &known);
    assert_eq!(decided.code, Some(0), "{} {}", decided.stdout, decided.stderr);
    assert_eq!(decision(&decided)["policy"]["tuned_on"], json!(["embedded/cifar10"]));
    assert_ne!(dataset(&decision(&decided), DIGITS)["n_pairs"], Value::Null);
}
