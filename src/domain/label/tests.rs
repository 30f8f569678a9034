use super::*;

#[test]
fn a_label_set_of_one_class_is_refused() {
    let one = LabelSet::new(vec![Label::named("cat")], AnswerType::Object);
    assert_eq!(one, Err(LabelSetError::TooFew(1)));
}

#[test]
fn a_name_may_stand_twice_and_none_may_be_empty() {
    let twice = LabelSet::new(vec![Label::named("crane"), Label::named("crane")], AnswerType::Object).unwrap();
    assert_eq!((twice.len(), twice.index_of("crane")), (2, Some(0)));
    let empty = LabelSet::new(vec![Label::named("cat"), Label::named(" ")], AnswerType::Object);
    assert_eq!(empty, Err(LabelSetError::Empty(1)));
}
