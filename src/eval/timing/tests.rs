use super::*;

#[test]
fn times_of_threads_are_summed_by_stage() {
    let stages = Stages::default();
    assert_eq!(stages.to_json(Duration::ZERO), None);
    stages.count(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| stages.time(Stage::Read, || std::thread::sleep(Duration::from_millis(20))));
        }
    });
    assert_eq!(stages.time(Stage::Record, || 7), 7);
    let json = stages.to_json(Duration::from_millis(1500)).unwrap();
    assert!(json["read_seconds"].as_f64().unwrap() >= 0.04 && json["prepare_seconds"] == 0.0, "{json}");
    assert_eq!((&json["n_images"], &json["sync_seconds"]), (&json!(2), &json!(1.5)));
}
