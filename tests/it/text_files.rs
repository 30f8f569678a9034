//! Text files as editors save them: with a byte order mark, and in UTF-16.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::{self, Finished};

const MARK: &str = "\u{feff}";

/// A file of `text` as Windows' Notepad saves it, in UTF-8 or in UTF-16.
fn saved(folder: &Path, name: &str, text: &str, is_utf16: bool) -> PathBuf {
    let path = folder.join(name);
    let marked = format!("{MARK}{text}");
    let bytes = match is_utf16 {
        false => marked.into_bytes(),
        true => marked.encode_utf16().flat_map(u16::to_le_bytes).collect(),
    };
    fs::write(&path, bytes).unwrap();
    path
}

const LABELS: &str = "zero;0\none;1\ntwo;2\nthree;3\nfour;4\nfive;5\nsix;6\nseven;7\neight;8\nnine;9\n";
const PROMPT: &str = "Which {noun} is it? One of {labels}.";

fn eval(flags: &[(&str, &Path)], out: &Path) -> Finished {
    let mut command = support::emt();
    command.args(["eval", "--model", "embedded", "--encoder", "none", "--datasets", "embedded/mnist", "--limit", "2"]);
    command.args(["--max-new-tokens", "2", "--out"]).arg(out);
    for (flag, path) in flags {
        command.arg(flag).arg(path);
    }
    support::finish(&mut command)
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_persons_text_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = saved(folder.path(), "config.toml", "max_new_tokens = 3\n", false);
    let labels = saved(folder.path(), "labels.txt", LABELS, false);
    let prompt = saved(folder.path(), "mine.txt", PROMPT, false);
    let out = folder.path().join("run");
    let finished = eval(&[("--config", &config), ("--labels", &labels), ("--prompt", &prompt)], &out);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let manifest: Value = serde_json::from_slice(&fs::read(out.join("run.json")).unwrap()).unwrap();
    assert!(!manifest.to_string().contains(MARK), "{manifest}");
    let dataset = &manifest["spec"]["datasets"][0];
    assert_eq!(dataset["labels"][0]["name"], "zero");
    assert!(dataset["prompts"][0]["text"].as_str().unwrap().starts_with("Which "), "{}", dataset["prompts"]);

    let csv = format!("class,name\n{}", (0..10).map(|digit| format!("{digit},n{digit}\n")).collect::<String>());
    let labels = saved(folder.path(), "labels.csv", &csv, false);
    let finished = eval(&[("--labels", &labels)], &folder.path().join("of-csv"));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);

    // What is marked is read as far as what is not: the run is missing, and not the policy's first key.
    let policy = saved(folder.path(), "policy.toml", "alpha = 0.05\n", false);
    let finished = support::finish(&mut gate(&policy));
    assert!(finished.stderr.contains("no-such-run") && !finished.stderr.contains("policy.toml"), "{}", finished.stderr);
}

fn gate(policy: &Path) -> std::process::Command {
    let mut command = support::emt();
    command.args(["gate", "--baseline", "no-such-run", "--candidate", "no-such-run-either", "--policy"]).arg(policy);
    command
}

#[test]
fn utf_16_is_refused_with_the_file_and_the_mend() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut told = Vec::new();
    for (flag, name, text) in [
        ("--config", "config.toml", "limit = 2\n"),
        ("--labels", "labels.txt", LABELS),
        ("--prompt", "mine.txt", PROMPT),
        ("--template", "chat.jinja", "{{ messages[0].content }}"),
        ("--datasets-file", "datasets.toml", "dataset = []\n"),
    ] {
        let path = saved(folder.path(), name, text, true);
        told.push((name, eval(&[(flag, &path)], &out)));
    }
    let policy = saved(folder.path(), "policy.toml", "alpha = 0.05\n", true);
    told.push(("policy.toml", support::finish(&mut gate(&policy))));
    for (name, finished) in told {
        assert_eq!(finished.code, Some(2), "{name}: {}", finished.stderr);
        for word in [name, "UTF-16", "save it as UTF-8"] {
            assert!(finished.stderr.contains(word), "{name}: {}", finished.stderr);
        }
    }
}
