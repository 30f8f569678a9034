//! Probes on a model's own tower, from the command line to the gate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::eval::{succeed, trials};
use super::support::{self, Finished, emt, finish};

/// `emt eval` of the miniature on digits and objects.
fn eval(limit: usize, out: &Path, arguments: &[&str]) -> Command {
    let mut command = emt();
    command.args(["eval", "--model", "embedded", "--datasets", "embedded/mnist,embedded/cifar100"]);
    command.args(["--limit", &limit.to_string(), "--batch-size", "4"]).args(arguments).arg("--out").arg(out);
    command
}

const PROBE: [&str; 2] = ["--comparator", "probe"];

fn text(run: &Path, name: &str) -> String {
    fs::read_to_string(run.join(name)).unwrap()
}

fn read(run: &Path, name: &str) -> Value {
    serde_json::from_str(&text(run, name)).unwrap()
}

fn probed(run: &Path) -> Vec<Value> {
    trials(run).into_iter().filter(|trial| trial["mode"] == "probe").collect()
}

#[track_caller]
fn assert_equal(left: &Path, right: &Path) {
    for name in ["trials.jsonl", "summary.json"] {
        assert!(text(left, name) == text(right, name), "`{name}` differs");
    }
}

#[track_caller]
fn assert_refused(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.code, Some(2), "{} {}", finished.stdout, finished.stderr);
    for word in words {
        assert!(finished.stderr.contains(word), "{word}: {}", finished.stderr);
    }
}

#[test]
fn a_probe_stands_in_the_encoders_place_and_is_never_called_zero_shot() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let finished = succeed(&mut eval(30, &out, &PROBE));
    assert!(finished.stderr.contains("2 shots per class instead of 16"), "{}", finished.stderr);
    let of_probe = probed(&out);
    assert_eq!((of_probe.len(), trials(&out).len()), (60, 120));
    for trial in &of_probe {
        let (prompt, n_fewer) = if trial["dataset"] == "embedded/mnist" { ("probe-16", 2) } else { ("probe-2", 1) };
        assert_eq!((&trial["subject"], &trial["prompt"]), (&json!("encoder"), &json!(prompt)));
        assert_eq!(trial["answer"], trial["scores"][0]["label"]);
        assert_eq!(trial["outcome"] == "correct", trial["answer"] == trial["label"]);
        let fewer = trial["fewer_shots"].as_array().unwrap();
        assert_eq!((fewer.len(), &fewer[0]["shots"]), (n_fewer, &json!(1)));
        assert_eq!(fewer[0]["outcome"] == "correct", fewer[0]["answer"] == trial["label"]);
    }
    let (summary, manifest) = (read(&out, "summary.json"), read(&out, "run.json"));
    assert_eq!(summary["encoder"]["comparator"], "probe");
    assert_eq!((&summary["encoder"]["relation"], &summary["encoder"]["name"]), (&json!("own"), &Value::Null));
    assert_eq!(summary["encoder"]["probe"], json!({"classifier": "nearest_mean", "shots": [2, 16]}));
    let mnist = &summary["datasets"][0];
    assert_eq!(mnist["encoder"]["shots"], 16);
    assert_eq!(mnist["encoder"]["fewer_shots"].as_array().unwrap().len(), 2);
    // The miniature's tower sees: at random three of thirty digits would be right.
    assert!(mnist["encoder"]["accuracy"].as_f64().unwrap() > 0.4, "{mnist}");
    assert!(mnist["retention"].is_number() && mnist["pairs"]["both_correct"].is_number());
    assert_eq!(
        (&manifest["spec"]["encoder"], &manifest["spec"]["probe"]["classifier"]),
        (&Value::Null, &json!("nearest_mean"))
    );
    let comparable = &manifest["comparable"]["comparator"]["embedded/mnist"];
    assert_eq!((&comparable["mode"], &comparable["shots"]), (&json!("probe"), &json!([1, 5, 16])));
    assert!(finished.stdout.contains("probe (2–16 shots)"), "{}", finished.stdout);
    for name in ["report.md", "report.html", "rose.svg"] {
        let page = text(&out, name);
        assert!(page.contains("probe (2–16 shots)"), "{name}");
        assert!(!page.contains("zero-shot,") && !page.contains("Encoder, zero-shot"), "{name}");
    }
    assert!(text(&out, "summary.csv").lines().next().unwrap().ends_with(",shots"));
}

