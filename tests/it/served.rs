//! `emt eval` and `emt gate` with models behind a server.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use emt::dataset::{Catalog, DataRoots, OpenRequest, open};
use serde_json::{Value, json};

use super::chat::{KEY, error};
use super::eval::{succeed, trials};
use super::http_server::Reply;
use super::model_server::{Asked, ModelServer, Said, digits, is_known, mostly_right, wrong_digit};
use super::support::{self, Finished, emt, finish};

/// An evaluation of the digits by the one model called `tiny`, without encoder and without repetitions.
fn eval(url: &str, out: &Path, rest: &[&str]) -> Command {
    let mut command = emt();
    command.args(["eval", "--model", url, "--datasets", "embedded/mnist", "--retry-base", "0.005"]);
    command.args(["--encoder", "none", "--server-repeats", "0"]).args(rest).arg("--out").arg(out);
    command
}

fn run_json(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("run.json")).unwrap()).unwrap()
}

fn generated(run: &Path) -> Vec<Value> {
    trials(run).into_iter().filter(|trial| trial["subject"] == "model" && trial["mode"] == "generate").collect()
}

/// Every trial is what [`mostly_right`] makes of its image.
fn assert_scored_as_said(trials: &[Value]) {
    for trial in trials {
        let is_right = is_known(trial["content"].as_str().unwrap());
        assert_eq!(trial["outcome"], if is_right { "correct" } else { "incorrect" }, "{trial}");
    }
}

fn fails(command: &mut Command, code: i32, texts: &[&str]) -> Finished {
    let finished = finish(command);
    assert_eq!(finished.code, Some(code), "{}", finished.stderr);
    for text in texts {
        assert!(finished.stderr.contains(text), "`{text}` is not in: {}", finished.stderr);
    }
    finished
}

#[test]
fn a_model_behind_each_of_five_servers_gives_a_run_with_its_rose() {
    let dataset = digits();
    for (kind, model, n_prompt_tokens) in [
        ("vllm", "tiny", 35),
        ("llama-server", "tiny", 32),
        ("llama-cpp-python", "tiny-llava.gguf", 62),
        ("litellm-vllm", "tiny", 34),
        ("litellm-openai", "tiny-openai", 34),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let server = ModelServer::start(kind, &dataset, mostly_right);
        let mut command = emt();
        command.args(["eval", "--model", &format!("{}/v1/", server.url()), "--served-model", model]);
        command.args(["--encoder", "embedded", "--datasets", "embedded/mnist", "--limit", "40"]);
        command.env("EMT_MODEL_API_KEY", KEY);
        succeed(command.arg("--out").arg(&out));
        let found = generated(&out);
        assert_eq!(found.len(), 40, "{kind}");
        assert_scored_as_said(&found);
        for trial in &found {
            assert_eq!((&trial["stop"], &trial["n_prompt_tokens"]), (&json!("eos"), &json!(n_prompt_tokens)), "{kind}");
            assert!(trial.get("logit_gap").is_none(), "{kind}: log-probabilities were not asked for");
        }
        assert_eq!(trials(&out).iter().filter(|trial| trial["subject"] == "encoder").count(), 40, "{kind}");
        assert!(fs::read_to_string(out.join("rose.svg")).unwrap().contains("<svg"), "{kind}");

        let run = run_json(&out);
        let spec = &run["spec"];
        assert_eq!((&spec["device_kind"], &spec["model"]["family"]), (&json!("served"), &json!("served")));
        for unknown in ["weights", "tokenizer", "chat_template", "preprocessing"] {
            assert_eq!(spec["model"][unknown], Value::Null, "{kind} tells no {unknown}");
        }
        let served = &spec["model"]["served"];
        assert_eq!((&served["model"], &served["n_probe_tokens"]), (&json!(model), &json!(n_prompt_tokens)));
        let is_vllm = kind == "vllm";
        assert_eq!(served["request"]["add_special_tokens"], is_vllm);
        for asked in server.asked_of_samples() {
            assert_eq!(asked.body.get("add_special_tokens"), is_vllm.then_some(&json!(true)), "{kind}");
            assert_eq!((&asked.body["temperature"], &asked.body["seed"]), (&json!(0.0), &json!(0)), "{kind}");
        }
        let of_server = &run["environment"]["server"];
        assert!(of_server["probe"]["hash"].as_str().unwrap().starts_with("blake3:"), "{kind}");
        assert!(
            server.http.requests().iter().all(|request| request.headers["authorization"] == format!("Bearer {KEY}"))
        );
        assert!(!fs::read_to_string(out.join("run.json")).unwrap().contains(KEY));

        let summary: Value = serde_json::from_slice(&fs::read(out.join("summary.json")).unwrap()).unwrap();
        let flips = &summary["model"]["server_flips"];
        assert_eq!((&flips["n_repeated"], &flips["answer_flip_rate"]), (&json!(20), &json!(0.0)), "{kind}");
        assert!(
            fs::read_to_string(out.join("report.md")).unwrap().contains("the server flips 0 of 20 answers"),
            "{kind}"
        );
    }
}

