use super::*;

#[test]
fn every_command_of_a_page_exists_and_finds_its_page() {
    for page in PAGES {
        assert_eq!(page_about(&[page.topic]).map(|found| found.topic), Some(page.topic));
        if let Some(command) = page.command {
            assert!(is_command(&[command]), "{}: {command}", page.topic);
            assert_eq!(page_about(&[command]).map(|found| found.command), Some(page.command));
        }
    }
}

#[test]
fn an_unknown_topic_names_the_nearest() {
    assert!(unknown("gat").contains("did you mean `gate`?"));
    assert!(unknown("label_scorin").contains("did you mean `label-scoring`?"));
    assert!(!unknown("xyzzy-of-nothing").contains("did you mean"));
}
