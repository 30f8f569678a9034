use super::*;
use crate::chart::diagnosis_samples::{dataset, diagnosis, with_all_probes};

#[test]
fn a_dataset_has_the_charts_that_it_has_numbers_for() {
    let mut nothing = dataset("nothing");
    (nothing.n_lost, nothing.causes, nothing.swap) = (0, Vec::new(), Vec::new());
    let whole = diagnosis(vec![dataset("parts"), with_all_probes(dataset("all"), 4), nothing]);
    let charts = DiagnosisCharts::draw(&whole);
    let names = |index: usize| charts.of_dataset(index).map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(0), ["causes.svg", "swap.svg"]);
    assert_eq!(names(1), ["causes.svg", "swap.svg", "layers.svg"]);
    assert!(names(2).is_empty() && names(3).is_empty());
    assert_eq!(charts.main().map(|(name, _)| name).collect::<Vec<_>>(), ["causes.svg", "swap.svg", "layers.svg"]);
    let (_, of_all) = charts.main().next().unwrap();
    assert!(of_all.drawn.wide.contains(">parts</text>") && of_all.drawn.wide.contains(">all</text>"));
    let (_, of_one) = charts.of_dataset(0).next().unwrap();
    assert!(of_one.drawn.wide.contains(">parts: lora against base; "), "{}", of_one.drawn.wide);
}
