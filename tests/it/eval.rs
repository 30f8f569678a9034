//! `emt eval` on real images: answers equal those of transformers, and no answer depends on how it was batched.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use super::support::{self, Finished, emt, finish};

/// Images a dataset in the run that several tests read.
const LIMIT: usize = 250;

/// What is left of two logits or cosines where rounding may choose between them.
const NEAR_TIE: f64 = 1e-3;

/// By so much sums of another order may differ.
const ROUNDING: f64 = 1e-4;

/// `emt eval` of the small pair into `out`; datasets and the rest are the caller's.
pub fn eval(shared: &Path, datasets: &str, out: &Path) -> Command {
    let mut command = emt();
    command.arg("eval").arg("--model").arg(shared.join("models/tiny-llava"));
    command.arg("--encoder").arg(shared.join("models/tiny-clip")).arg("--data").arg(shared.join("data"));
    command.args(["--datasets", datasets, "--out"]).arg(out);
    command
}

/// The command's result, which must be a success.
pub fn succeed(command: &mut Command) -> Finished {
    let finished = finish(command);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished
}

/// The trials of a run, in the order of the file.
pub fn trials(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("trials.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A dataset of `n_per_class` images of each class of the real folder.
fn small_folder(shared: &Path, root: &Path, n_per_class: usize) -> PathBuf {
    let folder = root.join("objects/val");
    for class in fs::read_dir(shared.join("data/imagenet20/val")).unwrap() {
        let class = class.unwrap().path();
        let copy = folder.join(class.file_name().unwrap());
        fs::create_dir_all(&copy).unwrap();
        let mut files: Vec<PathBuf> = fs::read_dir(&class).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in &files[..n_per_class] {
            fs::write(copy.join(file.file_name().unwrap()), fs::read(file).unwrap()).unwrap();
        }
    }
    folder
}

/// One run over all four datasets, made once for the tests that only read it.
struct AnyRun {
    _folder: tempfile::TempDir,
    run: PathBuf,
    finished: Finished,
}

fn any_run() -> &'static AnyRun {
    static RUN: OnceLock<AnyRun> = OnceLock::new();
    RUN.get_or_init(|| {
        let shared = support::any_shared();
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let datasets = format!("mnist,cifar10,cifar100,{}", shared.join("data/imagenet20/val").display());
        let finished =
            succeed(eval(&shared, &datasets, &run).args(["--limit", &LIMIT.to_string(), "--judge", "rules"]));
        AnyRun { _folder: folder, run, finished }
    })
}

/// The lines of a reference behind its header, by sample.
fn reference(path: &Path) -> BTreeMap<String, Value> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| (line["sample"].as_str().unwrap().to_owned(), line)).collect()
}

/// Compares one subject's trials with `models/<folder>`; at most `share_different` may differ, and only where
/// `gap` of trial and reference says that the two best were nearly equal.
fn assert_as_transformers(subject: &str, folder: &str, share_different: f64, gap: impl Fn(&Value, &Value) -> f64) {
    let Some(shared) = support::shared() else { return };
    let run = &any_run().run;
    let mut references = BTreeMap::new();
    for (dataset, file) in
        [("mnist", "mnist"), ("cifar10", "cifar10"), ("cifar100", "cifar100"), ("imagenet20/val", "imagenet20")]
    {
        references.insert(dataset, reference(&shared.join(format!("models/{folder}/{file}.jsonl"))));
    }
    let trials: Vec<Value> = trials(run).into_iter().filter(|trial| trial["subject"] == subject).collect();
    assert_eq!(trials.len(), 4 * LIMIT);
    let mut n_different = 0;
    for trial in &trials {
        let expected = &references[trial["dataset"].as_str().unwrap()][trial["sample"].as_str().unwrap()];
        assert_eq!(trial["label"], expected["label"]);
        let answer = trial["answer"].as_str().unwrap();
        if answer.trim() != expected["answer"].as_str().unwrap().trim() {
            n_different += 1;
            let gap = gap(trial, expected);
            assert!(gap < NEAR_TIE, "no near-tie ({gap}): {trial} against {expected}");
        }
    }
    assert!(n_different as f64 <= share_different * trials.len() as f64, "{n_different} of {} differ", trials.len());
}

#[test]
fn answers_equal_those_of_transformers_but_for_near_ties() {
    assert_as_transformers("model", "answers", 0.002, |trial, _| trial["logit_gap"].as_f64().unwrap());
}

#[test]
fn the_encoders_labels_equal_those_of_transformers_but_for_near_ties() {
    assert_as_transformers("encoder", "encoder_answers", 0.001, |_, expected| {
        expected["cosine"].as_f64().unwrap() - expected["second"].as_f64().unwrap()
    });
}