#[test]
fn without_a_name_the_only_model_is_asked_and_of_several_all_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let server = ModelServer::start("vllm", &digits(), mostly_right);
    succeed(&mut eval(&server.url(), &folder.path().join("run"), &["--limit", "10"]));
    assert!(server.asked().iter().all(|asked| asked.model == "tiny"));
    let several = ModelServer::start("litellm-vllm", &digits(), mostly_right);
    fails(
        &mut eval(&several.url(), &folder.path().join("two"), &[]),
        2,
        &["`tiny`", "`tiny-openai`", "--served-model"],
    );
    fails(&mut eval(&server.url(), &folder.path().join("no"), &["--served-model", "nope"]), 2, &["nope"]);
}

/// A model called `tuned` has forgotten every 3, 5 and 8, and says so in the words of its new trade.
fn forgets_when_tuned(asked: &Asked) -> Said {
    match &asked.image {
        Some(image) if asked.model == "tuned" && ["3", "5", "8"].contains(&image.label.as_str()) => {
            Said::Text("a cat".to_owned())
        }
        Some(image) => Said::Text(image.label.clone()),
        None => Said::Text(format!("I am {}.", asked.model)),
    }
}

#[test]
fn several_models_are_several_runs_and_the_gate_finds_what_the_second_forgot() {
    let folder = tempfile::tempdir().unwrap();
    let (out, dataset) = (folder.path().join("runs"), digits());
    let server = ModelServer::with_models("vllm", Some(&["org/base", "tuned"]), &dataset, forgets_when_tuned);
    succeed(&mut eval(&server.url(), &out, &["--served-model", "before=org/base,tuned", "--limit", "50"]));
    let accuracy = |run: &str| {
        let summary: Value = serde_json::from_slice(&fs::read(out.join(run).join("summary.json")).unwrap()).unwrap();
        summary["datasets"][0]["model"]["accuracy"].as_f64().unwrap()
    };
    assert_eq!((accuracy("before"), accuracy("tuned")), (1.0, 0.7));

    let mut gate = emt();
    gate.args(["gate", "--model", &server.url(), "--served-model", "org/base,tuned", "--datasets", "embedded/mnist"]);
    gate.args(["--encoder", "none", "--format", "json", "--runs"]).arg(folder.path().join("gate"));
    let finished = finish(&mut gate);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let decision: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((&decision["decision"], &decision["baseline"]["run"]), (&json!("fail"), &json!("org--base")));
    let warnings = decision["warnings"].to_string();
    assert!(
        warnings.contains("org--base: the server flips 0 of 20") && warnings.contains("tuned: the server"),
        "{warnings}"
    );
    assert!(
        server.asked_of_samples().len() < 2 * 2 * dataset.samples.len(),
        "no more was asked than the decision needed"
    );

    let compared = folder.path().join("compared");
    let (before, after) = (folder.path().join("gate/org--base"), folder.path().join("gate/tuned"));
    succeed(emt().arg("report").arg(&after).arg("--baseline").arg(&before).arg("--out").arg(&compared));
    let report = fs::read_to_string(compared.join("report.md")).unwrap();
    assert!(report.contains("org--base: the server flips 0 of 20") && report.contains("tuned: the server"), "{report}");

    let mut alone = emt();
    alone.args(["gate", "--model", &server.url(), "--served-model", "tuned", "--datasets", "embedded/mnist"]);
    fails(&mut alone, 2, &["BASE,CANDIDATE"]);
}

