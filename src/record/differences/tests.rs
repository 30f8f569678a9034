use super::super::testing::spec;
use super::*;

#[test]
fn equal_specifications_do_not_differ() {
    assert_eq!(differences(&spec(), &spec()), []);
}

#[test]
fn a_changed_field_is_named_with_both_values() {
    let mut asked = spec();
    asked.datasets[0].split = "train".into();
    asked.max_new_tokens = 64;
    let found: Vec<String> = differences(&spec(), &asked).iter().map(|difference| difference.to_string()).collect();
    assert_eq!(
        found,
        ["`datasets[0].split` is \"test\" there and \"train\" here", "`max_new_tokens` is 32 there and 64 here"]
    );
}

#[test]
fn other_lists_of_datasets_are_shown_by_name() {
    let mut asked = spec();
    asked.datasets.truncate(1);
    let found = differences(&spec(), &asked);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].to_string(), r#"`datasets` is ["mnist","cifar10"] there and ["mnist"] here"#);
}

#[test]
fn an_adapter_that_only_the_command_has_is_absent_in_the_folder() {
    let mut asked = spec();
    asked.model.adapter = Some("blake3:ad".into());
    assert_eq!(differences(&spec(), &asked)[0].to_string(), "`model.adapter` is absent there and \"blake3:ad\" here");
}
