//! Ways to a wrong verdict with exit code 0, each closed: the same model twice, another candidate's decision, flags and names
//! without effect, a test level that moves, and runs that are not what they were.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::gate::{codes, dataset, decision, finished_runs, gate_runs};
use super::support::{self, Finished, emt, finish};

pub const DIGITS: &str = "embedded/mnist";

pub fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

pub fn trials(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("trials.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn write_trials(run: &Path, trials: &[Value]) {
    let lines: String = trials.iter().map(|trial| format!("{trial}\n")).collect();
    fs::write(run.join("trials.jsonl"), lines).unwrap();
}

/// A copy of the run `from`, changed; what it recorded of its trials goes with `note_trials`.
pub fn copied(from: &Path, to: &Path, change: impl FnOnce(&mut Value, &mut Vec<Value>)) {
    fs::create_dir_all(to).unwrap();
    let (mut manifest, mut lines) = (read_json(&from.join("run.json")), trials(from));
    change(&mut manifest, &mut lines);
    fs::write(to.join("run.json"), manifest.to_string()).unwrap();
    write_trials(to, &lines);
}

/// A run of another adapter over the base, in which the first `n_lost` right answers are lost.
pub fn night(folder: &Path, name: &str, n_lost: usize) -> PathBuf {
    let to = folder.join(name);
    copied(&finished_runs().join("base"), &to, |manifest, trials| {
        manifest["identity"] = json!(format!("blake3:{}", blake3::hash(name.as_bytes()).to_hex()));
        manifest["spec"]["model"]["adapter"] = json!(format!("blake3:{name}"));
        manifest["environment"].as_object_mut().unwrap().remove("recorded");
        let right = trials.iter_mut().filter(|trial| trial["subject"] == "model" && trial["outcome"] == "correct");
        for trial in right.take(n_lost) {
            lose(trial);
        }
    });
    to
}

pub fn lose(trial: &mut Value) {
    trial["outcome"] = json!("incorrect");
    trial["code"] = json!("wrong");
    trial["kind"] = json!("incorrect_prediction");
    trial["answer"] = json!("This is a photo of something else.");
    trial["verdicts"] = json!([{"judge": "rules", "verdict": "incorrect"}]);
}

pub fn base() -> PathBuf {
    finished_runs().join("base")
}

pub fn text(path: &Path) -> String {
    path.display().to_string()
}

pub fn report(runs: &[&Path], baseline: &Path, arguments: &[&str]) -> Finished {
    let mut command = emt();
    command.arg("report").args(runs).arg("--baseline").arg(baseline).arg("--no-images").args(arguments);
    finish(&mut command)
}

pub fn assert_refused(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.code, Some(2), "{} {}", finished.stdout, finished.stderr);
    for word in words {
        assert!(finished.stderr.contains(word), "{word}: {}", finished.stderr);
    }
}

/// With this margin 220 digits can pass.
pub fn wide_policy() -> &'static str {
    static POLICY: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    let (_, path) = POLICY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        fs::write(&path, "margin = 0.08\n").unwrap();
        let shown = path.display().to_string();
        (folder, shown)
    });
    path
}

#[test]
fn one_model_twice_is_refused_however_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (base, tuned) = (base(), finished_runs().join("forgetful"));
    let copy = folder.path().join("elsewhere");
    copied(&base, &copy, |manifest, _| {
        manifest["spec"]["model"]["name"] = json!("another name");
        // Files that another program saved again, with the same tokens in every prompt.
        manifest["spec"]["model"]["tokenizer"] = json!("blake3:saved-again");
        manifest["identity"] = json!("blake3:other");
    });
    let merged = folder.path().join("merged");
    copied(&tuned, &merged, |manifest, _| {
        manifest["spec"]["model"]["merged"] = json!(true);
        manifest["identity"] = json!("blake3:merged");
    });
    for (baseline, candidate) in [(&base, &base), (&base, &copy), (&tuned, &merged)] {
        let gated = gate_runs(baseline, candidate, &["--policy", wide_policy()]);
        assert_refused(&gated, &["are the same model", "no forgetting could be found", "--allow-same"]);
        assert!(gated.stdout.is_empty(), "{}", gated.stdout);
        // A report is no verdict, and says so on its page.
        let out = folder.path().join("report");
        let reported = report(&[candidate], baseline, &["--out", &text(&out)]);
        assert_eq!(reported.code, Some(0), "{}", reported.stderr);
        for said in [reported.stderr, fs::read_to_string(out.join("report.md")).unwrap()] {
            assert!(said.contains("are the same model"), "{said}");
        }
    }
    let stages = support::run(["report", "--stages", &text(&base), &format!("{}:{DIGITS}", text(&copy))]);
    assert_refused(&stages, &["are the same model"]);
    // Whoever means it gets a verdict that says what it is of.
    let meant = gate_runs(&base, &copy, &["--policy", wide_policy(), "--allow-same"]);
    assert_eq!(meant.code, Some(0), "{} {}", meant.stdout, meant.stderr);
    assert!(meant.stdout.contains("warning: baseline and candidate are the same model"), "{}", meant.stdout);
}