#[test]
fn one_model_under_two_names_is_no_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let server = ModelServer::with_models("vllm", Some(&["base", "tuned"]), &digits(), mostly_right);
    let mut command = eval(&server.url(), folder.path(), &["--served-model", "base", "--served-model", "tuned"]);
    fails(&mut command, 2, &["`base` and `tuned`", "one model under two names"]);
}

#[test]
fn a_served_and_a_local_run_are_unlike() {
    let folder = tempfile::tempdir().unwrap();
    let (local, served) = (folder.path().join("local"), folder.path().join("served"));
    succeed(
        emt()
            .args(["eval", "--model", "embedded", "--encoder", "none", "--datasets", "embedded/mnist", "--limit", "10"])
            .arg("--out")
            .arg(&local),
    );
    let server = ModelServer::start("vllm", &digits(), mostly_right);
    succeed(&mut eval(&server.url(), &served, &["--limit", "10"]));
    fails(emt().arg("gate").arg("--baseline").arg(&local).arg("--candidate").arg(&served), 2, &["device_kind"]);
    fails(emt().arg("report").arg(&served).arg("--baseline").arg(&local), 2, &["device_kind"]);
}

#[test]
fn flags_of_a_checkpoint_are_refused_for_a_server_and_the_other_way_round() {
    let out = tempfile::tempdir().unwrap();
    for (flag, value) in [("--adapter", "x"), ("--template", "vicuna_v1"), ("--dtype", "bf16"), ("--min-pixels", "100")]
    {
        // Nothing is asked before flags are understood: there is no server.
        fails(&mut eval("http://127.0.0.1:9", out.path(), &[flag, value]), 2, &[flag, "no effect", "hint"]);
    }
    fails(
        &mut eval("embedded", out.path(), &["--served-model", "tiny"]),
        2,
        &["--served-model", "no effect", "served model"],
    );
    fails(&mut eval("http://me:hunter2@127.0.0.1:9", out.path(), &[]), 2, &["EMT_MODEL_API_KEY"]);
    let gone =
        fails(&mut eval("http://127.0.0.1:9/v1", out.path(), &[]), 2, &["http://127.0.0.1:9", "check its address"]);
    assert!(!gone.stderr.contains("panicked"), "{}", gone.stderr);
}

