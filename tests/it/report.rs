//! `emt report` on the miniature: files, comparability, galleries, stages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use super::chromium::{Browser, Window};
use super::support::{self, Finished, emt, finish};

/// Base and a forgetful LoRA, each by generation, label scoring and encoder.
fn runs() -> &'static Path {
    static RUNS: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = RUNS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let adapter = folder.path().join("lora");
        succeed(
            emt()
                .args(["finetune", "--model", "embedded", "--method", "lora", "--train", "embedded/cifar10"])
                .args(["--answer-template", "The object is a {label}.", "--learning-rate", "2e-3", "--limit", "100"])
                .args(["--epochs", "2", "--eval-datasets", "embedded/mnist", "--eval-limit", "20", "--out"])
                .arg(&adapter),
        );
        succeed(
            emt()
                .args(["eval", "--model", "embedded", "--modes", "generate,score", "--limit", "60"])
                .args(["--datasets", "embedded/mnist,embedded/cifar10", "--adapter"])
                .arg(format!("tuned={}", adapter.display()))
                .arg("--out")
                .arg(folder.path().join("runs")),
        );
        folder
    });
    folder.path()
}

fn succeed(command: &mut Command) -> Finished {
    let finished = finish(command);
    assert_eq!(finished.code, Some(0), "{} {}", finished.stdout, finished.stderr);
    finished
}

fn report(candidate: &Path, out: &Path, arguments: &[&str]) -> Finished {
    let mut command = emt();
    command.arg("report").arg(candidate).arg("--baseline").arg(runs().join("runs/base")).arg("--out").arg(out);
    finish(command.args(arguments))
}

fn tuned() -> PathBuf {
    runs().join("runs/tuned")
}

