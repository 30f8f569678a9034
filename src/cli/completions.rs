//! `emt completions`: what a shell needs to complete commands, flags and values.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;

use super::exit_code;

/// Flags of `emt completions`.
#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// Shell that reads the script
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Writes the script and returns the exit code.
pub(super) fn run(args: &CompletionsArgs, out: &mut dyn Write) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "emt", &mut script);
    out.write_all(&script)?;
    Ok(exit_code::OK)
}
