//! What these tests share: the program, the shared folder and the repository.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folder of real checkpoints and images; without it the caller returns, and the word `skipped` is counted.
pub fn shared() -> Option<PathBuf> {
    let Some(path) = std::env::var_os("EMT_SHARED") else {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "skipped: EMT_SHARED is not set");
        return None;
    };
    Some(PathBuf::from(path))
}

/// A folder with the shared folder's `models/tiny-llava`, `models/tiny-clip` and `data`, for tests that need a model and images
/// and no particular ones: the miniature's where there is no shared folder.
pub fn any_shared() -> PathBuf {
    std::env::var_os("EMT_SHARED").map_or_else(super::miniature::folder, PathBuf::from)
}

/// The adapters `lora-mnist`, `lora-cifar10` and `linear-mnist` of [`any_shared`]'s model.
pub fn any_adapters() -> PathBuf {
    std::env::var_os("EMT_SHARED")
        .map_or_else(super::miniature::adapters, |shared| PathBuf::from(shared).join("models/adapters"))
}

/// The folders `name` of reference checkpoints: the small one of the repository, and the one of the shared folder if there is
/// one.
pub fn fixtures(name: &str) -> Vec<PathBuf> {
    let shared = std::env::var_os("EMT_SHARED").map(|shared| PathBuf::from(shared).join("fixtures"));
    let folders = [Some(root().join("tests/golden/fixtures")), shared].into_iter().flatten();
    folders.map(|folder| folder.join(name)).filter(|folder| folder.exists()).collect()
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program, without the reader's own settings.
pub fn emt() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emt"));
    for (name, _) in std::env::vars_os() {
        let is_ours = name.to_str().is_some_and(|name| {
            ["EMT_", "OPENAI_", "HF_"].iter().any(|prefix| name.starts_with(prefix)) && name != "EMT_SHARED"
        });
        if is_ours {
            command.env_remove(name);
        }
    }
    // A `.env` in the repository must not reach the tests either.
    command.current_dir(std::env::temp_dir()).stdin(Stdio::null());
    command
}

/// What a finished program left.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; 128 plus the signal's number is not ours to tell.
    pub code: Option<i32>,
    /// Results.
    pub stdout: String,
    /// Progress, warnings and errors.
    pub stderr: String,
}

/// Runs `command` to its end.
pub fn finish(command: &mut Command) -> Finished {
    let output = command.output().expect("the program starts");
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("standard error is UTF-8"),
    }
}

/// Runs the program with `arguments` to its end.
pub fn run<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Finished {
    finish(emt().args(arguments))
}
