//! `emt help`: the help of a command, and the pages of the manual.

use std::ffi::OsString;
use std::io::Write;

use anyhow::{Result, bail};

use crate::domain::nearest;
use crate::manual::{PAGES, Page, plain_text};

/// Where the width of the terminal is not known, or is larger.
const N_COLUMNS_MAX: usize = 100;
const N_COLUMNS_MIN: usize = 40;

/// Arguments of `emt help`.
#[derive(clap::Args, Debug)]
pub(super) struct HelpArgs {
    /// A topic of the manual, or a command [default: the list of both]
    #[arg(value_name = "TOPIC")]
    topic: Vec<String>,
}

/// Prints what is asked about: a command's help first, then the page about it.
pub(super) fn run(args: &HelpArgs, out: &mut dyn Write) -> Result<u8> {
    let words: Vec<&str> = args.topic.iter().map(String::as_str).collect();
    let page = page_about(&words);
    if is_command(&words) {
        print_command_help(&words)?;
        if page.is_some() || words.is_empty() {
            writeln!(out)?;
        }
    } else if page.is_none() {
        bail!("{}", unknown(&words.join(" ")));
    }
    if words.is_empty() {
        out.write_all(topics().as_bytes())?;
    }
    if let Some(page) = page {
        out.write_all(plain_text(page.text, n_columns()).as_bytes())?;
    }
    Ok(super::exit_code::OK)
}

/// The page of this topic, or the page that explains this command.
fn page_about(words: &[&str]) -> Option<&'static Page> {
    let [word] = words else { return None };
    let by_topic = PAGES.iter().find(|page| page.topic == *word);
    by_topic.or_else(|| PAGES.iter().find(|page| page.command == Some(*word)))
}

/// Whether the words are a command, a command and its subcommand, or the program itself.
fn is_command(words: &[&str]) -> bool {
    let mut command = super::command();
    words.iter().all(|word| match command.find_subcommand(word).cloned() {
        Some(inner) => {
            command = inner;
            true
        }
        None => false,
    })
}

/// As `emt COMMAND --help` prints it, with the terminal's colours.
fn print_command_help(words: &[&str]) -> Result<()> {
    let line = ["emt"].iter().chain(words).chain(&["--help"]).map(OsString::from);
    match super::command().try_get_matches_from(line) {
        Ok(_) => Ok(()),
        Err(help) => Ok(help.print()?),
    }
}

fn topics() -> String {
    let width = PAGES.iter().map(|page| page.topic.len()).max().unwrap_or_default();
    let line = |page: &Page| format!("  {:width$}  {}\n", page.topic, page.summary);
    format!("Topics of the manual (emt help TOPIC):\n{}", PAGES.iter().map(line).collect::<String>())
}

fn unknown(name: &str) -> String {
    let described = super::command();
    let commands = described.get_subcommands().map(clap::Command::get_name);
    let known: Vec<&str> = commands.chain(PAGES.iter().map(|page| page.topic)).collect();
    let meant = nearest(name, &known).map_or_else(String::new, |name| format!("did you mean `{name}`? "));
    format!("there is no command and no topic `{name}`; hint: {meant}`emt help` lists all")
}

fn n_columns() -> usize {
    let terminal = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    terminal.unwrap_or(N_COLUMNS_MAX).clamp(N_COLUMNS_MIN, N_COLUMNS_MAX)
}

#[cfg(test)]
mod tests;
