//! The tables of a diagnosis. Those of probes inside a pass are in `inside.rs`.

use super::super::tables::{Table, rate, table};
use super::inside;
use crate::chart::words;
use crate::diagnose::{Accuracy, DatasetDiagnosis, Diagnosis, IntegrationOfLayer, ModalityIntegration, SwapShare};

/// The tables of one dataset, in page order.
pub(super) fn of_dataset(dataset: &DatasetDiagnosis) -> Vec<Table> {
    let swap = (!dataset.swap.is_empty()).then(|| swap(&dataset.swap));
    let reliance = dataset.reliance.as_ref().map(|of| reliance(of.baseline, of.candidate));
    swap.into_iter().chain(reliance).chain(inside::of_dataset(dataset)).collect()
}

fn swap(shares: &[SwapShare]) -> Table {
    let row = |share: &SwapShare| {
        let keep = share.keep.as_ref();
        vec![
            share.component.clone(),
            share_of_fall(share.restore.recovered, share.restore.recovered_interval),
            keep.map_or_else(|| words::MISSING.to_owned(), |keep| share_of_fall(keep.caused, keep.caused_interval)),
            share_of_fall(share.shapley, None),
        ]
    };
    table(
        "Percent of the fall that comes back if the candidate gets the base's part, and that appears if the base gets only \
         the candidate's part, with 95% intervals; the Shapley values of components sum to the whole fall",
        &["Part", "Restored: comes back", "Alone: causes", "Shapley"],
        1..4,
        shares.iter().map(row).collect(),
    )
}

/// Shares of the fall may be negative or above 100%.
fn share_of_fall(share: Option<f64>, interval: Option<[f64; 2]>) -> String {
    words::points(share, interval)
}

fn reliance(baseline: Accuracy, candidate: Option<Accuracy>) -> Table {
    let row = |name: &str, of: Accuracy| {
        vec![name.to_owned(), words::percent(Some(of.accuracy)), words::percent(Some(of.blind_accuracy))]
    };
    table(
        "Accuracy with and without the image; where both are alike, the answers do not depend on it",
        &["Model", "With image", "Without"],
        1..3,
        std::iter::once(row("base", baseline)).chain(candidate.map(|of| row("candidate", of))).collect(),
    )
}

/// The tables of both models: settings, weights and the distance between images and texts.
pub(super) fn of_models(diagnosis: &Diagnosis) -> Vec<Table> {
    let mut tables = Vec::new();
    if !diagnosis.setup.is_empty() {
        let rows = diagnosis
            .setup
            .iter()
            .map(|one| vec![one.field.clone(), one.baseline.to_string(), one.candidate.to_string()])
            .collect();
        let caption = "Settings in which the candidate differs from its base";
        tables.push(table(caption, &["Setting", "Before", "After"], 0..0, rows));
    }
    if let Some(weights) = &diagnosis.weights {
        let change = |name: &str, change: Option<f64>| vec![name.to_owned(), words::percent(change)];
        let rows = weights.components.iter().map(|one| change(&one.component, one.relative_change)).collect();
        let caption = "Size of the change of each component's weights, relative to the base's weights";
        tables.push(table(caption, &["Component", "Change"], 1..2, rows));
    }
    tables.extend(diagnosis.mir.iter().flat_map(integration));
    tables
}

/// The rate of both models, and its terms by state.
fn integration(mir: &ModalityIntegration) -> [Table; 2] {
    let rates = [("base", mir.baseline), ("candidate", mir.candidate)];
    let rows = rates.map(|(name, rate)| vec![name.to_owned(), words::decimal(rate, 3)]).to_vec();
    let caption = format!(
        "Modality Integration Rate over {} pairs of an image and a text ({} method); lower means that images lie nearer to texts",
        mir.n_pairs, mir.method
    );
    let rates = table(&caption, &["Model", "Rate"], 1..2, rows);
    let row = |layer: &IntegrationOfLayer| {
        let change = |before: f64, after: Option<f64>| {
            let before = words::decimal(Some(before), 1);
            after.map_or_else(|| before.clone(), |after| words::change(&before, &words::decimal(Some(after), 1)))
        };
        let mut cells = vec![layer.layer.to_string(), change(layer.baseline, layer.candidate)];
        let after = |term: usize| layer.terms_candidate.map(|terms| terms[term]);
        cells.extend(layer.terms_baseline.iter().enumerate().map(|(term, before)| change(*before, after(term))));
        cells
    };
    let of_layers = table(
        "Distance between images and texts at each state, base → candidate, as the sum of its four terms; state 0 is no part \
         of the rate",
        &["State", "Distance", "Means", "Spread of images", "Spread of texts", "Cross term"],
        1..6,
        mir.layers.iter().map(row).collect(),
    );
    [rates, of_layers]
}

/// Formats an accuracy of the base and of the candidate as `71.0% → 40.0%`.
pub(super) fn accuracies(before: Option<f64>, after: Option<f64>) -> String {
    words::change(&rate((before, None)), &rate((after, None)))
}
