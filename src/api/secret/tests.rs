use super::*;

#[test]
fn a_key_is_shown_neither_by_debug_nor_by_display() {
    let secret = Secret::new(" sk-12345678\n").unwrap();
    assert_eq!(secret.expose(), "sk-12345678");
    assert!(!format!("{secret:?} {secret} {:?}", Some(&secret)).contains("1234"));
}

#[test]
fn an_echoed_key_is_cut_out_of_any_text() {
    let secret = Secret::new("a\"b/c-9876").unwrap();
    let echoed = format!("wrong key a\"b/c-9876 in {}", serde_json::json!({"key": "a\"b/c-9876"}));
    assert!(!secret.redact(&echoed).contains("9876"));
}

#[test]
fn white_space_is_no_key() {
    assert!(Secret::new(" \n").is_none());
}
