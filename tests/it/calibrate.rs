//! `emt judge sample` and `emt judge calibrate`: from a run to a sheet, from a marked sheet to what the judge is worth.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::chat::{KEY, completion, error};
use super::eval::{succeed, trials};
use super::http_server::{HttpServer, Reply, Request};
use super::support::{Finished, emt, finish};

/// A run of the miniature, made once for the tests that only read it.
pub fn miniature() -> &'static Path {
    static RUN: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, run) = RUN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let command = &mut emt();
        command.args(["eval", "--model", "embedded", "--encoder", "none", "--limit", "150", "--out"]).arg(&run);
        succeed(command);
        (folder, run)
    });
    run
}

fn sample(run: &Path, out: &Path) -> Command {
    let mut command = emt();
    command.args(["judge", "sample"]).arg(run).arg("--out").arg(out);
    command
}

fn calibrate(labels: &Path, out: &Path) -> Command {
    let mut command = emt();
    command.args(["judge", "calibrate", "--labels"]).arg(labels).arg("--out").arg(out);
    command
}

fn calibration(labels: &Path, arguments: &[&str]) -> (Value, Finished) {
    let out = labels.with_extension("calibration.json");
    let finished = succeed(calibrate(labels, &out).args(arguments));
    (serde_json::from_str(&fs::read_to_string(out).unwrap()).unwrap(), finished)
}

fn refuse(command: &mut Command, parts: &[&str]) {
    let finished = finish(command);
    assert_eq!(finished.code, Some(2), "{}\n{}", finished.stdout, finished.stderr);
    for part in parts {
        assert!(finished.stderr.contains(part), "`{part}` is missing in: {}", finished.stderr);
    }
    assert!(!finished.stderr.contains("panicked") && finished.stdout.is_empty(), "{finished:?}");
}

type Row = BTreeMap<String, String>;

fn read_csv(path: &Path) -> Vec<Row> {
    csv::Reader::from_path(path).unwrap().deserialize().map(|row| row.unwrap()).collect()
}

/// Fills in what `mark` says of each row.
fn mark(path: &Path, mark: impl Fn(&Row) -> &'static str) {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let header = reader.headers().unwrap().clone();
    let at = header.iter().position(|column| column == "correct").unwrap();
    let rows: Vec<csv::StringRecord> = reader.records().map(|row| row.unwrap()).collect();
    let mut writer = csv::Writer::from_path(path).unwrap();
    writer.write_record(&header).unwrap();
    for row in rows {
        let named: Row = header.iter().zip(&row).map(|(name, cell)| (name.to_owned(), cell.to_owned())).collect();
        let cells = row.iter().enumerate().map(|(index, cell)| if index == at { mark(&named) } else { cell });
        writer.write_record(cells).unwrap();
    }
    writer.flush().unwrap();
}

fn as_the_judge(row: &Row) -> &'static str {
    if row["verdict"] == "correct" { "true" } else { "FALSE" }
}

