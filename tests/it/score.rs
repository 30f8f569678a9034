//! Label scoring, from the command line to the run folder: on the miniature, which every program carries.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::eval::{succeed, trials};
use super::support::{emt, finish};

/// `emt eval` of the miniature in `modes`, `limit` images a dataset.
fn eval(modes: &str, limit: usize, out: &Path) -> Command {
    let mut command = emt();
    command.args(["eval", "--model", "embedded", "--datasets", "embedded/mnist,embedded/cifar10", "--modes", modes]);
    command.args(["--limit", &limit.to_string(), "--batch-size", "4", "--out"]).arg(out);
    command
}

fn text(run: &Path, name: &str) -> String {
    fs::read_to_string(run.join(name)).unwrap()
}

fn summary(run: &Path) -> Value {
    serde_json::from_str(&text(run, "summary.json")).unwrap()
}

fn of_mode(run: &Path, mode: &str) -> Vec<Value> {
    trials(run).into_iter().filter(|trial| trial["mode"] == mode).collect()
}

#[track_caller]
fn assert_equal(left: &Path, right: &Path) {
    for name in ["trials.jsonl", "summary.json"] {
        assert!(text(left, name) == text(right, name), "`{name}` differs");
    }
}

#[test]
fn a_run_in_both_modes_has_a_trial_of_each_and_generates_as_it_does_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (both, generated, scored) =
        (folder.path().join("both"), folder.path().join("generated"), folder.path().join("scored"));
    let finished = succeed(&mut eval("score, generate", 10, &both));
    assert!(finished.stdout.contains("label scoring") && finished.stdout.contains("prior-corrected"), "{finished:?}");
    let alone = succeed(&mut eval("generate", 10, &generated));
    assert!(!alone.stdout.contains("label scoring") && !alone.stdout.contains("prior-corrected"), "{alone:?}");
    succeed(&mut eval("score", 10, &scored));
    assert_eq!(of_mode(&both, "generate"), of_mode(&generated, "generate"));
    assert_eq!(of_mode(&both, "score"), of_mode(&scored, "score"));
    assert_eq!(of_mode(&both, "zero_shot"), of_mode(&scored, "zero_shot"));

    let all = trials(&both);
    assert_eq!(all.len(), 2 * 10 * 3);
    let modes: Vec<&str> = all[..3].iter().map(|trial| trial["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, ["generate", "score", "zero_shot"]);
    for trial in of_mode(&both, "score") {
        let best = &trial["scores"][0];
        assert_eq!(trial["answer"], best["label"], "{trial}");
        assert!(best["score"].as_f64().unwrap() < 0.0 && best["share"].as_f64().unwrap() <= 1.0, "{trial}");
        assert_eq!(trial["scores"].as_array().unwrap().len(), 5);
        let is_correct = trial["answer"] == trial["label"];
        assert_eq!(trial["outcome"] == "correct", is_correct, "{trial}");
        assert_eq!(trial["code"] == "wrong", !is_correct, "{trial}");
        let corrected = &trial["prior_corrected"];
        assert_eq!(corrected["outcome"] == "correct", corrected["answer"] == trial["label"], "{trial}");
        assert!(trial.get("verdicts").is_none() && trial.get("stop").is_none(), "{trial}");
    }
}

#[test]
fn the_summary_and_every_report_have_label_scoring_beside_generation() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    succeed(&mut eval("generate,score", 20, &out));
    for dataset in summary(&out)["datasets"].as_array().unwrap() {
        let name = dataset["dataset"].as_str().unwrap();
        let scored: Vec<Value> =
            of_mode(&out, "score").into_iter().filter(|trial| trial["dataset"] == dataset["dataset"]).collect();
        let share = |is_correct: &dyn Fn(&Value) -> bool| {
            scored.iter().filter(|trial| is_correct(trial)).count() as f64 / scored.len() as f64
        };
        let model = &dataset["model_score"];
        assert_eq!(model["accuracy"], share(&|trial| trial["outcome"] == "correct"), "{name}");
        let corrected = share(&|trial| trial["prior_corrected"]["outcome"] == "correct");
        assert_eq!(model["prior_corrected_accuracy"], corrected, "{name}");
        assert!(model["prior_corrected_interval"][0].as_f64().unwrap() <= corrected);
        assert!(dataset["model"].get("prior_corrected_accuracy").is_none());
        // The miniature sees: a choice among ten labels at random would be right in two of twenty.
        assert!(model["accuracy"].as_f64().unwrap() > 0.3, "{model}");
    }
    for name in ["report.html", "report.md"] {
        let page = text(&out, name);
        assert!(page.contains("Label scoring") && page.contains("Prior-corrected"), "{name}");
    }
    assert!(text(&out, "summary.csv").lines().next().unwrap().contains("prior_corrected_accuracy"));
    let manifest: Value = serde_json::from_str(&text(&out, "run.json")).unwrap();
    assert_eq!(manifest["spec"]["modes"], json!(["generate", "score"]));
    let comparable = &manifest["comparable"]["prompt_ids"]["embedded/mnist"]["model"];
    assert_eq!(comparable["score"], comparable["generate"]);
}

