//! The command line: one file per command; all printing, progress and exit codes.

mod adapter_options;
mod calibrate;
mod comparability;
mod comparison;
mod config_file;
pub mod data;
mod demo;
mod demo_story;
mod environment;
mod eval;
mod extra_body;
mod feature_cache_options;
mod finetune;
mod forms;
mod gallery;
mod gate;
mod help;
mod help_topic;
mod hub_options;
mod interrupt;
mod judge;
mod judge_options;
mod models;
mod progress;
mod reading;
mod recorded_command;
mod report;
mod results;
mod served_options;
mod sources;
mod tuned_on;
mod unscored;

use std::ffi::OsString;
use std::io::Write;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Exit codes; the README has the whole list.
pub mod exit_code {
    /// Done.
    pub const OK: u8 = 0;
    /// The request or the machinery failed.
    pub const FAILED: u8 = 2;
    /// Interrupted.
    pub const INTERRUPTED: u8 = 130;
}

/// May this checkpoint be released, or has it forgotten how to see?
///
/// emt shows a multimodal language model labelled images, compares it with its own vision encoder on the same images,
/// and reports what it gets right, what it gets wrong, and which kind of error it makes.
#[derive(Parser, Debug)]
#[command(name = "emt", version, args_override_self = true, max_term_width = 110, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print results and errors only
    #[arg(long, short, global = true)]
    quiet: bool,
    /// TOML file with flags as keys; flags of the command line win
    ///
    /// Keys have underscores for dashes (`max_new_tokens = 16`). A file may serve several commands: keys of other commands are
    /// passed over.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<std::path::PathBuf>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Evaluate a model and its encoder on images; judge, record and report the answers
    Eval(Box<eval::EvalArgs>),
    /// Compare runs with a baseline: what was forgotten, per dataset, class and image
    Report(Box<report::ReportArgs>),
    /// Decide whether a fine-tuned model may be released: exit code 0 pass, 1 fail, 3 inconclusive
    Gate(Box<gate::GateArgs>),
    /// Fine-tune a model and show what it forgets epoch by epoch
    Finetune(Box<finetune::FinetuneArgs>),
    /// Judge a recorded run again; measure a judge against people
    Judge(judge::JudgeArgs),
    /// List the supported models, encoders, servers and chat templates, and how each was verified
    Models(models::ModelsArgs),
    /// Find, check and download datasets
    Data(data::DataArgs),
    /// Fine-tune, evaluate and compare the built-in miniature model, offline
    Demo(demo::DemoArgs),
    /// Print the manual page of a topic, or the help of a command
    Help(help_topic::HelpArgs),
}

/// Runs the command line `args`, the program's name first, and returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    match parse(args.into_iter().collect()).and_then(|cli| dispatch(cli, &mut out, &mut err)) {
        Ok(code) => code,
        Err(error) => match error.downcast_ref::<clap::Error>() {
            Some(usage) => {
                // A closed pipe is nobody's error.
                let _ = usage.print();
                if usage.use_stderr() { exit_code::FAILED } else { exit_code::OK }
            }
            None if is_broken_pipe(&error) => exit_code::OK,
            None => {
                let _ = writeln!(err, "error: {error:#}");
                exit_code::FAILED
            }
        },
    }
}

/// The command line as clap describes it.
pub fn command() -> clap::Command {
    help::with_pages(Cli::command())
}

/// Parsed, with the configuration file; a flag that this form of its command does not use is refused.
fn parse(args: Vec<OsString>) -> anyhow::Result<Cli> {
    let described = command();
    let config = config_file::read(&described, &args)?;
    let with_config = config.as_ref().map_or_else(|| args.clone(), |config| config.put_into(&args));
    let matches = described.clone().try_get_matches_from(with_config).map_err(|error| {
        let of_config = config.as_ref().and_then(|config| config.place_of(&error));
        of_config.unwrap_or_else(|| error.into())
    })?;
    forms::refuse_unused(&described, &matches, &args)?;
    Ok(Cli::from_arg_matches(&matches)?)
}

fn dispatch(cli: Cli, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<u8> {
    if let Some(name) = environment::kernels() {
        crate::model::choose_kernels(&name).context("EMT_KERNELS cannot be followed")?;
    }
    match &cli.command {
        Command::Eval(args) => eval::run(args, cli.quiet, out, err),
        Command::Report(args) => report::run(args, cli.quiet, out, err),
        Command::Gate(args) => gate::run(args, cli.quiet, out, err),
        Command::Finetune(args) => finetune::run(args, cli.quiet, out, err),
        Command::Judge(args) => judge::run(args, cli.quiet, out, err),
        Command::Models(args) => models::run(args, out),
        Command::Data(args) => data::run(args, cli.quiet, out, err),
        Command::Demo(args) => demo::run(args, cli.quiet, out, err),
        Command::Help(args) => help_topic::run(args, out),
    }
}

/// The arguments of the command `name`, as if a person had typed `flags`.
fn parsed<T: clap::Args>(name: &'static str, flags: Vec<OsString>) -> anyhow::Result<T> {
    let command = T::augment_args(clap::Command::new(name)).no_binary_name(true);
    Ok(T::from_arg_matches(&command.try_get_matches_from(flags)?)?)
}

/// `emt … | head` ends quietly.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_is_documented() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
