use super::*;

#[test]
fn every_command_has_a_page_with_its_flags_examples_and_exit_codes() {
    let pages = all(&built(), &[]).unwrap();
    let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["emt", "emt-eval", "emt-judge", "emt-judge-score", "emt-data-fetch", "emt-man", "emt-completions"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    for (name, page) in &pages {
        let text = String::from_utf8(page.clone()).unwrap();
        for part in [".TH ", ".SH NAME", ".SH SYNOPSIS", ".SH EXAMPLES", ".SH \"EXIT STATUS\"", "GLOBAL OPTIONS"] {
            assert!(text.contains(part), "{name}: {part}");
        }
        assert!(!text.contains("SH EXTRA"), "{name}");
    }
    let score = pages.iter().find(|(name, _)| name == "emt-judge-score").unwrap();
    let score = String::from_utf8(score.1.clone()).unwrap();
    assert!(score.contains("judge\\-url") && score.contains("emt judge score"), "{score}");
}

#[test]
fn a_slip_in_a_commands_name_finds_the_command() {
    let root = built();
    assert!(unknown(&root, "gat").contains("did you mean `gate`?"));
    assert!(unknown(root.find_subcommand("judge").unwrap(), "scor").contains("did you mean `score`?"));
    assert!(unknown(root.find_subcommand("eval").unwrap(), "x").contains("no commands of its own"));
}
