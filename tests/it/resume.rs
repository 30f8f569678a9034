//! A killed run, resumed, ends as one that was never killed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::support;

const N_KILLS: usize = 5;

fn eval(shared: &Path, out: &Path) -> Command {
    let mut command = support::emt();
    let data = shared.join("data");
    command.arg("eval").arg("--model").arg(shared.join("models/tiny-llava"));
    command.arg("--encoder").arg(shared.join("models/tiny-clip"));
    command.arg("--data").arg(data).args(["--datasets", "mnist,cifar10", "--limit", "24", "--judge", "rules"]);
    // Small batches, so that there are many moments between them.
    command.args(["--batch-size", "3", "--modes", "generate,score", "--quiet", "--out"]).arg(out);
    command
}

fn n_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Kills the program as soon as the journal has grown by `n_bytes_grown`; `false` if it ended before.
fn is_killed_after(command: &mut Command, journal: &Path, n_bytes_grown: u64) -> bool {
    let target = n_bytes(journal) + n_bytes_grown;
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(0), "a run that is not killed ends well");
            return false;
        }
        if n_bytes(journal) >= target || start.elapsed() > Duration::from_secs(300) {
            // On Unix this is SIGKILL: the program cannot clean up.
            child.kill().unwrap();
            return !child.wait().unwrap().success();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_killed_run_ends_as_one_that_was_never_killed() {
    let shared = support::any_shared();
    let folders = tempfile::tempdir().unwrap();
    // Equal last parts, since a summary carries the folder's name.
    let (whole, broken) = (folders.path().join("whole/run"), folders.path().join("broken/run"));
    let finished = support::finish(&mut eval(&shared, &whole));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let n_bytes_whole = n_bytes(&whole.join("trials.jsonl"));

    let mut random = fastrand::Rng::with_seed(7);
    let mut n_killed = 0;
    while n_killed < N_KILLS {
        let n_bytes_grown = random.u64(0..n_bytes_whole / 3);
        if is_killed_after(&mut eval(&shared, &broken), &broken.join("trials.jsonl"), n_bytes_grown) {
            n_killed += 1;
        } else {
            assert_equal(&whole, &broken);
            std::fs::remove_dir_all(&broken).unwrap();
        }
    }
    let finished = support::finish(&mut eval(&shared, &broken));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_equal(&whole, &broken);
}

/// Summary and trials hold no times, so they are equal to the byte.
fn assert_equal(whole: &Path, broken: &Path) {
    for name in ["summary.json", "trials.jsonl"] {
        let read = |dir: &Path| std::fs::read_to_string(dir.join(name)).unwrap();
        let (left, right) = (read(whole), read(broken));
        let first = left.lines().zip(right.lines()).find(|(left, right)| left != right);
        assert!(left == right, "`{name}` differs: {first:?}");
    }
}
