use super::*;

#[test]
fn every_line_fits_and_nothing_is_lost() {
    let name = "imagenet-100/validation_with_a_very_long_name and words";
    let lines = wrap(name, 120.0, 15.0, true, 9);
    assert!(lines.len() > 2);
    assert!(lines.iter().all(|line| width(line, 15.0, true) <= 120.0), "{lines:?}");
    let letters = |text: &str| text.replace(' ', "");
    assert_eq!(letters(&lines.concat()), letters(name));
}

#[test]
fn a_name_without_a_break_is_cut_and_ends_in_an_ellipsis() {
    let lines = wrap(&"W".repeat(80), 100.0, 15.0, true, 2);
    assert_eq!(lines.len(), 2);
    assert!(lines[1].ends_with('…'));
    assert!(lines.iter().all(|line| width(line, 15.0, true) <= 100.0));
}

#[test]
fn a_name_fits_where_no_line_breaks_inside_a_word() {
    let room = width("embedded/", 11.0, false);
    assert!(fits("embedded/cifar100", room, 11.0, false));
    assert_eq!(wrap("embedded/cifar100", room, 11.0, false, 2), ["embedded/", "cifar100"]);
    assert!(!fits("embedded/cifar100", room - 1.0, 11.0, false));
}

#[test]
fn a_short_name_is_one_line() {
    assert_eq!(wrap("mnist", 100.0, 15.0, true, 3), ["mnist"]);
}
