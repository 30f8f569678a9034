//! Every command in the README and in the manual is one that the program understands.

use std::ffi::OsString;

use super::{command, parse};
use crate::manual::PAGES;

/// Flags of other programs that the documents name.
const FLAGS_OF_OTHERS: [&str; 7] = [
    "--enable-tower-connector-lora",
    "--enable-lora",
    "--lora-modules",
    "--mm-processor-kwargs",
    "--no-default-features",
    "--features",
    "--release",
];

/// Programs that a block of shell commands may also start.
const OTHER_PROGRAMS: [&str; 6] = ["cargo", "vllm", "git", "cd", "python3", "open"];

/// The README and the pages of the manual, by name.
fn documents() -> Vec<(&'static str, &'static str)> {
    let readme = ("README.md", include_str!("../../README.md"));
    std::iter::once(readme).chain(PAGES.iter().map(|page| (page.topic, page.text))).collect()
}

/// The lines of `text` in blocks of `language`; what a backslash continues is one line.
fn code(text: &str, languages: &[&str]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let (mut is_code, mut is_wanted, mut goes_on) = (false, false, false);
    for line in text.lines() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            is_code = !is_code;
            is_wanted = is_code && languages.contains(&info.split(' ').next().unwrap_or_default());
            continue;
        }
        if !is_wanted || line.trim().is_empty() {
            continue;
        }
        let part = line.trim().trim_end_matches('\\');
        match lines.last_mut().filter(|_| goes_on) {
            Some(last) => last.push_str(&format!(" {part}")),
            None => lines.push(part.to_owned()),
        }
        goes_on = line.trim_end().ends_with('\\');
    }
    lines
}

/// The code within sentences: what is between single backticks, outside of blocks.
fn spans(text: &str) -> Vec<String> {
    let mut is_code = false;
    let is_sentence = |line: &&str| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    };
    let sentences: Vec<&str> = text.lines().filter(is_sentence).collect();
    sentences.join("\n").split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The words of a line as a shell would pass them, without a comment; variables are left as they are.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in line.chars() {
        match (character, quote) {
            (mark, Some(open)) if mark == open => quote = None,
            (mark @ ('\'' | '"'), None) => {
                quote = Some(mark);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (' ', None) => words.extend(word.take()),
            (other, _) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

/// What `emt` is given in a line: `emt …`, `cargo run … -- …`, `run: emt …` of a workflow.
fn of_emt(line: &str) -> Option<Vec<String>> {
    let words = words(line);
    let named = words.iter().position(|word| word == "emt" || word.ends_with("/emt"));
    let first = match words.first()?.as_str() {
        "cargo" if words.get(1).is_some_and(|word| word == "run") => words.iter().position(|word| word == "--")?,
        "cargo" | "git" | "cd" => return None,
        _ => named?,
    };
    Some(std::iter::once("emt".to_owned()).chain(words.into_iter().skip(first + 1)).collect())
}

#[test]
fn every_command_of_the_documents_is_understood() {
    let mut n_commands = 0;
    for (name, text) in documents() {
        for line in code(text, &["sh", "yaml"]) {
            let Some(words) = of_emt(&line) else { continue };
            n_commands += 1;
            parse(words.iter().map(OsString::from).collect())
                .unwrap_or_else(|error| panic!("{name}: {line}\n{error:#}"));
        }
    }
    assert!(n_commands > 40, "{n_commands} commands were found");
}

#[test]
fn a_block_of_shell_holds_only_commands() {
    for (name, text) in documents() {
        for line in code(text, &["sh"]) {
            let words = words(&line);
            let first = words.first().unwrap_or_else(|| panic!("{name}: a line with a comment alone: {line}"));
            assert!(first == "emt" || OTHER_PROGRAMS.contains(&first.as_str()), "{name}: {line}");
        }
    }
}

#[test]
fn every_flag_that_the_documents_name_exists() {
    fn flags(command: &clap::Command) -> Vec<String> {
        let own = command.get_arguments().filter_map(|flag| flag.get_long().map(|long| format!("--{long}")));
        own.chain(command.get_subcommands().flat_map(flags)).collect()
    }
    let known: Vec<String> = flags(&command()).into_iter().chain(["--help".into(), "--version".into()]).collect();
    for (name, text) in documents() {
        for span in spans(text) {
            let named = span.split_whitespace().map(|word| word.split('=').next().unwrap_or(word));
            for flag in named.filter(|word| word.starts_with("--") && word.len() > 2) {
                let is_known = known.iter().any(|known| known == flag) || FLAGS_OF_OTHERS.contains(&flag);
                assert!(is_known, "{name}: {flag} in `{span}`");
            }
        }
    }
}

#[test]
fn every_command_that_a_sentence_names_exists() {
    for (name, text) in documents() {
        for span in spans(text).iter().filter(|span| span.starts_with("emt ")) {
            let mut described = command();
            for word in span.split(' ').skip(1).take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase())) {
                if !described.has_subcommands() {
                    break;
                }
                described = described.find_subcommand(word).unwrap_or_else(|| panic!("{name}: `{span}`")).clone();
            }
            for flag in span.split_whitespace().filter_map(|word| word.strip_prefix("--")) {
                let flag = flag.split('=').next().unwrap_or(flag);
                let is_own = described.get_arguments().any(|own| own.get_long() == Some(flag));
                assert!(is_own || ["help", "version", "quiet", "config"].contains(&flag), "{name}: `{span}`");
            }
        }
    }
}

#[test]
fn the_reader_of_commands_knows_quotes_comments_and_continued_lines() {
    assert_eq!(words("emt eval --x '{\"a b\":1}' \"$(date)\" # why"), ["emt", "eval", "--x", "{\"a b\":1}", "$(date)"]);
    assert_eq!(code("```sh run\na \\\n  b\n```\nc\n```toml\nd\n```", &["sh"]), ["a  b"]);
    assert_eq!(of_emt("cargo run --release -- demo").unwrap(), ["emt", "demo"]);
    assert_eq!(of_emt("- run: emt gate --out d").unwrap(), ["emt", "gate", "--out", "d"]);
    assert_eq!(of_emt("cargo install --path ."), None);
}