#[test]
fn a_finished_run_leaves_every_file_and_the_table_says_what_the_summary_says() {
    let AnyRun { run, finished, .. } = any_run();
    let files =
        ["run.json", "trials.jsonl", "summary.json", "summary.csv", "report.html", "report.md", "rose.svg", "rose.png"];
    for name in files {
        assert!(fs::metadata(run.join(name)).unwrap().len() > 100, "{name}");
    }
    let summary: Value = serde_json::from_str(&fs::read_to_string(run.join("summary.json")).unwrap()).unwrap();
    assert_eq!((&summary["schema"], &summary["encoder"]["tower_equal"]), (&"emt.summary/1".into(), &true.into()));
    let manifest: Value = serde_json::from_str(&fs::read_to_string(run.join("run.json")).unwrap()).unwrap();
    assert_eq!(manifest["state"], "complete");
    for dataset in summary["datasets"].as_array().unwrap() {
        let name = dataset["dataset"].as_str().unwrap();
        let row = finished.stdout.lines().find(|line| line.starts_with(name)).expect("the table has the dataset");
        let accuracy = format!("{:.1} [", 100.0 * dataset["model"]["accuracy"].as_f64().unwrap());
        let retention = format!("{:.1} [", 100.0 * dataset["retention"].as_f64().unwrap());
        assert!(row.contains(&accuracy) && row.contains(&retention), "{row}");
        assert_eq!(dataset["model"]["n_unscored"], 0);
    }
}

#[test]
fn an_encoder_that_computes_otherwise_than_the_equal_tower_passes_its_own() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other-clip");
    fs::create_dir(&other).unwrap();
    for file in fs::read_dir(shared.join("models/tiny-clip")).unwrap() {
        let file = file.unwrap().path();
        fs::write(other.join(file.file_name().unwrap()), fs::read(&file).unwrap()).unwrap();
    }
    let config = other.join("config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    assert_eq!(json["vision_config"]["hidden_act"], "quick_gelu");
    json["vision_config"]["hidden_act"] = "gelu".into();
    fs::write(&config, json.to_string()).unwrap();
    let of = |name: &str, arguments: &[&str]| {
        let out = folder.path().join(name);
        succeed(eval(&shared, "cifar10", &out).args(["--limit", "20"]).args(arguments));
        let (models, encoders): (Vec<Value>, Vec<Value>) =
            trials(&out).into_iter().partition(|trial| trial["subject"] == "model");
        (models, encoders.into_iter().map(|mut trial| trial["scores"].take()).collect::<Vec<Value>>())
    };
    let (answers, scores) = of("own", &[]);
    let (other_answers, other_scores) = of("other", &["--encoder", &other.display().to_string()]);
    assert_eq!(other_answers, answers);
    assert!(other_scores.iter().zip(&scores).all(|(other, own)| other != own), "{other_scores:?}");
}

#[test]
fn an_answer_depends_neither_on_the_batch_size_nor_on_its_neighbours() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let images = small_folder(&shared, folder.path(), 2).display().to_string();
    let run = |name: &str, arguments: &[&str]| {
        let out = folder.path().join(name).join("run");
        succeed(eval(&shared, &images, &out).args(arguments));
        out
    };
    let one = trials(&run("one", &["--batch-size", "1"]));
    assert_eq!(one.len(), 2 * 2 * 20);
    for (name, arguments) in [
        ("three", &["--batch-size", "3"][..]),
        ("eight", &["--batch-size", "8"]),
        // All images in another order, so each has other neighbours.
        ("shuffled", &["--batch-size", "8", "--sample-seed", "99"]),
    ] {
        let other = trials(&run(name, arguments));
        assert_eq!(one.len(), other.len());
        for (one, other) in one.iter().zip(&other) {
            assert_eq!(without_rounding(one), without_rounding(other), "{name}");
            for pointer in ["/logit_gap", "/scores/0/score", "/scores/4/score"] {
                let number = |trial: &Value| trial.pointer(pointer).and_then(Value::as_f64);
                let distance = number(one).zip(number(other)).map_or(0.0, |(one, other)| (one - other).abs());
                assert!(distance < ROUNDING, "{name}: {pointer} of {one} and {other}");
            }
        }
    }
}

/// A trial without the numbers in whose last digits the order of additions shows.
fn without_rounding(trial: &Value) -> Value {
    let mut trial = trial.clone();
    trial.as_object_mut().unwrap().remove("logit_gap");
    for score in trial.get_mut("scores").and_then(Value::as_array_mut).into_iter().flatten() {
        score.as_object_mut().unwrap().remove("score");
    }
    trial
}

#[test]
fn a_larger_limit_goes_on_and_ends_as_if_it_had_been_asked_for_at_once() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let (grown, whole) = (folder.path().join("grown/run"), folder.path().join("whole/run"));
    let limit = |out: &Path, limit: &str| succeed(eval(&shared, "mnist,cifar10", out).args(["--limit", limit]));
    limit(&grown, "12");
    let finished = limit(&grown, "30");
    assert!(finished.stderr.contains("24 recorded already"), "{}", finished.stderr);
    limit(&whole, "30");
    for name in ["trials.jsonl", "summary.json", "summary.csv", "rose.svg"] {
        let read = |run: &Path| fs::read_to_string(run.join(name)).unwrap();
        assert!(read(&grown) == read(&whole), "`{name}` differs");
    }
}

