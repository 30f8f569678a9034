use super::*;

#[test]
fn paragraphs_and_items_are_wrapped_and_code_is_not() {
    let markdown = "# A *title*\n\nOne two **three**\nfour `a * b`.\n\n- item that goes\n  on\n- next\n\n```sh run\nemt --long line\n```\n";
    let text =
        "A title\n=======\n\nOne two\nthree four\n`a * b`.\n\n- item that\n  goes on\n- next\n\n    emt --long line\n";
    assert_eq!(plain_text(markdown, 12), text);
}

#[test]
fn a_table_fits_into_the_width() {
    let markdown = "| a | b |\n|---|---|\n| one | many words that take more room than there is |\n";
    let text = plain_text(markdown, 30);
    assert!(text.lines().all(|line| line.chars().count() <= 30), "{text}");
    assert!(text.starts_with("a    b\n---  -----") && text.contains("one  many words"), "{text}");
}

#[test]
fn emphasis_goes_and_an_asterisk_of_arithmetic_stays() {
    assert_eq!(bare("*lost* images, 6 * 7, `*`"), "lost images, 6 * 7, `*`");
}

#[test]
fn every_page_fits_into_a_terminal_but_for_its_code() {
    for page in crate::manual::PAGES {
        for line in plain_text(page.text, 100).lines().filter(|line| !line.starts_with("    ")) {
            assert!(line.chars().count() <= 100, "{}: {line}", page.topic);
        }
    }
}
