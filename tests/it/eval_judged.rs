//! `emt eval` and `emt judge score` with a language-model judge, from the command line to the run folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::chat::{KEY, completion, error};
use super::eval::{eval, succeed, trials};
use super::http_server::{HttpServer, Request};
use super::support::{self, Finished, emt, finish};

/// A judge that holds every answer right that stands in the label's own words, by the default prompt.
fn word_for_word(request: &Request) -> super::http_server::Reply {
    let prompt = request.json()["messages"][0]["content"].as_str().unwrap().to_owned();
    let label = prompt.split("Right label: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
    let answer = prompt.split("<answer>\n").nth(1).and_then(|rest| rest.lines().next()).unwrap();
    completion(if answer == label { "CORRECT" } else { "INCORRECT" })
}

fn with_judge<'a>(command: &'a mut Command, server: &HttpServer, judge: &str) -> &'a mut Command {
    let url = format!("{}/v1", server.url());
    command.env("EMT_JUDGE_API_KEY", KEY).args(["--judge", judge, "--judge-url", &url]);
    command.args(["--judge-model", "judge-1", "--retry-base", "0.01"])
}

fn model_trials(run: &Path) -> Vec<Value> {
    trials(run).into_iter().filter(|trial| trial["subject"] == "model").collect()
}

fn assert_no_key(run: &Path, finished: &Finished) {
    for entry in fs::read_dir(run).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes()), "the key is in {}", path.display());
    }
    assert!(!finished.stdout.contains(KEY) && !finished.stderr.contains(KEY));
}

#[test]
fn a_language_model_decides_where_the_rules_are_not_certain_and_each_pair_is_asked_once() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let server = HttpServer::start(word_for_word);
    let finished = succeed(with_judge(
        eval(&shared, "cifar10", &out).args(["--limit", "60", "--judge-scope", "all"]),
        &server,
        "rules+llm",
    ));
    assert!(finished.stderr.contains("judge: at most 62 calls"), "{}", finished.stderr);
    let trials = model_trials(&out);
    let pairs: BTreeSet<(&str, &str)> =
        trials.iter().map(|trial| (trial["label"].as_str().unwrap(), trial["answer"].as_str().unwrap())).collect();
    assert_eq!(server.n_requests(), pairs.len() + 2, "and two fixed questions");
    assert!(pairs.len() < 60, "no answer was given twice, so nothing was tested");
    for trial in &trials {
        let names: Vec<&str> =
            trial["verdicts"].as_array().unwrap().iter().map(|verdict| verdict["judge"].as_str().unwrap()).collect();
        assert_eq!(names, ["rules", "llm"], "{trial}");
        assert_ne!(trial["outcome"], "unscored", "{trial}");
    }
    assert_no_key(&out, &finished);
    // The same command again asks neither model nor judge.
    let before = fs::read(out.join("trials.jsonl")).unwrap();
    succeed(with_judge(
        eval(&shared, "cifar10", &out).args(["--limit", "60", "--judge-scope", "all"]),
        &server,
        "rules+llm",
    ));
    assert_eq!(server.n_requests(), pairs.len() + 2, "and two fixed questions");
    assert_eq!(fs::read(out.join("trials.jsonl")).unwrap(), before);
}

#[test]
fn a_judge_that_fails_leaves_a_complete_run_and_the_same_command_asks_again() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let refusing = HttpServer::start(|request| match request.index {
        0 => completion("CORRECT"),
        1 => completion("INCORRECT"),
        _ => error(401, "who are you?"),
    });
    let command = |server: &HttpServer| {
        let mut command = eval(&shared, "cifar10", &out);
        with_judge(command.args(["--limit", "20"]), server, "llm");
        command
    };
    let finished = finish(&mut command(&refusing));
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    let error = finished.stderr.lines().last().unwrap();
    for part in ["100.0%", "EMT_JUDGE_API_KEY", "complete", "hint: run the same command again", "emt judge score"] {
        assert!(error.contains(part), "`{part}` is missing in: {error}");
    }
    assert!(refusing.n_requests() <= 10, "a wrong key ends all requests: {}", refusing.n_requests());
    assert!(model_trials(&out).iter().all(|trial| trial["reason"] == "judge_failed"));
    assert!(out.join("report.html").exists(), "what is known is reported all the same");
    assert_no_key(&out, &finished);

    let willing = HttpServer::start(word_for_word);
    let finished = succeed(&mut command(&willing));
    assert!(finished.stderr.contains("20 recorded already"), "{}", finished.stderr);
    assert!(model_trials(&out).iter().all(|trial| trial["outcome"] != "unscored"));
}

