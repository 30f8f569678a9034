//! `emt gate` on the miniature: verdicts, reasons and exit codes through the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use super::chat::{completion, error};
use super::http_server::HttpServer;
use super::support::{self, Finished, emt, finish};

/// Adapters and runs that several tests read, made once.
struct Made {
    folder: tempfile::TempDir,
}

impl Made {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A projector that hardly moved and a LoRA that forgot, both trained on the object images.
fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for (name, method, rest) in [
            ("tiny", "linear", ["--learning-rate", "1e-7", "--limit", "20", "--epochs", "1"]),
            ("forgetful", "lora", ["--learning-rate", "2e-3", "--limit", "100", "--epochs", "2"]),
        ] {
            let mut command = emt();
            command.args(["finetune", "--model", "embedded", "--method", method, "--train", "embedded/cifar10"]);
            command.args(["--answer-template", "The object is a {label}.", "--eval-datasets", "none"]).args(rest);
            let finished = finish(command.arg("--out").arg(folder.path().join(name)));
            assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        }
        fs::write(folder.path().join("policy.toml"), "margin = 0.05\n").unwrap();
        Made { folder }
    })
}

/// `emt gate` of an adapter over the miniature, with its decision.
fn gate(adapter: &Path, runs: &Path, arguments: &[&str]) -> (Finished, Value) {
    let decision = runs.with_extension("json");
    let mut command = emt();
    command.args(["gate", "--model", "embedded", "--adapter"]).arg(adapter).arg("--runs").arg(runs);
    let finished = finish(command.args(arguments).arg("--out").arg(&decision));
    let decision = fs::read_to_string(&decision).map(|text| serde_json::from_str(&text).unwrap());
    (finished, decision.unwrap_or(Value::Null))
}

pub fn dataset<'a>(decision: &'a Value, name: &str) -> &'a Value {
    decision["datasets"].as_array().unwrap().iter().find(|dataset| dataset["dataset"] == name).unwrap()
}

pub fn codes(dataset: &Value) -> Vec<&str> {
    dataset["reasons"].as_array().unwrap().iter().map(|reason| reason["code"].as_str().unwrap()).collect()
}

fn n_trials(run: &Path) -> usize {
    fs::read_to_string(run.join("trials.jsonl")).unwrap().lines().count()
}

#[test]
fn a_fine_tune_at_a_tiny_rate_passes_with_no_more_images_than_that_takes() {
    let made = made();
    let (runs, policy) = (made.path("tiny-runs"), made.path("policy.toml").display().to_string());
    let arguments = ["--datasets", "embedded/mnist,embedded/cifar10", "--policy", &policy, "--encoder", "none"];
    let (finished, decision) = gate(&made.path("tiny"), &runs, &arguments);
    assert_eq!(finished.code, Some(0), "{} {}", finished.stdout, finished.stderr);
    assert_eq!((&decision["decision"], &decision["design"]), (&"pass".into(), &"sequential".into()));
    let mnist = dataset(&decision, "embedded/mnist");
    assert_eq!(mnist["decision"], "pass");
    assert_eq!(
        (mnist["look"].as_u64(), mnist["n_looks"].as_u64(), mnist["n_max"].as_u64()),
        (Some(2), Some(3), Some(600))
    );
    assert_eq!(mnist["n_pairs"], 500, "the third look was not needed");
    let tuned_on = dataset(&decision, "embedded/cifar10");
    assert_eq!(tuned_on["decision"], "not_applicable", "the adapter's own emt.json says what it was tuned on");
    assert_eq!(n_trials(&runs.join("base")), 500 + 600);
    assert!(runs.join("tiny/report.html").is_file());
    // Again: everything is recorded, and the decision is the same.
    let (again, same) = gate(&made.path("tiny"), &runs, &arguments);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_eq!(same, decision);
}

#[test]
fn lora_on_one_dataset_fails_and_stops_early() {
    let made = made();
    let runs = made.path("forgetful-runs");
    let policy = made.path("relative.toml");
    fs::write(&policy, "margin = 0.5\nrelative_margin = 0.1\n").unwrap();
    let policy = policy.display().to_string();
    let arguments =
        ["--datasets", "embedded/mnist", "--encoder", "none", "--format", "markdown", "--policy", policy.as_str()];
    let (finished, decision) = gate(&made.path("forgetful"), &runs, &arguments);
    assert_eq!(finished.code, Some(1), "{} {}", finished.stdout, finished.stderr);
    assert!(finished.stdout.contains("emt gate: fail"), "{}", finished.stdout);
    let mnist = dataset(&decision, "embedded/mnist");
    assert_eq!((&mnist["decision"], codes(mnist)), (&"fail".into(), vec!["forgetting"]));
    assert!(mnist["n_pairs"].as_u64().unwrap() < 600, "{mnist}");
    // A tenth of what the base knows beyond chance: fixed from all of its images before the candidate was read.
    assert_eq!(n_trials(&runs.join("base")), 600);
    assert_eq!(n_trials(&runs.join("forgetful")) as u64, mnist["n_pairs"].as_u64().unwrap());
    let margin = mnist["margin"].as_f64().unwrap();
    assert!(0.03 < margin && margin < 0.06, "{margin}");
    assert!(mnist["p_value_fail"].as_f64().unwrap() < mnist["alpha_look_fail"].as_f64().unwrap());
    assert_eq!(decision["reasons"][0]["dataset"], "embedded/mnist");
}