#[test]
fn a_sheet_that_agrees_with_the_judge_calibrates_it_as_faultless_and_keeps_the_accuracy() {
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("sheet.csv");
    let drawn = succeed(sample(miniature(), &sheet).args(["--n", "120"]));
    assert!(drawn.stdout.contains("incorrect/wrong"), "{}", drawn.stdout);
    let rows = read_csv(&sheet);
    // All scored trials are covered, and no verdict and code has fewer than ten where it has so many.
    let mut n_trials: BTreeMap<[&str; 2], usize> = BTreeMap::new();
    let mut weights: BTreeMap<[&str; 3], Vec<f64>> = BTreeMap::new();
    for row in &rows {
        assert_eq!(row["correct"], "");
        n_trials.insert([&row["dataset"], &row["stratum"]], row["stratum_trials"].parse().unwrap());
        let outcome = [row["dataset"].as_str(), &row["verdict"], &row["code"]];
        weights.entry(outcome).or_default().push(row["weight"].parse().unwrap());
    }
    assert!(weights.values().all(|of| of.len() >= 10 || of.iter().all(|&weight| weight == 1.0)), "{weights:?}");
    assert!(weights.values().flatten().any(|&weight| weight > 1.0), "not all pairs were drawn");
    assert_eq!(n_trials.values().sum::<usize>(), 450);

    mark(&sheet, as_the_judge);
    let (found, finished) = calibration(&sheet, &[]);
    assert_eq!((&found["schema"], &found["judge"]["judge"]), (&json!("emt.calibration/1"), &json!("rules")));
    assert_eq!((&found["n"], &found["n_distinct"]), (&json!(rows.len()), &json!(rows.len())));
    for name in ["sensitivity", "specificity", "agreement", "kappa"] {
        assert_eq!(found[name], 1.0, "{name}");
    }
    assert!(found["sensitivity_interval"][0].as_f64().unwrap() < 1.0);
    let manifest: Value = serde_json::from_str(&fs::read_to_string(miniature().join("run.json")).unwrap()).unwrap();
    assert_eq!(found["run"], manifest["identity"]);
    let summary: Value = serde_json::from_str(&fs::read_to_string(miniature().join("summary.json")).unwrap()).unwrap();
    for (dataset, accuracy) in
        summary["datasets"].as_array().unwrap().iter().zip(found["accuracies"].as_array().unwrap())
    {
        let name = accuracy["dataset"].as_str().unwrap();
        assert!(
            found["groups"].as_array().unwrap().iter().any(|group| group["group"] == name && group["by"] == "dataset")
        );
        let of_run = summary["datasets"].as_array().unwrap().iter().find(|dataset| dataset["dataset"] == name).unwrap();
        assert_eq!(of_run["model"]["accuracy"], accuracy["accuracy"], "{dataset}");
        assert_eq!(accuracy["corrected_accuracy"], accuracy["accuracy"]);
        let interval = &accuracy["corrected_accuracy_interval"];
        assert!(
            interval[0].as_f64() < accuracy["accuracy"].as_f64()
                && interval[1].as_f64() > accuracy["accuracy"].as_f64()
        );
    }
    assert!(
        finished.stdout.contains("dataset: embedded/mnist") && finished.stdout.contains("corrected"),
        "{}",
        finished.stdout
    );
}

#[test]
fn marks_against_the_judge_move_the_accuracy_by_weight_and_trials() {
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("sheet.csv");
    succeed(&mut sample(miniature(), &sheet));
    // A person who takes every wrong answer to a digit that names another one as right.
    mark(
        &sheet,
        |row| {
            if row["dataset"] == "embedded/mnist" && row["code"] == "wrong" { "yes" } else { as_the_judge(row) }
        },
    );
    let moved: f64 = read_csv(&sheet)
        .iter()
        .filter(|row| row["dataset"] == "embedded/mnist" && row["code"] == "wrong")
        .map(|row| row["weight"].parse::<f64>().unwrap() * row["n_trials"].parse::<f64>().unwrap())
        .sum();
    assert!(moved > 0.0);
    let (found, _) = calibration(&sheet, &["--format", "json"]);
    for accuracy in found["accuracies"].as_array().unwrap() {
        let number = |name: &str| accuracy[name].as_f64().unwrap();
        let expected = if accuracy["dataset"] == "embedded/mnist" { moved / 150.0 } else { 0.0 };
        assert!((number("corrected_accuracy") - number("accuracy") - expected).abs() < 1e-9, "{accuracy}");
    }
    assert!(found["sensitivity"].as_f64().unwrap() < 1.0);
    assert_eq!(found["specificity"], 1.0);
}

#[test]
fn sheets_are_drawn_alike_each_time_and_never_over_marks() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second, other] = ["a.csv", "b.csv", "c.csv"].map(|name| folder.path().join(name));
    succeed(&mut sample(miniature(), &first));
    succeed(&mut sample(miniature(), &second));
    succeed(sample(miniature(), &other).args(["--seed", "1", "--n", "60"]));
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
    assert_ne!(fs::read(&first).unwrap(), fs::read(&other).unwrap());
    refuse(&mut sample(miniature(), &first), &["a.csv", "exists", "hint"]);
    refuse(&mut sample(miniature(), &folder.path().join("sheet.xlsx")), &["sheet.xlsx", ".csv or .jsonl"]);
}

