use super::*;

fn command(text: &str) -> RecordedCommand {
    RecordedCommand { words: words(text), directory: None }
}

#[test]
fn words_are_read_as_they_were_quoted() {
    for list in [vec!["emt", "eval", "it's", "a b", ""], vec!["emt"], vec!["emt", "''", "\\", "é'"]] {
        let text: Vec<String> = list.iter().map(|word| quoted(word)).collect();
        assert_eq!(words(&text.join(" ")), list);
    }
}

#[test]
fn the_subcommand_stands_behind_the_global_flags() {
    for (text, expected) in [
        ("emt eval --model x", Some("eval")),
        ("emt -q eval", Some("eval")),
        ("emt --quiet --config gate.toml gate", Some("gate")),
        ("emt --config=eval.toml judge score r", Some("judge")),
        ("emt -q", None),
    ] {
        assert_eq!(command(text).subcommand(), expected, "{text}");
    }
}

#[test]
fn the_folder_is_the_one_that_was_read() {
    let for_run = |text: &str, dir: &str| command(text).for_run(Path::new(dir)).map(|command| command.text());
    let told = |text: &str| Some(text.to_owned());
    for text in ["emt eval --out old --limit 3", "emt eval -o old --limit 3", "emt eval -oold --out=x --limit 3"] {
        assert_eq!(for_run(text, "/new/run"), told("emt eval --limit 3 --out /new/run"), "{text}");
    }
    let both = "emt eval --adapter tuned=a/b --adapter ./lora --out old";
    assert_eq!(for_run(both, "/new/lora"), told("emt eval --adapter tuned=a/b --adapter ./lora --out /new"));
    assert_eq!(for_run(both, "/new/renamed"), None);
    assert!(for_run(both, "/new/base").is_some() && for_run(both, "/new/tuned").is_some());
    let alone = "emt eval --adapter a --no-base";
    assert_eq!(for_run(alone, "/new/x"), told("emt eval --adapter a --no-base --out /new/x"));
    let served = "emt gate --served-model me/base,tuned --runs old";
    assert_eq!(for_run(served, "/new/me--base"), told("emt gate --served-model me/base,tuned --runs /new"));
    assert_eq!(command("emt eval --limit 3").with_limit(600).text(), "emt eval --limit 600");
    let all = command("emt eval --samples lost.csv --limit 3 --samples=x").without_samples();
    assert_eq!(all.text(), "emt eval --limit 3");
}
