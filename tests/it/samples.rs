//! `--samples`: commands that look only at the samples that a file names, on the built-in model.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use super::support::{Finished, emt, finish};

const OBJECTS: &str = "embedded/cifar10";

fn succeed(command: &mut Command) -> Finished {
    let finished = finish(command);
    assert_eq!(finished.code, Some(0), "{} {}", finished.stdout, finished.stderr);
    finished
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The samples of a run's trials, in their order.
fn samples(run: &Path) -> Vec<String> {
    let journal = fs::read_to_string(run.join("trials.jsonl")).unwrap();
    let sample = |line: &str| serde_json::from_str::<Value>(line).unwrap()["sample"].as_str().unwrap().to_owned();
    journal.lines().map(sample).collect()
}

/// The built-in model's answers to `datasets`, into `out`.
fn eval(datasets: &str, out: &Path) -> Command {
    let mut command = emt();
    command.args(["eval", "--model", "embedded", "--encoder", "none", "--max-new-tokens", "8", "--datasets", datasets]);
    command.arg("--out").arg(out);
    command
}

/// Low-rank updates that forgot, their run beside that of the base on twelve images, and the report that compares them.
struct Forgotten {
    folder: tempfile::TempDir,
}

impl Forgotten {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What `report/lost.csv` names, in order.
    fn lost(&self) -> Vec<String> {
        let mut reader = csv::Reader::from_path(self.path("report/lost.csv")).unwrap();
        let at = reader.headers().unwrap().iter().position(|cell| cell == "sample").unwrap();
        let mut lost: Vec<String> = reader.records().map(|row| row.unwrap()[at].to_owned()).collect();
        lost.sort_unstable();
        assert!(!lost.is_empty() && lost.len() < 12, "a part of the images is lost: {lost:?}");
        lost
    }
}

fn forgotten() -> &'static Forgotten {
    static MADE: OnceLock<Forgotten> = OnceLock::new();
    MADE.get_or_init(|| {
        let made = Forgotten { folder: tempfile::tempdir().unwrap() };
        let mut command = emt();
        command.args(["finetune", "--model", "embedded", "--method", "lora", "--train", "embedded/mnist"]);
        command.args(["--limit", "40", "--epochs", "1", "--eval-datasets", "none", "--learning-rate", "2e-2"]);
        succeed(command.arg("--out").arg(made.path("lora")));
        let mut command = eval(OBJECTS, &made.path("runs"));
        succeed(command.args(["--limit", "12", "--adapter"]).arg(made.path("lora")));
        let mut command = emt();
        command.arg("report").arg(made.path("runs/lora")).arg("--baseline").arg(made.path("runs/base"));
        succeed(command.arg("--out").arg(made.path("report")));
        made
    })
}

#[test]
fn only_the_named_samples_are_evaluated_and_the_same_command_without_names_goes_on_with_all() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, grown) = (folder.path().join("whole/run"), folder.path().join("grown/run"));
    let all = |out: &Path| succeed(eval("embedded/mnist", out).args(["--limit", "24"]));
    all(&whole);
    let evaluated = samples(&whole);
    let named = [&evaluated[2], &evaluated[11], &evaluated[23]];
    let list = folder.path().join("hard.txt");
    fs::write(&list, format!("# the hard ones\n{}\n\n{}\n{}\n", named[1], named[0], named[2])).unwrap();
    let mut command = eval("embedded/mnist", &grown);
    succeed(command.args(["--limit", "24", "--samples"]).arg(&list));
    assert_eq!(samples(&grown), named.map(String::clone));
    let identity = |run: &Path| read(&run.join("run.json"))["identity"].clone();
    assert_eq!(identity(&grown), identity(&whole));
    assert_eq!(read(&grown.join("run.json"))["environment"]["samples"], list.display().to_string());
    let finished = all(&grown);
    assert!(finished.stderr.contains("3 recorded already"), "{}", finished.stderr);
    for name in ["trials.jsonl", "summary.json"] {
        let text = |run: &Path| fs::read_to_string(run.join(name)).unwrap();
        assert!(text(&grown) == text(&whole), "`{name}` differs");
    }
    assert!(read(&grown.join("run.json"))["environment"].get("samples").is_none());
}

