use super::*;

fn check(base_url: &str) -> Result<String, ConfigError> {
    completions_url(&ChatConfig::new(base_url, "m")).map(String::from)
}

#[test]
fn the_address_may_end_with_or_without_v1() {
    for base in ["http://h:8000", "http://h:8000/", "http://h:8000/v1", "http://h:8000//v1//"] {
        assert_eq!(check(base).unwrap(), "http://h:8000/v1/chat/completions", "{base}");
    }
}

#[test]
fn an_address_with_its_own_version_keeps_it() {
    for (base, url) in [
        ("https://g/v1beta/openai/", "https://g/v1beta/openai/chat/completions"),
        ("https://r/api/v1", "https://r/api/v1/chat/completions"),
        ("https://p/chat/completions", "https://p/chat/completions"),
        (
            "https://a/openai/deployments/d?api-version=1",
            "https://a/openai/deployments/d/chat/completions?api-version=1",
        ),
    ] {
        assert_eq!(check(base).unwrap(), url);
    }
}

#[test]
fn a_password_in_the_address_is_refused_and_never_shown() {
    for base in ["http://me:hunter2@h/v1", "htp//me:hunter2@h"] {
        let message = check(base).unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{message}");
    }
}