#[test]
fn every_classifier_gives_a_run_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let answers: Vec<Vec<Value>> = ["nearest-mean", "knn", "logistic"]
        .into_iter()
        .map(|classifier| {
            let out = folder.path().join(classifier);
            let arguments = [&PROBE[..], &["--probe", classifier, "--probe-shots", "5", "--modes", "score"]].concat();
            let mut command = emt();
            command.args(["eval", "--model", "embedded", "--datasets", "embedded/mnist", "--limit", "20"]);
            succeed(command.args(arguments).arg("--out").arg(&out));
            probed(&out).into_iter().map(|trial| trial["scores"].clone()).collect()
        })
        .collect();
    assert!(answers.iter().all(|scores| scores.len() == 20));
    assert!(answers[0] != answers[1] && answers[1] != answers[2] && answers[0] != answers[2]);
    assert!(answers[1].iter().all(|scores| scores[0]["score"].as_f64().unwrap() <= 1.0), "shares of votes");
    assert!(answers[2].iter().all(|scores| scores[0]["score"].as_f64().unwrap() <= 0.0), "log-probabilities");
}

#[test]
fn a_larger_limit_and_lost_trials_end_as_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, grown) = (folder.path().join("whole/run"), folder.path().join("grown/run"));
    succeed(&mut eval(14, &whole, &PROBE));
    succeed(&mut eval(6, &grown, &PROBE));
    succeed(&mut eval(14, &grown, &PROBE));
    assert_equal(&whole, &grown);
    let lines: Vec<String> = text(&whole, "trials.jsonl").lines().map(str::to_owned).collect();
    let is_kept = |index: usize, line: &str| index < 40 && !(line.contains(r#""mode":"probe""#) && index < 15);
    let kept: Vec<&str> =
        (0..).zip(&lines).filter(|(index, line)| is_kept(*index, line)).map(|(_, line)| &**line).collect();
    fs::write(grown.join("trials.jsonl"), kept.join("\n") + "\n{\"torn").unwrap();
    succeed(&mut eval(14, &grown, &PROBE));
    assert_equal(&whole, &grown);
    // Another classifier or other shots are another run.
    let other = finish(&mut eval(14, &grown, &["--comparator", "probe", "--probe-shots", "5"]));
    assert_refused(&other, &["probe.datasets"]);
}

fn gate(baseline: &Path, candidate: &Path) -> Finished {
    finish(emt().args(["gate", "--allow-same", "--baseline"]).arg(baseline).arg("--candidate").arg(candidate))
}

#[test]
fn two_probed_runs_are_decided_on_and_unlike_comparators_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, arguments: &[&str]| {
        let out = folder.path().join(name);
        let mut command = emt();
        command.args(["eval", "--model", "embedded", "--datasets", "embedded/mnist", "--limit", "60"]);
        succeed(command.args(arguments).arg("--out").arg(&out));
        out
    };
    let (before, after) = (made("before", &PROBE), made("after", &PROBE));
    let decided = gate(&before, &after);
    assert!([Some(0), Some(3)].contains(&decided.code), "{} {}", decided.stdout, decided.stderr);
    let out = folder.path().join("report");
    let report = |candidate: &Path| {
        finish(emt().arg("report").arg(candidate).arg("--baseline").arg(&before).arg("--out").arg(&out))
    };
    assert_eq!(report(&after).code, Some(0));
    let tower = &read(&out, "comparison.json")["candidates"][0]["datasets"][0]["tower"];
    assert_eq!((&tower["is_same_tower"], &tower["n_lost"], &tower["shots"]), (&json!(true), &json!(0), &json!(16)));
    assert!(text(&out, "report.md").contains("Both runs have the same tower"));

    let fewer = made("fewer", &["--comparator", "probe", "--probe-shots", "1,5"]);
    let knn = made("knn", &["--comparator", "probe", "--probe", "knn"]);
    let zero_shot = made("zero-shot", &["--comparator", "zero-shot"]);
    for other in [&fewer, &knn, &zero_shot] {
        assert_refused(&gate(&before, other), &["`comparator`", "embedded/mnist", "--allow-different comparator"]);
        assert_refused(&report(other), &["`comparator`"]);
    }
    let mut allowed = emt();
    allowed.arg("report").arg(&zero_shot).arg("--baseline").arg(&before).arg("--out").arg(&out);
    let allowed = finish(allowed.args(["--allow-different", "comparator"]));
    assert_eq!(allowed.code, Some(0), "{}", allowed.stderr);
    assert!(text(&out, "report.md").contains("their retentions say nothing about each other"));
}

