//! `--config FILE`: TOML keys become flags before those of the command line, which so win.
#![expect(clippy::disallowed_methods, reason = "reads the user's configuration file")]

use std::ffi::OsString;
use std::path::PathBuf;

use crate::domain::text;
use anyhow::{Context, Result, bail};
use toml::{Table, Value};

/// `args` with the flags of the configuration file that they name put in behind the command's name.
pub(super) fn with_config(command: &clap::Command, args: Vec<OsString>) -> Result<Vec<OsString>> {
    let Some(path) = config_path(&args) else { return Ok(args) };
    let bytes = std::fs::read(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
    let text = text::decode(&bytes).with_context(|| format!("failed to read `{}`", path.display()))?;
    let table: Table = toml::from_str(text).with_context(|| format!("failed to read `{}`", path.display()))?;
    let (root, (command, n_words)) = (command, innermost(command, &args));
    let options: Vec<&clap::Arg> = command.get_arguments().chain(root.get_arguments().filter(is_global)).collect();
    let mut flags = Vec::new();
    for (key, value) in &table {
        flags.extend(
            flag(command.get_name(), &options, key, value).with_context(|| format!("in `{}`", path.display()))?,
        );
    }
    let mut all = args;
    all.splice(n_words..n_words, flags);
    Ok(all)
}

fn config_path(args: &[OsString]) -> Option<PathBuf> {
    args.iter().enumerate().find_map(|(index, arg)| {
        let text = arg.to_str()?;
        if text == "--config" {
            return args.get(index + 1).map(PathBuf::from);
        }
        text.strip_prefix("--config=").map(PathBuf::from)
    })
}

/// The subcommand that the first words name, and how many words that took.
fn innermost<'a>(command: &'a clap::Command, args: &[OsString]) -> (&'a clap::Command, usize) {
    let (mut command, mut n_words) = (command, 1);
    while let Some(inner) = args.get(n_words).and_then(|word| command.find_subcommand(word)) {
        command = inner;
        n_words += 1;
    }
    (command, n_words)
}

/// Flags of every command; a file that names another file would be read by nobody.
fn is_global(argument: &&clap::Arg) -> bool {
    argument.is_global_set() && argument.get_long() != Some("config")
}

fn flag(command: &str, options: &[&clap::Arg], key: &str, value: &Value) -> Result<Vec<OsString>> {
    let long = key.replace('_', "-");
    let Some(argument) = options.iter().find(|argument| argument.get_long() == Some(&long)) else {
        let known: Vec<String> =
            options.iter().filter_map(|a| a.get_long()).map(|name| name.replace('-', "_")).collect();
        bail!("`{key}` is no option of `emt {command}`; hint: the options are {}", known.join(", "));
    };
    if !argument.get_action().takes_values() {
        return match value {
            Value::Boolean(true) => Ok(vec![format!("--{long}").into()]),
            Value::Boolean(false) => Ok(Vec::new()),
            _ => bail!("`{key}` is a switch: true or false"),
        };
    }
    let text = match value {
        Value::Array(items) => items.iter().map(|item| scalar(key, item)).collect::<Result<Vec<_>>>()?.join(","),
        value => scalar(key, value)?,
    };
    Ok(vec![format!("--{long}={text}").into()])
}

fn scalar(key: &str, value: &Value) -> Result<String> {
    Ok(match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(on) => on.to_string(),
        _ => bail!("`{key}` must be a string, a number, or a list of them"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(text: &str, rest: &[&str]) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("emt.toml");
        std::fs::write(&path, text).unwrap();
        let mut args: Vec<OsString> = ["emt", "eval", "--config"].map(OsString::from).into();
        args.push(path.into());
        args.extend(rest.iter().map(OsString::from));
        let command = <super::super::Cli as clap::CommandFactory>::command();
        let all = with_config(&command, args)?;
        Ok(all.into_iter().map(|arg| arg.into_string().unwrap()).collect())
    }

    #[test]
    fn keys_become_flags_before_those_of_the_command_line() {
        let args = with("limit = 5\ndatasets = [\"mnist\", \"cifar10\"]\nfresh = true\n", &["--limit", "7"]).unwrap();
        let at = |flag: &str| args.iter().position(|arg| arg == flag).unwrap();
        assert!(at("--limit=5") < at("--limit"));
        assert!(args.contains(&"--datasets=mnist,cifar10".to_owned()));
        assert!(args.contains(&"--fresh".to_owned()));
    }

    #[test]
    fn an_unknown_key_is_named_with_the_file() {
        let error = format!("{:#}", with("limmit = 5\n", &[]).unwrap_err());
        assert!(error.contains("limmit") && error.contains("emt.toml") && error.contains("limit"), "{error}");
    }
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn any_text_is_flags_or_an_error(
            noise in ".{0,60}", key in "[a-z_-]{0,12}|limit|datasets|fresh|quiet", value in "[-0-9a-z'\"\\[\\]{}.,:]{0,20}",
        ) {
            let _ = with(&noise, &[]);
            if let Ok(args) = with(&format!("{key} = {value}\n"), &["--limit", "7"]) {
                // What comes out are flags of the command, and the command line stays last.
                prop_assert!(args[2..args.len() - 4].iter().all(|arg| arg.starts_with("--")), "{args:?}");
                prop_assert_eq!(&args[args.len() - 2..], ["--limit", "7"]);
            }
        }
    }
}
