//! What belongs to a program on a command line: completions, manual pages, its version, and the name that was meant.

use std::fs;
use std::process::{Command, Stdio};

use super::support::{finish, run};

#[test]
fn completions_of_every_shell_know_commands_and_flags() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let finished = run(["completions", shell]);
        assert_eq!((finished.code, &finished.stderr[..]), (Some(0), ""), "{shell}");
        for word in ["judge", "calibrate", "served-model", "rules+llm"] {
            assert!(finished.stdout.contains(word), "{shell}: {word}");
        }
    }
    let refused = run(["completions", "bsh"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("'bash'"), "{}", refused.stderr);
}

#[test]
fn bash_takes_the_script_and_completes_a_flag() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("emt.bash");
    fs::write(&script, run(["completions", "bash"]).stdout).unwrap();
    let ask =
        "source \"$0\"; COMP_WORDS=(emt eval --served); COMP_CWORD=2; _emt emt --served eval; echo \"${COMPREPLY[@]}\"";
    let mut command = Command::new("bash");
    command.args(["--norc", "-c", ask]).arg(&script).stdin(Stdio::null());
    match command.output() {
        Ok(output) => assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "--served-model"),
        // A system without bash has nothing to show here.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
    }
}

#[test]
fn a_manual_page_is_printed_and_all_are_written() {
    let one = run(["man", "judge", "score"]);
    assert_eq!((one.code, &one.stderr[..]), (Some(0), ""));
    for part in [".TH emt-judge-score 1", "emt judge score", ".SH EXAMPLES", ".SH \"EXIT STATUS\"", "judge\\-url"] {
        assert!(one.stdout.contains(part), "{part}: {}", one.stdout);
    }
    assert!(run(["man"]).stdout.contains(".TH emt 1"));
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("share/man/man1");
    let all = run(["man", "--out", dir.to_str().unwrap()]);
    assert_eq!(all.code, Some(0), "{}", all.stderr);
    assert_eq!(fs::read_to_string(dir.join("emt-judge-score.1")).unwrap(), one.stdout);
    for name in ["emt", "emt-eval", "emt-gate", "emt-data-fetch", "emt-completions", "emt-man"] {
        assert!(dir.join(format!("{name}.1")).is_file(), "{name}");
    }
    for (words, hint) in
        [(&["man", "gat"][..], "did you mean `gate`?"), (&["man", "judge", "scor"], "did you mean `score`?")]
    {
        let refused = run(words);
        assert_eq!(refused.code, Some(2), "{words:?}");
        assert!(refused.stderr.contains(hint), "{}", refused.stderr);
    }
}

#[test]
fn the_version_names_commit_features_and_kernels() {
    let short = run(["-V"]);
    let number = format!("emt {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((short.code, short.stdout), (Some(0), number.clone()));
    let long = run(["--version"]);
    assert_eq!(long.code, Some(0), "{}", long.stderr);
    assert!(long.stdout.starts_with(&number), "{}", long.stdout);
    for line in ["commit: ", "features: ", "kernels: "] {
        assert_eq!(long.stdout.lines().filter(|shown| shown.starts_with(line)).count(), 1, "{}", long.stdout);
    }
    assert_eq!(long.stdout.contains("demo-assets"), cfg!(feature = "demo-assets"));
    let forced = finish(super::support::emt().arg("--version").env("EMT_KERNELS", "scalar"));
    assert!(forced.stdout.contains("kernels: scalar (EMT_KERNELS"), "{}", forced.stdout);
}

#[test]
fn a_family_a_dataset_and_an_encoder_that_were_misspelt_are_answered_with_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = |kind: &str| {
        let dir = folder.path().join(kind);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("config.json"), format!("{{\"model_type\": \"{kind}\"}}")).unwrap();
        // Weights without a tensor: the length of the header, and the header.
        fs::write(dir.join("model.safetensors"), b"\x02\0\0\0\0\0\0\0{}").unwrap();
        dir.to_str().unwrap().to_owned()
    };
    let (model, encoder) = (config("qwen2_5_vll"), config("siglipp"));
    let set = ["--datasets", "embedded/mnist"];
    let cases: [(&[&str], &str); 5] = [
        (&["eval", "--model", &model, set[0], set[1]], "the closest is `qwen2_5_vl`"),
        (&["eval", "--model", "embedded", "--encoder", &encoder, set[0], set[1]], "the closest is `siglip`"),
        (&["eval", "--model", "embedded", "--datasets", "mnsit"], "did you mean `mnist`?"),
        (&["data", "fetch", "cifar1000"], "did you mean `cifar100`?"),
        (
            &["finetune", "--model", "embedded", "--method", "lora", "--train", "cifra10", "--out", &model],
            "did you mean `cifar10`?",
        ),
    ];
    for (words, hint) in cases {
        let refused = run(words);
        assert_eq!(refused.code, Some(2), "{words:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(hint), "{words:?}: {}", refused.stderr);
    }
    let tuned = run(["eval", "--model", "embedded", set[0], set[1], "--tuned-on", "cifra10", "--limit", "1"]);
    assert!(tuned.code == Some(2) && tuned.stderr.contains("did you mean `cifar10`?"), "{}", tuned.stderr);
}