#[test]
fn answers_that_look_like_formulas_survive_the_way_through_a_sheet_inert() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    fs::create_dir(&run).unwrap();
    fs::copy(miniature().join("run.json"), run.join("run.json")).unwrap();
    let hostile =
        ["=HYPERLINK(\"http://x\",\"cat\")", "+1", "-cat", "@SUM(A1)", "'tis a \"cat\", or so", "\u{1b}[31mcat"];
    let mut lines = trials(miniature());
    lines.iter_mut().zip(hostile).for_each(|(trial, answer)| trial["answer"] = answer.into());
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(run.join("trials.jsonl"), text.join("\n") + "\n").unwrap();
    let [csv, jsonl] = ["sheet.csv", "sheet.jsonl"].map(|name| folder.path().join(name));
    let drawn = succeed(sample(&run, &csv).args(["--n", "5000"]));
    succeed(sample(&run, &jsonl).args(["--n", "5000"]));
    assert!(!drawn.stdout.contains('\u{1b}'));
    let cells: Vec<String> = read_csv(&csv).into_iter().flat_map(Row::into_values).collect();
    assert!(cells.iter().all(|cell| !cell.starts_with(['=', '+', '-', '@'])));
    let read: Vec<Value> =
        fs::read_to_string(&jsonl).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for answer in hostile {
        let mut at = read.iter().filter(|row| row["answer"] == answer);
        assert!(at.next().is_some(), "{answer}");
    }
    // Judged again by other eyes, both forms are one sheet.
    let judged = |sheet: &Path| {
        let (mut found, _) = calibration(sheet, &[]);
        found["judge"] = Value::Null;
        found
    };
    mark(&csv, |row| if row["label"] == "cat" { "1" } else { "0" });
    let marked: Vec<String> = read
        .into_iter()
        .map(|mut row| {
            row["correct"] = (row["label"] == "cat").into();
            row.to_string()
        })
        .collect();
    fs::write(&jsonl, marked.join("\n")).unwrap();
    assert_eq!(judged(&csv), judged(&jsonl));
}

/// A judge that holds every answer right that holds the label.
fn contains(request: &Request) -> Reply {
    let prompt = request.json()["messages"][0]["content"].as_str().unwrap().to_owned();
    let after = |mark: &str| {
        prompt.split(mark).nth(1).and_then(|rest| rest.lines().next()).unwrap().trim_matches('"').to_owned()
    };
    completion(if after("<answer>\n").contains(&after("Right label: ")) { "CORRECT" } else { "INCORRECT" })
}

fn with_llm<'a>(command: &'a mut Command, server: &HttpServer, judge: &str) -> &'a mut Command {
    command.env("EMT_JUDGE_API_KEY", KEY).args(["--judge", judge, "--judge-url", &server.url()]);
    command.args(["--judge-model", "judge-1", "--retry-base", "0.01"])
}

#[test]
fn another_judge_is_refused_unless_the_run_is_given_to_judge_anew() {
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("sheet.csv");
    let out = folder.path().join("llm.json");
    succeed(sample(miniature(), &sheet).args(["--n", "40"]));
    mark(&sheet, |row| if row["n_trials"] == "1" { "" } else { as_the_judge(row) });
    let server = HttpServer::start(contains);
    refuse(
        with_llm(&mut calibrate(&sheet, &out), &server, "llm"),
        &["sheet.csv", "rules (rules version 2)", "llm (model judge-1", "--run RUN"],
    );
    assert_eq!(server.n_requests(), 0);
    assert!(!out.exists());
    succeed(with_llm(calibrate(&sheet, &out).arg("--run").arg(miniature()), &server, "llm"));
    let found: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!((&found["judge"]["judge"], &found["judge"]["model"]), (&json!("llm"), &json!("judge-1")));
    assert!(found["judge"]["prompt"].as_str().unwrap().starts_with("blake3:"));
    let n_marked = found["n"].as_u64().unwrap();
    assert!(n_marked > 0 && found["n_unmarked"].as_u64().unwrap() > 0);
    assert!(server.n_requests() as u64 <= n_marked + 2, "rows that nobody marked are not asked about");
    // The strata are another judge's: no accuracy of the run follows.
    assert_eq!(found["accuracies"], json!([]));
    assert!(!fs::read_to_string(&out).unwrap().contains(KEY));
}

#[test]
fn a_judge_that_fails_is_counted_apart_and_one_that_fails_always_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("sheet.csv");
    let out = folder.path().join("llm.json");
    fs::write(&sheet, "label,answer,correct\ncat,a cat,true\ncat,a dog,false\ncat,garbage,false\n").unwrap();
    let server = HttpServer::start(|request: &Request| {
        let text = request.json().to_string();
        if text.contains("garbage") { completion("perhaps") } else { contains(request) }
    });
    let finished = succeed(with_llm(&mut calibrate(&sheet, &out), &server, "llm"));
    assert!(finished.stderr.contains("warning: the judge gave no verdict on 1 marked rows"), "{}", finished.stderr);
    let found: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!((&found["n"], &found["n_judge_failed"], &found["agreement"]), (&json!(2), &json!(1), &json!(1.0)));
    let refusing = HttpServer::start(|_| error(401, "who are you?"));
    refuse(
        with_llm(&mut calibrate(&sheet, &out), &refusing, "llm"),
        &["the judge cannot be asked", "EMT_JUDGE_API_KEY"],
    );
}

