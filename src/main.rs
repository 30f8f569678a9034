//! The `emt` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(emt::cli::run(std::env::args_os()))
}
