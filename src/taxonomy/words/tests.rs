use super::*;

#[test]
fn a_noun_after_a_noun_takes_over_and_a_verb_does_not() {
    for head in ["cage", "food", "painting", "bed"] {
        assert!(takes_over_as_head(head), "{head}");
    }
    for other in ["flying", "perched", "is", "in", "sits", "photo"] {
        assert!(!takes_over_as_head(other), "{other}");
    }
}

#[test]
fn can_is_a_verb_after_a_pronoun_and_a_thing_after_an_article() {
    assert!(is_helping_verb(Some("i"), "can", Some("see")));
    assert!(is_helping_verb(Some("this"), "can", Some("be")));
    assert!(is_helping_verb(None, "can", Some("you")));
    assert!(!is_helping_verb(Some("a"), "can", None));
    assert!(!is_helping_verb(Some("a"), "can", Some("of")));
    assert!(!is_helping_verb(None, "can", None));
    assert!(!is_helping_verb(Some("soda"), "can", None));
}
