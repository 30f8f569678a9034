//! `--feature-cache`: the same answers without a pass of the tower, and no trust in what is damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::probe::blinding_adapter;
use super::support::{self, Finished};

/// `emt eval` of the miniature on embedded digits, with `arguments` after it.
fn eval(out: &Path, limit: usize, arguments: &[&str]) -> Command {
    let mut command = support::emt();
    command.args(["eval", "--model", "embedded", "--datasets", "embedded/mnist,embedded/cifar10", "--limit"]);
    command.args([&limit.to_string(), "--batch-size", "8"]).args(arguments).arg("--out").arg(out);
    command
}

#[track_caller]
fn done(command: &mut Command) -> Finished {
    let finished = support::finish(command);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished
}

fn text(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn trials(run: &Path) -> String {
    text(run.join("trials.jsonl"))
}

/// The share of lookups that a finished program says were covered, and how many there were.
#[track_caller]
fn covered(finished: &Finished) -> (f64, usize) {
    let line = finished.stderr.lines().find(|line| line.starts_with("feature cache `"));
    let line = line.unwrap_or_else(|| panic!("{}", finished.stderr));
    let (share, rest) = line.split_once("`: ").unwrap().1.split_once("% of ").unwrap();
    (share.parse().unwrap(), rest.split_once(' ').unwrap().0.parse().unwrap())
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    let files = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files(cache.to_owned()).flat_map(files).collect()
}

#[test]
fn a_second_run_passes_no_tower_and_answers_the_same_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let cache = at("cache").display().to_string();
    let cached = ["--feature-cache", &cache, "--modes", "generate,score"];
    done(&mut eval(&at("without"), 20, &["--modes", "generate,score"]));
    let first = done(&mut eval(&at("first"), 20, &cached));
    let second = done(&mut eval(&at("second"), 20, &cached));
    // Of each of 40 images, what the projector reads and what the captions are compared with.
    assert_eq!((covered(&first), covered(&second)), ((0.0, 80), (100.0, 80)));
    assert_eq!(entries(&at("cache")).len(), 80);
    for run in ["first", "second"] {
        assert!(trials(&at(run)) == trials(&at("without")), "{run}");
    }
    let identity =
        |run: &str| serde_json::from_str::<Value>(&text(at(run).join("run.json"))).unwrap()["identity"].clone();
    assert_eq!(identity("second"), identity("without"));
    // Batches of which a part is known, and an encoder that stands alone.
    let larger = done(&mut eval(&at("larger"), 30, &cached));
    assert_eq!(covered(&larger), (66.7, 120));
    done(&mut eval(&at("larger-without"), 30, &["--modes", "generate,score"]));
    assert!(trials(&at("larger")) == trials(&at("larger-without")));
    let without_encoder = done(&mut eval(&at("no-encoder"), 20, &[&cached[..], &["--encoder", "none"]].concat()));
    assert_eq!(covered(&without_encoder), (100.0, 40));
}

#[test]
fn damaged_entries_are_computed_anew_and_told_of_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let cache = at("cache").display().to_string();
    let cached = ["--feature-cache", &cache];
    done(&mut eval(&at("first"), 10, &cached));
    for (index, path) in entries(&at("cache")).into_iter().enumerate() {
        let mut bytes = fs::read(&path).unwrap();
        match index % 3 {
            0 => bytes.truncate(bytes.len() / 2),
            1 => *bytes.last_mut().unwrap() ^= 1,
            _ => continue,
        }
        fs::write(path, bytes).unwrap();
    }
    let repaired = done(&mut eval(&at("repaired"), 10, &cached));
    assert_eq!(covered(&repaired), (32.5, 40));
    assert_eq!(repaired.stderr.matches("is damaged").count(), 1, "{}", repaired.stderr);
    assert!(trials(&at("repaired")) == trials(&at("first")));
    let whole = done(&mut eval(&at("whole"), 10, &cached));
    assert_eq!(covered(&whole), (100.0, 40));
}

#[test]
fn a_full_cache_says_so_and_the_run_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let cache = at("cache").display().to_string();
    done(&mut eval(&at("without"), 10, &[]));
    let full = done(&mut eval(&at("full"), 10, &["--feature-cache", &cache, "--feature-cache-gb", "0.0003"]));
    assert!(full.stderr.contains("; it is full, "), "{}", full.stderr);
    let n_bytes: u64 = entries(&at("cache")).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(n_bytes > 100_000 && n_bytes <= 300_000, "{n_bytes}");
    assert!(trials(&at("full")) == trials(&at("without")));
    let refused = support::finish(&mut eval(&at("r"), 1, &["--feature-cache", &cache, "--feature-cache-gb", "0"]));
    assert!(refused.code == Some(2) && refused.stderr.contains("--feature-cache-gb"), "{}", refused.stderr);
}

