use serde_json::json;

use super::*;
use crate::api::Secret;

fn check(texts: &[&str]) -> Result<Value> {
    let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
    let chat = ChatConfig { api_key: Secret::new("sk-0123456789"), ..ChatConfig::new("http://h", "m") };
    parse("--judge-extra-body", &texts, &chat, &[("max_tokens", "--judge-reply-tokens")]).map(Value::from)
}

#[test]
fn fields_are_an_object_or_a_name_with_a_value() {
    let thinks = r#"{"chat_template_kwargs":{"enable_thinking":false},"top_k":1}"#;
    assert_eq!(
        check(&[thinks, "reasoning_effort=low", "top_k=20", "temperature=null", "stop=[\"\\n\"]"]).unwrap(),
        json!({"chat_template_kwargs": {"enable_thinking": false}, "top_k": 20, "reasoning_effort": "low",
            "temperature": null, "stop": ["\n"]})
    );
    assert_eq!(check(&[]).unwrap(), json!({}));
}

#[test]
fn what_is_no_field_or_not_to_be_set_is_refused_with_the_mend() {
    for (text, expected) in [
        ("{\"a\":", "not a JSON object"),
        ("thinking", "no value"),
        ("=1", "not a field name"),
        ("messages=[]", "emt sets itself"),
        ("max_tokens=9", "--judge-reply-tokens"),
        ("api_key=x", "EMT_JUDGE_API_KEY"),
        (r#"{"headers":{"Authorization":"Bearer x"}}"#, "EMT_JUDGE_API_KEY"),
        (r#"{"note":["sk-0123456789"]}"#, "EMT_JUDGE_API_KEY"),
    ] {
        let error = format!("{:#}", check(&[text]).unwrap_err());
        assert!(error.contains(expected) && error.contains("hint: "), "{text}: {error}");
    }
}
