//! `--config FILE`: TOML keys become flags before those of the command line, which so win.
//!
//! A file may be shared between commands and forms of a command. A key that only another command has is passed over, and so is one
//! whose flag the command line gives. A key of this command that the form at hand cannot use has no effect, and a warning names it. A
//! key that no command has is an error, and so is one that would put another action in the place of a verdict.
#![expect(clippy::disallowed_methods, reason = "reads the user's configuration file")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use toml::de::DeTable;
use toml::{Table, Value};

use super::forms::{self, is_typed};
use crate::domain::{nearest, text};

/// What a configuration file says of the command that was typed.
pub(super) struct Config {
    path: PathBuf,
    entries: Vec<Entry>,
    /// Words of the command line up to the command's name.
    n_words: usize,
    /// Keys without effect, by why they have none, in the order in which they were found.
    unused: Vec<(String, Vec<String>)>,
}

struct Entry {
    long: String,
    /// From 1.
    line: usize,
    flags: Vec<OsString>,
}

/// Reads the file that `args` name; `None` where they name none.
pub(super) fn read(command: &clap::Command, args: &[OsString]) -> Result<Option<Config>> {
    let Some(path) = config_path(args) else { return Ok(None) };
    let bytes = std::fs::read(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
    let text = text::decode(&bytes).with_context(|| format!("failed to read `{}`", path.display()))?;
    let table: Table = toml::from_str(text).with_context(|| format!("failed to read `{}`", path.display()))?;
    let (root, (command, command_path, n_words)) = (command, innermost(command, args));
    let elsewhere = all_longs(root);
    let options: Vec<&clap::Arg> = command.get_arguments().chain(root.get_arguments().filter(is_global)).collect();
    let typed: Vec<&clap::Arg> = command
        .get_arguments()
        .filter(|argument| argument.get_long().is_some_and(|long| is_typed(args, long, argument.get_short())))
        .collect();
    let mut config = Config { path, entries: Vec::new(), n_words, unused: Vec::new() };
    for (key, value) in &table {
        let line = line_of(text, key);
        let place = format!("in `{}`, line {line}", config.path.display());
        let long = key.replace('_', "-");
        let Some(argument) = options.iter().find(|argument| argument.get_long() == Some(&long)) else {
            if elsewhere.contains(&long) {
                continue;
            }
            return Err(unknown(key, &elsewhere, &command_path)).context(place);
        };
        if typed.iter().any(|typed| typed.get_id() == argument.get_id()) {
            continue;
        }
        let flags = flags(argument, &long, key, value).with_context(|| place.clone())?;
        if flags.is_empty() {
            continue;
        }
        if let Some(why) = forms::typed_alone(&command_path, &long) {
            return Err(anyhow!("`{key}` {why}")).context(place);
        }
        let excludes = |typed: &&&clap::Arg| conflict(command, typed, argument) || conflict(command, argument, typed);
        match typed.iter().find(excludes).and_then(|typed| typed.get_long()) {
            Some(other) => config.leave_out(key.clone(), format!("on `{}` beside --{other}", command_path.join(" "))),
            None => config.entries.push(Entry { long, line, flags }),
        }
    }
    Ok(Some(config))
}

impl Config {
    /// `args` with the file's flags put in behind the command's name.
    pub(super) fn put_into(&self, args: &[OsString]) -> Vec<OsString> {
        let mut all = args.to_vec();
        all.splice(self.n_words..self.n_words, self.entries.iter().flat_map(|entry| entry.flags.iter().cloned()));
        all
    }

    /// Takes out the keys that the form which `matches` choose does not use; whether there were any. Without them another form may be
    /// at hand, so the caller parses and asks again.
    pub(super) fn take_out_unused(&mut self, command: &clap::Command, matches: &clap::ArgMatches) -> bool {
        let longs: Vec<&str> = self.entries.iter().map(|entry| entry.long.as_str()).collect();
        let unused = forms::unused(command, matches, &longs);
        for (long, why) in &unused {
            self.entries.retain(|entry| entry.long != *long);
            self.leave_out(long.replace('-', "_"), why.clone());
        }
        !unused.is_empty()
    }

    fn leave_out(&mut self, key: String, why: String) {
        match self.unused.iter_mut().find(|(known, _)| *known == why) {
            Some((_, keys)) => keys.push(key),
            None => self.unused.push((why, vec![key])),
        }
    }

    /// One line for each reason for which keys have no effect.
    pub(super) fn warnings(&self) -> Vec<String> {
        let line = |(why, keys): &(String, Vec<String>)| {
            let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
            let (keys, verb) = match &keys[..] {
                [only] => (only.clone(), "has"),
                [first @ .., last] => (format!("{} and {last}", first.join(", ")), "have"),
                [] => return String::new(),
            };
            format!("in `{}`, {keys} {verb} no effect {why}", self.path.display())
        };
        self.unused.iter().map(line).collect()
    }

    /// The same error with the file and the line, where a value of the file is what is wrong, or two of its keys exclude each other.
    pub(super) fn place_of(&self, error: &clap::Error) -> Option<anyhow::Error> {
        let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return None };
        let long = argument.strip_prefix("--")?.split([' ', '=']).next()?;
        let entry = self.entries.iter().find(|entry| entry.long == long)?;
        let what = match error.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) => format!("`{}` cannot be `{value}`: ", long.replace('-', "_")),
            _ if error.kind() == ErrorKind::ArgumentConflict => String::new(),
            _ => return None,
        };
        let rendered = error.to_string();
        let is_message = |line: &&str| !line.starts_with("Usage") && !line.starts_with("For more");
        let message: Vec<&str> = rendered.lines().take_while(is_message).flat_map(str::split_whitespace).collect();
        let message = message.join(" ");
        let message = message.trim_start_matches("error: ");
        Some(anyhow!("in `{}`, line {}: {what}{message}", self.path.display(), entry.line))
    }
}

