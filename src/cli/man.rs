//! `emt man`: manual pages in the format of man(7).

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use clap::builder::{Resettable, StyledStr};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{exit_code, help};
use crate::domain::nearest;
use crate::record;

/// Flags of `emt man`.
#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// Command whose page is printed, such as `gate` or `judge score` [default: emt itself]
    #[arg(value_name = "COMMAND", conflicts_with = "out")]
    command: Vec<String>,
    /// Folder for the pages of all commands, such as emt-gate.1
    ///
    /// With a folder whose name ends in man1, and its parent on MANPATH, `man emt-gate` shows the page.
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints one page or writes all; returns the exit code.
pub(super) fn run(args: &ManArgs, quiet: bool, out: &mut dyn Write) -> Result<u8> {
    let root = built();
    match &args.out {
        Some(dir) => {
            let pages = all(&root, &[])?;
            for (name, page) in &pages {
                record::write_file(dir, &format!("{name}.1"), page)?;
            }
            if !quiet {
                writeln!(out, "{}: {} pages", dir.display(), pages.len())?;
            }
        }
        None => {
            let mut command = &root;
            let mut path = Vec::new();
            for word in &args.command {
                command = command.find_subcommand(word).with_context(|| unknown(command, word))?;
                path.push(command.get_name());
            }
            out.write_all(&page(command, &path)?)?;
        }
    }
    Ok(exit_code::OK)
}

fn unknown(command: &clap::Command, word: &str) -> String {
    let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    let (name, hint) = (command.get_bin_name().unwrap_or("emt"), nearest(word, &names));
    match hint {
        Some(meant) => format!("`{name}` has no command `{word}`; hint: did you mean `{meant}`?"),
        None if names.is_empty() => format!("`{name}` has no commands of its own; hint: leave `{word}` out"),
        None => format!("`{name}` has no command `{word}`; hint: its commands are {}", names.join(", ")),
    }
}

/// The command line with the names that pages show.
fn built() -> clap::Command {
    let mut root = super::command().disable_help_subcommand(true);
    root.build();
    root
}

/// The pages of a command and of all below it, by name.
fn all(command: &clap::Command, path: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut pages = vec![(name, page(command, path)?)];
    for inner in command.get_subcommands() {
        pages.extend(all(inner, &[path, &[inner.get_name()]].concat())?);
    }
    Ok(pages)
}

fn page(command: &clap::Command, path: &[&str]) -> Result<Vec<u8>> {
    let source = format!("emt {}", env!("CARGO_PKG_VERSION"));
    // Examples and exit codes have sections of their own below.
    let command = command.clone().after_long_help(Resettable::<StyledStr>::Reset);
    // An empty date needs its quotation marks: without them the next field would be the date.
    let man = Man::new(command).date("\"\"").source(source).manual("emt manual");
    let mut page = Vec::new();
    man.render(&mut page)?;
    let Some(help) = help::page(path) else { bail!("`emt {}` has no examples", path.join(" ")) };
    let mut roff = Roff::default();
    roff.control("SH", ["EXAMPLES"]);
    for (what, line) in help.examples {
        roff.control("PP", []);
        roff.text([roman(format!("{what}:"))]);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        roff.text([bold(*line)]);
        roff.control("fi", []);
        roff.control("RE", []);
    }
    roff.control("SH", ["EXIT STATUS"]);
    for (code, what) in help.exit_codes {
        roff.control("TP", []);
        roff.text([bold(code.to_string())]);
        roff.text([roman(*what)]);
    }
    page.extend(roff.to_roff().into_bytes());
    Ok(page)
}

#[cfg(test)]
mod tests;
