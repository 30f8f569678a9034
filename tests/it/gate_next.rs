//! What a gate says next, and that a figure is one number wherever it stands.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::gate::{codes, dataset, decision, finished_runs, gate_runs};
use super::gate_safety::{
    DIGITS, assert_refused, base, copied, night, read_json, report, text, trials, wide_policy, write_trials,
};
use super::support::{Finished, finish};

#[test]
fn a_figure_is_one_number_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let tuned = finished_runs().join("forgetful");
    let out = folder.path().join("out");
    let file = folder.path().join("decision.json");
    let gated = gate_runs(&base(), &tuned, &["--out", &text(&file)]);
    assert_eq!(gated.code, Some(1), "{}", gated.stderr);
    let reported = report(&[&tuned], &base(), &["--out", &text(&out), "--decision", &text(&file)]);
    assert_eq!(reported.code, Some(0), "{}", reported.stderr);
    let comparison = read_json(&out.join("comparison.json"));
    let compared = dataset(&comparison["candidates"][0], DIGITS);
    let decided = read_json(&file);
    let decided = dataset(&decided, DIGITS);
    for (run, side) in [(base(), "before"), (tuned.clone(), "after")] {
        let summary = read_json(&run.join("summary.json"));
        let summary = dataset(&summary, DIGITS);
        assert!(summary["retention_interval"].is_array(), "{summary}");
        assert_eq!(compared[format!("retention_{side}")], summary["retention"]);
        assert_eq!(compared[format!("retention_{side}_interval")], summary["retention_interval"]);
        let subject = if side == "before" { "baseline" } else { "candidate" };
        assert_eq!(compared[format!("{subject}_accuracy")], summary["model"]["accuracy"]);
        assert_eq!(compared[format!("{subject}_accuracy_interval")], summary["model"]["accuracy_interval"]);
        assert_eq!(decided[format!("{subject}_accuracy")], summary["model"]["accuracy"]);
        // As people read it: both pages round the same numbers in the same way.
        let [low, high] = [0, 1].map(|end| summary["retention_interval"][end].as_f64().unwrap() * 100.0);
        let shown = format!("({low:.1}–{high:.1})");
        for page in [run.join("report.md"), out.join("report.md")] {
            let page = fs::read_to_string(page).unwrap();
            assert!(page.contains(&shown), "{shown}: {page}");
        }
    }
    for field in [
        "n_pairs",
        "n_unscored",
        "forgetting",
        "forgetting_interval",
        "forgetting_bounds",
        "n_lost",
        "n_gained",
        "encoder_knows",
        "margin",
        "p_value",
        "p_value_fail",
        "p_value_mcnemar",
        "n_needed",
    ] {
        assert_eq!(decided[field], compared[field], "{field}");
    }
}

/// Runs the words of a command that the program printed, as a shell would.
fn in_a_shell(command: &str) -> Finished {
    let words = command.strip_prefix("emt ").unwrap();
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("'{}' {words}", env!("CARGO_BIN_EXE_emt"))).current_dir(std::env::temp_dir());
    finish(&mut shell)
}

#[test]
fn a_fail_says_the_report_that_shows_what_was_lost_and_it_runs_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join("it's a folder");
    let run = night(&odd, "fine tune", 120);
    let file = odd.join("decision.json");
    let finished = gate_runs(&base(), &run, &["--policy", wide_policy(), "--out", &text(&file)]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let (_, rest) =
        finished.stdout.split_once("\nnext: what was lost").unwrap_or_else(|| panic!("{}", finished.stdout));
    let command = rest.lines().nth(1).unwrap().trim();
    assert!(
        command.starts_with("emt report '") && command.contains(" --baseline ") && command.contains(" --decision ")
    );
    let out = odd.join("out");
    let quoted = format!("'{}'", text(&out).replace('\'', r"'\''"));
    let reported = in_a_shell(&format!("{command} --out {quoted} --no-images"));
    assert_eq!(reported.code, Some(0), "{command}: {}", reported.stderr);
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("FAIL"));
    let written = read_json(&file);
    assert_eq!(written["next"][0]["command"], command);
    let without = gate_runs(&base(), &run, &["--policy", wide_policy(), "--format", "markdown"]);
    assert!(without.stdout.contains("    emt report '") && without.stdout.contains("--out FILE"), "{}", without.stdout);
    assert!(!without.stdout.contains("--decision '"), "{}", without.stdout);
    // What was allowed here must be allowed there.
    let mut fewer = trials(&run);
    fewer.retain(|trial| !trial["sample"].as_str().unwrap().ends_with("07"));
    write_trials(&run, &fewer);
    let allowed = gate_runs(&base(), &run, &["--policy", wide_policy(), "--allow-different", "samples"]);
    assert!(allowed.stdout.contains(" --allow-different samples\n"), "{}", allowed.stdout);
}