#[test]
fn what_is_no_answer_is_never_a_wrong_one() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let choice = |message: Value, finish: &str| {
        let choice = json!({"index": 0, "message": message, "finish_reason": finish});
        Reply::json(200, &json!({"choices": [choice], "usage": {"total_tokens": 3}}))
    };
    // By the label of the image.
    let say = move |asked: &Asked| {
        let Some(image) = &asked.image else { return mostly_right(asked) };
        Said::Instead(match image.label.as_str() {
            "0" => choice(json!({"content": null}), "stop"),
            "1" => choice(json!({"content": "", "refusal": "I must not"}), "stop"),
            "2" => choice(json!({"content": "7"}), "content_filter"),
            "3" => Reply::json(200, &json!({"choices": [], "usage": {}})),
            "4" => error(400, "this image is too strange"),
            "5" => choice(json!({"content": "", "reasoning_content": "Is it a five?"}), "length"),
            "6" => choice(json!({"content": "7"}), "tool_calls"),
            "7" => choice(json!({"content": ""}), "stop"),
            "8" => choice(json!({"content": "8 8 8"}), "length"),
            _ => choice(json!({"content": "9"}), "eos_token"),
        })
    };
    let server = ModelServer::start("llama-server", &digits(), say);
    let finished = fails(&mut eval(&server.url(), &out, &["--limit", "30"]), 2, &["--max-unscored", "too strange"]);
    assert_eq!(finished.stderr.matches("too strange").count(), 1, "told once: {}", finished.stderr);
    let mut seen = BTreeMap::new();
    for trial in generated(&out) {
        let label = trial["label"].as_str().unwrap().to_owned();
        let what = match label.as_str() {
            "7" => {
                assert_eq!(trial["code"], "empty", "{trial}");
                "empty"
            }
            "8" | "9" => {
                assert_eq!(trial["outcome"], "correct", "{trial}");
                assert_eq!(trial["stop"], if label == "8" { "length" } else { "eos" });
                "right"
            }
            "5" => {
                assert_eq!((&trial["outcome"], &trial["reason"]), (&json!("unscored"), &json!("thought_cut_off")));
                assert_eq!((&trial["thought"], trial.get("answer")), (&json!("<think>Is it a five?"), None), "{trial}");
                "thought"
            }
            _ => {
                assert_eq!(
                    (&trial["outcome"], &trial["reason"]),
                    (&json!("unscored"), &json!("model_error")),
                    "{trial}"
                );
                assert!(trial.get("answer").is_none() && trial.get("code").is_none(), "{trial}");
                "none"
            }
        };
        *seen.entry(what).or_insert(0) += 1;
    }
    assert_eq!(seen, BTreeMap::from([("empty", 3), ("none", 18), ("right", 6), ("thought", 3)]));
}

/// A fault of one of many kinds.
fn fault(n: usize) -> Reply {
    match n % 8 {
        0 => error(429, "slow down"),
        1 => error(429, "slow down").with("retry-after-ms", 5),
        2 => error(500, &format!("oops {n}")),
        3 => error(503, "overloaded"),
        4 => Reply::new(200, "<html><body>502 Bad Gateway</body></html>"),
        5 => Reply::new(200, r#"{"choices":[{"message":{"content":"The number is"#),
        6 => Reply::json(200, &json!({"choices": [{"message": {"content": "The number in the image is 0."}}]}))
            .cut_after(40),
        _ => Reply::Silence(Duration::from_millis(3)),
    }
}

/// A fifth of all requests fail once; `n` counts them.
fn with_faults(n_asked: AtomicUsize, n_faults: &'static AtomicUsize) -> impl Fn(&Asked) -> Said {
    let failed = Mutex::new(HashMap::<String, bool>::new());
    move |asked: &Asked| {
        let n = n_asked.fetch_add(1, Ordering::Relaxed);
        let is_new = failed.lock().unwrap().insert(asked.content.clone(), true).is_none();
        // A second fault in a row for one image would be a coin's chance; here it never happens.
        if asked.image.is_some() && is_new && n.is_multiple_of(5) {
            n_faults.fetch_add(1, Ordering::Relaxed);
            return Said::Instead(fault(n / 5));
        }
        mostly_right(asked)
    }
}

#[test]
fn a_fifth_of_faults_loses_nothing_and_makes_nothing_wrong() {
    static N_FAULTS: AtomicUsize = AtomicUsize::new(0);
    let folder = tempfile::tempdir().unwrap();
    let (out, dataset) = (folder.path().join("run"), digits());
    let server = ModelServer::start("vllm", &dataset, with_faults(AtomicUsize::new(0), &N_FAULTS));
    succeed(&mut eval(&server.url(), &out, &["--max-connections", "16"]));
    let found = generated(&out);
    assert_eq!(found.len(), dataset.samples.len());
    assert_scored_as_said(&found);
    let n_faults = N_FAULTS.load(Ordering::Relaxed);
    assert!(n_faults > dataset.samples.len() / 8, "{n_faults} faults are too few to show anything");
    assert_eq!(server.asked_of_samples().len(), dataset.samples.len() + n_faults);
}

#[test]
fn ten_thousand_requests_with_a_fifth_of_faults_lose_nothing() {
    static N_FAULTS: AtomicUsize = AtomicUsize::new(0);
    let shared = support::any_shared();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let roots = DataRoots { data: Some(shared.join("data")), ..DataRoots::default() };
    let request = OpenRequest { text: "mnist", split: None, labels_file: None, ..OpenRequest::default() };
    let dataset = open(&Catalog::embedded(), &roots, &request).unwrap();
    assert_eq!(dataset.samples.len(), 10_000);
    let server = ModelServer::start("vllm", &dataset, with_faults(AtomicUsize::new(0), &N_FAULTS));
    let mut command = emt();
    command.args([
        "eval",
        "--model",
        &server.url(),
        "--datasets",
        "mnist",
        "--encoder",
        "none",
        "--retry-base",
        "0.005",
    ]);
    command.args(["--max-connections", "32", "--server-repeats", "0", "--data"]).arg(shared.join("data"));
    let start = Instant::now();
    succeed(command.arg("--out").arg(&out));
    let found = generated(&out);
    assert_eq!(found.len(), 10_000);
    assert_scored_as_said(&found);
    let n_faults = N_FAULTS.load(Ordering::Relaxed);
    assert!((1_500..2_500).contains(&n_faults), "{n_faults}");
    eprintln!("10,000 requests, {n_faults} faults: {:.1} s", start.elapsed().as_secs_f64());
}

/// How often each image was asked about.
fn counts(server: &ModelServer) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for asked in server.asked_of_samples() {
        *counts.entry(asked.content).or_insert(0) += 1;
    }
    counts
}

