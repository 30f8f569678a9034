//! `emt sweep` through the program: what it leaves, what it does not repeat, and what it refuses.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::support::{self, finish};

/// Two datasets, few images, one epoch.
const SHARED: &str = "model = \"embedded\"\ntrain = \"embedded/mnist\"\neval_datasets = [\"embedded/mnist\", \"embedded/cifar10\"]\n\
                      epochs = 1\nlimit = 12\neval_limit = 12\nmax_new_tokens = 8\nanswer_template = \"{label}\"\n";

fn sweep(folder: &Path, arms: &str) -> Command {
    std::fs::write(folder.join("arms.toml"), format!("{SHARED}{arms}")).unwrap();
    let mut command = support::emt();
    command.current_dir(folder).args(["sweep", "arms.toml", "--out", "out"]);
    command
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

const TWO_ARMS: &str = "[arms.linear]\nmethod = \"linear\"\n[arms.lora]\nmethod = \"lora\"\nrank = 4\n";

#[test]
fn a_sweep_trains_every_arm_ranks_them_and_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let finished = finish(&mut sweep(folder.path(), TWO_ARMS));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    for word in ["linear", "lora", "gain", "forgetting", "rank"] {
        assert!(finished.stdout.contains(word), "{word}: {}", finished.stdout);
    }
    // The base is asked once, and every image passes the tower once.
    assert!(
        finished.stderr.contains("the base's answers are those of out/linear/seed-0/eval/epoch-0"),
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains("100.0% of 12 lookups were covered"), "{}", finished.stderr);
    let out = folder.path().join("out");
    for file in ["sweep.md", "sweep.html", "frontier.svg", "frontier.png", "roses.svg", "roses.png"] {
        assert!(out.join(file).is_file(), "{file}");
    }
    for arm in ["linear", "lora"] {
        for file in ["curve.json", "training.json", "eval/epoch-0/trials.jsonl", "eval/epoch-1/trials.jsonl"] {
            assert!(out.join(arm).join("seed-0").join(file).is_file(), "{arm}: {file}");
        }
    }
    let trials = |arm: &str, epoch: usize| {
        let path = out.join(format!("{arm}/seed-0/eval/epoch-{epoch}/trials.jsonl"));
        std::fs::read_to_string(path).unwrap()
    };
    assert_eq!(trials("linear", 0), trials("lora", 0));
    check_rows(&json(out.join("sweep.json")), |arm, epoch, dataset| {
        let lines = trials(arm, epoch);
        let of_dataset = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let outcomes: Vec<bool> =
            of_dataset.filter(|trial| trial["dataset"] == dataset).map(|trial| trial["outcome"] == "correct").collect();
        outcomes.iter().filter(|&&is_correct| is_correct).count() as f64 / outcomes.len() as f64
    });
    let (first, first_page) =
        (std::fs::read(out.join("sweep.json")).unwrap(), std::fs::read(out.join("sweep.html")).unwrap());
    let written = std::fs::metadata(out.join("lora/seed-0/adapter_model.safetensors")).unwrap().modified().unwrap();
    let again = finish(&mut sweep(folder.path(), TWO_ARMS));
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_eq!(again.stderr.matches("finished before").count(), 2, "{}", again.stderr);
    assert_eq!(std::fs::read(out.join("sweep.json")).unwrap(), first);
    assert_eq!(std::fs::read(out.join("sweep.html")).unwrap(), first_page);
    let weights = out.join("lora/seed-0/adapter_model.safetensors");
    assert_eq!(std::fs::metadata(weights).unwrap().modified().unwrap(), written);
}

/// Every row has the numbers that the runs have.
fn check_rows(sweep: &Value, accuracy: impl Fn(&str, usize, &str) -> f64) {
    assert_eq!(sweep["schema"], "emt.sweep/1");
    let rows = sweep["arms"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let arm = row["arm"].as_str().unwrap();
        assert_eq!((&row["epoch"], &row["seed"], &row["method"]), (&1.into(), &0.into(), &arm.into()));
        let change = |dataset: &str| accuracy(arm, 1, dataset) - accuracy(arm, 0, dataset);
        assert!((row["gain"].as_f64().unwrap() - change("embedded/mnist")).abs() < 1e-12, "{row}");
        assert!((row["forgetting"].as_f64().unwrap() + change("embedded/cifar10")).abs() < 1e-12, "{row}");
        for (value, interval) in [("gain", "gain_interval"), ("forgetting", "forgetting_interval")] {
            let ends: Vec<f64> = row[interval].as_array().unwrap().iter().map(|end| end.as_f64().unwrap()).collect();
            let value = row[value].as_f64().unwrap();
            assert!(ends[0] < value && value < ends[1], "{row}");
        }
        assert!(row["rank"].as_u64().is_some() || row["has_equal_gain"] == false, "{row}");
        assert!(row["n_trainable"].as_u64().unwrap() > 10_000, "{row}");
    }
}