#[test]
fn a_budget_leaves_the_rest_unscored_and_is_told() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let server = HttpServer::start(word_for_word);
    let mut command = eval(&shared, "cifar10", &out);
    let finished = finish(with_judge(command.args(["--limit", "40", "--judge-max-calls", "4"]), &server, "llm"));
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("judge: at most 4 calls"), "{}", finished.stderr);
    assert_eq!(server.n_requests(), 4);
    let reasons: BTreeSet<String> = model_trials(&out)
        .iter()
        .filter(|trial| trial["outcome"] == "unscored")
        .map(|trial| trial["reason"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(reasons, BTreeSet::from(["judge_budget".to_owned()]));
}

#[test]
fn an_exported_variable_never_starts_a_paid_service() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let server = HttpServer::start(word_for_word);
    let mut command = eval(&shared, "cifar10", &folder.path().join("run"));
    command.args(["--limit", "4"]).env("OPENAI_BASE_URL", server.url()).env("OPENAI_API_KEY", KEY);
    command.env("EMT_JUDGE_BASE_URL", server.url()).env("EMT_JUDGE_API_KEY", KEY);
    succeed(&mut command);
    assert_eq!(server.n_requests(), 0);
}

#[test]
fn a_recorded_run_is_judged_again_without_the_model_and_stays_as_it_was() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let (old, new, copy) = (folder.path().join("old"), folder.path().join("new"), folder.path().join("copy/old"));
    succeed(eval(&shared, "mnist,cifar10", &old).args(["--limit", "20"]));
    let before = fs::read(old.join("trials.jsonl")).unwrap();
    // A run is two files; neither checkpoint nor images are needed.
    fs::create_dir_all(&copy).unwrap();
    for name in ["run.json", "trials.jsonl"] {
        fs::copy(old.join(name), copy.join(name)).unwrap();
    }
    let server = HttpServer::start(word_for_word);
    succeed(with_judge(emt().args(["judge", "score"]).arg(&copy).arg("--out").arg(&new), &server, "llm"));
    for (before, after) in trials(&old).iter().zip(trials(&new)) {
        assert_eq!((&before["sample"], &before["answer"]), (&after["sample"], &after["answer"]));
        if after["subject"] == "model" {
            let is_correct = after["answer"].as_str().unwrap().trim() == after["label"].as_str().unwrap();
            assert_eq!(after["outcome"] == "correct", is_correct, "{after}");
            assert_eq!(after["verdicts"][0]["judge"], "llm");
        } else {
            assert_eq!(*before, after);
        }
    }
    assert_eq!(fs::read(copy.join("trials.jsonl")).unwrap(), before);
    assert!(new.join("report.html").exists());
    // By the rules alone the old outcomes come out again, to the byte.
    let again = folder.path().join("again");
    succeed(emt().args(["judge", "score"]).arg(&copy).arg("--out").arg(&again));
    assert_eq!(fs::read(again.join("trials.jsonl")).unwrap(), before);
}

#[test]
fn an_answer_that_is_markup_or_nothing_stays_text_and_is_never_correct() {
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    succeed(eval(&shared, "cifar10", &old).args(["--limit", "20"]));
    let hostile = ["<script>alert(1)</script>", "<img src=x onerror=alert(2)> | a \u{1b}[31mcat", "", " \u{200b}\n"];
    let mut lines = Vec::new();
    let mut n_changed = 0;
    for mut trial in trials(&old) {
        if trial["subject"] == "model" && n_changed < hostile.len() {
            trial["answer"] = hostile[n_changed].into();
            n_changed += 1;
        }
        lines.push(trial.to_string());
    }
    fs::write(old.join("trials.jsonl"), lines.join("\n") + "\n").unwrap();
    let finished = succeed(emt().args(["judge", "score"]).arg(&old).arg("--out").arg(&new));
    assert!(!finished.stdout.contains('\u{1b}'));
    for name in ["report.html", "report.md"] {
        let page = fs::read_to_string(new.join(name)).unwrap();
        // Markdown shows answers as code, where markup is text too.
        let page = if name == "report.md" { page.replace("` <script>alert(1)</script> `", "") } else { page };
        assert!(!page.contains("<script>alert(1)") && !page.contains("\u{1b}"), "{name}");
    }
    assert!(fs::read_to_string(new.join("report.html")).unwrap().contains("&lt;script&gt;alert(1)"));
    for trial in model_trials(&new).iter().filter(|trial| hostile.contains(&trial["answer"].as_str().unwrap())) {
        assert_eq!(trial["outcome"], "incorrect", "{trial}");
        if trial["answer"].as_str().unwrap().trim_matches(['\u{200b}', ' ', '\n']).is_empty() {
            assert_eq!((&trial["code"], &trial["kind"]), (&"empty".into(), &"extrinsic_hallucination".into()));
        }
    }
}
