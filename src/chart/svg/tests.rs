use super::*;

#[test]
fn markup_in_a_text_is_escaped() {
    assert_eq!(escape(r#"<script>"a" & 'b'"#), "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;");
}

#[test]
fn characters_that_xml_forbids_are_replaced() {
    assert_eq!(escape("a\u{0}b\u{1b}c\nd"), "a\u{fffd}b\u{fffd}c\nd");
    assert_eq!(escape("user\u{202e}txt.exe\u{2066}"), "user\u{fffd}txt.exe\u{fffd}");
}

#[test]
fn numbers_have_at_most_two_decimals_and_no_negative_zero() {
    assert_eq!(number(12.0), "12");
    assert_eq!(number(-0.001), "0");
    assert_eq!(number(1.256), "1.26");
    assert_eq!(number(100.0), "100");
}
