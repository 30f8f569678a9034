use super::*;

#[test]
fn plurals_follow_the_spelling() {
    for (one, many) in [
        ("cat", "cats"),
        ("bus", "buses"),
        ("butterfly", "butterflies"),
        ("ray", "rays"),
        ("pickup truck", "pickup trucks"),
        ("woman", "women"),
        ("wolf", "wolves"),
    ] {
        assert_eq!(plural(one).unwrap(), many);
    }
    assert_eq!(singular("cows").unwrap(), "cow");
    assert_eq!(singular("bus"), None);
    assert_eq!(singular("kine"), None);
}

#[test]
fn a_name_beats_an_alias_and_equals_cancel() {
    let mut dog = Label::named("dog");
    dog.aliases = vec!["cat".into(), "pet".into()];
    let mut cat = Label::named("cat");
    cat.aliases = vec!["pet".into()];
    let labels = LabelSet::new(vec![dog, cat], AnswerType::Object).unwrap();
    let vocabulary = Vocabulary::new(&labels, &Lexicon::default());
    assert_eq!(vocabulary.meaning("cat"), Some(Meaning::Label(1)));
    assert_eq!(vocabulary.meaning("pet"), Some(Meaning::Opaque));
    assert_eq!(vocabulary.meaning("dogs"), Some(Meaning::Label(0)));
}
