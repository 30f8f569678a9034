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
