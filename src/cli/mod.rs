//! The command line: one file per command; all printing, progress and exit codes.

mod adapter_options;
mod calibrate;
mod comparison_options;
mod completions;
mod config_file;
pub mod data;
mod demo;
mod demo_folder;
mod demo_story;
mod diagnose;
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
mod man;
mod models;
mod progress;
mod reading;
mod recorded_command;
mod recover;
mod report;
mod results;
mod sample_options;
mod served_options;
mod sources;
mod sweep;
mod tuned_on;
mod unscored;
mod version;

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
    #[arg(long, short, global = true, help_heading = "Global options")]
    quiet: bool,
    /// TOML file with flags as keys; flags of the command line win
    ///
    /// Keys have underscores for dashes (`max_new_tokens = 16`). A file may serve several commands: keys of other commands are
    /// passed over, and keys of this command that its present form cannot use are left out with a warning.
    #[arg(long, value_name = "FILE", global = true, help_heading = "Global options")]
    config: Option<std::path::PathBuf>,
    /// What the configuration file asks and this form of the command cannot do.
    #[arg(skip)]
    warnings: Vec<String>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Evaluate a model and its encoder on images; judge, record and report the answers
    Eval(Box<eval::EvalArgs>),
    /// Compare runs with a baseline: what was forgotten, per dataset, class and image
    Report(Box<report::ReportArgs>),
    /// Decide whether a fine-tuned model may be released: exit code 0 pass, 1 fail, 3 inconclusive
    Gate(Box<gate::GateArgs>),
    /// Find out why a fine-tune forgot: which part carries the loss, and what kind of loss it is
    Diagnose(Box<diagnose::DiagnoseArgs>),
    /// Weaken a fine-tune that forgot until it keeps both, confirmed by the gate; no training
    Recover(Box<recover::RecoverArgs>),
    /// Fine-tune a model and show what it forgets epoch by epoch
    Finetune(Box<finetune::FinetuneArgs>),
    /// Fine-tune in several ways, and rank them by what they forget at equal gain
    Sweep(sweep::SweepArgs),
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
    /// Print the script with which a shell completes commands and flags
    Completions(completions::CompletionsArgs),
    /// Print or write manual pages
    Man(man::ManArgs),
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
    help::with_pages(Cli::command().long_version(version::long()))
}

/// Parsed, with the configuration file; a flag that this form of its command does not use is refused.
fn parse(args: Vec<OsString>) -> anyhow::Result<Cli> {
    let described = command();
    let mut config = config_file::read(&described, &args)?;
    let matches = loop {
        let with_config = config.as_ref().map_or_else(|| args.clone(), |config| config.put_into(&args));
        let matches = described.clone().try_get_matches_from(with_config).map_err(|error| {
            let of_config = config.as_ref().and_then(|config| config.place_of(&error));
            of_config.unwrap_or_else(|| error.into())
        })?;
        if !config.as_mut().is_some_and(|config| config.take_out_unused(&described, &matches)) {
            break matches;
        }
    };
    forms::refuse_unused(&described, &matches, &args)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.warnings = config.map(|config| config.warnings()).unwrap_or_default();
    Ok(cli)
}

fn dispatch(cli: Cli, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<u8> {
    if let Some(name) = environment::kernels() {
        crate::model::choose_kernels(&name).context("failed to apply EMT_KERNELS")?;
    }
    if !cli.quiet {
        cli.warnings.iter().try_for_each(|warning| writeln!(err, "warning: {warning}"))?;
    }
    match &cli.command {
        Command::Eval(args) => eval::run(args, cli.quiet, out, err),
        Command::Report(args) => report::run(args, cli.quiet, out, err),
        Command::Gate(args) => gate::run(args, cli.quiet, out, err),
        Command::Diagnose(args) => diagnose::run(args, cli.quiet, out, err),
        Command::Recover(args) => recover::run(args, cli.quiet, out, err),
        Command::Finetune(args) => finetune::run(args, cli.quiet, out, err),
        Command::Sweep(args) => sweep::run(args, cli.quiet, out, err),
        Command::Judge(args) => judge::run(args, cli.quiet, out, err),
        Command::Models(args) => models::run(args, out),
        Command::Data(args) => data::run(args, cli.quiet, out, err),
        Command::Demo(args) => demo::run(args, cli.quiet, out, err),
        Command::Help(args) => help_topic::run(args, out),
        Command::Completions(args) => completions::run(args, out),
        Command::Man(args) => man::run(args, cli.quiet, out),
    }
}

/// `emt … | head` ends quietly.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests;
