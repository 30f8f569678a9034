//! The manual: `emt help`, and the commands of its pages run on the miniature.

use emt::manual::PAGES;

use super::support;

fn help(words: &[&str]) -> support::Finished {
    support::finish(support::emt().arg("help").args(words))
}

#[test]
fn help_lists_commands_and_topics() {
    let all = help(&[]);
    assert_eq!(all.code, Some(0), "{}", all.stderr);
    assert!(all.stdout.contains("Usage: emt") && all.stdout.contains("\nCommands:"), "{}", all.stdout);
    for page in PAGES {
        assert!(all.stdout.contains(&format!("\n  {} ", page.topic)), "{} is listed", page.topic);
    }
}

#[test]
fn a_topic_prints_its_page_and_a_command_its_flags_first() {
    let topic = help(&["policy"]);
    assert_eq!(topic.code, Some(0), "{}", topic.stderr);
    assert!(topic.stdout.starts_with("Policy\n======\n"), "{}", topic.stdout);
    let both = help(&["gate"]).stdout;
    let (flags, page) = (both.find("--calibration-baseline").unwrap(), both.find("\nGate\n====\n").unwrap());
    assert!(flags < page, "{both}");
    let of_command = help(&["eval"]).stdout;
    assert!(of_command.contains("--datasets") && of_command.contains("\nEvaluate\n========\n"), "{of_command}");
    let subcommand = help(&["judge", "score"]);
    assert!(subcommand.stdout.contains("Usage: emt judge score"), "{}", subcommand.stdout);
}

#[test]
fn an_unknown_topic_names_the_nearest() {
    let unknown = help(&["statistcs"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("did you mean `statistics`?"), "{}", unknown.stderr);
}

/// The commands in blocks that say `sh run`.
fn commands_to_run(text: &str) -> Vec<&str> {
    let mut commands = Vec::new();
    let mut is_run = false;
    for line in text.lines() {
        if let Some(info) = line.strip_prefix("```") {
            is_run = info == "sh run";
        } else if is_run {
            commands.push(line);
        }
    }
    commands
}

#[test]
fn the_commands_of_the_manual_run_on_the_miniature() {
    let readme = std::fs::read_to_string(support::root().join("README.md")).unwrap();
    let documents = PAGES.iter().map(|page| (page.topic, page.text)).chain([("README.md", readme.as_str())]);
    let mut n_run = 0;
    for (name, text) in documents {
        let folder = tempfile::tempdir().unwrap();
        for line in commands_to_run(text) {
            let words = line.strip_prefix("emt ").unwrap_or_else(|| panic!("{name}: {line}"));
            assert!(!words.contains(['\'', '"', '$']), "{name}: {line} needs a shell");
            let finished = support::finish(support::emt().current_dir(folder.path()).args(words.split_whitespace()));
            // A gate decides; what it decides is not the manual's business.
            let decides = words.starts_with("gate --baseline") || words.starts_with("recover ");
            let is_expected = match decides {
                true => [Some(0), Some(1), Some(3)].contains(&finished.code),
                false => finished.code == Some(0),
            };
            assert!(is_expected, "{name}: {line}\n{:?}\n{}", finished.code, finished.stderr);
            n_run += 1;
        }
    }
    assert!(n_run >= 15, "{n_run} commands ran");
}