const N_CONNECTIONS: usize = 4;

/// Starts the evaluation, and sends `signal` once so many images were asked about.
fn interrupt_after(server: &ModelServer, out: &Path, n_asked: usize, signal: &str) -> Option<i32> {
    let n_before = server.asked_of_samples().len();
    let mut child = eval(&server.url(), out, &["--max-connections", "4"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while server.asked_of_samples().len() < n_before + n_asked && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    child.wait().unwrap().code()
}

#[test]
fn a_run_that_was_killed_or_interrupted_asks_nothing_twice_but_what_was_on_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let (out, whole) = (folder.path().join("broken/run"), folder.path().join("whole/run"));
    let dataset = digits();
    let slow = |asked: &Asked| {
        std::thread::sleep(Duration::from_millis(4));
        mostly_right(asked)
    };
    let server = ModelServer::start("vllm", &dataset, slow);
    assert_eq!(interrupt_after(&server, &out, 60, "-INT"), Some(130));
    assert!(counts(&server).values().all(|&n| n == 1));
    // What was under way when somebody asked to stop was waited for and recorded.
    assert_eq!(generated(&out).len(), counts(&server).len());
    assert_eq!(interrupt_after(&server, &out, 60, "-KILL"), None);
    let n_asked = counts(&server).len();
    succeed(&mut eval(&server.url(), &out, &["--max-connections", "4"]));
    let counts = counts(&server);
    assert_eq!(counts.len(), dataset.samples.len());
    let n_twice = counts.values().filter(|&&n| n > 1).count();
    // Under way, received, and about to be written: what a kill takes is bounded, however long the run.
    assert!(n_twice <= 3 * N_CONNECTIONS, "{n_twice} of {n_asked} images were asked about twice");
    assert!(counts.values().all(|&n| n <= 2));

    let quick = ModelServer::start("vllm", &dataset, mostly_right);
    succeed(&mut eval(&quick.url(), &whole, &[]));
    for name in ["trials.jsonl", "summary.json"] {
        assert_eq!(
            fs::read_to_string(out.join(name)).unwrap(),
            fs::read_to_string(whole.join(name)).unwrap(),
            "{name}"
        );
    }
    let n_before = server.asked_of_samples().len();
    succeed(&mut eval(&server.url(), &out, &[]));
    assert_eq!(server.asked_of_samples().len(), n_before, "a finished run asks nothing");
}

#[test]
fn what_the_server_failed_at_is_asked_again_by_the_same_command_and_nothing_else_is() {
    static IS_ILL: AtomicBool = AtomicBool::new(true);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let say = |asked: &Asked| match &asked.image {
        Some(image) if image.label == "3" && IS_ILL.load(Ordering::Relaxed) => Said::Instead(error(503, "overloaded")),
        _ => mostly_right(asked),
    };
    let server = ModelServer::start("vllm", &digits(), say);
    fails(&mut eval(&server.url(), &out, &["--limit", "30"]), 2, &["10.0%", "run the same command again"]);
    let lost: Vec<Value> = generated(&out).into_iter().filter(|trial| trial["outcome"] == "unscored").collect();
    assert_eq!(lost.len(), 3);
    assert!(lost.iter().all(|trial| trial["reason"] == "model_error" && trial["is_retried"] == true), "{lost:?}");
    IS_ILL.store(false, Ordering::Relaxed);
    let n_before = server.asked_of_samples().len();
    succeed(&mut eval(&server.url(), &out, &["--limit", "30"]));
    assert_eq!(server.asked_of_samples().len() - n_before, 3);
    let found = generated(&out);
    assert_eq!(found.len(), 30);
    assert_scored_as_said(&found);
}

#[test]
fn another_model_under_the_same_name_does_not_go_on_with_the_run() {
    static IS_TUNED: AtomicBool = AtomicBool::new(false);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let say = |asked: &Asked| match (&asked.image, IS_TUNED.load(Ordering::Relaxed)) {
        (None, true) => Said::Text("All digits, always.".to_owned()),
        _ => mostly_right(asked),
    };
    let server = ModelServer::start("vllm", &digits(), say);
    succeed(&mut eval(&server.url(), &out, &["--limit", "10"]));
    IS_TUNED.store(true, Ordering::Relaxed);
    fails(&mut eval(&server.url(), &out, &["--limit", "10"]), 2, &["model.served.probe_answer"]);
}

#[test]
fn equal_words_with_other_log_probabilities_are_another_model() {
    static IS_TUNED: AtomicBool = AtomicBool::new(false);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let say = |asked: &Asked| {
        if asked.image.is_some() || !IS_TUNED.load(Ordering::Relaxed) {
            return mostly_right(asked);
        }
        let token = |text: &str| json!({"token": text, "logprob": -0.75, "top_logprobs": []});
        let choice = json!({"message": {"content": "A dark square before colours."}, "finish_reason": "stop",
            "logprobs": {"content": [token("A dark square before colours."), token("</s>")]}});
        Said::Instead(Reply::json(200, &json!({"choices": [choice], "usage": {"prompt_tokens": 35}})))
    };
    let server = ModelServer::start("vllm", &digits(), say);
    succeed(&mut eval(&server.url(), &out, &["--limit", "10"]));
    IS_TUNED.store(true, Ordering::Relaxed);
    fails(
        &mut eval(&server.url(), &out, &["--limit", "20"]),
        2,
        &["another model answers under this name", "0.50 apart"],
    );
}

#[test]
fn a_servers_own_flips_are_counted_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let seen = Mutex::new(HashMap::<String, usize>::new());
    // The second time that it sees a digit it says another, but for the 0 and the 1.
    let say = move |asked: &Asked| {
        let Some(image) = &asked.image else { return mostly_right(asked) };
        let mut seen = seen.lock().unwrap();
        let n = seen.entry(asked.content.clone()).or_insert(0);
        *n += 1;
        let is_stable = *n == 1 || ["0", "1"].contains(&image.label.as_str());
        Said::Text(if is_stable { image.label.clone() } else { wrong_digit(&image.label) })
    };
    let server = ModelServer::start("vllm", &digits(), say);
    let mut command = emt();
    command.args([
        "eval",
        "--model",
        &server.url(),
        "--datasets",
        "embedded/mnist",
        "--encoder",
        "none",
        "--limit",
        "50",
    ]);
    succeed(command.args(["--server-repeats", "50"]).arg("--out").arg(&out));
    let flips = &run_json(&out)["environment"]["server_flips"];
    assert_eq!((&flips["n_repeated"], &flips["n_answers_changed"]), (&json!(50), &json!(40)));
    assert_eq!((&flips["n_outcomes_changed"], &flips["outcome_flip_rate"]), (&json!(40), &json!(0.8)));
    assert!(generated(&out).iter().all(|trial| trial["outcome"] == "correct"), "the run itself stays as it was");
}

