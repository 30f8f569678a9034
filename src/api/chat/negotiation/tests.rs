//! Tests of `negotiation`.

use super::*;

fn sent() -> Value {
    json!({"model": "m", "messages": [], "max_tokens": 64, "temperature": 0.0, "top_p": 1.0, "seed": 0,
            "frequency_penalty": 0, "presence_penalty": 0, "logprobs": true, "top_logprobs": 2, "add_special_tokens": true,
            "stream": false})
}

fn after(body: &str) -> Option<Negotiated> {
    Negotiated::default().after_refusal(&sent(), body, &|_| false, false)
}

/// Returns the field that is omitted after `message` in the form of OpenAI's errors.
fn omitted(message: &str) -> Vec<&'static str> {
    let body = json!({"error": {"message": message, "type": "t", "param": null, "code": null}}).to_string();
    after(&body).unwrap_or_else(|| panic!("{message}")).omitted.into_iter().collect()
}

#[test]
fn a_reasoning_model_gets_max_completion_tokens_and_no_temperature() {
    let body = r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","param":"max_tokens","code":"unsupported_parameter"}}"#;
    let second = after(body).unwrap();
    assert_eq!(second.token_limit(), "max_completion_tokens");
    let sent = json!({"model": "m", "max_completion_tokens": 64, "temperature": 0.0});
    let body = r#"{"error":{"message":"Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.","param":"temperature","code":"unsupported_value"}}"#;
    let third = second.after_refusal(&sent, body, &|_| false, false).unwrap();
    assert!(third.omits("temperature"));
    let sent = json!({"model": "m", "max_completion_tokens": 64});
    assert_eq!(third.after_refusal(&sent, body, &|_| false, false), None);
}

#[test]
fn a_field_is_left_out_in_each_servers_own_words() {
    for (message, name) in [
        ("You are not allowed to request logprobs from this model", "logprobs"),
        ("Logprobs is not enabled for models/gemini-x", "logprobs"),
        ("Argument not supported on this model: presencePenalty", "presence_penalty"),
        ("Argument not supported on this model: frequencyPenalty", "frequency_penalty"),
        ("Penalty is not enabled for models/gemini-2.5-pro", "frequency_penalty"),
        ("presence penalty is not supported", "presence_penalty"),
        ("property 'seed' is unsupported", "seed"),
        ("Unrecognized request argument supplied: seed", "seed"),
        ("temperature: Extra inputs are not permitted", "temperature"),
        ("`temperature` is deprecated for this model.", "temperature"),
        ("`temperature` and `top_p` cannot both be specified for this model. Please use only one.", "top_p"),
        ("top_p and temperature are mutually exclusive", "top_p"),
        ("Input validation error: `top_p` must be > 0.0 and < 1.0", "top_p"),
        ("Invalid JSON payload received. Unknown name \"topP\" at 'generation_config': Cannot find field.", "top_p"),
        ("Bad request: json: unknown field \"top_logprobs\"", "top_logprobs"),
        ("deepseek-reasoner does not support the parameter `logprobs`", "logprobs"),
        ("litellm.UnsupportedParamsError: ollama does not support parameters: ['seed'], for model=x", "seed"),
        ("Unsupported parameter: seed. Supported parameters: temperature, top_p, max_tokens", "seed"),
        ("This endpoint takes temperature and top_p; seed is not supported", "seed"),
        ("Extra inputs are not permitted, field: 'add_special_tokens', value: True", "add_special_tokens"),
    ] {
        assert_eq!(omitted(message), [name], "{message}");
    }
}