#[test]
fn another_run_in_the_same_folder_is_refused_with_the_name_of_what_differs() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let four = |out: &Path, more: &[&str]| finish(eval(&shared, "mnist", out).args(["--limit", "4"]).args(more));
    assert_eq!(four(&out, &[]).code, Some(0));
    let before = fs::read(out.join("trials.jsonl")).unwrap();
    for (more, field) in [
        (&["--max-new-tokens", "8"][..], "max_new_tokens"),
        (&["--prompt", "emt-open"], "prompt"),
        (&["--template", "vicuna_v1"], "chat_template"),
        (&["--sample-seed", "7"], "sample_seed"),
        (&["--dtype", "bf16"], "compute_type"),
        (&["--dtype", "f32+int8"], "compute_type"),
        (&["--encoder", "none"], "encoder"),
        (&["--datasets", "mnist,cifar10"], "datasets"),
    ] {
        let finished = four(&out, more);
        assert_eq!(finished.code, Some(2), "{more:?}");
        let error = finished.stderr.lines().last().unwrap();
        assert!(error.contains(field) && error.contains("hint: give another folder"), "{more:?}: {error}");
    }
    let finished = four(&out, &["--fresh"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("--fresh starts only in a new folder"), "{}", finished.stderr);
    assert_eq!(fs::read(out.join("trials.jsonl")).unwrap(), before, "a refused run changes nothing");
    assert_eq!(four(&folder.path().join("new"), &["--fresh"]).code, Some(0));
}

#[test]
fn a_configuration_file_gives_flags_and_the_command_line_wins() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("emt.toml");
    let path = |name: &str| shared.join(name).display().to_string();
    let text = format!(
        "model = '{}'\nencoder = '{}'\ndata = '{}'\ndatasets = ['mnist', 'cifar10']\nlimit = 500\nquiet = true\n\
         format = 'json'\nbatch_size = 4\n",
        path("models/tiny-llava"),
        path("models/tiny-clip"),
        path("data")
    );
    fs::write(&config, text).unwrap();
    let out = folder.path().join("run");
    let finished = succeed(emt().arg("eval").arg("--config").arg(&config).args(["--limit", "5", "--out"]).arg(&out));
    // One document on standard output, and nothing else anywhere.
    let document: Value = serde_json::from_str(&finished.stdout).unwrap();
    let summary: Value = serde_json::from_str(&fs::read_to_string(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!(document, summary);
    assert_eq!(finished.stderr, "");
    let datasets = document["datasets"].as_array().unwrap();
    assert_eq!(datasets.len(), 2);
    assert!(datasets.iter().all(|dataset| dataset["n_samples"] == 5), "{document}");

    fs::write(&config, "modell = 'x'\n").unwrap();
    let finished = finish(emt().arg("eval").arg("--config").arg(&config));
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("modell") && finished.stderr.contains("emt.toml"), "{}", finished.stderr);
}

#[test]
fn without_an_encoder_what_needs_one_is_null_and_one_warning_says_so() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let arguments = ["--encoder", "none", "--limit", "5"];
    let finished = succeed(eval(&shared, "mnist", &out).args(arguments));
    assert_eq!(finished.stderr.matches("without an encoder").count(), 1, "{}", finished.stderr);
    let summary: Value = serde_json::from_str(&fs::read_to_string(out.join("summary.json")).unwrap()).unwrap();
    let dataset = &summary["datasets"][0];
    assert!(dataset["encoder"].is_null() && dataset["retention"].is_null() && dataset["pairs"].is_null(), "{summary}");
    assert!(trials(&out).iter().all(|trial| trial["subject"] == "model"));
    // This checkpoint does not name its tower: where the comparison is asked for, the program asks back.
    let mut command = emt();
    command.arg("eval").arg("--model").arg(shared.join("models/tiny-llava")).arg("--data").arg(shared.join("data"));
    let finished = finish(command.args(["--comparator", "zero-shot"]));
    assert_eq!(finished.code, Some(2));
    for words in ["does not say which encoder", "--encoder DIR", "or --encoder none"] {
        assert!(finished.stderr.contains(words), "{words}: {}", finished.stderr);
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_stops_cleanly_and_says_how_to_go_on() {
    use std::process::Stdio;
    use std::time::{Duration, Instant};
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut command = eval(&shared, "cifar100", &out);
    command.args(["--limit", "5000", "--batch-size", "2"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let start = Instant::now();
    // Once something is recorded, the program is listening.
    while fs::metadata(out.join("trials.jsonl")).map_or(0, |metadata| metadata.len()) == 0 {
        assert!(start.elapsed() < Duration::from_secs(120), "nothing was recorded");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(error.contains("interrupted; run the same command again to continue"), "{error}");
    assert!(output.stdout.is_empty(), "an interrupted run has no result");
    let n_recorded = trials(&out).len();
    assert!((1..10_000).contains(&n_recorded), "{n_recorded}");
    let manifest: Value = serde_json::from_str(&fs::read_to_string(out.join("run.json")).unwrap()).unwrap();
    assert_eq!(manifest["state"], "running");
}
