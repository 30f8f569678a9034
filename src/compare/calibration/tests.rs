use super::*;

fn rules() -> JudgeIdentity {
    JudgeIdentity { judge: "rules".into(), model: None, prompt: None, rules_version: Some("1".into()) }
}

#[test]
fn another_judge_is_refused_with_both_named() {
    let spec = |judge: &str, model: &str, prompt: Option<&str>, parameters| JudgeSpec {
        judge: judge.into(),
        model: model.into(),
        prompt: prompt.map(str::to_owned),
        parameters,
    };
    let null = serde_json::Value::Null;
    let rules_1 = spec("rules", "1", None, null.clone());
    let llm = spec("llm", "gpt", Some("blake3:p"), serde_json::json!({"codes": "1"}));
    assert_eq!(JudgeIdentity::of(std::slice::from_ref(&rules_1)), rules());
    assert_eq!(
        JudgeIdentity::of(std::slice::from_ref(&llm)).to_string(),
        "llm (model gpt, prompt blake3:p, rules version 1)"
    );
    let others = [
        vec![spec("rules", "2", None, null)],
        vec![llm.clone()],
        vec![rules_1, llm.clone()],
        vec![JudgeSpec { prompt: Some("blake3:q".into()), ..llm.clone() }],
        vec![JudgeSpec { parameters: serde_json::json!({"codes": "2"}), ..llm }],
    ];
    let identities: Vec<JudgeIdentity> = others.iter().map(|judges| JudgeIdentity::of(judges)).collect();
    for (at, one) in identities.iter().enumerate() {
        assert!(*one != rules() && !identities[..at].contains(one), "{one}");
    }
    let message = OtherJudge { calibrated: rules(), run: identities[1].clone() }.to_string();
    assert!(message.contains("rules (rules version 1)") && message.contains("llm (model gpt"), "{message}");
}

#[test]
fn styles_tell_words_from_sentences() {
    let found = ["", "cat", "a cat", "This is a cat.", "cat, dog"].map(|answer| output_style(answer, Outcome::Correct));
    assert_eq!(found, ["empty", "one word", "phrase", "sentence", "phrase"]);
    assert_eq!(output_style("cat, dog", Outcome::Incorrect(ErrorCode::Multi)), "several labels");
}