fn next(decision: &Value) -> Vec<(String, Option<String>)> {
    let steps = decision["next"].as_array().cloned().unwrap_or_default();
    let of = |step: &Value, key: &str| step[key].as_str().map(str::to_owned);
    steps.iter().map(|step| (of(step, "message").unwrap(), of(step, "command"))).collect()
}

#[test]
fn an_undecided_gate_says_how_many_images_would_decide_or_that_none_at_hand_can() {
    let folder = tempfile::tempdir().unwrap();
    let decided = |run: &Path, arguments: &[&str]| {
        let baseline = folder.path().join("base");
        let finished = gate_runs(&baseline, run, &[arguments, &["--format", "json"]].concat());
        assert_eq!(finished.code, Some(3), "{} {}", finished.stdout, finished.stderr);
        decision(&finished)
    };
    // 220 of the miniature's 600 digits were asked about, and about 300 would do.
    // As a lock-step leaves them.
    copied(&base(), &folder.path().join("base"), |_, _| {});
    let few = folder.path().join("forgetful");
    copied(&night(folder.path(), "few", 1), &few, |_, _| {});
    let found = decided(&few, &[]);
    assert_eq!(codes(dataset(&found, DIGITS)), ["underpowered"]);
    let steps = next(&found);
    let command = steps[0].1.clone().unwrap_or_else(|| panic!("{steps:?}"));
    let n: usize = command.rsplit_once(" --limit ").unwrap().1.parse().unwrap();
    assert!(command.contains("emt eval --model embedded ") && (250..=600).contains(&n), "{command}");
    // It may be given from the folder above, and is short then.
    let read = folder.path().file_name().unwrap().to_str().unwrap();
    assert!(command.contains(&format!("{read} --limit ")), "the folder that was read: {command}");
    assert_eq!(command.matches("--limit").count(), 1, "{command}");
    assert!(steps[0].0.contains("pairs would decide") && steps[0].0.contains("both runs"), "{steps:?}");
    // More than there are.
    let many = night(folder.path(), "many", 8);
    let found = decided(&many, &["--datasets", DIGITS]);
    let steps = next(&found);
    assert!(steps[0].0.contains("only 600 images are available: this data cannot decide"), "{steps:?}");
    assert!(steps.iter().all(|(_, command)| command.is_none()), "{steps:?}");
    // Where the runs no longer lie beside each other no one command continues with both.
    let apart = folder.path().join("elsewhere/few");
    copied(&few, &apart, |_, _| {});
    let steps = next(&decided(&apart, &[]));
    assert!(steps[0].0.contains("continue both runs with --limit") && steps[0].1.is_none(), "{steps:?}");
    // All that there are.
    let unlimited = |run: &Path| {
        copied(run, run, |manifest, _| {
            manifest["environment"].as_object_mut().unwrap().remove("limit");
        });
    };
    let whole_base = folder.path().join("whole-base");
    copied(&base(), &whole_base, |_, _| {});
    unlimited(&whole_base);
    unlimited(&many);
    let finished = gate_runs(&whole_base, &many, &[]);
    assert_eq!(finished.code, Some(3));
    assert!(
        finished.stdout.contains("all 220 available images are used: this data cannot decide"),
        "{}",
        finished.stdout
    );
    // Nothing that says anything.
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, format!("ignore = [\"{DIGITS}\"]")).unwrap();
    let found = decided(&few, &["--policy", &text(&policy)]);
    assert!(next(&found)[0].0.contains("compare on a dataset that the baseline knows"), "{found}");
}

