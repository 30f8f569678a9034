use super::*;

#[test]
fn no_speed_is_told_before_two_batches_were_measured() {
    let mut err = Vec::new();
    let mut progress = Progress::new(&mut err, true);
    progress.start("mnist", 100, 40);
    let judges = JudgeCounters::default();
    assert_eq!(progress.status(50, 7, 1, &judges), "7 correct, 1 unscored");
    let status = progress.status(60, 9, 1, &judges);
    assert!(status.contains("images/s") && status.contains("left, 9 correct"), "{status}");
    // The next dataset begins again.
    progress.start("cifar10", 100, 0);
    assert_eq!(progress.status(10, 0, 0, &judges), "0 correct, 0 unscored");
}
