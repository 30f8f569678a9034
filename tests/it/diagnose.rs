//! `emt diagnose` on the built-in model.

use std::path::Path;
use std::process::Stdio;

use emt::chart::DiagnosisCharts;
use emt::diagnose::{Diagnosis, ImageDiagnosis};
use emt::report::{Absence, DiagnosedImage, Picture, diagnosed_choice, diagnosis_html};
use serde_json::{Value, json};

use super::chromium::{Browser, Window};
use super::support;

/// Trains low-rank updates of the built-in model for one epoch at `rate`.
fn trained(dir: &Path, rate: &str) {
    let arguments =
        ["finetune", "--model", "embedded", "--method", "lora", "--train", "embedded/mnist", "--limit", "40"];
    let numbers = ["--epochs", "1", "--eval-datasets", "none", "--learning-rate", rate, "--out"];
    let finished = support::run(arguments.into_iter().chain(numbers).chain([dir.to_str().unwrap()]));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

fn diagnose(folder: &Path, out: &str) -> std::process::Command {
    let mut command = support::emt();
    command.current_dir(folder).args(["diagnose", "--model", "embedded", "--adapter", "lora", "--limit", "12"]);
    command.args(["--datasets", "embedded/cifar10", "--max-new-tokens", "8", "--out", out]);
    command
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_diagnosis_that_was_killed_ends_equal_to_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    trained(&folder.path().join("lora"), "2e-2");
    let whole = support::finish(&mut diagnose(folder.path(), "whole"));
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    assert!(whole.stderr.contains("forward passes per image: base and candidate 2, swap "), "{}", whole.stderr);
    assert!(whole.stdout.starts_with("embedded/cifar10: "), "{}", whole.stdout);
    let diagnosis = read(&folder.path().join("whole/diagnosis.json"));
    assert_eq!(diagnosis["schema"], "emt.diagnosis/1");
    let dataset = &diagnosis["datasets"][0];
    let count = |list: &Value| list.as_array().unwrap().iter().map(|one| one["n"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(count(&dataset["causes"]), dataset["n_lost"].as_u64().unwrap());
    assert!(dataset["n_lost"].as_u64().unwrap() > 0, "such a rate loses something: {dataset:#}");
    let components: Vec<&str> =
        dataset["swap"].as_array().unwrap().iter().map(|share| share["component"].as_str().unwrap()).collect();
    assert!(components.starts_with(&["projector", "attention", "mlp"]), "{components:?}");
    for file in ["diagnosis.md", "diagnosis.html", "images.jsonl", "runs/base/report.html", "runs/lora/run.json"] {
        assert!(folder.path().join("whole").join(file).is_file(), "{file}");
    }
    let charts = [("causes.svg", ">Why images were lost<"), ("swap.svg", ">projector<"), ("layers.svg", ">base<")];
    for (file, words) in charts {
        let svg = std::fs::read_to_string(folder.path().join("whole").join(file)).unwrap();
        assert!(svg.contains(words) && !svg.contains("NaN"), "{file}: {svg}");
    }
    let lens = |layer: &Value| layer["lens_baseline"].as_f64().unwrap() < 0.0 && layer["rank_candidate"].is_f64();
    assert!(dataset["layers"].as_array().unwrap().iter().all(lens), "{dataset:#}");
    assert!(dataset["drift"][0]["kl"].as_f64().unwrap() > 0.0, "{dataset:#}");
    open_in_a_browser(&folder.path().join("whole/diagnosis.html"), 3);

    let mut command = diagnose(folder.path(), "killed");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !folder.path().join("killed/runs/lora/trials.jsonl").is_file() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let _ = child.kill();
    child.wait().unwrap();
    // Then a few more times, wherever it is by then.
    for delay_ms in [100, 300, 700, 1500] {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        let _ = child.kill();
        child.wait().unwrap();
    }
    let resumed = support::finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    for file in ["diagnosis.json", "images.jsonl", "diagnosis.md"] {
        let text = |out: &str| std::fs::read_to_string(folder.path().join(out).join(file)).unwrap();
        assert_eq!(text("whole"), text("killed"), "{file}");
    }
}

#[test]
fn a_candidate_that_lost_nothing_says_so_and_a_served_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    trained(&folder.path().join("lora"), "1e-7");
    let finished = support::finish(&mut diagnose(folder.path(), "out"));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.contains("Nothing was lost here."), "{}", finished.stdout);
    let diagnosis = read(&folder.path().join("out/diagnosis.json"));
    assert_eq!(diagnosis["datasets"][0]["causes"], Value::Array(Vec::new()));

    let served = ["diagnose", "--model", "http://localhost:8000/v1", "--adapter", "lora", "--out", "out"];
    let refused = support::run(served);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("served model") && refused.stderr.contains("--adapter DIR"), "{}", refused.stderr);
}