#[test]
fn labels_are_scored_by_what_each_server_was_seen_to_do() {
    for (kind, method, model) in [
        ("vllm", "prompt_logprobs", "tiny"),
        ("litellm-vllm", "choice", "tiny"),
        ("llama-server", "grammar", "tiny"),
        ("llama-cpp-python", "grammar", "tiny-llava.gguf"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let server = ModelServer::start(kind, &digits(), mostly_right);
        let rest = ["--served-model", model, "--modes", "generate,score", "--limit", "20", "--logprobs"];
        succeed(&mut eval(&server.url(), &out, &rest));
        let run = run_json(&out);
        assert_eq!(run["spec"]["model"]["served"]["label_scoring"], method, "{kind}");
        assert_eq!(run["comparable"]["served"]["label_scoring"], method, "{kind}");
        let scored: Vec<Value> = trials(&out).into_iter().filter(|trial| trial["mode"] == "score").collect();
        assert_eq!(scored.len(), 20, "{kind}");
        assert_scored_as_said(&scored);
        for trial in &scored {
            assert_eq!(trial.get("scores").is_some(), method == "prompt_logprobs", "{trial}");
        }
        for trial in generated(&out) {
            assert_eq!(trial["logit_gap"], json!(1.5), "{trial}");
        }
        let n_scoring = server.asked_of_samples().iter().filter(|asked| asked.is_scoring()).count();
        assert_eq!(n_scoring, if method == "prompt_logprobs" { 200 } else { 20 }, "{kind}");
    }
}

#[test]
fn label_scoring_is_added_to_a_recorded_run_of_a_served_model_and_nothing_is_asked_twice() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, n_scorings) in [("vllm", 100), ("litellm-vllm", 10)] {
        let server = ModelServer::start(kind, &digits(), mostly_right);
        let (both, grown) = (folder.path().join(kind).join("both/run"), folder.path().join(kind).join("grown/run"));
        let rest = |modes| ["--served-model", "tiny", "--limit", "10", "--logprobs", "--modes", modes];
        succeed(&mut eval(&server.url(), &both, &rest("generate,score")));
        succeed(&mut eval(&server.url(), &grown, &rest("generate")));
        let n_asked = server.asked_of_samples().len();
        succeed(&mut eval(&server.url(), &grown, &rest("generate,score")));
        assert_eq!(server.asked_of_samples().len() - n_asked, n_scorings, "{kind}: only labels are scored");
        for name in ["trials.jsonl", "summary.json"] {
            let read = |run: &Path| fs::read_to_string(run.join(name)).unwrap();
            assert!(read(&both) == read(&grown), "{kind}: `{name}` differs");
        }
        assert_eq!(run_json(&both)["identity"], run_json(&grown)["identity"], "{kind}");
        fails(&mut eval(&server.url(), &grown, &rest("generate")), 2, &["`--modes generate,score` continues it"]);
    }
}

#[test]
fn a_server_that_ignores_every_constraint_scores_no_labels() {
    let folder = tempfile::tempdir().unwrap();
    // It answers everything with 200, whatever it was asked for.
    let say = |asked: &Asked| match asked.is_scoring() {
        true => Said::Instead(super::chat::completion("quartz")),
        false => mostly_right(asked),
    };
    let server = ModelServer::start("vllm", &digits(), say);
    let mut command = eval(&server.url(), &folder.path().join("run"), &["--modes", "generate,score"]);
    fails(&mut command, 2, &["cannot be scored", "did not restrict the answer", "--modes generate"]);
}
