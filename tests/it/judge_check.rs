//! The two fixed questions that a judge is asked before a run, and what a run says of a judge whose replies are no verdicts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::chat::{completion, error};
use super::eval::{succeed, trials};
use super::http_server::{HttpServer, Reply, Request};
use super::support::{Finished, emt, finish};
use super::{gate, gate_safety};

/// A run of the miniature, made once.
fn recorded() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let run = tempfile::tempdir().unwrap().keep().join("run");
        succeed(eval().args(["--limit", "20", "--out"]).arg(&run));
        run
    })
}

fn eval() -> Command {
    let mut command = emt();
    command.args(["eval", "--model", "embedded", "--encoder", "none", "--datasets", "embedded/mnist"]);
    command
}

fn with_judge<'a>(command: &'a mut Command, server: &HttpServer, judge: &str, rest: &[&str]) -> &'a mut Command {
    command.args(["--judge", judge, "--judge-url", &server.url(), "--judge-model", "j"]);
    command.args(["--retry-base", "0.01"]).args(rest)
}

fn score(out: &Path, server: &HttpServer, judge: &str, rest: &[&str]) -> Finished {
    let mut command = emt();
    finish(with_judge(command.args(["judge", "score"]).arg(recorded()).arg("--out").arg(out), server, judge, rest))
}

/// Whether the request is the fixed question whose answer is wrong, by the default prompt.
fn is_wrong(request: &Request) -> bool {
    is_fixed(request) && request.json()["messages"][0]["content"].as_str().unwrap().contains("<answer>\n\"dog\"")
}

/// A judge that knows the fixed questions, and replies to any other with `reply`.
fn judge_saying(reply: &'static str) -> HttpServer {
    HttpServer::start(move |request| match (is_fixed(request), is_wrong(request)) {
        (true, true) => completion("INCORRECT"),
        (true, false) => completion("CORRECT"),
        (false, _) => completion(reply),
    })
}

/// Whether the request is a fixed question, by the default prompt.
fn is_fixed(request: &Request) -> bool {
    request.json()["messages"][0]["content"].as_str().unwrap().contains("Right label: \"cat\"")
}

fn error_line(finished: &Finished) -> &str {
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    finished.stderr.lines().last().unwrap()
}

fn of_model(run: &Path) -> Vec<Value> {
    trials(run).into_iter().filter(|trial| trial["subject"] == "model").collect()
}

