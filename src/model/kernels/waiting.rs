//! How threads outside the kernels wait.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// The environment variable for how often a candle thread polls for work before it sleeps.
const SPIN_LIMIT: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";

/// Lets the threads that candle keeps for large tensor sums sleep as soon as they are idle, unless the environment says
/// otherwise. Otherwise they would poll for some tenths of a millisecond each time on a core that the kernels use,
/// which costs a fifth of a training step.
///
/// Must be called before anything else: it does nothing if the process has a second thread, or if the system does not
/// report threads.
pub fn let_waiting_threads_sleep() {
    if std::env::var_os(SPIN_LIMIT).is_none() && is_alone() {
        // Safety: no other thread exists that could read the environment.
        unsafe { std::env::set_var(SPIN_LIMIT, "1") };
    }
}

/// Whether this is the only thread of the process. Always false outside Linux.
fn is_alone() -> bool {
    if !cfg!(target_os = "linux") {
        return false;
    }
    let id = Pid::from_u32(std::process::id());
    let mut system = System::new();
    let what = ProcessRefreshKind::nothing().with_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[id]), false, what);
    // The list of tasks may or may not contain the main thread; either way there is no other.
    system.process(id).is_some_and(|process| process.tasks().is_none_or(|tasks| tasks.iter().all(|task| *task == id)))
}

#[cfg(test)]
mod tests;
