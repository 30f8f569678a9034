use super::*;
use crate::domain::RunSpec;
use crate::study::tuned_on::all_labels;

#[test]
fn a_part_is_for_all_runs_or_for_the_one_that_it_names() {
    let found = parts(Some("cifar10, two:mnist,"), &["one", "two"]).unwrap();
    assert_eq!(found, [Part { run: None, dataset: "cifar10" }, Part { run: Some(1), dataset: "mnist" }]);
    for slip in ["three:mnist", "one:"] {
        let message = parts(Some(slip), &["one", "two"]).unwrap_err().to_string();
        assert!(message.contains(slip) && message.contains("one, two"), "{message}");
    }
}

#[test]
fn what_a_person_says_stands_in_place_of_what_the_adapter_says() {
    let planned = Planned::new(Some("two:cifar100"), &["one", "two"], &Places::default()).unwrap();
    let notes = serde_json::json!({
        "tuned_on": ["photos/train"],
        "datasets": [{"dataset": "photos/train", "labels": ["cat", "dog"]}],
    });
    let mut spec = spec();
    let effective = |run: usize, spec: &RunSpec| {
        let environment = planned.environment(run, Some(&notes), &Places::default()).unwrap();
        let labels = all_labels(spec, &environment).unwrap();
        labels.iter().map(|(name, labels)| (name.clone(), labels.len())).collect::<Vec<_>>()
    };
    assert_eq!(effective(0, &spec), [("photos/train".to_owned(), 2)], "the adapter's own labels");
    assert_eq!(effective(1, &spec), [("cifar100".to_owned(), 100)]);
    spec.tuned_on.insert("miniimagenet".into(), labels_of("miniimagenet", &Places::default()).unwrap());
    assert_eq!(effective(0, &spec), [("miniimagenet".to_owned(), 100)]);
    assert_eq!(effective(1, &spec).len(), 2);
    let unknown = serde_json::json!({"tuned_on": ["photos/train", "mnist"]});
    let environment = planned.environment(0, Some(&unknown), &Places::default()).unwrap();
    spec.tuned_on.clear();
    assert_eq!(all_labels(&spec, &environment), None, "leaks of the one are not all leaks");
}

fn spec() -> RunSpec {
    crate::compare::testing::spec(false)
}
