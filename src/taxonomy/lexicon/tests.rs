use super::*;

const SMALL: &str = "# a comment\nS\tn1\tdog|domestic dog\t\tn2\nS\tn2\t\tanimal|beast\t\nN\tdog\tn1\nC\thot dog\t\n";

#[test]
fn a_row_may_name_a_parent_that_comes_later() {
    let lexicon = Lexicon::parse(SMALL).unwrap();
    let dog = lexicon.resolve(&Label::named("Dog")).unwrap();
    assert_eq!(lexicon.aliases(dog), ["dog", "domestic dog"]);
    assert_eq!(lexicon.ancestors(dog), BTreeSet::from([1]));
    assert_eq!(lexicon.resolve(&Label::named("gizmo")), None);
}

#[test]
fn a_broken_row_is_an_error_that_names_its_line() {
    let error = |text: &str| Lexicon::parse(text).unwrap_err();
    assert_eq!(error("S\tn1\tdog\t\tn9").problem, "synset `n9` has no row");
    assert_eq!(error("# c\n\nX\tn1").line, 3);
    assert_eq!(error("S\tn1\tdog\t\t\nS\tn1\tcat\t\t").line, 2);
    assert!(Lexicon::parse("S\tn1").is_err());
}
