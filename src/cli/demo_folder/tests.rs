use super::*;

#[test]
fn an_unfinished_demo_goes_on_and_a_finished_or_another_one_is_left_alone() {
    let reports = tempfile::tempdir().unwrap();
    let asked = Asked { seed: 0, limit: 300, epochs: None };
    let at = |name: &str| reports.path().join(name);
    assert_eq!(find(reports.path(), asked), at("demo"));
    note(&at("demo"), Asked { epochs: Some(0), ..asked }).unwrap();
    assert_eq!(find(reports.path(), asked), at("demo"), "of the refused request nothing was computed");
    note(&at("demo"), asked).unwrap();
    std::fs::create_dir(at("demo/finetune")).unwrap();
    assert_eq!(find(reports.path(), asked), at("demo"), "it goes on");
    assert_eq!(find(reports.path(), Asked { seed: 1, ..asked }), at("demo-2"));
    std::fs::write(at("demo/report.html"), "").unwrap();
    assert_eq!(find(reports.path(), asked), at("demo-2"), "it has ended");
    std::fs::create_dir(at("demo-2")).unwrap();
    assert_eq!(find(reports.path(), asked), at("demo-3"), "a folder of somebody else");
    std::fs::write(at("demo-2/rose.svg"), "").unwrap();
    assert_eq!(find(reports.path(), asked), at("demo-2"), "a clone has the charts alone");
    std::fs::write(at("demo-2/notes.txt"), "").unwrap();
    assert_eq!(find(reports.path(), asked), at("demo-3"));
}
