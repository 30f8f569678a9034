//! The `emt` binary.

use std::process::ExitCode;

/// Tensors come and go by the megabyte: the system's allocator gives their pages back and takes them again each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    emt::model::kernels::let_waiting_threads_sleep();
    ExitCode::from(emt::cli::run(std::env::args_os()))
}
