use super::*;

#[test]
fn the_wording_is_what_most_answers_say_before_they_name_a_label() {
    let labels = ["cat", "dog", "7"];
    let answers = ["The object is a cat.", "The object is a Dog", "dog", "A catalogue", "The number is 7"];
    assert_eq!(own_wording(&answers, &labels), "The object is a ");
    assert_eq!(own_wording(&["cat", "dog"], &labels), "");
    assert_eq!(own_wording(&["I do not know", "17"], &labels), "");
}
