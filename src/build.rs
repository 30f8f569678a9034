//! Tells the program which commit it is built from: `EMT_COMMIT`, the repository, or what `cargo package` noted; else `unknown`.
//!
//! A debug build looks again only when another branch is checked out, so that a commit does not compile everything again.
#![expect(clippy::disallowed_methods, reason = "reads the repository")]
#![expect(clippy::print_stdout, reason = "this is how a build script speaks")]

use std::path::{Path, PathBuf};

/// So many digits of a commit's hash are shown.
const N_DIGITS: usize = 12;

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-env-changed=EMT_COMMIT");
    let given = std::env::var("EMT_COMMIT").ok().filter(|commit| !commit.trim().is_empty());
    let commit = given.map(|commit| commit.trim().to_owned()).or_else(|| {
        let of_repository = of_repository(&root, is_release).map(|commit| match is_release {
            true => commit,
            false => format!("{commit}, or a later one of the same branch (debug build)"),
        });
        of_repository.or_else(|| of_package(&root))
    });
    println!("cargo::rustc-env=EMT_BUILD_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// What is checked out. Missing files are no failure: the sources may be an archive.
fn of_repository(root: &Path, is_release: bool) -> Option<String> {
    let dot_git = root.join(".git");
    // In a worktree `.git` is a file that names the folder.
    let git = match std::fs::read_to_string(&dot_git) {
        Ok(text) => root.join(text.trim().strip_prefix("gitdir: ")?),
        Err(_) => dot_git,
    };
    let common =
        std::fs::read_to_string(git.join("commondir")).map_or_else(|_| git.clone(), |text| git.join(text.trim()));
    let head = read(&git.join("HEAD"), true)?;
    let Some(name) = head.strip_prefix("ref: ") else { return short(&head) };
    if let Some(commit) = read(&common.join(name), is_release) {
        return short(&commit);
    }
    let packed = read(&common.join("packed-refs"), is_release)?;
    packed.lines().find_map(|line| line.strip_suffix(name)).and_then(short)
}

/// The text of a file, trimmed; `is_watched` has cargo look again when it changes. A missing file would make every build run.
fn read(path: &Path, is_watched: bool) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    if is_watched {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    Some(text.trim().to_owned())
}

/// What `cargo package` noted beside the sources.
fn of_package(root: &Path) -> Option<String> {
    let text = std::fs::read_to_string(root.join(".cargo_vcs_info.json")).ok()?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    short(rest.split('"').nth(1)?)
}

fn short(commit: &str) -> Option<String> {
    let digits: String = commit.trim().chars().take(N_DIGITS).collect();
    (digits.len() == N_DIGITS && digits.chars().all(|digit| digit.is_ascii_hexdigit())).then_some(digits)
}