#[test]
fn the_limit_counts_within_the_named_samples() {
    let folder = tempfile::tempdir().unwrap();
    let (list, out) = (folder.path().join("list"), folder.path().join("run"));
    let names: Vec<String> = (100..110).map(|number| format!("embedded/mnist/test/{number:05}\n")).collect();
    fs::write(&list, names.concat()).unwrap();
    succeed(eval("embedded/mnist", &out).args(["--limit", "4", "--samples"]).arg(&list));
    let evaluated = samples(&out);
    assert_eq!(evaluated.len(), 4);
    assert!(evaluated.iter().all(|sample| names.contains(&format!("{sample}\n"))), "{evaluated:?}");
}

#[test]
fn the_lost_images_of_a_report_are_evaluated_and_diagnosed_again() {
    let made = forgotten();
    let (lost, table) = (made.lost(), made.path("report/lost.csv"));
    let again = made.path("again");
    succeed(eval(OBJECTS, &again).arg("--samples").arg(&table));
    assert_eq!(samples(&again), lost);
    let mut command = emt();
    command.args(["diagnose", "--model", "embedded", "--max-new-tokens", "8", "--datasets", OBJECTS, "--samples"]);
    command.arg(&table).arg("--adapter").arg(made.path("lora")).arg("--out").arg(made.path("diagnosis"));
    succeed(&mut command);
    let dataset = &read(&made.path("diagnosis/diagnosis.json"))["datasets"][0];
    let n = Value::from(lost.len());
    assert_eq!((&dataset["n_images"], &dataset["n_lost"]), (&n, &n), "{dataset:#}");
}

#[test]
fn a_gate_decides_on_the_named_samples_alone_whether_it_reads_runs_or_makes_them() {
    let made = forgotten();
    let n = Value::from(made.lost().len());
    let gate = |first: &[&str]| {
        let mut command = emt();
        command.arg("gate").args(first).args(["--datasets", OBJECTS, "--format", "json", "--samples"]);
        let finished = finish(command.arg(made.path("report/lost.csv")));
        assert!([Some(1), Some(3)].contains(&finished.code), "{} {}", finished.stdout, finished.stderr);
        let decision: Value = serde_json::from_str(&finished.stdout).unwrap();
        let dataset = &decision["datasets"][0];
        assert_eq!((&dataset["n_pairs"], &dataset["n_lost"]), (&n, &n), "{decision:#}");
        let warnings = decision["warnings"].as_array().unwrap();
        let is_told = |warning: &Value| warning.as_str().unwrap().contains("--samples: only the named samples");
        assert!(warnings.iter().any(is_told), "{decision:#}");
    };
    let text = |name: &str| made.path(name).display().to_string();
    gate(&["--baseline", &text("runs/base"), "--candidate", &text("runs/lora")]);
    let (adapter, runs) = (text("lora"), text("gated"));
    let evaluated = ["--model", "embedded", "--encoder", "none", "--max-new-tokens", "8"];
    gate(&[&evaluated[..], &["--adapter", &adapter, "--runs", &runs]].concat());
    assert_eq!(samples(&made.path("gated/base")), made.lost());
}

#[test]
fn a_sample_that_no_dataset_has_is_an_error_with_file_line_and_id() {
    let made = forgotten();
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.txt");
    let out = folder.path().join("run");
    let refused = |text: &str, command: &mut Command, parts: &[&str]| {
        fs::write(&list, text).unwrap();
        let finished = finish(command.arg("--samples").arg(&list));
        assert_eq!(finished.code, Some(2), "{} {}", finished.stdout, finished.stderr);
        for part in parts {
            assert!(finished.stderr.contains(part), "{part}: {}", finished.stderr);
        }
    };
    let known = "embedded/cifar10/test/00173\n";
    let unknown = format!("{known}embedded/cifar10/test/99999\n");
    let told = ["list.txt`, line 2", "`embedded/cifar10/test/99999`", "; hint: ", "such as `embedded/cifar10/test/"];
    refused(&unknown, &mut eval(OBJECTS, &out), &told);
    let mut gate = emt();
    gate.arg("gate").arg("--baseline").arg(made.path("runs/base")).arg("--candidate").arg(made.path("runs/lora"));
    refused(&unknown, &mut gate, &told[..3]);
    let two = format!("embedded/mnist,{OBJECTS}");
    let none = ["names no sample of `embedded/mnist`", "--datasets embedded/cifar10"];
    refused(known, &mut eval(&two, &out), &none);
    refused("# nothing\n", &mut eval(OBJECTS, &out), &["names no sample; hint: "]);
    refused(
        "dataset,sample\nembedded/mnist,embedded/mnist/test/00000\n",
        &mut eval(OBJECTS, &out),
        &["line 2", "`embedded/mnist` is not among `embedded/cifar10`"],
    );
    assert!(!out.exists(), "nothing is made before the samples are known");
}
