use super::*;
use crate::model::checkpoint::weights::testing::{golden, read_json};

/// Compares with texts that `tests/golden/make_templates.py` rendered with transformers.
#[test]
fn what_a_template_may_use_renders_as_in_transformers() {
    let golden = read_json(&golden("templates.json"));
    let part = |pairs: Vec<(&str, &str)>| Value::from_pairs(pairs);
    let content = vec![part(vec![("type", "image")]), part(vec![("type", "text"), ("text", "What is it?")])];
    let turn = Value::from_pairs(vec![("role", Value::from("user")), ("content", Value::from(content))]);
    let variables = Value::from_pairs(vec![
        ("messages", Value::from(vec![turn])),
        ("tools", Value::from(())),
        ("documents", Value::from(())),
        ("add_generation_prompt", Value::from(true)),
        ("bos_token", Value::from("<s>")),
        ("eos_token", Value::from("</s>")),
        ("pad_token", Value::from("<pad>")),
        ("unk_token", Value::from("<unk>")),
    ]);
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 50, "{}", cases.len());
    for case in cases {
        let template = case["template"].as_str().unwrap();
        let rendered = environment_of(template).and_then(|it| it.get_template(TEMPLATE_NAME)?.render(&variables));
        match case["rendered"].as_str() {
            Some(expected) => assert_eq!(rendered.as_deref().ok(), Some(expected), "{template}: {rendered:?}"),
            None => assert!(rendered.is_err(), "{template}: transformers refuses it, and here it is {rendered:?}"),
        }
    }
}

#[test]
fn a_directive_that_is_not_known_is_refused_by_its_name() {
    let error = strftime("%Q").unwrap_err().to_string();
    assert!(error.contains("%Q"), "{error}");
}
