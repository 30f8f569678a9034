use proptest::prelude::*;

use super::*;

fn check(body: &str, message: &str, field: Option<&str>) {
    let found = complaints(body);
    assert!(found.iter().any(|one| one.message == message && one.field.as_deref() == field), "{body}: {found:?}");
    assert!(first_message(body).contains(message), "{body}: {}", first_message(body));
}

#[test]
fn each_servers_form_is_read() {
    check(r#"{"error":{"message":"no","type":"t","param":"seed","code":null}}"#, "no", Some("seed"));
    check(r#"[{"error":{"code":400,"message":"no","status":"INVALID_ARGUMENT"}}]"#, "no", None);
    check(r#"{"type":"error","error":{"type":"invalid_request_error","message":"no"}}"#, "no", None);
    check(r#"{"code":"Client specified an invalid argument","error":"no"}"#, "no", None);
    check(r#"{"error":"no","error_type":"validation"}"#, "no", None);
    check(r#"{"object":"error","message":"no","type":"BadRequestError","param":"None","code":400}"#, "no", None);
    check(r#"{"detail":[{"type":"extra_forbidden","loc":["body","seed"],"msg":"no","input":0}]}"#, "no", Some("seed"));
    check(
        r#"{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","seed"],"msg":"no"}]},"type":"t"}"#,
        "no",
        Some("seed"),
    );
    check(r#"{"detail":"no"}"#, "no", None);
    check(r#"{"error_code":"BAD_REQUEST","message":"no"}"#, "no", None);
    check(
        r#"{"error":{"code":400,"message":"bad","details":[{"fieldViolations":[{"field":"generation_config.seed","description":"no"}]}]}}"#,
        "no",
        Some("seed"),
    );
    check(
        r#"{"error":{"message":"litellm.BadRequestError: OpenAIException - {\"error\":{\"message\":\"no\",\"param\":\"seed\"}}","code":"400"}}"#,
        "no",
        Some("seed"),
    );
    check("no\n", "no", None);
}

proptest! {
    #[test]
    fn no_body_makes_the_reader_panic(text in ".{0,60}|[{}\\[\\]\":,a-z]{0,60}") {
        let _ = (complaints(&text), first_message(&text));
    }
}
