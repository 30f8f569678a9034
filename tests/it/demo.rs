//! `emt demo`: the whole story in miniature.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::support;

fn accuracy(dir: &Path, run: &str, dataset: &str) -> f64 {
    let text = std::fs::read_to_string(dir.join(run).join("summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&text).unwrap();
    let datasets = summary["datasets"].as_array().unwrap();
    let found = datasets.iter().find(|one| one["dataset"] == dataset).unwrap();
    found["model"]["accuracy"].as_f64().unwrap()
}

#[test]
fn the_demo_forgets_digits_and_tells_the_story_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("reports/demo");
    let mut command = support::emt();
    command.current_dir(folder.path()).args(["demo", "--limit", "40", "--epochs", "2"]);
    // Killed while it trains, the same command goes on in the same folder.
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !dir.join("finetune/linear/training.json").is_file() {
        assert!(child.try_wait().unwrap().is_none(), "it trains");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let finished = support::finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("written into reports/demo\n"), "{}", finished.stderr);
    for file in ["report.html", "rose.svg", "rose.png", "base/report.html", "linear/trials.jsonl", "lora/run.json"] {
        assert!(dir.join(file).is_file(), "{file}");
    }
    for curve in ["finetune/linear/curve.svg", "finetune/lora/curve.svg", "finetune/lora/adapter_config.json"] {
        assert!(dir.join(curve).is_file(), "{curve}");
    }
    let page = std::fs::read_to_string(dir.join("report.html")).unwrap();
    for words in ["Before", "After linear", "After lora", "Fall, points", "Fine-tuned on embedded/cifar10"] {
        assert!(page.contains(words), "{words}");
    }
    // With so few images nothing may be released, and the verdict is that of `emt gate` to the letter.
    for (file, run) in [("decision.json", "lora"), ("decision-linear.json", "linear")] {
        let decision: Value = serde_json::from_str(&std::fs::read_to_string(dir.join(file)).unwrap()).unwrap();
        assert_eq!((&decision["candidate"]["run"], &decision["exit_code"]), (&run.into(), &3.into()), "{file}");
        assert_eq!(decision["datasets"][0]["reasons"][0]["code"], "too_few_pairs");
        assert!(finished.stdout.contains("`emt gate` would return 3."), "{}", finished.stdout);
    }
    let digits = ["base", "linear", "lora"].map(|run| accuracy(&dir, run, "embedded/mnist"));
    assert!(digits[0] > 0.4, "the miniature reads digits: {digits:?}");
    assert!(digits[1] < digits[0] - 0.2 && digits[2] < digits[0] - 0.1, "and forgets them: {digits:?}");

    // The same command again goes into a folder of its own: here it is the default one that exists.
    let mut again = support::emt();
    again.current_dir(folder.path()).args(["demo", "--limit", "1", "--epochs", "0"]);
    let refused = support::finish(&mut again);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("reports/demo-2") && refused.stderr.contains("--epochs"), "{}", refused.stderr);
}
