//! Tests of `wire`.

use serde_json::{Value, json};

use super::super::testing::trial;
use super::*;

/// A line of the schema `emt.trial/1` as another program may write it.
const CONTRACT_LINE: &str = concat!(
    r#"{"dataset":"cifar10","split":"test","sample":"cifar10/test/00042","content":"blake3:00","label":"cat","#,
    r#""subject":"model","mode":"generate","prompt":"emt","answer":"a cat.","stop":"eos","#,
    r#""verdicts":[{"judge":"rules","verdict":"correct"},{"judge":"llm","verdict":"correct","reply":"Yes."}],"#,
    r#""outcome":"correct","n_prompt_tokens":137,"n_answer_tokens":4,"logit_gap":3.1}"#
);

fn written(trial: &Trial) -> String {
    let mut line = Vec::new();
    write(trial, &mut line).unwrap();
    String::from_utf8(line).unwrap()
}

fn chosen(label: &str) -> Response {
    Response::Chosen { label: label.into(), n_prompt_tokens: Some(20) }
}

#[test]
fn the_line_of_the_contract_is_written_as_it_is_read() {
    let trial = parse(CONTRACT_LINE.as_bytes()).unwrap();
    assert_eq!(trial.outcome, Outcome::Correct);
    assert_eq!(trial.verdicts[1].reply.as_deref(), Some("Yes."));
    assert_eq!(written(&trial), format!("{CONTRACT_LINE}\n"));
}

#[test]
fn what_is_not_defined_is_absent() {
    let mut unreadable = trial(0);
    (unreadable.response, unreadable.scores, unreadable.verdicts) = (None, vec![], vec![]);
    unreadable.outcome = Outcome::Unscored(UnscoredReason::ImageUnreadable);
    let line: Value = serde_json::from_str(&written(&unreadable)).unwrap();
    let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["dataset", "split", "sample", "content", "label", "subject", "mode", "prompt", "outcome", "reason"];
    assert_eq!(keys, expected);
}

#[test]
fn a_servers_failure_is_a_model_error_that_is_asked_again() {
    let mut failed = trial(0);
    (failed.response, failed.scores, failed.verdicts) = (None, vec![], vec![]);
    failed.outcome = Outcome::Unscored(UnscoredReason::ModelUnreachable);
    let line: Value = serde_json::from_str(&written(&failed)).unwrap();
    assert_eq!((&line["reason"], &line["is_retried"]), (&json!("model_error"), &json!(true)));
    assert_eq!(parse(written(&failed).as_bytes()).unwrap(), failed);
    failed.outcome = Outcome::Unscored(UnscoredReason::ModelError);
    assert!(!written(&failed).contains("is_retried"));
}

#[test]
fn an_encoders_choice_has_scores_and_no_stop() {
    let mut choice = trial(0);
    (choice.response, choice.verdicts) = (Some(chosen("1")), vec![]);
    (choice.subject, choice.mode) = (Subject::Encoder, Mode::ZeroShot);
    choice.scores = vec![ScoredLabel { label: "cat".into(), score: 0.1, share: None }];
    let line: Value = serde_json::from_str(&written(&choice)).unwrap();
    assert_eq!(line["scores"], json!([{ "label": "cat", "score": 0.1 }]));
    assert!(line.get("stop").is_none() && line.get("verdicts").is_none());
    assert_eq!(parse(written(&choice).as_bytes()).unwrap(), choice);
}

#[test]
fn a_scored_choice_has_shares_and_the_choice_without_the_prior() {
    let mut choice = trial(0);
    (choice.mode, choice.response, choice.verdicts) = (Mode::Score, Some(chosen("1")), vec![]);
    choice.scores = vec![ScoredLabel { label: "1".into(), score: -0.5, share: Some(0.75) }];
    choice.prior_corrected = Some(PriorCorrected { answer: "7".into(), is_correct: false });
    let line: Value = serde_json::from_str(&written(&choice)).unwrap();
    assert_eq!(line["scores"], json!([{ "label": "1", "score": -0.5, "share": 0.75 }]));
    assert_eq!(line["prior_corrected"], json!({ "answer": "7", "outcome": "incorrect" }));
    assert_eq!(parse(written(&choice).as_bytes()).unwrap(), choice);
}

