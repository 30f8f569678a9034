use super::*;
use crate::report::stages_json;

fn stages() -> StageReport {
    let stage = |run: &str, tuned_on: Option<&str>, accuracies: [Option<f64>; 2]| Stage {
        run: run.to_owned(),
        tuned_on: tuned_on.map(str::to_owned),
        accuracies: accuracies.to_vec(),
    };
    StageReport {
        datasets: vec!["mnist".to_owned(), "<b>cifar10".to_owned()],
        stages: vec![
            stage("base", None, [Some(0.5), Some(0.4)]),
            stage("s1", Some("mnist"), [Some(0.9), None]),
            stage("s2", Some("<b>cifar10"), [Some(0.6), Some(0.8)]),
        ],
        average_accuracy: Some(0.7),
        average_incremental_accuracy: Some(0.8),
        backward_transfer: Some(-0.3),
        forward_transfer: None,
    }
}

#[test]
fn the_matrix_marks_what_was_tuned_on_and_leaves_gaps_as_dashes() {
    let table = matrix(&stages());
    assert_eq!(table.rows[1], ["s1", "mnist", "• 90.0%", "–"]);
    assert_eq!(table.rows[2], ["s2", "<b>cifar10", "60.0%", "• 80.0%"]);
    let page = stages_html(&stages(), "a <title>", "emt report --stages");
    assert!(page.contains("−30.0") && page.contains("negative is forgetting") && !page.contains("<b>"));
    assert!(stages_markdown(&stages()).contains("&lt;b&gt;cifar10"));
}

#[test]
fn json_reads_back_equal_and_names_its_schema() {
    let text = stages_json(&stages());
    assert_eq!(serde_json::from_str::<StageReport>(&text).unwrap(), stages());
    assert!(text.contains("\"schema\": \"emt.stages/1\""));
}