#[test]
fn what_a_probe_cannot_learn_from_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = emt();
        command.args(["eval", "--model", "embedded", "--limit", "4", "--out"]).arg(folder.path().join("run"));
        finish(command.args(arguments))
    };
    let digits = ["--datasets", "embedded/mnist"];
    let with = |arguments: &[&'static str]| run(&[&digits[..], arguments].concat());
    assert_refused(&with(&["--comparator", "probe", "--split", "train"]), &["training split", "held-out split"]);
    assert_refused(&with(&["--comparator", "probe", "--probe-shots", "0"]), &["--probe-shots", "from 1"]);
    assert_refused(&with(&["--comparator", "zero-shot", "--encoder", "none"]), &["needs an encoder", "--encoder DIR"]);
}

/// `emt eval` of the small LLaVA, whose checkpoint does not say where its tower is from.
fn real(shared: &Path, datasets: &str, out: &Path, arguments: &[&str]) -> Finished {
    let mut command = emt();
    command.arg("eval").arg("--model").arg(shared.join("models/tiny-llava")).arg("--data").arg(shared.join("data"));
    command.args(["--datasets", datasets, "--limit", "60", "--max-new-tokens", "6"]);
    finish(command.args(arguments).arg("--out").arg(out))
}

#[test]
fn without_an_encoder_a_probe_is_taken_where_training_images_are_at_hand() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let objects = shared.join("data/imagenet20/val").display().to_string();
    let finished = real(&shared, &format!("mnist,cifar10,{objects}"), &out, &[]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    for words in ["does not say which encoder", "is used instead", "mnist: no probe without training images"] {
        assert!(finished.stderr.contains(words), "{words}: {}", finished.stderr);
    }
    let summary = read(&out, "summary.json");
    assert_eq!(summary["encoder"]["comparator"], "probe");
    let of = |index: usize| &summary["datasets"][index];
    assert_eq!((&of(0)["encoder"], &of(0)["retention"]), (&Value::Null, &Value::Null));
    for index in [1, 2] {
        assert_eq!(of(index)["encoder"]["n_trials"], 60);
        assert!(of(index)["encoder"]["accuracy"].as_f64().unwrap() > 0.25, "{}", of(index));
    }
    assert!(text(&out, "report.md").contains("No probe for mnist"));

    // By name it must be there for all.
    let refused = real(&shared, "mnist", &folder.path().join("named"), &PROBE);
    assert_refused(&refused, &["a probe of `mnist`", "training split", "emt data fetch mnist"]);
    let refused = real(&shared, "mnist", &folder.path().join("named"), &["--comparator", "zero-shot"]);
    assert_refused(&refused, &["does not say which encoder", "--encoder DIR", "--comparator probe"]);
    let alone = real(&shared, "mnist", &folder.path().join("alone"), &["--limit", "6"]);
    assert_eq!(alone.code, Some(0), "{}", alone.stderr);
    assert_eq!(alone.stderr.matches("without an encoder").count(), 1, "{}", alone.stderr);
}

/// An adapter folder under which the small LLaVA's tower sees no patch.
pub fn blinding_adapter(shared: &Path, folder: &Path) -> PathBuf {
    let device = candle_core::Device::Cpu;
    let base = candle_core::safetensors::load(shared.join("models/tiny-llava/model.safetensors"), &device).unwrap();
    let is_of_patches = |name: &str| name.contains("vision_tower") && name.ends_with("patch_embedding.weight");
    let blind = base.into_iter().filter(|(name, _)| is_of_patches(name));
    let blind = blind.map(|(name, tensor)| (name, tensor.zeros_like().unwrap()));
    let blind: std::collections::HashMap<String, candle_core::Tensor> = blind.collect();
    assert_eq!(blind.len(), 1);
    fs::create_dir_all(folder).unwrap();
    candle_core::safetensors::save(&blind, folder.join("non_lora_trainables.safetensors")).unwrap();
    folder.to_owned()
}