fn conflict(command: &clap::Command, one: &clap::Arg, other: &clap::Arg) -> bool {
    !one.is_global_set() && command.get_arg_conflicts_with(one).iter().any(|found| found.get_id() == other.get_id())
}

fn unknown(key: &str, longs: &BTreeSet<String>, command: &[&str]) -> anyhow::Error {
    let keys: Vec<String> = longs.iter().map(|long| long.replace('-', "_")).collect();
    let known: Vec<&str> = keys.iter().map(String::as_str).collect();
    match nearest(key, &known) {
        Some(meant) => anyhow!("`{key}` is not a flag of any command; hint: did you mean `{meant}`?"),
        None => anyhow!(
            "`{key}` is not a flag of any command; hint: the keys are the flags of `{} --help`, with underscores for \
             dashes",
            command.join(" ")
        ),
    }
}

/// The long names of every command's flags.
fn all_longs(command: &clap::Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned));
    let mut longs: BTreeSet<String> =
        own.filter(|long| !["config", "help", "version"].contains(&long.as_str())).collect();
    longs.extend(command.get_subcommands().flat_map(all_longs));
    longs
}

/// The line of a key at the top of the file, from 1.
fn line_of(text: &str, key: &str) -> usize {
    let table = DeTable::parse(text).ok();
    let mut keys = table.iter().flat_map(|table| table.get_ref().keys());
    let start = keys.find(|known| known.get_ref() == key).map_or(0, |known| known.span().start);
    1 + text.get(..start).unwrap_or_default().matches('\n').count()
}

/// The last file that is named, as clap takes the last value.
fn config_path(args: &[OsString]) -> Option<PathBuf> {
    let before_dashes = args.iter().position(|arg| arg == "--").unwrap_or(args.len());
    let mut found = args[..before_dashes].iter().enumerate().filter_map(|(index, arg)| {
        let text = arg.to_str()?;
        if text == "--config" {
            return args.get(index + 1).map(PathBuf::from);
        }
        text.strip_prefix("--config=").map(PathBuf::from)
    });
    found.next_back()
}

/// The subcommand that was typed, its path from `emt`, and how many words there are up to its name. Flags of every command may stand
/// before it.
fn innermost<'a>(root: &'a clap::Command, args: &[OsString]) -> (&'a clap::Command, Vec<&'a str>, usize) {
    let (mut command, mut path, mut n_words) = (root, vec!["emt"], 1);
    let mut next = 1;
    while let Some(word) = args.get(next) {
        if let Some(inner) = command.find_subcommand(word) {
            command = inner;
            path.push(inner.get_name());
            n_words = next + 1;
        } else {
            match n_values_of_global(root, word) {
                Some(n_values) => next += n_values,
                None => break,
            }
        }
        next += 1;
    }
    (command, path, n_words)
}

/// How many of the next words are values of `word`, where that is a flag of every command; `None` where it is none.
fn n_values_of_global(root: &clap::Command, word: &OsString) -> Option<usize> {
    let word = word.to_str()?;
    let (name, has_value) = word.split_once('=').map_or((word, false), |(name, _)| (name, true));
    let is_named = |argument: &&clap::Arg| {
        let short = argument.get_short().is_some_and(|short| name == format!("-{short}"));
        short || argument.get_long().is_some_and(|long| name.strip_prefix("--") == Some(long))
    };
    let argument = root.get_arguments().filter(|argument| argument.is_global_set()).find(is_named)?;
    Some(usize::from(argument.get_action().takes_values() && !has_value))
}

/// Flags of every command; a file that names another file would be read by nobody.
fn is_global(argument: &&clap::Arg) -> bool {
    argument.is_global_set() && argument.get_long() != Some("config")
}

/// The words that `key = value` stands for.
pub(super) fn flags(argument: &clap::Arg, long: &str, key: &str, value: &Value) -> Result<Vec<OsString>> {
    if !argument.get_action().takes_values() {
        return match value {
            Value::Boolean(true) => Ok(vec![format!("--{long}").into()]),
            Value::Boolean(false) => Ok(Vec::new()),
            other => bail!("`{key}` must be true or false, but is {}", type_name(other)),
        };
    }
    let Value::Array(items) = value else {
        return Ok(vec![format!("--{long}={}", scalar(key, value)?).into()]);
    };
    let texts = items.iter().map(|item| scalar(key, item)).collect::<Result<Vec<_>>>()?;
    let takes_several = argument.get_num_args().is_some_and(|range| range.max_values() > 1);
    let is_repeated =
        matches!(argument.get_action(), clap::ArgAction::Append) && argument.get_value_delimiter().is_none();
    Ok(match (takes_several, is_repeated) {
        (true, _) => std::iter::once(format!("--{long}")).chain(texts).map(OsString::from).collect(),
        (false, true) => texts.iter().map(|text| format!("--{long}={text}").into()).collect(),
        (false, false) => vec![format!("--{long}={}", texts.join(",")).into()],
    })
}

fn scalar(key: &str, value: &Value) -> Result<String> {
    Ok(match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(on) => on.to_string(),
        other => bail!("`{key}` must be a string, a number or a list of them, but is {}", type_name(other)),
    })
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests;
