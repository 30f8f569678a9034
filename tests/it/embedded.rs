//! The miniature that is a part of the program: its images, and commands that need nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use emt::dataset::{Catalog, DataRoots, Dataset, OpenRequest, open};
use serde_json::Value;

use super::support::{Finished, root, run, shared};

const NAMES: [&str; 3] = ["mnist", "cifar10", "cifar100"];
const SPLITS: [(&str, usize); 2] = [("test", 600), ("train", 200)];

fn opened(roots: &DataRoots, name: &str, split: &str) -> Dataset {
    let request = OpenRequest { text: name, split: Some(split), labels_file: None, ..OpenRequest::default() };
    open(&Catalog::embedded(), roots, &request).unwrap()
}

/// The embedded part of a dataset, with no folder to look in.
fn embedded(name: &str, split: &str) -> Dataset {
    opened(&DataRoots::default(), &format!("embedded/{name}"), split)
}

/// What `make_embedded.py` wrote down: sample, source and content of every image, in order.
fn listed() -> Vec<[String; 3]> {
    let text = std::fs::read_to_string(root().join("tests/golden/embedded.tsv")).unwrap();
    let row = |line: &str| <[String; 3]>::try_from(line.split('\t').map(str::to_owned).collect::<Vec<_>>()).unwrap();
    text.lines().skip(1).map(row).collect()
}

#[test]
fn every_embedded_image_is_the_one_that_numpy_packed() {
    let mut found = Vec::new();
    for name in NAMES {
        for (split, n_samples) in SPLITS {
            let dataset = embedded(name, split);
            assert!(dataset.warnings.is_empty(), "{:?}", dataset.warnings);
            assert_eq!((dataset.samples.len(), dataset.is_training_split), (n_samples, split == "train"));
            for (position, sample) in dataset.samples.iter().enumerate() {
                found.push((sample.id.clone(), dataset.read(position).unwrap().content()));
            }
        }
    }
    let expected: Vec<(String, String)> = listed().into_iter().map(|[id, _, content]| (id, content)).collect();
    assert_eq!(found.len(), expected.len());
    let first = found.iter().zip(&expected).find(|(found, expected)| found != expected);
    assert!(first.is_none(), "{first:?}");
    assert_eq!(found[42].0, "embedded/mnist/test/00042");
}

#[test]
fn embedded_classes_are_balanced() {
    for name in NAMES {
        for (split, n_samples) in SPLITS {
            let dataset = embedded(name, split);
            let mut counts = vec![0; dataset.labels.len()];
            dataset.samples.iter().for_each(|sample| counts[sample.label] += 1);
            assert!(counts.iter().all(|&count| count == n_samples / counts.len()), "{name} {split}: {counts:?}");
        }
    }
}

#[test]
fn no_image_is_embedded_twice_and_training_images_are_no_test_images() {
    let listed = listed();
    for column in [1, 2] {
        let distinct: BTreeSet<(&str, &str)> =
            listed.iter().map(|row| (row[0].split('/').nth(1).unwrap(), row[column].as_str())).collect();
        assert_eq!(distinct.len(), listed.len());
    }
    // Of MNIST only test images were at hand; the others' training images come from their training parts.
    for [id, source, _] in &listed {
        let (name, split) = (id.split('/').nth(1).unwrap(), id.split('/').nth(2).unwrap());
        let origin = if name == "mnist" { "test" } else { split };
        assert!(source.starts_with(&format!("{name}/{origin}/")), "{id} from {source}");
    }
}

#[test]
fn embedded_images_equal_their_sources() {
    let Some(shared) = shared() else { return };
    let roots = DataRoots { data: Some(shared.join("data")), ..DataRoots::default() };
    let sources: BTreeMap<String, String> = listed().into_iter().map(|[id, source, _]| (id, source)).collect();
    for name in NAMES {
        let mut wholes: BTreeMap<String, (Dataset, BTreeMap<String, usize>)> = BTreeMap::new();
        for (split, _) in SPLITS {
            let part = embedded(name, split);
            for (position, sample) in part.samples.iter().enumerate() {
                let source = &sources[&sample.id];
                let origin = source.split('/').nth(1).unwrap();
                let (whole, positions) = wholes.entry(origin.to_owned()).or_insert_with(|| {
                    let whole = opened(&roots, name, origin);
                    let positions = whole.samples.iter().enumerate().map(|(i, sample)| (sample.id.clone(), i));
                    let positions = positions.collect();
                    (whole, positions)
                });
                let in_whole = positions[source];
                assert_eq!(part.labels, whole.labels);
                assert_eq!(sample.label, whole.samples[in_whole].label, "{source}");
                assert!(part.read(position).unwrap() == whole.read(in_whole).unwrap(), "{source}");
            }
        }
    }
}

// ---- commands ----

fn succeeded(finished: Finished) -> Finished {
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished
}

fn eval(out: &Path, rest: &[&str]) -> Value {
    let out = out.to_str().unwrap();
    let arguments =
        ["eval", "--model", "embedded", "--format", "json", "--out", out].into_iter().chain(rest.iter().copied());
    serde_json::from_str(&succeeded(run(arguments)).stdout).unwrap()
}

fn accuracy(dataset: &Value, subject: &str) -> f64 {
    dataset[subject]["accuracy"].as_f64().unwrap()
}

