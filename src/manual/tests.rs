use super::*;

#[test]
fn every_page_has_a_title_and_code_that_rustdoc_does_not_compile() {
    for page in PAGES {
        assert!(page.text.starts_with("# "), "{} begins with its title", page.topic);
        let fences: Vec<&str> = page.text.lines().filter(|line| line.starts_with("```")).collect();
        for fence in fences.iter().step_by(2) {
            assert!(fence.len() > 3, "{}: a block of code names its language", page.topic);
        }
        assert_eq!(fences.len() % 2, 0, "{}: a block of code is not closed", page.topic);
    }
}

#[test]
fn a_page_names_only_topics_that_exist() {
    for page in PAGES {
        for (start, what) in page.text.match_indices("`emt help ") {
            let named = page.text[start + what.len()..].split('`').next().unwrap_or_default();
            assert!(PAGES.iter().any(|other| other.topic == named), "{}: `emt help {named}`", page.topic);
        }
    }
}

#[test]
fn topics_differ() {
    let topics: std::collections::BTreeSet<&str> = PAGES.iter().map(|page| page.topic).collect();
    assert_eq!(topics.len(), PAGES.len());
}
