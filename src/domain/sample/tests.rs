use super::*;

fn three_classes() -> Vec<Sample> {
    (0..30).map(|i| Sample { id: format!("d/test/{i:05}"), label: i % 3 }).collect()
}

#[test]
fn a_smaller_limit_is_a_prefix_of_a_larger_one() {
    let samples = three_classes();
    let names = ["a", "b", "c"];
    let all = select(&samples, &names, 7, None);
    assert_eq!(all.len(), 30);
    for limit in 0..30 {
        assert_eq!(select(&samples, &names, 7, Some(limit)), all[..limit]);
    }
}

#[test]
fn every_prefix_is_balanced_over_the_classes() {
    let samples = three_classes();
    for limit in 0..30 {
        let mut counts = [0usize; 3];
        for position in select(&samples, &["a", "b", "c"], 7, Some(limit)) {
            counts[samples[position].label] += 1;
        }
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
    }
}

#[test]
fn the_choice_does_not_depend_on_the_order_of_the_files() {
    let samples = three_classes();
    let mut reversed = samples.clone();
    reversed.reverse();
    let ids = |set: &[Sample]| -> Vec<String> {
        select(set, &["a", "b", "c"], 7, Some(11)).into_iter().map(|i| set[i].id.clone()).collect()
    };
    assert_eq!(ids(&samples), ids(&reversed));
}
