//! The tables of a diagnosis.

use super::super::tables::{Table, table};
use crate::chart::words;
use crate::diagnose::{DatasetDiagnosis, Diagnosis, SwapShare};

/// The tables of one dataset.
pub(super) fn of_dataset(dataset: &DatasetDiagnosis) -> Vec<Table> {
    let mut tables = Vec::new();
    if !dataset.swap.is_empty() {
        tables.push(swap(&dataset.swap));
    }
    if let Some(reliance) = &dataset.reliance {
        let row = |name: &str, of: crate::diagnose::Accuracy| {
            let without = words::percent(Some(of.blind_accuracy));
            vec![name.to_owned(), words::percent(Some(of.accuracy)), without]
        };
        let rows = vec![row("before", reliance.baseline), row("after", reliance.candidate)];
        tables.push(table("Accuracy with and without the image", &["Model", "With image", "Without"], 1..3, rows));
    }
    tables
}

fn swap(shares: &[SwapShare]) -> Table {
    let with = |share: Option<f64>, interval: Option<[f64; 2]>| match (share, interval) {
        (Some(share), Some([low, high])) => {
            format!("{} [{} to {}]", words::percent(Some(share)), words::percent(Some(low)), words::percent(Some(high)))
        }
        (share, _) => words::percent(share),
    };
    let row = |share: &SwapShare| {
        let keep = share.keep.as_ref();
        vec![
            share.component.clone(),
            with(share.restore.recovered, share.restore.recovered_interval),
            keep.map_or_else(|| words::MISSING.to_owned(), |keep| with(keep.caused, keep.caused_interval)),
            words::percent(share.shapley),
        ]
    };
    table(
        "Share of the fall that comes back with the base's part, that the candidate's part alone causes, and Shapley value",
        &["Part", "Restored: comes back", "Alone: causes", "Shapley"],
        1..4,
        shares.iter().map(row).collect(),
    )
}

/// The tables of both models: settings and weights.
pub(super) fn of_models(diagnosis: &Diagnosis) -> Vec<Table> {
    let mut tables = Vec::new();
    if !diagnosis.setup.is_empty() {
        let rows = diagnosis
            .setup
            .iter()
            .map(|one| vec![one.field.clone(), one.baseline.to_string(), one.candidate.to_string()])
            .collect();
        tables.push(table("Settings in which the candidate differs", &["Setting", "Before", "After"], 0..0, rows));
    }
    if let Some(weights) = &diagnosis.weights {
        let change = |name: &str, change: Option<f64>| vec![name.to_owned(), words::percent(change)];
        let rows = weights.components.iter().map(|one| change(&one.component, one.relative_change)).collect();
        tables.push(table("Change of the weights, relative to the base's", &["Component", "Change"], 1..2, rows));
    }
    tables
}