#[test]
fn thirty_images_are_inconclusive_and_the_number_needed_is_named() {
    let made = made();
    let arguments = ["--datasets", "embedded/mnist", "--encoder", "none", "--limit", "30"];
    let (finished, decision) = gate(&made.path("tiny"), &made.path("thirty"), &arguments);
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    assert!(finished.stderr.contains("30 images are too few to pass"), "{}", finished.stderr);
    let mnist = dataset(&decision, "embedded/mnist");
    assert_eq!(codes(mnist), ["too_few_pairs"]);
    let n_needed = mnist["n_needed"].as_u64().unwrap();
    assert!(mnist["reasons"][0]["message"].as_str().unwrap().contains(&n_needed.to_string()), "{mnist}");
}

#[test]
fn a_gate_with_a_feature_cache_decides_the_same_and_the_second_time_without_the_tower() {
    let made = made();
    let cache = made.path("cache").display().to_string();
    let arguments = ["--datasets", "embedded/mnist", "--encoder", "none", "--limit", "30"];
    let cached = [&arguments[..], &["--feature-cache", &cache]].concat();
    let decided = |runs: &str, arguments: &[&str]| {
        let (finished, mut decision) = gate(&made.path("tiny"), &made.path(runs), arguments);
        assert_eq!(finished.code, Some(3), "{}", finished.stderr);
        let datasets = decision["datasets"].take();
        let covered = finished.stderr.lines().find(|line| line.starts_with("feature cache `"));
        (datasets, covered.map(|line| line.split_once("`: ").unwrap().1.to_owned()))
    };
    let (without, none) = decided("uncached", &arguments);
    let (first, covered_first) = decided("cached-first", &cached);
    let (second, covered_second) = decided("cached-second", &cached);
    assert!(none.is_none() && without.is_array());
    assert_eq!((&first, &second), (&without, &without));
    // The base's tower is the adapter's: each image is seen once.
    assert!(covered_first.as_ref().is_some_and(|line| line.starts_with("0.0% of 30 ")), "{covered_first:?}");
    assert!(covered_second.as_ref().is_some_and(|line| line.starts_with("100.0% of 30 ")), "{covered_second:?}");
}

#[test]
fn an_adapter_that_changes_nothing_is_refused_by_the_gate() {
    let made = made();
    let idle = made.path("idle");
    fs::create_dir_all(&idle).unwrap();
    let from = made.path("forgetful");
    let mut config: Value =
        serde_json::from_str(&fs::read_to_string(from.join("adapter_config.json")).unwrap()).unwrap();
    config["modules_to_save"] = Value::Null;
    fs::write(idle.join("adapter_config.json"), config.to_string()).unwrap();
    let device = candle_core::Device::Cpu;
    let tensors = candle_core::safetensors::load(from.join("adapter_model.safetensors"), &device).unwrap();
    let untrained = tensors.into_iter().filter(|(name, _)| name.contains("lora_")).map(|(name, tensor)| {
        let tensor = if name.contains("lora_B") { tensor.zeros_like().unwrap() } else { tensor };
        (name, tensor)
    });
    candle_core::safetensors::save(&untrained.collect(), idle.join("adapter_model.safetensors")).unwrap();
    let (finished, decision) = gate(&idle, &made.path("idle-runs"), &["--datasets", "embedded/mnist"]);
    assert_eq!((finished.code, decision), (Some(2), Value::Null), "{}", finished.stderr);
    assert!(finished.stderr.contains("changes nothing"), "{}", finished.stderr);
}

/// Base and forgetful LoRA on 220 digits each, finished.
pub fn finished_runs() -> &'static Path {
    static RUNS: OnceLock<PathBuf> = OnceLock::new();
    RUNS.get_or_init(|| {
        let runs = made().path("finished");
        let mut command = emt();
        command.args(["eval", "--model", "embedded", "--datasets", "embedded/mnist", "--limit", "220", "--adapter"]);
        command.arg(made().path("forgetful")).arg("--out").arg(&runs);
        let finished = finish(&mut command);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        runs
    })
}