#[test]
fn the_miniature_is_evaluated_on_a_bare_machine_and_ends_equal_each_time() {
    let folders = tempfile::tempdir().unwrap();
    // Equal last parts, since a summary carries the folder's name.
    let (first, second) = (folders.path().join("first/run"), folders.path().join("second/run"));
    let summary = eval(&first, &["--limit", "30", "--batch-size", "10"]);
    let datasets = summary["datasets"].as_array().unwrap();
    let names: Vec<&str> = datasets.iter().map(|dataset| dataset["dataset"].as_str().unwrap()).collect();
    assert_eq!(names, ["embedded/mnist", "embedded/cifar10", "embedded/cifar100"]);
    assert_eq!(summary["encoder"]["relation"], "own");
    assert_eq!(summary["encoder"]["tower_equal"], true);
    // Far above chance, which is 0.1, 0.1 and 0.01.
    for (dataset, at_least) in datasets.iter().zip([0.3, 0.3, 0.1]) {
        assert_eq!(dataset["n_samples"], 30);
        for subject in ["model", "encoder"] {
            let found = accuracy(dataset, subject);
            assert!((at_least..1.0).contains(&found), "{} {subject}: {found}", dataset["dataset"]);
        }
    }
    eval(&second, &["--limit", "30", "--batch-size", "10", "--encoder", "embedded"]);
    for name in ["summary.json", "trials.jsonl"] {
        let read = |dir: &Path| std::fs::read_to_string(dir.join(name)).unwrap();
        assert!(read(&first) == read(&second), "`{name}` differs");
    }
}

#[test]
fn rounding_to_half_precision_changes_hardly_an_answer() {
    let Some(shared) = shared() else { return };
    let folders = tempfile::tempdir().unwrap();
    let out = folders.path().join("run");
    eval(&out, &["--limit", "100"]);
    // The answers of the f32 models, by transformers.
    let mut expected: BTreeMap<(&str, String), String> = BTreeMap::new();
    for (subject, folder) in [("model", "answers"), ("encoder", "encoder_answers")] {
        for name in NAMES {
            let text = std::fs::read_to_string(shared.join(format!("models/{folder}/{name}.jsonl"))).unwrap();
            for line in text.lines().skip(1) {
                let line: Value = serde_json::from_str(line).unwrap();
                let text = |key: &str| line[key].as_str().unwrap().to_owned();
                expected.insert((subject, text("sample")), text("answer"));
            }
        }
    }
    let sources: BTreeMap<String, String> = listed().into_iter().map(|[id, source, _]| (id, source)).collect();
    let trials = std::fs::read_to_string(out.join("trials.jsonl")).unwrap();
    let (mut n_trials, mut different) = (0, Vec::new());
    for trial in trials.lines() {
        let trial: Value = serde_json::from_str(trial).unwrap();
        let subject = if trial["subject"] == "model" { "model" } else { "encoder" };
        let source = &sources[trial["sample"].as_str().unwrap()];
        n_trials += 1;
        if expected[&(subject, source.clone())] != trial["answer"].as_str().unwrap().trim() {
            different.push((subject, source));
        }
    }
    assert_eq!(n_trials, 600);
    assert!(different.len() <= 3, "{different:?}");
}

#[test]
fn the_miniatures_encoder_is_the_tower_of_the_model_that_it_was_rounded_from() {
    let Some(shared) = shared() else { return };
    let folders = tempfile::tempdir().unwrap();
    let (model, out) = (shared.join("models/tiny-llava"), folders.path().join("run"));
    let rest = ["--encoder", "embedded", "--datasets", "embedded/mnist", "--limit", "10", "--format", "json"];
    let start = ["eval", "--model", model.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let summary: Value = serde_json::from_str(&succeeded(run(start.into_iter().chain(rest))).stdout).unwrap();
    assert_eq!(summary["encoder"]["relation"], "own");
}

#[test]
fn embedded_datasets_are_listed_and_verified_and_cannot_be_fetched() {
    let list = succeeded(run(["data", "list", "--format", "json"]));
    let list: Value = serde_json::from_str(&list.stdout).unwrap();
    let rows: Vec<&Value> =
        list["datasets"].as_array().unwrap().iter().filter(|row| row["is_embedded"] == true).collect();
    assert_eq!(rows.len(), 6);
    let cifar100 = rows.iter().find(|row| row["dataset"] == "embedded/cifar100" && row["split"] == "train").unwrap();
    assert_eq!((cifar100["n_samples"].as_u64(), cifar100["n_classes"].as_u64()), (Some(200), Some(100)));
    assert_eq!((&cifar100["path"], &cifar100["fault"]), (&Value::Null, &Value::Null));

    let verified = succeeded(run(["data", "verify", "embedded/mnist,embedded/cifar10,embedded/cifar100", "--quiet"]));
    assert_eq!(verified.stdout.matches("good; 600 of 600 images decode").count(), 3, "{}", verified.stdout);

    let fetched = run(["data", "fetch", "embedded/mnist"]);
    assert_eq!(fetched.code, Some(2));
    assert!(fetched.stderr.contains("a part of the program"), "{}", fetched.stderr);
}

#[test]
fn a_folder_called_embedded_is_reached_by_its_path() {
    let finished = run(["eval", "--model", "./embedded", "--datasets", "embedded/mnist"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("`./embedded`: there is no such folder"), "{}", finished.stderr);
}
