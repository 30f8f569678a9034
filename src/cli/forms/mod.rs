//! Which flags each form of a command uses. A flag that the form at hand does not use is refused: ignored, it would let a person
//! believe that it took effect.
//!
//! `table.rs` says for every flag of every command which forms use it; a test fails for a flag that it lacks. Only what was typed is
//! refused: a configuration file is shared between commands and forms, so its keys are left out with a warning, and the environment is
//! shared by everything.

mod finetune;
mod form;
mod of_file;
mod recover;
mod sweep;
mod table;
#[cfg(test)]
mod tests;

use std::ffi::OsString;

use anyhow::{Result, bail};
use clap::ArgMatches;

use self::form::Form;
use self::of_file::{NOT_OF_A_FILE, OfFile};
use self::table::{COMMANDS, CommandForms, Need, Rule};

/// Refuses what stands in `typed`, the words of the command line, and has no effect in this form of the command.
pub(super) fn refuse_unused(command: &clap::Command, matches: &ArgMatches, typed: &[OsString]) -> Result<()> {
    let (path, command, matches) = innermost(command, matches);
    let Some(forms) = COMMANDS.iter().find(|forms| forms.path == path) else { return Ok(()) };
    let present = forms.present(matches);
    for argument in command.get_arguments() {
        let is_typed = match argument.get_long() {
            Some(long) => is_typed(typed, long, argument.get_short()),
            None => matches.value_source(argument.get_id().as_str()) == Some(clap::parser::ValueSource::CommandLine),
        };
        if !is_typed {
            continue;
        }
        if let Some(need) = forms.unmet(name_of(argument), &present) {
            bail!("{}", refusal(&shown(argument), &path, need, &present));
        }
    }
    Ok(())
}

/// Those of `longs`, which a configuration file sets, that this form of the command does not use, each with why it has no effect.
pub(super) fn unused(command: &clap::Command, matches: &ArgMatches, longs: &[&str]) -> Vec<(String, String)> {
    let (path, _, matches) = innermost(command, matches);
    let Some(forms) = COMMANDS.iter().find(|forms| forms.path == path) else { return Vec::new() };
    let present = forms.present(matches);
    let why = |long: &str| {
        let of_file = NOT_OF_A_FILE.iter().find(|rule| rule.path == path && rule.flag == long);
        if let Some(OfFile { form: Some(form), why, .. }) = of_file
            && present.contains(form)
        {
            return Some(format!("on `emt {}` with {}: {why}", path.join(" "), form.text()));
        }
        let need = forms.unmet(long, &present)?;
        Some(format!("on `emt {}`{}", path.join(" "), need.at_hand(&present)))
    };
    longs.iter().filter_map(|long| Some(((*long).to_owned(), why(long)?))).collect()
}

/// Why a configuration file may not set `--long` of the command with this path, `emt` first; `None` where it may.
pub(super) fn typed_alone(path: &[&str], long: &str) -> Option<&'static str> {
    let path = path.get(1..)?;
    let found = NOT_OF_A_FILE.iter().find(|rule| rule.path == path && rule.flag == long && rule.form.is_none());
    found.map(|rule| rule.why)
}

/// Whether one of `words` is the flag `--long`, or `-short`.
pub(super) fn is_typed(words: &[OsString], long: &str, short: Option<char>) -> bool {
    let mut words =
        words.iter().map_while(|word| word.to_str().map_or(Some(""), |word| (word != "--").then_some(word)));
    words.any(|word| {
        let is_short = short.is_some_and(|short| {
            let letters = word.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
            letters.is_some_and(|letters| letters.starts_with(short))
        });
        is_short || word.strip_prefix("--").is_some_and(|name| name.split('=').next() == Some(long))
    })
}

/// Whether a person typed `--long` for this process, for what only a checkpoint or a run decides.
pub(super) fn was_typed(long: &str) -> bool {
    is_typed(&std::env::args_os().collect::<Vec<_>>(), long, None)
}

/// The subcommand that was named, its path, and what it was given.
fn innermost<'a>(
    mut command: &'a clap::Command,
    mut matches: &'a ArgMatches,
) -> (Vec<&'a str>, &'a clap::Command, &'a ArgMatches) {
    let mut path = Vec::new();
    while let Some((name, inner)) = matches.subcommand()
        && let Some(found) = command.find_subcommand(name)
    {
        path.push(name);
        (command, matches) = (found, inner);
    }
    (path, command, matches)
}

/// As the table has it: a flag's long name, or the name of what has none.
fn name_of(argument: &clap::Arg) -> &str {
    argument.get_long().unwrap_or_else(|| argument.get_id().as_str())
}

/// As a person types it.
fn shown(argument: &clap::Arg) -> String {
    let value = || argument.get_value_names().and_then(|names| names.first()).map(|name| name.to_string());
    argument.get_long().map_or_else(|| value().unwrap_or_default(), |long| format!("--{long}"))
}

fn refusal(flag: &str, path: &[&str], need: &Need, present: &[Form]) -> String {
    let needed: Vec<&str> = need.forms.iter().map(|form| form.text()).collect();
    let uses = match needed.split_last() {
        None => String::new(),
        Some((last, [])) => format!("; it is for {last}"),
        Some((last, others)) => format!("; it is for {} or {last}", others.join(", ")),
    };
    let (command, at_hand) = (path.join(" "), need.at_hand(present));
    format!("{flag} has no effect on `emt {command}`{at_hand}{uses}; hint: {}", need.hint)
}

impl Need {
    /// Which of the forms that are `present` stand in the place of those that are needed: ` with …`, or nothing.
    fn at_hand(&self, present: &[Form]) -> String {
        let at_hand: Vec<&str> = present
            .iter()
            .filter(|form| self.forms.iter().any(|needed| needed.axis() == form.axis()))
            .map(|form| form.text())
            .collect();
        if at_hand.is_empty() { String::new() } else { format!(" with {}", at_hand.join(" and ")) }
    }
}

impl CommandForms {
    /// The form on each axis of the command, as far as one is chosen.
    fn present(&self, matches: &ArgMatches) -> Vec<Form> {
        self.axes.iter().filter_map(|axis| axis.find(matches)).collect()
    }

    fn rules(&self) -> impl Iterator<Item = (&'static Rule, &'static [Need])> {
        self.groups.iter().flat_map(|group| group.rules.iter().map(|rule| (rule, group.needs)))
    }

    /// What the flag needs and the form at hand lacks; `None` where the flag is used.
    fn unmet(&self, flag: &str, present: &[Form]) -> Option<&'static Need> {
        let (rule, of_group) = self.rules().find(|(rule, _)| rule.flag == flag)?;
        of_group.iter().chain(rule.needs).find(|need| !need.forms.iter().any(|form| present.contains(form)))
    }
}
