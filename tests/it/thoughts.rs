//! Models that think before they answer: what is graded is the answer alone.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::eval::{succeed, trials};
use super::http_server::Reply;
use super::model_server::{Asked, ModelServer, Said, digits};
use super::support::{emt, finish};

fn eval(url: &str, out: &Path, rest: &[&str]) -> std::process::Command {
    let mut command = emt();
    command.args([
        "eval",
        "--model",
        url,
        "--datasets",
        "embedded/mnist",
        "--encoder",
        "none",
        "--server-repeats",
        "0",
    ]);
    command.args(["--limit", "20", "--retry-base", "0.005"]).args(rest).arg("--out").arg(out);
    command
}

fn choice(message: Value, finish: &str) -> Said {
    let choice = json!({"index": 0, "message": message, "finish_reason": finish});
    Said::Instead(Reply::json(200, &json!({"choices": [choice], "usage": {"total_tokens": 9, "prompt_tokens": 5}})))
}

/// By label, the trials' outcomes with code or reason.
fn outcomes(run: &Path) -> BTreeMap<String, String> {
    let of = |trial: &Value| {
        let why = trial.get("code").or(trial.get("reason")).and_then(Value::as_str).unwrap_or("");
        format!("{} {why}", trial["outcome"].as_str().unwrap()).trim().to_owned()
    };
    trials(run).iter().map(|trial| (trial["label"].as_str().unwrap().to_owned(), of(trial))).collect()
}

#[test]
fn the_answer_of_a_served_reasoning_model_is_what_stands_after_its_thought() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let server = ModelServer::start("llama-server", &digits(), |asked: &Asked| {
        let Some(image) = &asked.image else { return Said::Text("Colours.".to_owned()) };
        let label = &image.label;
        match label.as_str() {
            "0" => choice(json!({"content": format!("<think>\nA 9? No.\n</think>\n\n{label}")}), "stop"),
            "1" => choice(json!({"content": format!("A 9? No.\n</think>\n{label}")}), "stop"),
            "2" => choice(json!({"content": format!("[THINK]9[/THINK]{label}")}), "stop"),
            "3" => choice(json!({"content": label, "reasoning": "A 9?"}), "stop"),
            "4" => choice(
                json!({"content": [{"type": "reasoning", "text": "A 9?"}, {"type": "text", "text": label}]}),
                "stop",
            ),
            "5" => choice(
                json!({"content": format!("<|channel|>analysis<|message|>9<|end|><|start|>assistant<|channel|>final<|message|>{label}")}),
                "stop",
            ),
            "6" => choice(json!({"content": format!("<think>\nIt is a {label}")}), "length"),
            "7" => choice(json!({"content": null, "reasoning_content": format!("It is a {label}")}), "length"),
            "8" => choice(json!({"content": format!("<think>{label}</think>")}), "stop"),
            _ => choice(json!({"content": format!("<think>{label}</think> 1")}), "stop"),
        }
    });
    let finished = finish(&mut eval(&server.url(), &out, &[]));
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    for part in ["the model's thought was cut off", "--max-new-tokens", "--extra-body"] {
        assert!(finished.stderr.lines().last().unwrap().contains(part), "`{part}` is not in: {}", finished.stderr);
    }
    let (right, cut) = ("correct", "unscored thought_cut_off");
    let expected = [right, right, right, right, right, right, cut, cut, "incorrect empty", "incorrect wrong"];
    let expected: BTreeMap<String, String> =
        expected.iter().enumerate().map(|(label, what)| (label.to_string(), (*what).to_owned())).collect();
    assert_eq!(outcomes(&out), expected);
    for trial in trials(&out) {
        let thinks = !["3"].contains(&trial["label"].as_str().unwrap()) && trial["label"] != "4";
        assert_eq!(trial.get("thought").is_some(), thinks, "{trial}");
        assert!(!trial["answer"].as_str().unwrap_or_default().contains("hink"), "{trial}");
    }
    // A recorded run is judged again with the same outcomes.
    let judged = folder.path().join("judged");
    succeed(emt().args(["judge", "score", "--max-unscored", "1"]).arg(&out).arg("--out").arg(&judged));
    assert_eq!(outcomes(&judged), expected);
}

#[test]
fn a_thought_that_a_served_template_opened_is_seen_by_the_probe() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // Only the closing mark ever stands in a reply, where the thought finds room.
    let server = ModelServer::start("llama-server", &digits(), |asked: &Asked| {
        let room = asked.body["max_tokens"].as_u64().unwrap();
        let Some(image) = &asked.image else {
            return match room >= 1_000 {
                true => choice(json!({"content": "Let me see. Colours.\n</think>\n\nColours."}), "stop"),
                false => choice(json!({"content": "Let me see. Col"}), "length"),
            };
        };
        match image.label.as_str() {
            "0" | "1" => choice(json!({"content": format!("It is a {}", image.label)}), "length"),
            label => choice(json!({"content": format!("A 0? No.</think>{label}")}), "stop"),
        }
    });
    assert_eq!(finish(&mut eval(&server.url(), &out, &[])).code, Some(2));
    for (label, outcome) in outcomes(&out) {
        assert_eq!(
            outcome,
            if label == "0" || label == "1" { "unscored thought_cut_off" } else { "correct" },
            "{label}"
        );
    }
}

#[test]
fn fields_for_a_served_model_are_sent_and_stand_in_its_identity() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let server = ModelServer::start("llama-server", &digits(), super::model_server::mostly_right);
    let body = r#"{"chat_template_kwargs":{"enable_thinking":false}}"#;
    succeed(&mut eval(&server.url(), &out, &["--extra-body", body, "--extra-body", "top_k=1"]));
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.body["chat_template_kwargs"]["enable_thinking"] == false && asked.body["top_k"] == 1)
    );
    let run: Value = serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap();
    let expected = json!({"chat_template_kwargs": {"enable_thinking": false}, "top_k": 1});
    assert_eq!(run["spec"]["model"]["served"]["request"]["extra_body"], expected);
    let other = finish(&mut eval(&server.url(), &out, &[]));
    assert!(other.code == Some(2) && other.stderr.contains("extra_body"), "{}", other.stderr);
    let local = finish(&mut eval("embedded", &folder.path().join("local"), &["--extra-body", "top_k=1"]));
    assert!(local.code == Some(2) && local.stderr.contains("--extra-body"), "{}", local.stderr);
}
