//! Label scoring, from the command line to the run folder: on the miniature, which every program carries.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::eval::{succeed, trials};
use super::support::{emt, finish};

/// `emt eval` of the miniature in `modes`, `limit` images per dataset.
fn eval(modes: &str, limit: usize, out: &Path) -> Command {
    let mut command = emt();
    command.args(["eval", "--model", "embedded", "--datasets", "embedded/mnist,embedded/cifar10", "--modes", modes]);
    command.args(["--limit", &limit.to_string(), "--batch-size", "4", "--out"]).arg(out);
    command
}

fn text(run: &Path, name: &str) -> String {
    fs::read_to_string(run.join(name)).unwrap()
}

fn run_json(run: &Path) -> Value {
    serde_json::from_str(&text(run, "run.json")).unwrap()
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

/// Marks the least logit gap of the first trial of `mode`, so that one sees whether it was asked again.
fn mark(run: &Path, mode: &str) {
    let is_first = |line: &&str| line.contains(&format!(r#""mode":"{mode}""#));
    let journal = text(run, "trials.jsonl");
    let first = journal.lines().find(is_first).unwrap();
    let mut trial: Value = serde_json::from_str(first).unwrap();
    trial["n_prompt_tokens"] = json!(9999);
    fs::write(run.join("trials.jsonl"), journal.replacen(first, &trial.to_string(), 1)).unwrap();
}

fn n_marked(run: &Path) -> usize {
    trials(run).iter().filter(|trial| trial["n_prompt_tokens"] == 9999).count()
}

#[test]
fn a_mode_is_added_to_a_recorded_run_which_then_equals_one_of_both_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let both = folder.path().join("both/run");
    succeed(&mut eval("generate,score", 10, &both));
    for (first, n_first) in [("generate", 10), ("score", 10), ("generate", 6)] {
        // A larger limit may come at the same time.
        let grown = folder.path().join(format!("{first}-{n_first}/run"));
        succeed(&mut eval(first, n_first, &grown));
        let before = run_json(&grown);
        let finished = succeed(&mut eval("generate,score", 10, &grown));
        assert!(finished.stderr.contains("gains the mode"), "{}", finished.stderr);
        assert_equal(&both, &grown);
        let after = run_json(&grown);
        for field in ["identity", "spec", "comparable", "prompts", "state"] {
            assert_eq!(after[field], run_json(&both)[field], "{field}");
        }
        assert_eq!(after["environment"]["earlier_identities"], json!([before["identity"]]));
        let again = succeed(&mut eval("generate,score", 10, &grown));
        assert!(!again.stderr.contains("gains"), "{}", again.stderr);
        assert_equal(&both, &grown);
    }
}

#[test]
fn what_is_recorded_is_not_asked_again_where_a_mode_is_added() {
    let folder = tempfile::tempdir().unwrap();
    for (first, asked) in [("generate", "generate"), ("score", "score"), ("generate", "zero_shot")] {
        let run = folder.path().join(format!("{first}-{asked}"));
        succeed(&mut eval(first, 4, &run));
        mark(&run, asked);
        succeed(&mut eval("generate,score", 4, &run));
        assert_eq!(n_marked(&run), 1, "{asked} was asked again");
        assert_eq!(trials(&run).len(), 2 * 4 * 3);
    }
}

#[test]
fn a_run_that_lost_all_but_its_first_new_trials_goes_on_with_the_larger_run() {
    let folder = tempfile::tempdir().unwrap();
    let (both, grown) = (folder.path().join("both/run"), folder.path().join("grown/run"));
    succeed(&mut eval("generate,score", 8, &both));
    succeed(&mut eval("generate", 8, &grown));
    let small = text(&grown, "run.json");
    succeed(&mut eval("generate,score", 8, &grown));
    // Killed in the midst of it: some scores are there, a line is torn, and run.json says what the larger run is.
    let lines: Vec<String> = text(&grown, "trials.jsonl").lines().map(str::to_owned).collect();
    let is_kept = |(index, line): &(usize, &String)| *index < 20 || !line.contains(r#""mode":"score""#);
    let kept: Vec<&str> = lines.iter().enumerate().filter(is_kept).map(|(_, line)| line.as_str()).collect();
    fs::write(grown.join("trials.jsonl"), kept.join("\n") + "\n{\"torn").unwrap();
    succeed(&mut eval("generate,score", 8, &grown));
    assert_equal(&both, &grown);
    // Killed before the first of them: run.json is the smaller run's, and either command goes on.
    let generated: Vec<&str> =
        lines.iter().map(String::as_str).filter(|line| !line.contains(r#""mode":"score""#)).collect();
    fs::write(grown.join("trials.jsonl"), generated.join("\n") + "\n").unwrap();
    fs::write(grown.join("run.json"), small).unwrap();
    succeed(&mut eval("generate", 8, &grown));
    succeed(&mut eval("generate,score", 8, &grown));
    assert_equal(&both, &grown);
}

#[test]
fn a_run_never_loses_a_mode_and_the_message_says_what_to_ask() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str| folder.path().join(name);
    succeed(&mut eval("generate,score", 2, &run("both")));
    succeed(&mut eval("generate", 2, &run("generated")));
    for (recorded, asked) in [("both", "generate"), ("both", "score"), ("generated", "score")] {
        let before = (text(&run(recorded), "run.json"), text(&run(recorded), "trials.jsonl"));
        let finished = finish(&mut eval(asked, 2, &run(recorded)));
        assert_eq!(finished.code, Some(2), "{recorded} {asked}");
        let error = finished.stderr.lines().last().unwrap();
        assert!(error.contains("hint: `--modes generate,score` continues it"), "{error}");
        let after = (text(&run(recorded), "run.json"), text(&run(recorded), "trials.jsonl"));
        assert_eq!(before, after, "a refused command changes nothing");
    }
    // Whatever else differs makes another run, with a mode more or not.
    let mut other = eval("generate,score", 2, &run("generated"));
    let finished = finish(other.args(["--max-new-tokens", "8"]));
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("max_new_tokens"), "{}", finished.stderr);
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
