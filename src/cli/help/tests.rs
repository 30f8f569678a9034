use std::ffi::OsString;

use super::*;
use crate::cli::{command, parse};

/// Every command with its path, the program itself included.
fn all(command: &Command, path: &str) -> Vec<(String, Command)> {
    let inner = command.get_subcommands().flat_map(|inner| all(inner, &format!("{path} {}", inner.get_name())));
    std::iter::once((path.to_owned(), command.clone())).chain(inner).collect()
}

#[test]
fn every_command_has_examples_that_are_understood_and_exit_codes() {
    let commands = all(&command(), "emt");
    assert_eq!(commands.len(), PAGES.len(), "each command has a page");
    for (path, command) in commands {
        let text = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        let (examples, codes) = text.split_once("\nExit codes:\n").unwrap_or_else(|| panic!("`{path}` has no page"));
        assert!(codes.contains("    0  ") && codes.contains("    2  "), "{path}: {codes}");
        let lines: Vec<&str> = examples.lines().filter_map(|line| line.strip_prefix("      ")).collect();
        assert!(!lines.is_empty(), "`{path}` has no example");
        for line in lines {
            assert!(line.starts_with(&path), "{path}: {line}");
            parse(line.split(' ').map(OsString::from).collect()).unwrap_or_else(|error| panic!("{line}: {error:#}"));
        }
    }
}

#[test]
fn the_short_help_fits_on_a_screen_or_two() {
    for (path, command) in all(&command(), "emt") {
        let n_lines = command.term_width(100).render_help().to_string().lines().count();
        assert!(n_lines <= 66, "`{path} -h` has {n_lines} lines");
    }
}

#[test]
fn flags_are_grouped_and_examples_are_few() {
    for (path, command) in all(&command(), "emt") {
        // Without a heading of their own, flags stand under one that says nothing.
        let is_ungrouped = |flag: &&clap::Arg| flag.get_help_heading().is_none() && !flag.is_positional();
        let n_flags = command.get_arguments().filter(|flag| !flag.is_positional()).count();
        let ungrouped: Vec<&str> =
            command.get_arguments().filter(is_ungrouped).filter_map(clap::Arg::get_long).collect();
        assert!(n_flags <= 6 || ungrouped.len() <= 6, "`{path}`: give {ungrouped:?} a help_heading");
        let page = PAGES.iter().find(|page| path.split(' ').skip(1).eq(page.path.iter().copied())).unwrap();
        // The first page has one example per thing that people come for.
        let n_examples_max = if page.path.is_empty() { 4 } else { 3 };
        assert!((1..=n_examples_max).contains(&page.examples.len()), "{path}");
    }
}

#[test]
fn a_list_as_default_is_written_as_it_is_typed() {
    for (path, command) in all(&command(), "emt") {
        for flag in command.get_arguments() {
            assert!(flag.get_default_values().len() <= 1, "{path}: {}", flag.get_id());
        }
    }
    let help = command().find_subcommand_mut("eval").unwrap().render_long_help().to_string();
    assert!(help.contains("[default: 1,5,16]"), "{help}");
}

#[test]
fn defaults_have_one_form_and_flags_one_line() {
    for (path, command) in all(&command(), "emt") {
        for flag in command.get_arguments() {
            let short = flag.get_help().map(ToString::to_string).unwrap_or_default();
            let long = flag.get_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(short.chars().count() <= 110, "{path}: {short}");
            for text in [&short, &long] {
                let bare = text.replace("[default: ", "");
                assert!(!bare.to_lowercase().contains("default:"), "{path}: {text}");
            }
            let is_told_twice = short.contains("[default: ") && !flag.get_default_values().is_empty();
            assert!(!is_told_twice, "{path}: {short}");
        }
    }
}