#[test]
fn the_same_weights_asked_in_another_way_may_be_compared_where_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let asked = folder.path().join("asked-otherwise");
    copied(&base(), &asked, |manifest, _| {
        manifest["comparable"]["prompt_ids"][DIGITS]["model"]["generate"] = json!([1, 2, 3]);
        manifest["spec"]["model"]["chat_template"] = json!("blake3:another");
        manifest["identity"] = json!("blake3:asked");
    });
    assert_refused(&gate_runs(&base(), &asked, &[]), &["prompt_ids", "--template", "--allow-different prompt_ids"]);
    let allowed = gate_runs(&base(), &asked, &["--policy", wide_policy(), "--allow-different", "prompt_ids"]);
    assert_eq!(allowed.code, Some(0), "{} {}", allowed.stdout, allowed.stderr);
}

#[test]
fn a_served_model_twice_is_refused_and_two_names_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let served = |name: &str, model: &str, answer: Value| {
        let to = folder.path().join(name);
        copied(&base(), &to, |manifest, _| {
            let model = json!({"model": model, "request": {}, "n_probe_tokens": 30, "probe_answer": answer});
            manifest["spec"]["model"]["weights"] = Value::Null;
            manifest["spec"]["model"]["served"] = model;
            manifest["identity"] = json!(format!("blake3:{name}"));
        });
        to
    };
    let before = served("before", "base", json!("blake3:cat"));
    for again in [served("again", "base", json!("blake3:cat")), served("unsure", "base", Value::Null)] {
        let refused = gate_runs(&before, &again, &["--policy", wide_policy()]);
        assert_refused(&refused, &["the served model `base` twice", "--served-model BASE,CANDIDATE", "--allow-same"]);
    }
    for other in [served("tuned", "tuned", json!("blake3:cat")), served("changed", "base", json!("blake3:dog"))] {
        let passed = gate_runs(&before, &other, &["--policy", wide_policy()]);
        assert_eq!(passed.code, Some(0), "{}", passed.stderr);
        // Two names, and not a digit of difference: a server that did not load the adapter looks like this.
        assert!(passed.stdout.contains("no answer changed"), "{}", passed.stdout);
    }
}

#[test]
fn a_decision_stands_only_in_the_report_of_its_own_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (second, third) = (night(folder.path(), "night2", 1), night(folder.path(), "night3", 120));
    let decided = |name: &str, run: &Path, code: i32| {
        let file = folder.path().join(name);
        let finished = gate_runs(&base(), run, &["--policy", wide_policy(), "--out", &text(&file)]);
        assert_eq!(finished.code, Some(code), "{} {}", finished.stdout, finished.stderr);
        text(&file)
    };
    let (of_second, of_third) = (decided("second.json", &second, 0), decided("third.json", &third, 1));
    let written = read_json(Path::new(&of_second));
    assert_eq!(written["candidate"]["run"], "night2");
    assert_eq!(written["candidate"]["n_trials"], trials(&second).len());
    let hash = format!("blake3:{}", blake3::hash(&fs::read(second.join("trials.jsonl")).unwrap()).to_hex());
    assert_eq!(written["candidate"]["trials"], hash);
    let out = text(&folder.path().join("out"));
    let with = |runs: &[&Path], decisions: &[&str]| {
        let mut arguments = vec!["--out", out.as_str()];
        decisions.iter().for_each(|file| arguments.extend(["--decision", file]));
        report(runs, &base(), &arguments)
    };
    let right = with(&[&second], &[&of_second]);
    assert_eq!(right.code, Some(0), "{}", right.stderr);
    assert!(!right.stderr.contains("warning"), "{}", right.stderr);
    assert!(fs::read_to_string(folder.path().join("out/report.html")).unwrap().contains("PASS"));
    let another = with(&[&third], &[&of_second]);
    assert_refused(
        &another,
        &["second.json` is about the candidate `night2`", "and not about `night3`", "decide again"],
    );
    assert_refused(&with(&[&second, &third], &[&of_third, &of_second]), &["in the order of the runs"]);
    assert_refused(&report(&[&third], &second, &["--decision", &of_third]), &["is about the baseline `base`"]);
    // The run has grown since.
    let mut more = trials(&second);
    let mut added = more[0].clone();
    added["sample"] = json!("embedded/mnist/test/99999");
    more.push(added);
    write_trials(&second, &more);
    assert_refused(
        &with(&[&second], &[&of_second]),
        &["`night2` has changed since the decision", "440 trials then, 441 now"],
    );
}