#[test]
fn a_wrong_key_model_or_prompt_costs_one_question() {
    let cut = json!({"choices": [{"message": {"content": null, "reasoning_content": "Let me see"}, "finish_reason": "length"}]});
    let cases: [(Reply, &[&str]); 6] = [
        (error(401, "who are you?"), &["cannot be asked", "who are you?", "EMT_JUDGE_API_KEY"]),
        (error(404, "The model `j` does not exist"), &["cannot be asked", "no model `j`"]),
        (error(400, "this endpoint takes images only"), &["refuses a fixed question", "takes images only"]),
        (completion("Yes."), &["`Yes.`", "CORRECT or INCORRECT was expected", "hint: --judge-prompt emt"]),
        (completion("I cannot tell."), &["`I cannot tell.`", "another --judge-model"]),
        (
            Reply::json(200, &cut),
            &["`Let me see`", "thought without a verdict", "--judge-reply-tokens", "enable_thinking"],
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (index, (reply, parts)) in cases.into_iter().enumerate() {
        let server = HttpServer::start(move |_| reply.clone());
        let finished = score(&folder.path().join(index.to_string()), &server, "llm", &[]);
        let line = error_line(&finished);
        for part in parts {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
        assert!(!line.contains("same command"), "it would say the same again: {line}");
        assert_eq!(server.n_requests(), 1, "{line}");
    }
}

#[test]
fn what_the_judges_server_does_not_take_is_told_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let server = HttpServer::start(|request| match request.json().get("temperature") {
        Some(_) => error(400, "`temperature` is deprecated for this model."),
        None => completion(if is_wrong(request) { "INCORRECT" } else { "CORRECT" }),
    });
    let finished = score(folder.path(), &server, "llm", &[]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("requests are sent without `temperature`"), "{}", finished.stderr);
    let run: Value = serde_json::from_slice(&std::fs::read(folder.path().join("run.json")).unwrap()).unwrap();
    assert_eq!(run["environment"]["judge_parameters"]["omitted"], json!(["temperature"]));
}

#[test]
fn the_mended_command_may_use_the_same_folder() {
    let folder = tempfile::tempdir().unwrap();
    let server = HttpServer::start(|request| {
        let text = request.json()["messages"].to_string();
        completion(if text.contains("Label: cat; Prediction: dog") { "No." } else { "Yes." })
    });
    assert_eq!(score(folder.path(), &server, "llm", &[]).code, Some(2));
    let finished = score(folder.path(), &server, "llm", &["--judge-prompt", "emt"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

#[test]
fn every_command_that_judges_asks_it_first() {
    let folder = tempfile::tempdir().unwrap();
    let server = HttpServer::start(|_| error(401, "who are you?"));
    let run = folder.path().join("run");
    let finished = finish(with_judge(eval().args(["--limit", "20", "--out"]).arg(&run), &server, "rules+llm", &[]));
    assert!(error_line(&finished).contains("cannot be asked"), "{}", finished.stderr);
    assert_eq!((server.n_requests(), of_model(&run).len()), (1, 0), "no answer was asked for");
    let sheet = folder.path().join("sheet.csv");
    std::fs::write(&sheet, "label,answer,correct\ncat,a cat,true\n").unwrap();
    let mut command = emt();
    command.args(["judge", "calibrate", "--labels"]).arg(&sheet).arg("--out").arg(folder.path().join("c.json"));
    let finished = finish(with_judge(&mut command, &server, "llm", &[]));
    assert!(error_line(&finished).contains("cannot be asked"), "{}", finished.stderr);
    assert_eq!(server.n_requests(), 2);
}

#[test]
fn it_is_not_asked_where_nothing_is_left_to_ask() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("judged");
    let server = judge_saying("CORRECT");
    assert_eq!(score(&out, &server, "llm", &[]).code, Some(0));
    let n_requests = server.n_requests();
    assert!(n_requests > 1);
    assert_eq!(score(&out, &server, "llm", &[]).code, Some(0));
    assert_eq!(server.n_requests(), n_requests);
    let run = folder.path().join("run");
    let again = || {
        let mut command = eval();
        succeed(with_judge(command.args(["--limit", "20", "--out"]).arg(&run), &server, "llm", &[]));
        server.n_requests()
    };
    let after_first = again();
    assert_eq!(again(), after_first);
    succeed(eval().args(["--limit", "20", "--out"]).arg(folder.path().join("rules")));
    assert_eq!(server.n_requests(), after_first, "the rules ask nobody");
}

#[test]
fn who_tolerates_any_share_of_unscored_trials_is_warned_and_gets_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let server = HttpServer::start(|_| completion("Yes."));
    let finished = score(folder.path(), &server, "llm", &["--max-unscored", "1"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("warning: the judge `j` gives no verdict"), "{}", finished.stderr);
    assert!(of_model(folder.path()).iter().all(|trial| trial["reason"] == "judge_unparsable"));
}

#[test]
fn replies_that_are_no_verdicts_are_shown_with_their_mend_and_without_a_retry() {
    let folder = tempfile::tempdir().unwrap();
    for (reply, parts) in [
        ("Yes, it is.", ["`Yes, it is.`", "CORRECT or INCORRECT was expected", "--judge-prompt emt"]),
        ("<think>hm", ["`<think>hm`", "thought without a verdict", "--judge-reply-tokens"]),
    ] {
        let server = judge_saying(reply);
        let finished = score(&folder.path().join(reply.len().to_string()), &server, "llm", &[]);
        let line = error_line(&finished);
        for part in parts.into_iter().chain(["100.0%", "complete"]) {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
        assert!(!line.contains("same command"), "{line}");
    }
}

#[test]
fn a_judge_that_fails_for_a_while_is_asked_again_by_the_same_command() {
    let folder = tempfile::tempdir().unwrap();
    let failing = HttpServer::start(|request| match (is_fixed(request), is_wrong(request)) {
        (true, true) => completion("INCORRECT"),
        (true, false) => completion("CORRECT"),
        (false, _) => error(401, "gone"),
    });
    let finished = score(folder.path(), &failing, "llm", &[]);
    assert!(error_line(&finished).contains("hint: run the same command again"), "{}", finished.stderr);
    let willing = judge_saying("CORRECT");
    assert_eq!(score(folder.path(), &willing, "llm", &[]).code, Some(0));
    assert!(of_model(folder.path()).iter().all(|trial| trial["outcome"] != "unscored"));
}

#[test]
fn the_fixed_questions_are_calls_of_a_budget() {
    let folder = tempfile::tempdir().unwrap();
    let server = judge_saying("CORRECT");
    let finished = score(folder.path(), &server, "llm", &["--judge-max-calls", "3"]);
    let line = error_line(&finished);
    assert!(line.contains("a larger --judge-max-calls"), "{line}");
    assert_eq!(server.n_requests(), 3);
}

#[test]
fn beside_the_rules_the_language_model_is_asked_only_where_they_are_not_certain() {
    let folder = tempfile::tempdir().unwrap();
    let server = judge_saying("CORRECT");
    let (residual, all) = (folder.path().join("residual"), folder.path().join("all"));
    assert_eq!(score(&residual, &server, "rules+llm", &[]).code, Some(0));
    let by_llm =
        |run: &Path| of_model(run).iter().filter(|trial| trial["verdicts"].as_array().unwrap().len() == 2).count();
    let n_undecided = of_model(&residual).iter().filter(|trial| trial["verdicts"][0]["verdict"] == "undecided").count();
    assert_eq!(by_llm(&residual), n_undecided);
    assert_eq!(score(&all, &server, "rules+llm", &["--judge-scope", "all"]).code, Some(0));
    assert!(by_llm(&all) > n_undecided);
    let scope = |run: &Path| {
        let run: Value = serde_json::from_slice(&std::fs::read(run.join("run.json")).unwrap()).unwrap();
        run["spec"]["judges"][1]["parameters"]["scope"].clone()
    };
    assert_eq!((scope(&residual), scope(&all)), (json!("residual"), json!("all")));
}

#[test]
fn a_reasoning_judge_has_room_by_default_and_flags_for_more() {
    let folder = tempfile::tempdir().unwrap();
    let think = |request: &Request| {
        let body = request.json();
        let is_quiet = body["chat_template_kwargs"]["enable_thinking"] == false;
        if is_quiet || body["max_tokens"].as_u64().unwrap() >= 2_000 {
            let verdict = if is_wrong(request) { "INCORRECT" } else { "CORRECT" };
            return completion(&format!("<think>\nA three is a three.\n</think>\n\n{verdict}"));
        }
        let thought = json!({"content": null, "reasoning_content": "Let me see"});
        Reply::json(200, &json!({"choices": [{"message": thought, "finish_reason": "length"}]}))
    };
    let server = HttpServer::start(think);
    assert_eq!(score(&folder.path().join("default"), &server, "llm", &[]).code, Some(0));
    let few = ["--judge-reply-tokens", "100"];
    assert!(error_line(&score(&folder.path().join("few"), &server, "llm", &few)).contains("--judge-reply-tokens"));
    let quiet = folder.path().join("quiet");
    let body = r#"{"chat_template_kwargs":{"enable_thinking":false}}"#;
    assert_eq!(score(&quiet, &server, "llm", &[&few[..], &["--judge-extra-body", body]].concat()).code, Some(0));
    let run: Value = serde_json::from_slice(&std::fs::read(quiet.join("run.json")).unwrap()).unwrap();
    let parameters = &run["spec"]["judges"][0]["parameters"];
    assert_eq!(
        (&parameters["max_tokens"], &parameters["chat_template_kwargs"]["enable_thinking"]),
        (&json!(100), &json!(false))
    );
    let secret = score(&folder.path().join("secret"), &server, "llm", &["--judge-extra-body", "api_key=sk-1"]);
    assert!(error_line(&secret).contains("EMT_JUDGE_API_KEY"), "{}", secret.stderr);
}

/// A judge by the default prompt's words whose reply to the right and to the wrong answer are these.
fn judge_of_two(right: &'static str, wrong: &'static str) -> HttpServer {
    HttpServer::start(move |request| completion(if is_wrong(request) { wrong } else { right }))
}

#[test]
fn a_judge_that_always_says_the_same_is_doubted_and_no_gate_passes_on_it() {
    let folder = tempfile::tempdir().unwrap();
    for (verdict, told) in [
        ("CORRECT", "to the answer `dog` it replied `CORRECT`, and INCORRECT was expected"),
        ("INCORRECT", "to the answer `cat` it replied `INCORRECT`, and CORRECT was expected"),
    ] {
        let server = judge_of_two(verdict, verdict);
        let out = folder.path().join(verdict);
        let finished = score(&out, &server, "llm", &[]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let warning =
            finished.stderr.lines().find(|line| line.starts_with("warning: the judge `j` cannot tell")).unwrap();
        assert!(warning.contains(told) && warning.contains("hint: another --judge-model"), "{warning}");
        let run: Value = serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap();
        assert!(run["environment"]["judge_doubt"].as_str().unwrap().contains(told), "{run}");
    }
    // Both runs are judged by the judge that takes everything for right: nothing is lost, and nothing is shown.
    let server = judge_of_two("CORRECT", "CORRECT");
    let [base, night] = ["base", "night"].map(|name| folder.path().join(name));
    for (from, to) in [(gate_safety::base(), &base), (gate_safety::night(folder.path(), "changed", 30), &night)] {
        let mut command = emt();
        let command = command.args(["judge", "score"]).arg(from).arg("--out").arg(to);
        let finished = finish(with_judge(command, &server, "llm", &[]));
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    let junit = folder.path().join("junit.xml");
    let policy = gate_safety::wide_policy();
    let gated = gate::gate_runs(
        &base,
        &night,
        &["--policy", policy, "--format", "json", "--junit", &junit.display().to_string()],
    );
    assert_eq!(gated.code, Some(3), "{} {}", gated.stdout, gated.stderr);
    let decision = gate::decision(&gated);
    assert_eq!((&decision["decision"], &decision["exit_code"]), (&json!("inconclusive"), &json!(3)));
    let of_judges: Vec<&Value> =
        decision["reasons"].as_array().unwrap().iter().filter(|reason| reason["code"] == "judge_error").collect();
    assert_eq!(of_judges.len(), 2, "one for each run: {decision}");
    assert!(of_judges[1]["message"].as_str().unwrap().starts_with("of the run `night`: the judge `j` cannot tell"));
    assert!(decision["next"][0]["message"].as_str().unwrap().contains("emt judge score RUN --out NEW"), "{decision}");
    let junit = std::fs::read_to_string(junit).unwrap();
    assert!(junit.contains("name=\"decision\"><skipped message=\"judge_error: of the run `base`"), "{junit}");
}

#[test]
fn a_judge_whose_verdicts_are_the_wrong_way_round_is_refused_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let server = judge_of_two("INCORRECT", "CORRECT");
    let out = folder.path().join("judged");
    // Whatever share may be unscored: a wrong verdict is none that is missing.
    for rest in [&[][..], &["--max-unscored", "1"]] {
        let finished = score(&out, &server, "llm", rest);
        let line = error_line(&finished);
        for part in ["cannot tell a right answer", "`cat` it replied `INCORRECT`", "`dog` it replied `CORRECT`"] {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
    }
    assert_eq!((server.n_requests(), of_model(&out).len()), (4, 0), "two questions each time");
    let run = folder.path().join("run");
    let finished = finish(with_judge(eval().args(["--limit", "20", "--out"]).arg(&run), &server, "rules+llm", &[]));
    assert!(error_line(&finished).contains("cannot tell a right answer"), "{}", finished.stderr);
    assert_eq!(of_model(&run).len(), 0, "no answer was asked for");
}

#[test]
fn a_prompt_whose_verdicts_are_the_wrong_way_round_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = folder.path().join("prompt.txt");
    std::fs::write(&prompt, "Is this WRONG for {label}: {answer}").unwrap();
    let server = HttpServer::start(|request| {
        let text = request.json()["messages"].to_string();
        completion(if text.contains("cat: dog") { "yes" } else { "no" })
    });
    let prompt = prompt.display().to_string();
    let finished = score(&folder.path().join("run"), &server, "llm", &["--judge-prompt", &prompt]);
    let line = error_line(&finished);
    for part in ["the wrong way round", "CORRECT or yes", "INCORRECT or no"] {
        assert!(line.contains(part), "`{part}` is not in: {line}");
    }
}

#[test]
fn a_judge_that_is_measured_may_be_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("sheet.csv");
    std::fs::write(&sheet, "label,answer,correct\ncat,a cat,true\ncat,a dog,false\n").unwrap();
    let server = judge_of_two("CORRECT", "CORRECT");
    let mut command = emt();
    command.args(["judge", "calibrate", "--labels"]).arg(&sheet).arg("--out").arg(folder.path().join("c.json"));
    let finished = finish(with_judge(&mut command, &server, "llm", &[]));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("warning: the judge `j` cannot tell"), "{}", finished.stderr);
}

#[test]
fn the_evaluations_of_a_training_are_judged_by_the_judge_that_was_named() {
    let folder = tempfile::tempdir().unwrap();
    let (server, out) = (judge_of_two("CORRECT", "INCORRECT"), folder.path().join("tuned"));
    let mut command = emt();
    command.args([
        "finetune",
        "--model",
        "embedded",
        "--method",
        "linear",
        "--train",
        "embedded/mnist",
        "--limit",
        "4",
    ]);
    command.args(["--epochs", "1", "--eval-datasets", "embedded/cifar10", "--eval-limit", "4", "--out"]).arg(&out);
    let finished = finish(with_judge(&mut command, &server, "llm", &[]));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    for epoch in ["epoch-0", "epoch-1"] {
        let run: Value =
            serde_json::from_slice(&std::fs::read(out.join("eval").join(epoch).join("run.json")).unwrap()).unwrap();
        assert_eq!(run["spec"]["judges"].as_array().unwrap().last().unwrap()["model"], "j", "{run:#}");
        assert!(of_model(&out.join("eval").join(epoch)).iter().all(|trial| trial["outcome"] == "correct"), "{epoch}");
    }
}
