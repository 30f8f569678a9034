//! How threads beside the kernels wait.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Candle's name for how often one of its threads looks for work before it sleeps.
const SPIN_LIMIT: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";

/// Lets the threads that candle keeps for large sums of tensors sleep as soon as they have nothing to do, unless the
/// environment says otherwise. They would watch for work for some tenths of a millisecond each time, on a core that the
/// kernels compute on: a fifth of a training step.
///
/// To be called first of all: nothing is done where the process has a second thread, or the system does not tell.
pub fn let_waiting_threads_sleep() {
    if std::env::var_os(SPIN_LIMIT).is_none() && is_alone() {
        // Safety: no other thread is there to read the environment at the same time.
        unsafe { std::env::set_var(SPIN_LIMIT, "1") };
    }
}

/// Whether this is the only thread of the process; false where only Linux would tell.
fn is_alone() -> bool {
    if !cfg!(target_os = "linux") {
        return false;
    }
    let id = Pid::from_u32(std::process::id());
    let mut system = System::new();
    let what = ProcessRefreshKind::nothing().with_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[id]), false, what);
    // Among the tasks is the first thread itself, or it is not: there is no other in either case.
    system.process(id).is_some_and(|process| process.tasks().is_none_or(|tasks| tasks.iter().all(|task| *task == id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_a_second_thread_nothing_is_done() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let second = std::thread::spawn(move || stopped.recv());
        let_waiting_threads_sleep();
        assert!(!is_alone() && std::env::var_os(SPIN_LIMIT).is_none());
        drop(stop);
        second.join().unwrap().unwrap_err();
    }
}