#[test]
fn an_arm_that_diverges_is_recorded_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let arms = "seeds = [0, 5]\n[arms.wild]\nmethod = \"lora\"\nlearning_rate = 1e30\nmax_grad_norm = 0\n[arms.linear]\nmethod = \"linear\"\n";
    let finished = finish(sweep(folder.path(), arms).arg("--quiet"));
    assert_eq!(finished.code, Some(2));
    assert!(
        finished.stderr.contains("the arm `wild` with seed 5 failed") && finished.stderr.contains("not finite"),
        "{}",
        finished.stderr
    );
    let found = json(folder.path().join("out/sweep.json"));
    let failed = found["failed"].as_array().unwrap();
    assert_eq!(failed.len(), 2);
    assert!(failed[0]["message"].as_str().unwrap().contains("not finite"), "{failed:?}");
    let seeds: Vec<&Value> = found["arms"].as_array().unwrap().iter().map(|row| &row["seed"]).collect();
    assert_eq!(seeds, [&Value::from(0), &Value::from(5), &Value::Null]);
    assert_eq!(found["arms"][2]["rank"], 1);
}

#[test]
fn another_setting_in_a_finished_folder_is_refused_by_name_and_more_images_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let arm = "[arms.linear]\nmethod = \"linear\"\n";
    let finished = finish(sweep(folder.path(), arm).arg("--quiet"));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let finished = finish(sweep(folder.path(), &format!("{arm}learning_rate = 1e-4\n")).arg("--quiet"));
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("hyperparameters.learning_rate"), "{}", finished.stderr);
    let more = sweep(folder.path(), &format!("{arm}eval_limit = 16\n")).arg("--quiet").output().unwrap();
    assert_eq!(more.status.code(), Some(0), "{more:?}");
    let found = json(folder.path().join("out/sweep.json"));
    assert_eq!(found["tasks"][0]["datasets"][1]["n_images"], 16);
}

#[test]
fn a_folder_that_another_sweep_uses_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let held = emt::record::FolderLock::new(&folder.path().join("out")).unwrap();
    let finished = finish(&mut sweep(folder.path(), TWO_ARMS));
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("in use by another emt process"), "{}", finished.stderr);
    assert!(!folder.path().join("out/linear").exists());
    drop(held);
}

/// The arms, and words that the message must hold. Nothing is trained.
#[test]
fn a_mistake_is_told_before_anything_is_trained() {
    let cases: [(&str, &[&str]); 5] = [
        (
            "[arms.a]\nmethod = \"linear\"\n[arms.b]\nmethod = \"lora\"\nrnak = 3\n",
            &["arms.toml", "[arms.b]", "line 13", "`rank`"],
        ),
        (
            "[arms.a]\nmethod = \"linear\"\n[arms.b]\nmethod = \"linear\"\ntrain = \"nothing\"\n",
            &["the arm `b`", "nothing"],
        ),
        ("[arms.a]\nmethod = \"linear\"\neval_datasets = \"none\"\neval_limit = 3\n", &["[arms.a]", "--eval-limit"]),
        (
            "[arms.a]\nmethod = \"linear\"\n[arms.b]\nmethod = \"linear\"\nlearning_rate = 0\n",
            &["the arm `b`", "--learning-rate"],
        ),
        ("[arms.a]\nmethod = \"linear\"\neval_datasets = \"none\"\n", &["eval_limit", "no effect on any arm"]),
    ];
    for (arms, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let finished = finish(&mut sweep(folder.path(), arms));
        assert_eq!(finished.code, Some(2), "{arms}: {}", finished.stderr);
        for word in words {
            assert!(finished.stderr.contains(word), "{word}: {}", finished.stderr);
        }
        assert!(!folder.path().join("out").exists(), "{arms}");
    }
}