#[test]
fn a_comparison_says_what_was_forgotten_and_where() {
    let out = tempfile::tempdir().unwrap();
    let curve = runs().join("lora").display().to_string();
    let finished = report(&tuned(), out.path(), &["--finetune", &curve, "--format", "json"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let comparison: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((&comparison["schema"], &comparison["baseline"]), (&"emt.comparison/1".into(), &"base".into()));
    let mnist = &comparison["candidates"][0]["datasets"][0];
    let n = |value: &Value| value.as_u64().unwrap();
    assert_eq!((n(&mnist["n_pairs"]), n(&mnist["n_unscored"])), (60, 0));
    let fall = (n(&mnist["n_lost"]) as f64 - n(&mnist["n_gained"]) as f64) / 60.0;
    assert!((mnist["forgetting"].as_f64().unwrap() - fall).abs() < 1e-12 && fall > 0.2, "{fall}");
    let funnel = &mnist["funnel"];
    let lost = ["lost_wording", "lost_choice", "lost_unknown"].map(|key| n(&funnel[key]));
    assert_eq!(lost.iter().sum::<u64>(), n(&mnist["n_lost"]), "{funnel}");
    for side in ["before", "after"] {
        let cells = funnel[side].as_object().unwrap();
        assert_eq!((cells.len(), cells.values().map(n).sum::<u64>()), (8, 60));
    }
    let transitions = mnist["transitions"].as_array().unwrap();
    assert_eq!(transitions.iter().map(|transition| n(&transition["n"])).sum::<u64>(), 60);
    assert_eq!(mnist["classes"].as_array().unwrap().len(), 10);
    // Answers from the labels that the adapter says it was tuned on are leaks, before as after, though nobody named them.
    assert_eq!(comparison["tuned_on"], serde_json::json!(["embedded/cifar10"]));
    assert!(n(&mnist["errors_after"]["codes"]["leak"]) > 0, "{mnist}");
    for file in
        ["report.html", "report.md", "comparison.json", "comparison.csv", "rose.svg", "rose.png", "transitions.svg"]
    {
        assert!(out.path().join(file).is_file(), "{file}");
    }
    let written = fs::read_to_string(out.path().join("comparison.json")).unwrap();
    assert_eq!(written, finished.stdout);
    open_in_a_browser(&out.path().join("report.html"));
}

/// The rows of a CSV that the command wrote.
fn rows(file: &Path) -> Vec<std::collections::BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(file).unwrap();
    reader.deserialize().map(Result::unwrap).collect()
}

#[test]
fn lost_and_gained_images_are_listed_with_what_was_said_of_them() {
    let out = tempfile::tempdir().unwrap();
    let finished = report(&tuned(), out.path(), &["--format", "json", "--no-images"]);
    let comparison: Value = serde_json::from_str(&finished.stdout).unwrap();
    let datasets = comparison["candidates"][0]["datasets"].as_array().unwrap();
    let journal = fs::read_to_string(tuned().join("trials.jsonl")).unwrap();
    for (file, key, right) in [("lost.csv", "n_lost", "baseline_code"), ("gained.csv", "n_gained", "candidate_code")] {
        let rows = rows(&out.path().join(file));
        for dataset in datasets {
            let of_dataset = rows.iter().filter(|row| row["dataset"] == dataset["dataset"].as_str().unwrap());
            assert_eq!(of_dataset.count() as u64, dataset[key].as_u64().unwrap(), "{file} {}", dataset["dataset"]);
        }
        for row in &rows {
            assert!(journal.contains(&format!(r#""sample":"{}""#, row["sample"])), "{row:?}");
            assert!(row[right].is_empty() && row["run"] == "tuned" && row["content"].starts_with("blake3:"), "{row:?}");
            assert!(["correct", "incorrect"].contains(&row["encoder_outcome"].as_str()), "{row:?}");
            assert!(["correct", "incorrect"].contains(&row["score_outcome"].as_str()), "{row:?}");
        }
    }
    let lost = rows(&out.path().join("lost.csv"));
    let funnel = &datasets[0]["funnel"];
    for stage in ["wording", "choice", "unknown"] {
        let n = lost.iter().filter(|row| row["dataset"] == "embedded/mnist" && row["lost_at"] == stage).count();
        assert_eq!(n as u64, funnel[format!("lost_{stage}")].as_u64().unwrap(), "{stage}");
    }
}

#[test]
fn a_mode_and_a_candidate_are_added_to_a_recorded_lock_step() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = runs().join("lora").display().to_string();
    let eval = |out: &str, modes: &str, names: &[&str]| {
        let mut command = emt();
        command.args(["eval", "--model", "embedded", "--datasets", "embedded/mnist", "--limit", "8", "--modes", modes]);
        for name in names {
            command.arg("--adapter").arg(format!("{name}={adapter}"));
        }
        succeed(command.args(["--batch-size", "4", "--out"]).arg(folder.path().join(out)))
    };
    let whole = eval("whole", "generate,score", &["tuned", "second"]);
    // All runs stand in one table, the candidates with their change.
    let last: Vec<&str> = whole.stdout.lines().skip_while(|line| !line.starts_with("run ")).collect();
    assert!(last[0].contains("embedded/mnist, 8 images"), "{last:?}");
    assert!(last[2].starts_with("base ") && !last[2].contains('('), "{last:?}");
    assert!(last[3].starts_with("tuned ") && last[4].starts_with("second ") && last[4].contains('('), "{last:?}");
    eval("grown", "generate", &["tuned"]);
    // A candidate is added, and only it is asked.
    let finished = eval("grown", "generate", &["tuned", "second"]);
    assert!(!finished.stderr.contains("gains"), "{}", finished.stderr);
    let finished = eval("grown", "generate,score", &["tuned", "second"]);
    assert_eq!(finished.stderr.matches("gains the mode score").count(), 3, "{}", finished.stderr);
    for run in ["base", "tuned", "second"] {
        for name in ["trials.jsonl", "summary.json"] {
            let read = |out: &str| fs::read_to_string(folder.path().join(out).join(run).join(name)).unwrap();
            assert!(read("whole") == read("grown"), "{run}: `{name}` differs");
        }
    }
}

/// The page that the command wrote, with its real images.
fn open_in_a_browser(page: &Path) {
    let Some(mut browser) = Browser::start_or_skip() else { return };
    let audit = browser.audit(page, Window { width: 1280, is_dark: false });
    assert!(audit.complaints.is_empty(), "{:?}", audit.complaints);
    let is_remote = |request: &String| !request.starts_with("file:") && !request.starts_with("data:");
    assert!(!audit.requests.iter().any(is_remote), "{:?}", audit.requests);
    assert!(audit.n_images > 0 && audit.n_broken_images == 0, "{audit:?}");
    assert_eq!((audit.overflow, &audit.cut_columns[..]), (0, &[][..]), "no column is cut off");
    let phone = browser.audit(page, Window { width: 390, is_dark: true });
    assert_eq!(phone.overflow, 0, "the page never scrolls sideways");
    assert_eq!((&phone.cut_charts[..], &phone.cut_words[..]), (&[][..], &[][..]), "charts fit a phone");
    assert!(phone.chart_text_px_min.unwrap() >= 8.99, "{:?}", phone.chart_text_px_min);
}

#[test]
fn images_are_shown_up_to_a_number_or_not_at_all() {
    let out = tempfile::tempdir().unwrap();
    let n_images = |arguments: &[&str]| {
        let finished = report(&tuned(), out.path(), arguments);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let page = fs::read_to_string(out.path().join("report.html")).unwrap();
        page.matches("data:image/png;base64,").count()
    };
    assert_eq!(n_images(&["--max-images", "3"]), 3);
    assert_eq!(n_images(&["--no-images"]), 0);
    assert!(n_images(&[]) > 3);
}

#[test]
fn runs_over_other_samples_are_refused_and_a_lacking_dataset_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (fewer, out) = (folder.path().join("fewer"), folder.path().join("out"));
    let base = ["eval", "--model", "embedded", "--encoder", "none", "--modes", "generate", "--limit"];
    succeed(emt().args(base).args(["20", "--datasets", "embedded/mnist,embedded/cifar10", "--out"]).arg(&fewer));
    let refused = report(&fewer, &out, &[]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("40 images of `embedded/mnist`"), "{}", refused.stderr);
    let allowed = report(&fewer, &out, &["--allow-different", "samples"]);
    assert_eq!(allowed.code, Some(0), "{}", allowed.stderr);
    let written: Value = serde_json::from_str(&fs::read_to_string(out.join("comparison.json")).unwrap()).unwrap();
    assert_eq!(written["allowed_different"], serde_json::json!(["samples"]));
    assert_eq!(written["candidates"][0]["datasets"][0]["n_unpaired"], 40);
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("samples"));
    let alone = folder.path().join("alone");
    succeed(emt().args(base).args(["20", "--datasets", "embedded/cifar10", "--out"]).arg(&alone));
    let lacking = report(&alone, &out, &[]);
    assert!(
        lacking.code == Some(2) && lacking.stderr.contains("lacks the dataset `embedded/mnist`"),
        "{}",
        lacking.stderr
    );
}

#[test]
fn stages_give_the_forgetting_matrix() {
    let finished = succeed(
        emt()
            .args(["report", "--format", "json", "--stages"])
            .arg(runs().join("runs/base"))
            .arg(format!("{}:embedded/cifar10", tuned().display())),
    );
    let stages: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(stages["datasets"], serde_json::json!(["embedded/cifar10", "embedded/mnist"]));
    assert_eq!(stages["stages"][1]["tuned_on"], "embedded/cifar10");
    assert_eq!(stages["average_accuracy"], stages["stages"][1]["accuracies"][0]);
    assert_eq!(stages["backward_transfer"], Value::Null, "one stage has nothing behind it");
    let unnamed = support::run(["report", "--stages", "a", "b"]);
    assert_eq!(unnamed.code, Some(2));
}

#[test]
fn without_a_baseline_a_run_is_reported_anew() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    fs::create_dir_all(&copy).unwrap();
    for file in ["run.json", "trials.jsonl"] {
        fs::copy(runs().join("runs/base").join(file), copy.join(file)).unwrap();
    }
    succeed(emt().arg("report").arg(&copy));
    let of =
        |dir: &Path| -> Value { serde_json::from_str(&fs::read_to_string(dir.join("summary.json")).unwrap()).unwrap() };
    let (mut again, first) = (of(&copy), of(&runs().join("runs/base")));
    assert_eq!(again["run"], "copy");
    again["run"] = first["run"].clone();
    assert_eq!(again, first);
    let nothing = support::run(["report"]);
    assert_eq!(nothing.code, Some(2));
}