#[test]
fn unlike_runs_are_refused_with_the_flag_or_command_that_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = night(folder.path(), "night", 1);
    let mut before = read_json(&base().join("run.json"));
    for (field, value, words) in [
        ("generation_limits", json!({"generate": {"max_new_tokens": 64}}), "--max-new-tokens 32"),
        ("compute_type", json!("bf16"), "--dtype f32"),
        ("device_kind", json!("cuda"), "--device cpu"),
        ("sample_seed", json!(1), "--sample-seed 230910313"),
        ("split", json!({DIGITS: "train"}), "--split test"),
        ("label_set", json!({DIGITS: "blake3:x"}), "--labels"),
        ("comparator", json!({DIGITS: "probe"}), "--probe-shots"),
        ("judges", json!([{"judge": "llm", "model": "x"}]), "emt judge score "),
    ] {
        copied(&run, &folder.path().join("unlike"), |manifest, _| manifest["comparable"][field] = value);
        let refused = gate_runs(&base(), &folder.path().join("unlike"), &[]);
        assert_refused(&refused, &[field, words, &format!("--allow-different {field}")]);
    }
    // Of two judges' versions the older run is the one to judge again.
    before["comparable"]["judges"] = json!([{"judge": "rules", "model": "0"}]);
    before["spec"]["judges"] = json!([{"judge": "rules", "model": "0"}]);
    let old = folder.path().join("old");
    copied(&base(), &old, |manifest, _| *manifest = before);
    let refused = gate_runs(&old, &run, &[]);
    assert_refused(&refused, &[&format!("emt judge score {}", text(&old)), "--judge rules"]);
    let (_, command) = refused.stderr.split_once("was: ").unwrap();
    let judged = in_a_shell(command.split(", or --allow").next().unwrap());
    assert_eq!(judged.code, Some(0), "{}", judged.stderr);
    assert_eq!(gate_runs(&folder.path().join("old-judged"), &run, &["--policy", wide_policy()]).code, Some(0));
}

/// A run of the miniature on `n` digits, made by `emt -q eval` with a relative folder in `directory`.
fn quiet_run(directory: &Path, name: &str, n: usize) {
    let mut command = super::support::emt();
    command.current_dir(directory).args([
        "-q",
        "eval",
        "--model",
        "embedded",
        "--datasets",
        DIGITS,
        "--encoder",
        "none",
    ]);
    let finished = finish(command.args(["--out", name, "--limit", &n.to_string()]));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

#[test]
fn the_next_command_goes_on_with_a_quiet_run_that_was_moved_from_wherever_it_is_typed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    quiet_run(&folder, "made", 20);
    let [before, after] = ["moved here/before", "moved here/after"].map(|name| folder.join(name));
    copied(&folder.join("made"), &before, |_, _| {});
    copied(&folder.join("made"), &after, |_, _| {});
    let finished = gate_runs(&before, &after, &["--allow-same", "--policy", wide_policy(), "--format", "json"]);
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    let steps = next(&decision(&finished));
    assert_eq!(steps.len(), 2, "{steps:?}");
    for ((_, command), run) in steps.iter().zip([&before, &after]) {
        let command = command.as_ref().unwrap();
        assert!(command.contains("emt -q eval ") && command.contains(&format!(" --out '{}'", text(run))), "{command}");
        let (change, words) = command.split_once(" && ").unwrap();
        assert_eq!(change, format!("cd {}", text(&folder)));
        let went_on = in_a_shell(&words.replace(" -q ", " ").replace("--limit 200", "--limit 30"));
        assert_eq!(went_on.code, Some(0), "{}", went_on.stderr);
        assert_eq!(trials(run).len(), 30, "{command}");
    }
}

#[test]
fn the_report_after_a_fail_knows_what_the_policy_calls_fine_tuned() {
    let folder = tempfile::tempdir().unwrap();
    let run = night(folder.path(), "night", 120);
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, "margin = 0.08\ntuned_on = [\"cifar10\"]\n").unwrap();
    let finished = gate_runs(&base(), &run, &["--policy", &text(&policy)]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stdout.contains(" --tuned-on cifar10\n"), "{}", finished.stdout);
    // What the run itself says need not be said again.
    let own = gate_runs(&base(), &finished_runs().join("forgetful"), &[]);
    assert!(own.code == Some(1) && !own.stdout.contains("--tuned-on"), "{}", own.stdout);
}

#[test]
fn a_stop_with_two_sizes_says_what_each_is_for() {
    let folder = tempfile::tempdir().unwrap();
    quiet_run(folder.path(), "base", 20);
    let run = folder.path().join("lost");
    copied(&folder.path().join("base"), &run, |manifest, trials| {
        manifest["spec"]["model"]["adapter"] = json!("blake3:lost");
        manifest["environment"].as_object_mut().unwrap().remove("recorded");
        let right = trials.iter_mut().filter(|trial| trial["subject"] == "model" && trial["outcome"] == "correct");
        for trial in right.take(8) {
            super::gate_safety::lose(trial);
        }
    });
    let finished = gate_runs(&folder.path().join("base"), &run, &["--format", "json"]);
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    let found = decision(&finished);
    let n_needed = dataset(&found, DIGITS)["n_needed"].to_string();
    let (message, _) = &next(&found)[0];
    let words =
        ["if the true fall is the one measured on 20 pairs, about 200", "if nothing was lost, about", &n_needed];
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}