#[test]
fn a_decision_that_says_less_is_refused_or_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let run = night(folder.path(), "night", 1);
    let file = folder.path().join("decision.json");
    let gated = gate_runs(&base(), &run, &["--policy", wide_policy(), "--out", &text(&file)]);
    assert_eq!(gated.code, Some(0), "{}", gated.stderr);
    let whole = read_json(&file);
    let with = |change: fn(&mut Value)| {
        let mut changed = whole.clone();
        change(&mut changed);
        fs::write(&file, changed.to_string()).unwrap();
        report(&[&run], &base(), &["--out", &text(&folder.path().join("out")), "--decision", &text(&file)])
    };
    let forget = |decision: &mut Value| {
        for run in ["baseline", "candidate"] {
            let named = decision[run].as_object_mut().unwrap();
            named.remove("trials");
            named.remove("n_trials");
        }
    };
    // As earlier versions wrote it: told, and its numbers must be those of the runs.
    let older = with(forget);
    assert_eq!(older.code, Some(0), "{}", older.stderr);
    assert!(older.stderr.contains("decision.json` was made by an earlier emt"), "{}", older.stderr);
    let other_numbers = with(|decision| {
        for run in ["baseline", "candidate"] {
            decision[run].as_object_mut().unwrap().remove("trials");
        }
        decision["datasets"][0]["n_lost"] = json!(0);
    });
    assert_refused(&other_numbers, &["is about other trials of `embedded/mnist`", "0 lost", "decide again"]);
    assert_refused(&with(|decision| decision["candidate"] = Value::Null), &["does not name its candidate"]);
    assert_refused(&with(|decision| decision["schema"] = json!("emt.decision/2")), &["`emt.decision/2`", "newer one"]);
    assert_refused(&with(|decision| decision["schema"] = json!("emt.summary/1")), &["not a decision of emt"]);
}

/// Base and candidate with a second dataset, in which the candidate lost nothing.
pub fn two_datasets(folder: &Path, n_lost: usize) -> [PathBuf; 2] {
    let twice = |from: &Path, name: &str| {
        let to = folder.join(name);
        copied(from, &to, |manifest, lines| {
            let mut second = manifest["spec"]["datasets"][0].clone();
            second["dataset"] = json!("more/digits");
            manifest["spec"]["datasets"].as_array_mut().unwrap().push(second);
            for field in ["split", "label_set", "prompt_text", "prompt_ids", "comparator"] {
                let value = manifest["comparable"][field][DIGITS].clone();
                manifest["comparable"][field]["more/digits"] = value;
            }
            let of_base = trials(&base());
            lines.extend(of_base.into_iter().map(|mut trial| {
                trial["dataset"] = json!("more/digits");
                trial
            }));
            manifest["environment"].as_object_mut().unwrap().remove("recorded");
        });
        to
    };
    let tuned = night(folder, "one-dataset", n_lost);
    [twice(&base(), "base2"), twice(&tuned, "tuned2")]
}