pub fn gate_runs(baseline: &Path, candidate: &Path, arguments: &[&str]) -> Finished {
    let mut command = emt();
    command.arg("gate").arg("--baseline").arg(baseline).arg("--candidate").arg(candidate).args(arguments);
    finish(&mut command)
}

pub fn decision(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{} {}", finished.stdout, finished.stderr))
}

#[test]
fn finished_runs_are_decided_on_as_they_are() {
    let runs = finished_runs();
    let (base, tuned) = (runs.join("base"), runs.join("forgetful"));
    let finished = gate_runs(&base, &tuned, &["--format", "json"]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let decision = decision(&finished);
    let mnist = dataset(&decision, "embedded/mnist");
    assert_eq!((&decision["schema"], &decision["design"]), (&"emt.decision/1".into(), &"fixed".into()));
    assert_eq!((&mnist["n_pairs"], &mnist["n_max"], &mnist["n_looks"]), (&220.into(), &220.into(), &1.into()));
    assert!(mnist["encoder_knows"].as_u64().unwrap() <= mnist["n_lost"].as_u64().unwrap());
    // A folder with only these two files is enough.
    let bare = made().path("bare");
    fs::create_dir_all(&bare).unwrap();
    for file in ["run.json", "trials.jsonl"] {
        fs::copy(tuned.join(file), bare.join(file)).unwrap();
    }
    assert_eq!(gate_runs(&base, &bare, &[]).code, Some(1));
    // Against a baseline that hardly knows a digit there is nothing to forget.
    let near_chance = gate_runs(&tuned, &base, &["--format", "json"]);
    assert_eq!(near_chance.code, Some(3), "{}", near_chance.stdout);
    let decided = self::decision(&near_chance);
    assert_eq!(dataset(&decided, "embedded/mnist")["decision"], "not_applicable");
    let all: Vec<&str> =
        decided["reasons"].as_array().unwrap().iter().map(|reason| reason["code"].as_str().unwrap()).collect();
    assert_eq!(all, ["near_chance", "nothing_passed"]);
}

#[test]
fn a_decision_is_written_wherever_a_pipeline_looks_for_it() {
    let runs = finished_runs();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut command = emt();
    command.arg("gate").arg("--baseline").arg(runs.join("base")).arg("--candidate").arg(runs.join("forgetful"));
    command.arg("--out").arg(path("deep/decision.json")).arg("--junit").arg(path("junit.xml"));
    command.arg("--markdown").arg(path("decision.md")).arg("--history").arg(path("history"));
    command.env("GITHUB_STEP_SUMMARY", path("summary.md")).env("GITHUB_ACTIONS", "true");
    let finished = finish(&mut command);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(
        finished.stdout.contains("::error title=emt gate%3A embedded/mnist FAIL::forgetting"),
        "{}",
        finished.stdout
    );
    let junit = fs::read_to_string(path("junit.xml")).unwrap();
    assert!(junit.contains("<testcase classname=\"embedded/mnist\" name=\"forgetting\"><failure"), "{junit}");
    let [markdown, summary] = ["decision.md", "summary.md"].map(|name| fs::read_to_string(path(name)).unwrap());
    assert_eq!(markdown, summary);
    let written: Value = serde_json::from_str(&fs::read_to_string(path("deep/decision.json")).unwrap()).unwrap();
    assert_eq!((&written["attempt"], &written["exit_code"]), (&1.into(), &1.into()));
    let level = written["datasets"][0]["alpha_look"].as_f64().unwrap();
    assert!((level - 0.025 * 6.0 / std::f64::consts::PI.powi(2)).abs() < 1e-12, "{level}");
    let remembered: Vec<PathBuf> = fs::read_dir(path("history")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let identity = written["candidate"]["identity"].as_str().unwrap();
    assert_eq!(remembered, [path("history").join(format!("{}.json", &identity["blake3:".len()..][..8]))]);
    // The same candidate again is no new attempt, another one is.
    let again = gate_runs(
        &runs.join("base"),
        &runs.join("forgetful"),
        &["--format", "json", "--history", &path("history").display().to_string()],
    );
    assert_eq!(decision(&again)["attempt"], 1);
    let other = gate_runs(
        &runs.join("base"),
        &runs.join("base"),
        &["--allow-same", "--history", &path("history").display().to_string()],
    );
    assert!(other.stdout.contains("candidate number 2 on these datasets"), "{}", other.stdout);
    assert!(other.stdout.contains("loses its value"), "{}", other.stdout);
    fs::write(path("history/other.json"), "{}").unwrap();
    let broken =
        gate_runs(&runs.join("base"), &runs.join("base"), &["--history", &path("history").display().to_string()]);
    assert_eq!(broken.code, Some(2));
    assert!(broken.stderr.contains("other.json") && broken.stderr.contains("not a decision"), "{}", broken.stderr);
}

#[test]
fn unlike_runs_are_refused_with_the_field_named_unless_that_is_allowed() {
    let runs = finished_runs();
    let open = made().path("open-prompt");
    let mut command = emt();
    command.args([
        "eval",
        "--model",
        "embedded",
        "--datasets",
        "embedded/mnist",
        "--limit",
        "220",
        "--encoder",
        "none",
    ]);
    let finished = finish(command.args(["--prompt", "emt-open", "--out"]).arg(&open));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let base = runs.join("base");
    let refused = gate_runs(&base, &open, &[]);
    assert_eq!(refused.code, Some(2));
    for words in ["prompt_text", "embedded/mnist.model.generate", "--allow-different prompt_text"] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    let unknown = gate_runs(&base, &open, &["--allow-different", "promt"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("prompt_ids"), "{}", unknown.stderr);
    // Another prompt is another trial: none has a partner, and that is said, too.
    let allowed = ["--allow-different", "prompt_text,prompt_ids"];
    let unpaired = gate_runs(&base, &open, &allowed);
    assert!(unpaired.code == Some(2) && unpaired.stderr.contains("--allow-different samples"), "{}", unpaired.stderr);
}

/// A judge that says yes where the answer is the label, and fails about one right answer of one digit: some 5% of the images.
#[test]
fn five_in_a_hundred_judge_failures_are_inconclusive_for_that_reason() {
    let runs = finished_runs();
    let server = HttpServer::start(|request| {
        let text = request.json()["messages"].to_string();
        let (_, pair) = text.split_once("Label: ").expect("the paper's prompt names the label");
        let (label, answer) = pair.split_once("; Prediction: ").expect("and the answer");
        match answer.starts_with(&format!("{label}.")) {
            true if label == "8" => error(400, "no"),
            true => completion("yes"),
            false => completion("no"),
        }
    });
    let judged = |name: &str| {
        let out = made().path(&format!("judged-{name}"));
        let mut command = emt();
        command.args(["judge", "score"]).arg(runs.join(name)).arg("--out").arg(&out).args(["--judge", "llm"]);
        command.args(["--judge-prompt", "emt", "--judge-url", &server.url(), "--judge-model", "m"]);
        let finished = finish(command.args(["--max-unscored", "1", "--retry-base", "0.01"]));
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        out
    };
    let base = judged("base");
    // The same answers before and after: what is scored would pass.
    let unchanged = gate_runs(&base, &base, &["--format", "json", "--allow-same"]);
    assert_eq!(unchanged.code, Some(3), "{}", unchanged.stdout);
    let decided = decision(&unchanged);
    let mnist = dataset(&decided, "embedded/mnist");
    let share = mnist["n_unscored"].as_f64().unwrap() / mnist["n_pairs"].as_f64().unwrap();
    assert!(0.03 < share && share < 0.1, "{mnist}");
    assert_eq!(codes(mnist).last(), Some(&"too_many_unscored"));
    // A fall that no unscored answer can turn stays one.
    let fallen = gate_runs(&base, &judged("forgetful"), &["--format", "json"]);
    assert_eq!(fallen.code, Some(1), "{}", fallen.stdout);
    let decided = decision(&fallen);
    assert_eq!(codes(dataset(&decided, "embedded/mnist")), ["forgetting"]);
}

#[test]
fn policies_are_documented_and_checked() {
    let printed = support::run(["gate", "--print-policy"]);
    assert_eq!(printed.code, Some(0));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    fs::write(&path, &printed.stdout).unwrap();
    let runs = finished_runs();
    let with = |text: &str| {
        fs::write(&path, text).unwrap();
        gate_runs(&runs.join("base"), &runs.join("forgetful"), &["--policy", &path.display().to_string()])
    };
    assert_eq!(with(&printed.stdout).code, Some(1));
    let slip = with("margin = 0.1\n[datasets.\"embedded/mnist\"]\nmax_leek = 0.1\n");
    assert_eq!(slip.code, Some(2));
    for words in ["policy.toml", "`max_leek`", "[datasets.embedded/mnist]", "`max_leak`"] {
        assert!(slip.stderr.contains(words), "{words}: {}", slip.stderr);
    }
    assert_eq!(with("ignore = [\"embedded/mnist\"]").code, Some(3));
    let other = with("margin = 0.5\nignore = [\"embedded/mnist\"]\n[datasets.cifar100]\nmargin = 0.1\n");
    assert!(other.stdout.contains("names `cifar100`, which was not compared"), "{}", other.stdout);
    let nothing = support::run(["gate"]);
    assert!(nothing.code == Some(2) && nothing.stderr.contains("--baseline RUN"), "{}", nothing.stderr);
}
