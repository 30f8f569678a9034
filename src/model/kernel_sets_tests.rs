//! Checks all references with every set of kernels. A process chooses its kernels once, so the other sets run in
//! separate processes.

use std::process::Command;

use super::kernels::{Kernels, NAMES};

/// The modules with the tests against references.
const MODULES: [&str; 2] = ["model::vision::encoders::", "model::families::"];

#[test]
fn every_reference_holds_with_every_set_of_kernels_that_the_processor_has() {
    let has_all = std::env::var_os("EMT_SHARED").is_some();
    let chosen = Kernels::chosen().name();
    for name in NAMES.into_iter().filter(|name| *name != chosen) {
        if let Err(error) = Kernels::named(name) {
            eprintln!("skipped: {error}");
            continue;
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args(MODULES).arg("--show-output").env("EMT_KERNELS", name).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "with the kernels `{name}`:\n{text}");
        assert!(!(has_all && text.contains("skipped: ")), "with the kernels `{name}`:\n{text}");
        assert!(n_passed(&text) > 60, "with the kernels `{name}`:\n{text}");
    }
}

/// Returns the number of passed tests that the harness reports.
fn n_passed(text: &str) -> usize {
    let line = text.lines().find_map(|line| line.strip_prefix("test result: ok. "));
    line.and_then(|line| line.split(' ').next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}