#[test]
fn all_probes_of_recorded_runs_are_diagnosed_and_the_gate_names_the_causes() {
    let folder = tempfile::tempdir().unwrap();
    trained(&folder.path().join("lora"), "2e-2");
    let evaluate =
        ["eval", "--model", "embedded", "--adapter", "lora", "--datasets", "embedded/cifar10,embedded/mnist"];
    let numbers = ["--limit", "10", "--max-new-tokens", "8", "--encoder", "none", "--out", "runs"];
    let finished = support::finish(support::emt().current_dir(folder.path()).args(evaluate).args(numbers));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);

    let runs = ["--baseline", "runs/base", "--candidate", "runs/lora"];
    let all = ["diagnose", "--probes", "all", "--datasets", "embedded/cifar10", "--out", "all"];
    // From another folder, as a pipeline does.
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let absolute = runs.map(|word| match word.strip_prefix("runs/") {
        Some(name) => folder.path().join("runs").join(name).display().to_string(),
        None => word.to_owned(),
    });
    let finished = support::finish(support::emt().current_dir(&elsewhere).args(all).args(absolute));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let diagnosis = read(&elsewhere.join("all/diagnosis.json"));
    assert_eq!(diagnosis["probes"].as_array().unwrap().len(), 14);
    assert_eq!(diagnosis["datasets"].as_array().unwrap().len(), 1);
    let dataset = &diagnosis["datasets"][0];
    assert_eq!(dataset["n_images"], 10);
    for probe in ["swap", "layers", "drift", "reliance", "truncation", "composite", "merge", "cam", "causes"] {
        assert!(!dataset[probe].is_null(), "{probe} is missing: {dataset:#}");
    }
    let layer = &dataset["layers"][1];
    for value in ["patch_image", "patch_last", "knockout_baseline", "flow_candidate", "similarity_image"] {
        assert!(!layer[value].is_null(), "{value} is missing: {layer:#}");
    }
    assert_eq!(diagnosis["mir"]["n_pairs"], 10);
    assert!(finished.stderr.contains("fewer than 20 are not reliable"), "{}", finished.stderr);

    let gate = ["gate", "--diagnose", "--format", "json", "--junit", "junit.xml", "--markdown", "gate.md"];
    let finished = support::finish(support::emt().current_dir(folder.path()).args(gate).args(runs));
    assert!(matches!(finished.code, Some(1 | 3)), "{}", finished.stderr);
    let decision: Value = serde_json::from_str(&finished.stdout).unwrap();
    let lossy = decision["datasets"].as_array().unwrap().iter().find(|dataset| dataset["n_lost"].as_u64() > Some(0));
    let cause = &lossy.unwrap()["causes"][0];
    assert!(cause["mend"].as_str().unwrap().starts_with("Try "), "{cause}");
    let name = cause["cause"].as_str().unwrap();
    for file in ["junit.xml", "gate.md"] {
        let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
        assert!(text.contains(&format!("cause {name}: ")), "{file}: {text}");
    }
    assert!(folder.path().join("runs/lora/diagnosis/diagnosis.html").is_file());

    let report = ["report", "runs/lora", "--baseline", "runs/base", "--out", "report", "--diagnosis"];
    let report = |dir: &str| support::finish(support::emt().current_dir(folder.path()).args(report).arg(dir));
    let finished = report("runs/lora/diagnosis");
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    for file in ["report.html", "report.md"] {
        let text = std::fs::read_to_string(folder.path().join("report").join(file)).unwrap();
        assert!(text.contains("Why images were lost"), "{file}");
    }
    let refused = report("runs/base");
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("diagnosis.json"), "{}", refused.stderr);
}

