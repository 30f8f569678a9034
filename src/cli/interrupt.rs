//! Ctrl-C: the first stops cleanly, the second at once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::exit_code;

static IS_STOPPED: AtomicBool = AtomicBool::new(false);

/// Whether the run was asked to stop.
pub(super) fn is_stopped() -> bool {
    IS_STOPPED.load(Ordering::SeqCst)
}

/// Starts to listen, once in a process.
pub(super) fn listen() {
    static LISTENING: OnceLock<()> = OnceLock::new();
    LISTENING.get_or_init(|| {
        let set = ctrlc::set_handler(|| {
            if IS_STOPPED.swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(exit_code::INTERRUPTED));
            }
        });
        // Without a handler Ctrl-C ends the process as it always does; the journal survives that too.
        drop(set);
    });
}