#[test]
fn datasets_chooses_what_is_decided_on_and_a_slip_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let [base, tuned] = two_datasets(folder.path(), 120);
    let with =
        |list: &str| gate_runs(&base, &tuned, &["--policy", wide_policy(), "--datasets", list, "--format", "json"]);
    let all = gate_runs(&base, &tuned, &["--policy", wide_policy()]);
    assert_eq!(all.code, Some(1), "{}", all.stderr);
    let only = with("more/digits");
    assert_eq!(only.code, Some(0), "{} {}", only.stdout, only.stderr);
    let decided = decision(&only);
    assert_eq!(decided["datasets"].as_array().unwrap().len(), 1);
    assert_eq!(dataset(&decided, "more/digits")["decision"], "pass");
    assert_eq!(decided["warnings"][0], "--datasets leaves out embedded/mnist: nothing is decided on it");
    assert_eq!(with("./more/digits").code, Some(0), "as `emt eval` was given it");
    let both = with("more/digits,embedded/mnist,more/digits");
    assert_eq!((both.code, decision(&both)["datasets"].as_array().unwrap().len()), (Some(1), 2));
    assert_refused(&with("more/digit"), &["the run `base2` has no such dataset", "did you mean `more/digits`?"]);
    assert_refused(&with("mnist"), &["no such dataset", "embedded/mnist"]);
    assert_refused(&with(","), &["names no dataset"]);
    // Differences in what is left out do not matter.
    copied(&tuned.clone(), &tuned, |manifest, _| {
        manifest["comparable"]["prompt_ids"][DIGITS]["model"]["generate"] = json!([1]);
    });
    assert_eq!(with("more/digits").code, Some(0));
    assert_refused(&with(DIGITS), &["prompt_ids"]);
}

#[test]
fn a_policy_that_names_an_unknown_dataset_is_refused_and_a_shared_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let run = night(folder.path(), "night", 1);
    let path = folder.path().join("policy.toml");
    let with = |text: &str, arguments: &[&str]| {
        fs::write(&path, format!("margin = 0.08\n{text}")).unwrap();
        let path = path.display().to_string();
        gate_runs(&base(), &run, &[&["--policy", path.as_str()], arguments].concat())
    };
    for (text, name, meant) in [
        ("[datasets.cifar1000]\nmargin = 0.1\n", "`cifar1000`", "`cifar100`"),
        ("ignore = [\"embeded/mnist\"]\n", "`embeded/mnist`", "`embedded/mnist`"),
        ("tuned_on = [\"CIFAR-10\"]\n", "`CIFAR-10`", "`cifar10`"),
    ] {
        let refused = with(text, &[]);
        assert_refused(&refused, &["policy.toml", name, "neither the runs nor the catalog know", meant]);
    }
    assert_refused(&with("", &["--tuned-on", "cifar1O"]), &["--tuned-on cifar1O", "did you mean `cifar10`?"]);
    assert_refused(&with("[dataset.mnist]\nmargin = 0.1\n", &[]), &["`dataset`", "did you mean `datasets`?"]);
    // The runs have no `mnist` but `embedded/mnist`: unchecked rules would count as kept.
    for text in ["[datasets.mnist]\nmax_class_fall = 0.01\n", "ignore = [\"mnist\"]\n"] {
        let refused = with(text, &[]);
        assert_refused(&refused, &["policy.toml", "`mnist`, which is not compared", "did you mean `embedded/mnist`?"]);
        assert!(refused.stdout.is_empty(), "{}", refused.stdout);
    }
    // With rules of its own the compared one is not what was meant.
    let both = with("[datasets.mnist]\nmargin = 0.1\n[datasets.\"embedded/mnist\"]\nmargin = 0.08\n", &[]);
    assert_eq!(both.code, Some(0), "{}", both.stderr);
    // Rules for datasets that another pipeline compares.
    let shared = with("ignore = [\"miniimagenet\"]\n[datasets.cifar100]\nmargin = 0.1\n", &[]);
    assert_eq!(shared.code, Some(0), "{} {}", shared.stdout, shared.stderr);
    for name in ["cifar100", "miniimagenet"] {
        assert!(shared.stdout.contains(&format!("names `{name}`, which was not compared")), "{}", shared.stdout);
    }
    for (text, words) in [
        ("min_pairs = 0\n", "whole number above 0"),
        ("max_unscored = nan\n", "must be a number"),
        ("alpha = 0.5\n", "between 0 and 0.5"),
        ("[datasets.mnist]\nmargin = 1.0\n", "between 0 and 1"),
        ("[datasets.mnist]\nmargin = -0.1\n", "between 0 and 1"),
    ] {
        assert_refused(&with(text, &[]), &["policy.toml", words]);
    }
}