#[test]
fn runs_at_the_same_time_share_a_cache() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let cache = at("cache").display().to_string();
    let start = |name: &str| {
        eval(&at(name), 20, &["--feature-cache", &cache]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut both = ["one", "two"].map(start);
    both.iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
    assert!(trials(&at("one")) == trials(&at("two")));
    let after = done(&mut eval(&at("after"), 20, &["--feature-cache", &cache]));
    assert_eq!(covered(&after), (100.0, 80));
    assert!(entries(&at("cache")).iter().all(|path| path.extension().is_some_and(|extension| extension == "features")));
}

#[test]
fn a_model_behind_a_server_has_no_cache() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = support::emt();
    command.args(["eval", "--model", "http://127.0.0.1:9/v1", "--served-model", "m", "--datasets", "embedded/mnist"]);
    command.args(["--encoder", "none", "--feature-cache"]).arg(folder.path().join("cache"));
    let finished = support::finish(command.arg("--out").arg(folder.path().join("run")));
    assert!(finished.code == Some(2) && finished.stderr.contains("--feature-cache"), "{}", finished.stderr);
}

#[test]
fn towers_that_adapters_change_have_entries_of_their_own() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let blind = blinding_adapter(&shared, &at("blind")).display().to_string();
    let lora = support::any_adapters().join("lora-cifar10").display().to_string();
    let cache = at("cache").display().to_string();
    let run = |name: &str, arguments: &[&str]| {
        let mut command = support::emt();
        command.arg("eval").arg("--model").arg(shared.join("models/tiny-llava")).args(["--encoder", "none"]);
        command.args(["--datasets", "embedded/cifar10", "--limit", "10", "--adapter", &blind, "--adapter", &lora]);
        done(command.args(arguments).arg("--out").arg(at(name)))
    };
    run("without", &[]);
    let first = run("first", &["--feature-cache", &cache]);
    let second = run("second", &["--feature-cache", &cache]);
    // Base and LoRA share a tower.
    assert_eq!((covered(&first), covered(&second)), ((0.0, 20), (100.0, 20)));
    for adapter in ["base", "lora-cifar10", "blind"] {
        for name in ["first", "second"] {
            assert!(trials(&at(name).join(adapter)) == trials(&at("without").join(adapter)), "{name}/{adapter}");
        }
    }
}

#[test]
fn families_whose_images_keep_their_proportions_are_covered() {
    for model in ["qwen2_5_vl", "qwen3_vl", "smolvlm", "llava_onevision"].into_iter().flat_map(support::fixtures) {
        let family = model.display();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let run = |name: &str, cache: &str| {
            let mut command = support::emt();
            command.arg("eval").arg("--model").arg(&model).args(["--encoder", "none"]);
            command.args(["--datasets", "embedded/mnist", "--limit", "3", "--modes", "generate,score"]);
            done(command.args(["--feature-cache"]).arg(at(cache)).arg("--out").arg(at(name)))
        };
        run("without", "another-cache");
        run("first", "cache");
        let second = run("second", "cache");
        assert_eq!(covered(&second), (100.0, 3), "{family}");
        assert!(trials(&at("second")) == trials(&at("without")), "{family}");
    }
}

#[test]
fn a_training_takes_features_from_the_cache_and_learns_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let run = |name: &str, arguments: &[&str]| {
        let mut command = support::emt();
        command.args(["finetune", "--model", "embedded", "--method", "linear", "--train", "embedded/mnist"]);
        command.args(["--split", "train", "--limit", "16", "--epochs", "1", "--batch-size", "8"]);
        command.args(["--eval-datasets", "embedded/cifar10", "--eval-limit", "5"]);
        done(command.args(arguments).arg("--out").arg(at(name)))
    };
    let cache = at("cache").display().to_string();
    run("without", &[]);
    let first = run("first", &["--feature-cache", &cache]);
    let n_entries = entries(&at("cache")).len();
    let second = run("second", &["--feature-cache", &cache]);
    assert_eq!((covered(&first), covered(&second)), ((0.0, 16), (100.0, 16)));
    // The evaluations keep theirs, too, and the second ones found all of them.
    assert_eq!((n_entries, entries(&at("cache")).len()), (16 + 5, 16 + 5));
    for file in ["mm_projector.safetensors", "curve.json"] {
        for name in ["first", "second"] {
            let bytes = |name: &str| fs::read(at(name).join(file)).unwrap();
            assert!(bytes(name) == bytes("without"), "{name}/{file}");
        }
    }
}
