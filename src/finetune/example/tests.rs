use super::*;

#[test]
fn a_mixture_takes_as_many_as_the_scarcest_dataset_allows() {
    assert_eq!(mixed(&[100, 40], Some(&[0.8, 0.2])).unwrap(), [100, 25]);
    assert_eq!(mixed(&[100, 10], Some(&[4.0, 1.0])).unwrap(), [40, 10]);
    assert_eq!(mixed(&[3, 5], None).unwrap(), [3, 5]);
}

#[test]
fn ratios_that_make_no_sense_are_refused() {
    assert!(mixed(&[3, 5], Some(&[1.0])).is_err());
    assert!(mixed(&[3, 5], Some(&[1.0, 0.0])).is_err());
    assert!(mixed(&[3, 5], Some(&[1.0, 0.001])).is_err());
}

#[test]
fn an_answer_template_must_show_the_label() {
    assert!(AnswerTemplate::new("It is a thing.").is_err());
    assert!(AnswerTemplate::new("{label} {colour}").is_err());
    let template = AnswerTemplate::new(AnswerTemplate::DEFAULT).unwrap();
    assert_eq!(template.fill("cat", "object"), "The object is a(n) cat.");
}
