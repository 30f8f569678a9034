use super::*;

#[test]
fn the_same_thing_said_in_several_ways_is_one() {
    for answer in ["Cat", " a cat. ", "The object is a(n) cat.", "the object in the image is\na CAT!"] {
        assert_eq!(bare_answer(answer), "cat");
    }
    assert_eq!(bare_answer("two\u{1b}[31m cats"), "two [31m cats");
}