#[test]
fn a_candidate_keeps_the_attempt_that_it_first_got() {
    let folder = tempfile::tempdir().unwrap();
    let history = text(&folder.path().join("history"));
    let nights: Vec<PathBuf> = (1..5).map(|n| night(folder.path(), &format!("night{n}"), n)).collect();
    let decide = |run: &Path| {
        let finished = gate_runs(&base(), run, &["--policy", wide_policy(), "--history", &history, "--format", "json"]);
        (finished.code, decision(&finished))
    };
    let first: Vec<_> = nights.iter().map(|run| decide(run)).collect();
    let attempts: Vec<&Value> = first.iter().map(|(_, decision)| &decision["attempt"]).collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
    // In another order, and twice: the same decisions to the byte.
    for place in [1, 3, 0, 1, 2] {
        assert_eq!(decide(&nights[place]), first[place], "night {}", place + 1);
    }
    let (_, second) = &first[1];
    assert_eq!(second["policy"]["alpha"], 0.025, "as it is written");
    let in_force = second["policy"]["alpha_in_force"].as_f64().unwrap();
    assert!((in_force - 0.025 * 6.0 / (std::f64::consts::PI * 2.0).powi(2)).abs() < 1e-12, "{in_force}");
    assert_eq!(second["datasets"][0]["alpha_look"].as_f64(), Some(in_force));
    // Somebody who removes a decision makes no room.
    let file = |decision: &Value| {
        let identity = decision["candidate"]["identity"].as_str().unwrap();
        Path::new(&history).join(format!("{}.json", &identity["blake3:".len()..][..8]))
    };
    fs::remove_file(file(&first[0].1)).unwrap();
    assert_eq!(decide(&night(folder.path(), "night5", 5)).1["attempt"], 5);
    // Against another baseline it is the same candidate on the same images, and both are remembered.
    let other = night(folder.path(), "other-base", 0);
    let against =
        gate_runs(&other, &nights[1], &["--policy", wide_policy(), "--history", &history, "--format", "json"]);
    assert_eq!(decision(&against)["attempt"], 2);
    assert_eq!(decide(&nights[1]), first[1]);
}

#[test]
fn a_run_that_is_not_what_it_was_is_refused_or_told() {
    let folder = tempfile::tempdir().unwrap();
    let tuned = finished_runs().join("forgetful");
    let changed = folder.path().join("changed");
    let with = |change: &dyn Fn(&mut Value, &mut Vec<Value>)| {
        copied(&tuned, &changed, |manifest, lines| change(manifest, lines));
        gate_runs(&base(), &changed, &[])
    };
    let untouched = gate_runs(&base(), &tuned, &[]);
    assert!(untouched.code == Some(1) && !untouched.stdout.contains("changed after"), "{}", untouched.stdout);
    // Cut at the end of a line, as an interrupted copy leaves it.
    let cut = with(&|_, lines| lines.truncate(400));
    assert_refused(&cut, &["ended with 440 trials", "holds 400", "to fill in the missing ones"]);
    let edited = with(&|_, lines| lines[0]["answer"] = json!("edited"));
    assert!(edited.stdout.contains("the trials of the run `changed` were changed after it ended"), "{}", edited.stdout);
    let running = with(&|manifest, _| manifest["state"] = json!("running"));
    // It does not lie where the command of the lock-step would look for it.
    assert_refused(&running, &["`changed` is not complete", "finish it with the command that started it"]);
    let empty = with(&|manifest, lines| {
        lines.clear();
        manifest["environment"].as_object_mut().unwrap().remove("recorded");
    });
    assert_refused(&empty, &["220 images", "are in only one of", "--allow-different samples"]);
    let allowed = gate_runs(&base(), &changed, &["--allow-different", "samples", "--format", "json"]);
    assert_eq!(codes(dataset(&decision(&allowed), DIGITS)), ["too_few_pairs"], "{}", allowed.stderr);
}