#[test]
fn every_probe_works_on_other_families() {
    let folder = tempfile::tempdir().unwrap();
    let golden = support::root().join("tests/golden");
    for family in ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "llava_onevision"] {
        let adapter = golden.join("qwen_adapters").join(format!("{family}-list"));
        let has_adapter = adapter.is_dir();
        let mut command = support::emt();
        command.current_dir(folder.path()).args(["diagnose", "--datasets", "embedded/cifar10", "--limit", "3"]);
        command.args(["--max-new-tokens", "4", "--probes", "all", "--out", family]);
        command.arg("--model").arg(golden.join("fixtures").join(family));
        if has_adapter {
            command.arg("--adapter").arg(adapter).args(["--min-pixels", "1024", "--max-pixels", "4096"]);
        }
        let finished = support::finish(&mut command);
        assert_eq!(finished.code, Some(0), "{family}: {}", finished.stderr);
        let diagnosis = read(&folder.path().join(family).join("diagnosis.json"));
        let dataset = &diagnosis["datasets"][0];
        let of_two = ["swap", "drift", "merge", "cam"].into_iter().filter(|_| has_adapter);
        for probe in ["layers", "truncation", "composite", "reliance"].into_iter().chain(of_two) {
            assert!(!dataset[probe].is_null(), "{family}: {probe} is missing: {dataset:#}");
        }
        assert_eq!(diagnosis["mir"]["n_pairs"], 3, "{family}");
    }
}