#[test]
fn a_tower_that_an_adapter_damaged_is_told_from_a_language_model_that_forgot() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let damaged = blinding_adapter(&shared, &folder.path().join("damaged")).display().to_string();
    let lora = support::any_adapters().join("lora-cifar10").display().to_string();
    let runs = folder.path().join("runs");
    let arguments = [&PROBE[..], &["--adapter", &damaged, "--adapter", &lora]].concat();
    let finished = real(&shared, "cifar10", &runs, &arguments);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(probed(&runs.join("base")), probed(&runs.join("lora-cifar10")), "they share the tower");
    assert_ne!(probed(&runs.join("base")), probed(&runs.join("damaged")));

    let out = folder.path().join("report");
    let mut command = emt();
    command.arg("report").arg(runs.join("damaged")).arg(runs.join("lora-cifar10"));
    let report = finish(command.arg("--baseline").arg(runs.join("base")).arg("--out").arg(&out));
    assert_eq!(report.code, Some(0), "{}", report.stderr);
    let comparison = read(&out, "comparison.json");
    let tower = |index: usize| &comparison["candidates"][index]["datasets"][0]["tower"];
    assert_eq!((&tower(0)["is_same_tower"], &tower(1)["is_same_tower"]), (&json!(false), &json!(true)));
    assert!(tower(0)["n_lost"].as_u64().unwrap() > tower(0)["n_gained"].as_u64().unwrap(), "{}", tower(0));
    assert_eq!((&tower(1)["n_lost"], &tower(1)["n_gained"]), (&json!(0), &json!(0)));
    let page = text(&out, "report.md");
    assert!(page.contains("the tower itself has forgotten") && page.contains("Both runs have the same tower"));
    assert!(report.stdout.contains("on the tower itself went from"), "{}", report.stdout);

    // Alone it is the run that it is in lock-step.
    let alone = folder.path().join("alone/damaged");
    let arguments = [&PROBE[..], &["--adapter", &damaged, "--no-base"]].concat();
    assert_eq!(real(&shared, "cifar10", &alone, &arguments).code, Some(0));
    assert_equal(&runs.join("damaged"), &alone);
}

#[test]
fn an_ancestor_is_named_with_the_change_of_each_layer() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("moved");
    fs::create_dir_all(&model).unwrap();
    for entry in fs::read_dir(shared.join("models/tiny-llava")).unwrap() {
        let entry = entry.unwrap();
        fs::write(model.join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap();
    }
    let weights = model.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&weights, &candle_core::Device::Cpu).unwrap();
    let name = tensors.keys().find(|name| name.contains("vision_tower") && name.contains("layers.2.mlp.fc1.weight"));
    let name = name.unwrap().clone();
    let moved = (&tensors[&name] * 1.01).unwrap();
    tensors.insert(name, moved);
    candle_core::safetensors::save(&tensors, &weights).unwrap();

    let out = folder.path().join("run");
    let mut command = emt();
    command.arg("eval").arg("--model").arg(&model).arg("--encoder").arg(shared.join("models/tiny-clip"));
    command.arg("--data").arg(shared.join("data")).args(["--datasets", "mnist", "--limit", "4", "--out"]).arg(&out);
    succeed(&mut command);
    let (summary, manifest) = (read(&out, "summary.json"), read(&out, "run.json"));
    let heading = &summary["encoder"];
    assert_eq!((&heading["relation"], &heading["comparator"]), (&json!("ancestor"), &json!("zero_shot")));
    assert_eq!(
        (&heading["tower_change"]["median"], &heading["tower_change"]["largest_layer"]),
        (&json!(0.0), &json!("encoder.layers.2"))
    );
    let layers = manifest["environment"]["tower_change_by_layer"].as_object().unwrap();
    let changed: Vec<&String> =
        layers.iter().filter(|(_, change)| change.as_f64() != Some(0.0)).map(|(layer, _)| layer).collect();
    assert_eq!(changed, ["encoder.layers.2"]);
    assert!(manifest["environment"]["tower_change"].as_f64().unwrap() > layers["encoder.layers.2"].as_f64().unwrap());
    for name in ["report.md", "report.html"] {
        let page = text(&out, name);
        assert!(page.contains("ancestor") && page.contains("encoder.layers.2"), "{name}");
    }
}