#[test]
fn many_copies_of_few_images_show_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let alike = |from: &Path, name: &str| {
        let to = folder.path().join(name);
        copied(from, &to, |manifest, lines| {
            manifest["environment"].as_object_mut().unwrap().remove("recorded");
            let contents: Vec<Value> = lines.iter().map(|trial| trial["content"].clone()).take(20).collect();
            for (place, trial) in lines.iter_mut().enumerate() {
                trial["content"] = contents[place % contents.len()].clone();
            }
        });
        to
    };
    let run = night(folder.path(), "night", 0);
    let gated = gate_runs(
        &alike(&base(), "base-alike"),
        &alike(&run, "alike"),
        &["--policy", wide_policy(), "--format", "json"],
    );
    assert_eq!(gated.code, Some(3), "{}", gated.stdout);
    let decided = decision(&gated);
    let reason = &dataset(&decided, DIGITS)["reasons"][0];
    assert_eq!(reason["code"], "too_few_pairs");
    assert!(reason["message"].as_str().unwrap().contains("different images"), "{reason}");
}

#[test]
fn what_makes_a_pass_mean_less_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let run = night(folder.path(), "night", 0);
    let unchanged = gate_runs(&base(), &run, &["--policy", wide_policy()]);
    assert_eq!(unchanged.code, Some(0), "{}", unchanged.stdout);
    assert!(unchanged.stdout.contains("no answer changed, and no digit of the logits"), "{}", unchanged.stdout);
    // Baseline and candidate the wrong way round: a gain is no release.
    let turned = gate_runs(&run, &base(), &["--policy", wide_policy()]);
    assert!(turned.stdout.contains("the right way round"), "{}", turned.stdout);
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, "margin = 0.99\n").unwrap();
    let anything = gate_runs(&base(), &night(folder.path(), "lost", 100), &["--policy", &text(&policy)]);
    assert!(anything.stdout.contains("a candidate that only guesses would pass, too"), "{}", anything.stdout);
    let [_, wider] = two_datasets(folder.path(), 1);
    let left_out = gate_runs(&base(), &wider, &["--policy", wide_policy()]);
    assert!(left_out.stdout.contains("the baseline lacks more/digits"), "{}", left_out.stdout);
}

#[test]
fn a_decision_never_takes_the_place_of_a_runs_own_file() {
    let folder = tempfile::tempdir().unwrap();
    let run = night(folder.path(), "night", 1);
    let before = fs::read(run.join("run.json")).unwrap();
    for flag in ["--out", "--junit", "--markdown"] {
        for name in ["run.json", "trials.jsonl", "summary.json"] {
            let refused = gate_runs(&base(), &run, &[flag, &text(&run.join(name))]);
            assert_refused(&refused, &[flag, name, "run's own file"]);
        }
    }
    let one = text(&folder.path().join("one"));
    assert_refused(&gate_runs(&base(), &run, &["--out", &one, "--markdown", &one]), &["both name"]);
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, "margin = 0.08\n").unwrap();
    let policy = text(&policy);
    assert_refused(&gate_runs(&base(), &run, &["--policy", &policy, "--out", &policy]), &["overwrite the policy"]);
    assert_refused(&gate_runs(&base(), &run, &["--out", &text(folder.path())]), &["is a folder"]);
    assert_eq!(fs::read(run.join("run.json")).unwrap(), before);
    // Beside them it may lie.
    let beside = text(&run.join("decision.json"));
    assert_eq!(gate_runs(&base(), &run, &["--policy", &policy, "--out", &beside]).code, Some(0));
    assert_eq!(gate_runs(&base(), &run, &["--policy", &policy, "--out", &beside]).code, Some(0));
}

#[test]
fn a_limit_that_nothing_can_be_held_against_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = night(folder.path(), "unknown", 2);
    let policy = folder.path().join("policy.toml");
    let gated = |rules: &str| {
        fs::write(&policy, format!("margin = 0.08\n{rules}\n")).unwrap();
        gate_runs(&base(), &run, &["--policy", &text(&policy)])
    };
    assert_refused(&gated("max_leak = 0.01"), &["`max_leak`", DIGITS, "--tuned-on"]);
    assert_eq!(gated("").code, Some(0));
}