#[test]
fn one_checkpoint_is_diagnosed_without_a_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["diagnose", "--model", "embedded", "--datasets", "embedded/cifar10", "--limit", "8", "--out", "one"];
    let run = |more: &[&str]| support::finish(support::emt().current_dir(folder.path()).args(words).args(more));
    let finished = run(&["--probes", "all"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let diagnosis = read(&folder.path().join("one/diagnosis.json"));
    assert!(diagnosis.get("candidate").is_none() && diagnosis.get("weights").is_none(), "{diagnosis:#}");
    let dataset = &diagnosis["datasets"][0];
    for probe in ["reliance", "truncation", "composite", "layers"] {
        assert!(!dataset[probe].is_null(), "{probe} is missing: {dataset:#}");
    }
    let text = diagnosis.to_string();
    let named: Vec<&str> = text.split('"').filter(|word| word.contains("candidate")).collect();
    assert!(named.iter().all(|word| ["candidate", "cliff_layer_candidate"].contains(word)), "{named:?}");
    assert!(diagnosis["mir"]["baseline"].is_f64() && diagnosis["mir"]["candidate"].is_null(), "{}", diagnosis["mir"]);
    assert!(finished.stdout.contains("without the image"), "{}", finished.stdout);
    let refused = run(&["--probes", "swap"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("these probes compare two models"), "{}", refused.stderr);
}

#[test]
fn composite_attention_is_a_run_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let evaluate = |attention: &str, out: &str| {
        let words =
            ["eval", "--model", "embedded", "--datasets", "embedded/cifar10", "--limit", "8", "--encoder", "none"];
        let mut command = support::emt();
        command.current_dir(folder.path()).args(words).args(["--visual-attention", attention, "--out", out]);
        support::finish(&mut command)
    };
    for (attention, out) in [("full", "full"), ("self", "self"), ("self:0-1", "early")] {
        let finished = evaluate(attention, out);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    let part = |out: &str| read(&folder.path().join(out).join("run.json"))["spec"]["model"]["part"].clone();
    assert_eq!(part("full"), Value::Null);
    assert_ne!(part("self"), part("early"));
    let refused = evaluate("self", "full");
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("part"), "{}", refused.stderr);
    assert!(evaluate("half", "half").stderr.contains("`full`, `self`"), "the choices are named");
    let compared = ["report", "self", "--baseline", "full", "--out", "report"];
    let compared = support::finish(support::emt().current_dir(folder.path()).args(compared));
    assert_eq!(compared.code, Some(0), "{}", compared.stderr);
}

/// Opens a page on a screen and on a phone. Nothing of it is loaded from elsewhere, overflows or is cut off.
fn open_in_a_browser(page: &Path, n_charts: usize) {
    let Some(mut browser) = Browser::start_or_skip() else { return };
    for window in [Window { width: 1280, is_dark: false }, Window { width: 390, is_dark: true }] {
        let audit = browser.audit(page, window);
        assert_eq!((audit.requests.len(), audit.complaints.len()), (0, 0), "{audit:?}");
        assert_eq!((audit.n_scripts, audit.n_handlers, audit.was_taken_over), (0, 0, false), "{window:?}");
        assert_eq!((audit.n_charts, audit.n_titled_charts), (n_charts, n_charts), "{window:?}");
        assert_eq!((audit.n_broken_images, audit.overflow), (0, 0), "{window:?}");
        assert_eq!((&audit.cut_charts[..], &audit.cut_words[..]), (&[][..], &[][..]), "{window:?}");
        assert!(audit.chart_text_px_min.unwrap() >= 8.99, "{window:?}: {:?}", audit.chart_text_px_min);
        for words in ["Why images were lost", "Which part carries the fall", "Lost images", "Right before, wrong after"]
        {
            assert!(audit.text.contains(words), "{window:?}: {words}");
        }
    }
}

/// A dataset with something from every probe.
fn probed(name: &str) -> Value {
    let layer = |layer: usize| {
        let share = layer as f64 / 24.0;
        let flow = |image: f64| json!({ "system": 0.3, "image": image, "user": 0.7 - image });
        json!({
            "layer": layer, "lens_baseline": -9.0 + 8.0 * share, "lens_candidate": -9.0 + 4.0 * share,
            "lens_baseline_interval": [-9.2 + 8.0 * share, -8.7 + 8.0 * share],
            "decision_baseline": -9.0 + 8.5 * share, "decision_candidate": -9.0 + 5.0 * share,
            "patch_image": -5.0 + share, "patch_last": -5.0 + 3.0 * share, "knockout_baseline": -2.0,
            "knockout_candidate": -4.0, "flow_baseline": flow(0.2), "flow_candidate": flow(0.1),
            "similarity_image": 1.0 - 0.1 * share, "similarity_last": 1.0 - 0.5 * share,
        })
    };
    let part = |component: &str, recovered: f64, keep: Value| {
        json!({
            "component": component, "shapley": 0.5, "keep": keep,
            "restore": { "accuracy": 0.5, "recovered": recovered, "recovered_interval": [recovered - 0.3, recovered + 0.4] },
        })
    };
    json!({
        "dataset": name, "n_images": 200, "n_lost": 40, "n_gained": 4, "baseline_accuracy": 0.8, "candidate_accuracy": 0.62,
        "swap": [
            part("projector", 0.6, json!({ "accuracy": 0.7, "caused": -0.4, "caused_interval": [-0.8, 0.1] })),
            part("layers.28-31", 1.4, Value::Null),
        ],
        "layers": (0..=24).map(layer).collect::<Vec<_>>(), "parting_layer": 12,
        "drift": [{ "position": 0, "n": 200, "kl": 0.4, "kl_reverse": 0.3 }],
        "truncation": {
            "from_layer": [0, 8], "n_kept": [0, 64], "accuracy_baseline": [[0.1, null], [0.2, 0.7]],
            "accuracy_candidate": [[0.1, null], [0.2, 0.5]], "cliff_layer_baseline": 8, "cliff_layer_candidate": null,
        },
        "causes": [{
            "cause": "alignment", "n": 40, "share": 1.0, "share_interval": [0.9, 1.0], "evidence": "40 of 40.", "mend": "Try.",
        }],
        "named": ["alignment"],
    })
}

#[test]
fn the_page_of_a_diagnosis_with_every_probe_fits_a_screen_and_a_phone() {
    let hostile = "<img src=x onerror='window.hostile = 1'>";
    let model = |run: &str| json!({ "run": run, "identity": "blake3:0", "dir": run });
    let whole: Diagnosis = serde_json::from_value(json!({
        "schema": "emt.diagnosis/1", "baseline": model("base"), "candidate": model(hostile), "probes": [], "setup": [],
        "datasets": [probed("embedded/cifar10"), probed("a-dataset-with-a-rather-long-name/validation")],
    }))
    .unwrap();
    let image = |index: usize| -> ImageDiagnosis {
        serde_json::from_value(json!({
            "dataset": "embedded/cifar10", "sample": format!("embedded/cifar10/{index}"), "content": "blake3:0", "label": "cat",
            "baseline_answer": "A cat.", "candidate_answer": hostile, "lost": true, "cause": "alignment",
            "restored": { "projector": true },
        }))
        .unwrap()
    };
    let images: Vec<ImageDiagnosis> = (0..20).map(image).collect();
    let lost: Vec<DiagnosedImage<'_>> = diagnosed_choice(&images, "embedded/cifar10")
        .into_iter()
        .map(|image| DiagnosedImage { image, picture: Picture::Absent(Absence::NotAtHand) })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("diagnosis.html");
    std::fs::write(&page, diagnosis_html(&whole, &DiagnosisCharts::draw(&whole), &lost, hostile)).unwrap();
    open_in_a_browser(&page, 6);
}
