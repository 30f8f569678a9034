//! Adapters: runs in lock-step, and what is refused.

use std::path::{Path, PathBuf};

use super::support::{self, Finished};

/// `emt eval` of the small pair on two datasets, with `arguments` after it.
fn eval(shared: &Path, arguments: &[&str]) -> Finished {
    let mut command = support::emt();
    command.arg("eval").arg("--model").arg(shared.join("models/tiny-llava"));
    command.arg("--encoder").arg(shared.join("models/tiny-clip"));
    command.arg("--data").arg(shared.join("data")).args(["--datasets", "mnist,cifar10", "--limit", "12"]);
    command.args(["--quiet", "--batch-size", "5"]).args(arguments);
    support::finish(&mut command)
}

fn adapter(name: &str) -> String {
    support::any_adapters().join(name).display().to_string()
}

fn text(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[track_caller]
fn assert_fails(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    for word in words {
        assert!(finished.stderr.contains(word), "{}", finished.stderr);
    }
}

#[test]
fn runs_in_lock_step_equal_the_runs_made_alone() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (lora, linear) = (adapter("lora-cifar10"), adapter("linear-mnist"));
    let modes = ["--modes", "generate,score"];
    let arguments = ["--adapter", &lora, "--adapter", &linear, "--out", &at("together")];
    let together = eval(&shared, &[&arguments[..], &modes].concat());
    assert_eq!(together.code, Some(0), "{}", together.stderr);
    // Equal last parts, since a summary carries the folder's name.
    for (name, arguments) in [
        ("base", vec![]),
        ("lora-cifar10", vec!["--adapter", &lora, "--no-base"]),
        ("linear-mnist", vec!["--adapter", &linear, "--no-base"]),
    ] {
        let out = folder.path().join("alone").join(name).display().to_string();
        let alone = eval(&shared, &[arguments, vec!["--out", &out], modes.to_vec()].concat());
        assert_eq!(alone.code, Some(0), "{}", alone.stderr);
        for file in ["trials.jsonl", "summary.json"] {
            let of = |kind: &str| text(folder.path().join(kind).join(name).join(file));
            assert!(of("together") == of("alone"), "{name}/{file} differs");
        }
    }
    let trials = |name: &str| text(folder.path().join("together").join(name).join("trials.jsonl"));
    assert_ne!(trials("base"), trials("lora-cifar10"), "the adapter is applied");
}

#[test]
fn a_lock_step_that_lost_a_run_makes_that_run_again_and_no_other() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("runs");
    let lora = adapter("lora-mnist");
    let arguments = ["--adapter", &format!("tuned={lora}"), "--out", &out.display().to_string()];
    assert_eq!(eval(&shared, &arguments).code, Some(0));
    let (base, tuned) = (text(out.join("base/trials.jsonl")), text(out.join("tuned/trials.jsonl")));
    std::fs::remove_dir_all(out.join("tuned")).unwrap();
    assert_eq!(eval(&shared, &arguments).code, Some(0));
    assert_eq!(text(out.join("base/trials.jsonl")), base);
    assert_eq!(text(out.join("tuned/trials.jsonl")), tuned);
}

#[test]
fn an_adapter_that_changes_nothing_is_refused_unless_it_is_wanted() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let idle = folder.path().join("idle");
    std::fs::create_dir_all(&idle).unwrap();
    let from = support::any_adapters().join("lora-mnist");
    std::fs::copy(from.join("adapter_config.json"), idle.join("adapter_config.json")).unwrap();
    let device = candle_core::Device::Cpu;
    let tensors = candle_core::safetensors::load(from.join("adapter_model.safetensors"), &device).unwrap();
    let base = candle_core::safetensors::load(shared.join("models/tiny-llava/model.safetensors"), &device).unwrap();
    let untrained = tensors.into_iter().map(|(name, tensor)| {
        let of_base = base.iter().find(|(own, _)| name.contains("projector") && name.ends_with(own.as_str()));
        let tensor = match of_base {
            Some((_, tensor)) => tensor.clone(),
            None if name.contains("lora_B") => tensor.zeros_like().unwrap(),
            None => tensor,
        };
        (name, tensor)
    });
    candle_core::safetensors::save(&untrained.collect(), idle.join("adapter_model.safetensors")).unwrap();
    let (idle, out) = (idle.display().to_string(), folder.path().join("out").display().to_string());
    assert_fails(
        &eval(&shared, &["--adapter", &idle, "--out", &out]),
        &["`idle`", "changes nothing", "--allow-noop-adapter"],
    );
    let allowed = eval(&shared, &["--adapter", &idle, "--allow-noop-adapter", "--out", &out]);
    assert_eq!(allowed.code, Some(0), "{}", allowed.stderr);
    let trials = |name: &str| text(Path::new(&out).join(name).join("trials.jsonl"));
    assert_eq!(trials("base"), trials("idle"));
}

#[test]
fn an_adapter_of_another_base_or_of_no_kind_is_refused() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").display().to_string();
    let other = support::root().join("tests/golden/fixtures/llava_peft/regex_projector").display().to_string();
    assert_fails(
        &eval(&shared, &["--adapter", &other, "--out", &out]),
        &["multi_modal_projector.linear_1.weight", "[128, 128]", "another base"],
    );
    let empty = folder.path().join("empty");
    std::fs::create_dir_all(&empty).unwrap();
    assert_fails(&eval(&shared, &["--adapter", &empty.display().to_string(), "--out", &out]), &["adapter_config.json"]);
    let lora = adapter("lora-mnist");
    assert_fails(&eval(&shared, &["--adapter", &format!("base={lora}"), "--out", &out]), &["`base`", "NAME=DIR"]);
    assert_fails(&eval(&shared, &["--adapter", &lora, "--adapter", &lora, "--out", &out]), &["`lora-mnist`"]);
    let merged_and_rounded = ["--adapter", &lora, "--merge", "--dtype", "f32+int8", "--out", &out];
    assert_fails(&eval(&shared, &merged_and_rounded), &["--merge", "leave `+int8` out"]);
    assert!(!Path::new(&out).join("lora-mnist").exists(), "nothing is begun that is refused");
}

#[test]
fn a_merged_adapter_is_another_run_than_the_same_beside_its_base() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let lora = adapter("lora-cifar10");
    let identity = |name: &str, arguments: &[&str]| {
        let out = folder.path().join(name);
        let finished = eval(
            &shared,
            &[&["--adapter", &lora, "--no-base", "--out", &out.display().to_string()], arguments].concat(),
        );
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let run: serde_json::Value = serde_json::from_str(&text(out.join("run.json"))).unwrap();
        (run["identity"].as_str().unwrap().to_owned(), run["spec"]["model"]["merged"].as_bool().unwrap())
    };
    let (beside, merged) = (identity("beside", &[]), identity("merged", &["--merge"]));
    assert_ne!(beside.0, merged.0);
    assert_eq!((beside.1, merged.1), (false, true));
}