#[test]
fn a_larger_limit_and_lost_trials_end_as_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, grown) = (folder.path().join("whole/run"), folder.path().join("grown/run"));
    succeed(&mut eval("generate,score", 14, &whole));
    succeed(&mut eval("generate,score", 6, &grown));
    succeed(&mut eval("generate,score", 14, &grown));
    assert_equal(&whole, &grown);
    // A journal that ends anywhere, and of which one mode lost a trial, is completed.
    let lines: Vec<String> = text(&whole, "trials.jsonl").lines().map(str::to_owned).collect();
    let is_lost = |index: usize, line: &str| index > 60 || line.contains(r#""mode":"score""#) && index < 20;
    let kept: Vec<&str> = lines
        .iter()
        .enumerate()
        .filter(|(index, line)| !is_lost(*index, line))
        .map(|(_, line)| line.as_str())
        .collect();
    fs::write(grown.join("trials.jsonl"), kept.join("\n") + "\n{\"torn").unwrap();
    succeed(&mut eval("score,generate", 14, &grown));
    assert_equal(&whole, &grown);
}

#[test]
fn another_choice_of_modes_is_another_run() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    succeed(&mut eval("generate", 2, &out));
    let finished = finish(&mut eval("generate,score", 2, &out));
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("modes"), "{}", finished.stderr);
}

#[test]
fn modes_that_are_unknown_or_named_twice_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (modes, words) in [
        ("guess", ["`guess`", "generate,score"]),
        ("generate,", ["``", "generate,score"]),
        ("zero_shot", ["`zero_shot`", "generate,score"]),
        ("score,score", ["`score`", "twice"]),
    ] {
        let finished = finish(&mut eval(modes, 2, &folder.path().join("run")));
        assert_eq!(finished.code, Some(2), "{modes}");
        assert!(words.iter().all(|word| finished.stderr.contains(word)), "{modes}: {}", finished.stderr);
    }
}

#[test]
fn judging_again_takes_label_scoring_over_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old/run"), folder.path().join("new/run"));
    succeed(&mut eval("generate,score", 6, &old));
    succeed(emt().args(["judge", "score"]).arg(&old).arg("--out").arg(&new));
    assert_equal(&old, &new);
    // Without anything generated there is nothing to judge, and all of it is taken over.
    let (old, new) = (folder.path().join("old/scored"), folder.path().join("new/scored"));
    succeed(&mut eval("score", 6, &old));
    succeed(emt().args(["judge", "score"]).arg(&old).arg("--out").arg(&new));
    assert_equal(&old, &new);
    assert!(summary(&new)["datasets"][0].get("model").is_none());
}