#[test]
fn a_field_that_the_error_names_by_itself_is_left_out() {
    for (body, name) in [
        (r#"{"error":{"message":"2 is not good","param":"seed"}}"#, "seed"),
        (
            r#"{"detail":[{"type":"extra_forbidden","loc":["body","seed"],"msg":"Extra inputs are not permitted","input":0}]}"#,
            "seed",
        ),
        (
            r#"{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","top_p"],"msg":"Extra inputs are not permitted"}]}}"#,
            "top_p",
        ),
        (
            r#"{"error":{"code":400,"message":"Invalid value","details":[{"fieldViolations":[{"field":"generationConfig.presencePenalty","description":"not supported"}]}]}}"#,
            "presence_penalty",
        ),
    ] {
        assert!(after(body).unwrap_or_else(|| panic!("{body}")).omits(name), "{body}");
    }
}

#[test]
fn a_temperature_of_zero_becomes_the_least_that_is_taken_and_then_goes() {
    let body =
        r#"{"error":"Input validation error: `temperature` must be strictly positive","error_type":"validation"}"#;
    let second = after(body).unwrap();
    assert_eq!(second.changed().collect::<Vec<_>>(), [("temperature", &json!(0.01))]);
    let mut sent = sent();
    sent["temperature"] = json!(0.01);
    let third = second.after_refusal(&sent, body, &|_| false, false).unwrap();
    assert!(third.omits("temperature") && third.changed().next().is_none());
}

#[test]
fn fewer_log_probabilities_are_asked_for_before_none() {
    let body = r#"{"object":"error","message":"Requested sample logprobs of 2, which is greater than max allowed: 1","code":400}"#;
    let second = after(body).unwrap();
    assert_eq!(second.changed().collect::<Vec<_>>(), [("top_logprobs", &json!(1))]);
    let mut sent = sent();
    sent["top_logprobs"] = json!(1);
    let third = second.after_refusal(&sent, body, &|_| false, false).unwrap();
    assert!(third.omits("top_logprobs") && !third.omits("logprobs"));
    sent.as_object_mut().unwrap().remove("top_logprobs");
    assert!(third.after_refusal(&sent, body, &|_| false, false).unwrap().omits("logprobs"));
}

#[test]
fn the_token_limit_is_kept_within_the_servers_bounds() {
    let sent = json!({"model": "m", "max_tokens": 2048});
    let check = |body: &str, may_lower| {
        let next = Negotiated::default().after_refusal(&sent, body, &|_| false, may_lower);
        next.map(|next| next.n_tokens(2048))
    };
    let too_large =
        "max_tokens is too large: 2048. This model supports at most 1024 completion tokens, whereas you provided 2048.";
    assert_eq!(check(too_large, true), Some(1024));
    assert_eq!(check(too_large, false), None, "a person asked for so many");
    let context = "'max_tokens' or 'max_completion_tokens' is too large: 2048. This model's maximum context length is 2048 tokens and your request has 600 input tokens";
    assert_eq!(check(context, true), Some(1024));
    assert_eq!(check(context, false), None);
    let too_small = "Invalid 'max_tokens': integer below minimum value. Expected a value >= 16, but got 1 instead.";
    let sent = json!({"model": "m", "max_tokens": 1});
    let next = Negotiated::default().after_refusal(&sent, too_small, &|_| false, false).unwrap();
    assert_eq!(next.n_tokens(1), 16);
}

#[test]
fn an_error_about_something_else_changes_nothing() {
    for body in [
        r#"{"error":{"message":"This model's maximum context length is 8 tokens, temperature 0 not supported"}}"#,
        r#"{"error":{"message":"Unsupported value: model","param":"model"}}"#,
        r#"{"error":{"message":"The model `m` does not exist or you do not have access to it: unsupported temperature"}}"#,
        r#"{"error":{"message":"Invalid image: not supported","param":"messages[0].content"}}"#,
        r#"{"error":{"message":"Incorrect API key provided; seed not supported"}}"#,
        r#"{"error":{"message":"Rate limit reached: max_tokens too large"}}"#,
        r#"{"detail":[{"type":"missing","loc":["body","seed"],"msg":"Field required"}]}"#,
        r#"{"error":{"message":"stop sequences are unsupported","param":"stop"}}"#,
        "temperature",
        "unsupported",
        "",
    ] {
        assert_eq!(after(body), None, "{body}");
    }
}

#[test]
fn what_was_learned_is_told() {
    assert_eq!(Negotiated::default().told(), None);
    let second = after("{\"error\":\"`temperature` must be strictly positive\"}").unwrap();
    assert_eq!(
        second.told().unwrap(),
        "requests are sent with `temperature` 0.01, because the server refuses them otherwise"
    );
}

#[test]
fn a_field_that_a_person_asked_for_stays() {
    let body = r#"{"error":{"message":"`temperature` is not supported","param":"temperature"}}"#;
    assert_eq!(Negotiated::default().after_refusal(&sent(), body, &|name| name == "temperature", false), None);
}