#[test]
fn a_probes_choice_has_those_of_fewer_shots_beside() {
    let mut choice = trial(0);
    (choice.response, choice.verdicts) = (Some(chosen("1")), vec![]);
    (choice.subject, choice.mode) = (Subject::Encoder, Mode::Probe);
    choice.prompt = "probe-16".into();
    choice.fewer_shots = vec![FewerShots { shots: 1, answer: "7".into(), is_correct: false }];
    let line: Value = serde_json::from_str(&written(&choice)).unwrap();
    assert_eq!(line["fewer_shots"], json!([{ "shots": 1, "answer": "7", "outcome": "incorrect" }]));
    assert_eq!(parse(written(&choice).as_bytes()).unwrap(), choice);
}

#[test]
fn a_field_of_a_later_version_is_ignored() {
    let mut line: Value = serde_json::from_str(CONTRACT_LINE).unwrap();
    line["a_later_field"] = json!({ "x": 1 });
    assert_eq!(parse(line.to_string().as_bytes()).unwrap(), parse(CONTRACT_LINE.as_bytes()).unwrap());
}

#[test]
fn an_unknown_value_is_named() {
    for (field, value) in [("outcome", "maybe"), ("subject", "judge"), ("mode", "guess"), ("stop", "bored")] {
        let mut line: Value = serde_json::from_str(CONTRACT_LINE).unwrap();
        line[field] = value.into();
        let message = parse(line.to_string().as_bytes()).unwrap_err().to_string();
        assert!(message.contains(value), "{message}");
    }
}

#[test]
fn a_line_that_contradicts_itself_is_refused() {
    let changes = [
        json!({ "code": "wrong" }),
        json!({ "reason": "pending" }),
        json!({ "outcome": "incorrect" }),
        json!({ "outcome": "incorrect", "code": "wrong" }),
        json!({ "outcome": "incorrect", "kind": "incorrect_prediction" }),
        json!({ "outcome": "incorrect", "code": "wrong", "kind": "intrinsic_hallucination" }),
        json!({ "outcome": "incorrect", "code": "wrong", "kind": "incorrect_prediction", "reason": "pending" }),
        json!({ "outcome": "unscored" }),
        json!({ "outcome": "unscored", "reason": "pending", "code": "wrong" }),
        json!({ "answer": null }),
        json!({ "stop": null }),
        json!({ "prior_corrected": { "answer": "cat", "outcome": "unscored" } }),
        json!({ "fewer_shots": [{ "shots": 1, "answer": "cat", "outcome": "unscored" }] }),
        json!({ "verdicts": [{ "judge": "llm" }] }),
        json!({ "verdicts": [{ "judge": "llm", "verdict": "correct", "error": "429" }] }),
    ];
    for change in changes {
        let mut line: Value = serde_json::from_str(CONTRACT_LINE).unwrap();
        line.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let parsed = parse(line.to_string().as_bytes());
        assert!(matches!(parsed, Err(LineError::Contradiction(_))), "{change}");
    }
}

#[test]
fn a_score_that_is_no_number_is_refused_and_an_infinite_gap_is_left_out() {
    let mut broken = trial(0);
    broken.scores = vec![ScoredLabel { label: "cat".into(), score: f32::NAN, share: None }];
    assert!(write(&broken, &mut Vec::new()).is_err());
    let mut lonely = trial(0);
    let Some(Response::Generated(answer)) = &mut lonely.response else { panic!("it was generated") };
    answer.logit_gap = Some(f32::INFINITY);
    assert!(!written(&lonely).contains("logit_gap"));
}