#[test]
fn a_sheet_of_another_tool_is_judged_with_its_own_labels() {
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("sheet.jsonl");
    let rows = [
        json!({"label": "Wilhelm Conrad Röntgen", "aliases": ["Röntgen"], "answer": "It was Röntgen.", "correct": true,
            "group": "a"}),
        json!({"label": "Wilhelm Conrad Röntgen", "answer": "Marie Curie", "correct": false, "group": "a"}),
        json!({"label": "Mary Kom", "answer": "Mary Kom", "correct": true, "group": "b"}),
        json!({"label": "Mary Kom", "answer": "Mary Kom", "correct": true, "group": "b"}),
        json!({"label": "Mary Kom", "answer": "nobody knows", "correct": null, "group": "b"}),
    ];
    fs::write(&sheet, rows.map(|row| row.to_string()).join("\n")).unwrap();
    let (found, finished) = calibration(&sheet, &[]);
    assert_eq!((&found["n"], &found["n_distinct"], &found["n_unmarked"]), (&json!(4), &json!(3), &json!(1)));
    assert_eq!((&found["sensitivity"], &found["specificity"], &found["run"]), (&json!(1.0), &json!(1.0), &Value::Null));
    let groups: Vec<(&str, &str)> = found["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| (group["by"].as_str().unwrap(), group["group"].as_str().unwrap()))
        .collect();
    assert_eq!(groups, [("group", "a"), ("group", "b")]);
    assert!(finished.stdout.contains("group: b"));
}

#[test]
fn a_broken_sheet_is_named_with_the_line_and_the_mend() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("c.json");
    let with = |name: &str, bytes: &[u8], parts: &[&str]| {
        let sheet = folder.path().join(name);
        fs::write(&sheet, bytes).unwrap();
        refuse(&mut calibrate(&sheet, &out), &[&[name][..], parts].concat());
    };
    with("columns.csv", b"label,answer\ncat,cat\n", &["line 1", "`correct` is missing", "hint"]);
    with("empty.csv", b"", &["line 1", "`label` is missing"]);
    with("mark.csv", b"label,answer,correct\ncat,cat,true\ncat,dog,maybe\n", &["line 3", "`maybe`"]);
    with("weight.csv", b"label,answer,correct,weight\ncat,cat,true,0\n", &["line 2", "`weight`", "`0`"]);
    with("ragged.csv", b"label,answer,correct\ncat,a, b, c,true\n", &["line 2", "5 cells", "quotation marks"]);
    with("nobody.csv", b"label,answer,correct\ncat,cat,\n", &["no row", "marked", "true or false"]);
    with("binary.csv", &[0x89, b'P', b'N', b'G', 0xff, 0xfe, 0], &["UTF-8", "hint"]);
    with("list.jsonl", b"[1,2]\n", &["line 1", "not a JSON object"]);
    with("sheet.xlsx", b"PK", &[".csv or .jsonl"]);
    with("none.jsonl", b"{\"label\":\"cat\",\"correct\":true}\n", &["line 1", "`answer` is missing"]);
    refuse(&mut calibrate(&folder.path().join("absent.csv"), &out), &["absent.csv", "hint"]);
    assert!(!out.exists());

    let sheet = folder.path().join("sheet.csv");
    succeed(&mut sample(miniature(), &sheet));
    let text = fs::read_to_string(&sheet).unwrap().replacen("embedded/mnist,", "embedded/mnist7,", 1);
    fs::write(&sheet, text).unwrap();
    mark(&sheet, as_the_judge);
    refuse(calibrate(&sheet, &out).arg("--run").arg(miniature()), &["sheet.csv", "line 2", "embedded/mnist7"]);
    let text = fs::read_to_string(&sheet).unwrap();
    let run = text.lines().nth(1).unwrap().rsplit(',').next().unwrap().to_owned();
    fs::write(&sheet, text.replace(&run, "blake3:another")).unwrap();
    refuse(calibrate(&sheet, &out).arg("--run").arg(miniature()), &["blake3:another", &run, "--run"]);
}
