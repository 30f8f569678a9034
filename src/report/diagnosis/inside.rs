//! The tables of what was read inside a pass.

use super::super::tables::{Table, table};
use super::tables::accuracies;
use crate::chart::words;
use crate::diagnose::{
    Composite, DatasetDiagnosis, FlowShares, LayerDiagnosis, MapSimilarity, MergedAnswers, PositionDrift, Truncation,
};

/// The tables of one dataset, in page order.
pub(super) fn of_dataset(dataset: &DatasetDiagnosis) -> Vec<Table> {
    let tables = [
        layers(&dataset.layers),
        (!dataset.drift.is_empty()).then(|| drift(&dataset.drift)),
        dataset.truncation.as_ref().map(truncation),
        dataset.composite.as_ref().map(|of| composite(of, dataset)),
        (!dataset.merge.is_empty()).then(|| merge(&dataset.merge)),
        (!dataset.cam.is_empty()).then(|| cam(&dataset.cam)),
    ];
    tables.into_iter().flatten().collect()
}

/// A column of the table of layers: its name and its cell.
type Column = (&'static str, fn(&LayerDiagnosis) -> String);

const COLUMNS: [Column; 14] = [
    ("Lens, base", |layer| words::decimal_within(layer.lens_baseline, layer.lens_baseline_interval, 2)),
    ("Lens, candidate", |layer| words::decimal_within(layer.lens_candidate, layer.lens_candidate_interval, 2)),
    ("Rank", |layer| change(layer.rank_baseline, layer.rank_candidate, 1)),
    ("Lens at decision", |layer| change(layer.decision_baseline, layer.decision_candidate, 2)),
    ("Patch image", |layer| words::decimal(layer.patch_image, 2)),
    ("Patch last", |layer| words::decimal(layer.patch_last, 2)),
    ("Patch image at decision", |layer| words::decimal(layer.patch_image_decision, 2)),
    ("Patch last at decision", |layer| words::decimal(layer.patch_last_decision, 2)),
    ("Knockout", |layer| change(layer.knockout_baseline, layer.knockout_candidate, 2)),
    ("Knockout at decision", |layer| change(layer.knockout_baseline_decision, layer.knockout_candidate_decision, 2)),
    ("Attention, base: text before / image / text after", |layer| flow(layer.flow_baseline)),
    ("Attention, candidate: the same", |layer| flow(layer.flow_candidate)),
    ("CKA image", |layer| words::decimal(layer.similarity_image, 3)),
    ("CKA last", |layer| words::decimal(layer.similarity_last, 3)),
];

/// What was read by layer; only columns with a value. `None` if there is none.
fn layers(layers: &[LayerDiagnosis]) -> Option<Table> {
    let has_values = |(_, cell): &&Column| layers.iter().any(|layer| cell(layer) != words::MISSING);
    let columns: Vec<&Column> = COLUMNS.iter().filter(has_values).collect();
    if columns.is_empty() {
        return None;
    }
    let row = |layer: &LayerDiagnosis| {
        let cells = columns.iter().map(|(_, cell)| cell(layer));
        std::iter::once(layer.layer.to_string()).chain(cells).collect()
    };
    let names: Vec<&str> = std::iter::once("State").chain(columns.iter().map(|(name, _)| *name)).collect();
    let cut = match layers.iter().find_map(|layer| layer.knockout_layers) {
        Some(n) if n > 1 => format!("; a knockout cuts {n} layers from this one on"),
        _ => String::new(),
    };
    let decision = if names.iter().any(|name| name.ends_with("at decision")) {
        "; decision is the first token that tells the label from the other labels"
    } else {
        ""
    };
    let caption = format!(
        "Log-probabilities of the label by state, where 0 is the embeddings and k is after k layers; an arrow leads from the \
         base to the candidate, and nearer to 0 is better{decision}{cut}"
    );
    Some(table(&caption, &names, 1..names.len(), layers.iter().map(row).collect()))
}

fn change(before: Option<f64>, after: Option<f64>, n_decimals: usize) -> String {
    words::change(&words::decimal(before, n_decimals), &words::decimal(after, n_decimals))
}

/// The shares of attention, such as `30.0 / 11.0 / 59.0`.
fn flow(shares: Option<FlowShares>) -> String {
    let Some(FlowShares { system, image, user }) = shares else { return words::MISSING.to_owned() };
    [system, image, user].map(|share| words::percent_number(Some(share))).join(" / ")
}

fn drift(drift: &[PositionDrift]) -> Table {
    let row = |one: &PositionDrift| {
        vec![
            one.position.to_string(),
            one.n.to_string(),
            words::decimal(Some(one.kl), 3),
            words::decimal(Some(one.kl_reverse), 3),
        ]
    };
    table(
        "How far the candidate's next token is from the base's, at each position of the base's answers, as KL divergence in \
         nats; 0 is no change, and position 0 is the first token",
        &["Position", "Answers", "Base to candidate", "Candidate to base"],
        1..4,
        drift.iter().map(row).collect(),
    )
}

fn truncation(surface: &Truncation) -> Table {
    let heads = surface.n_kept.iter().map(|n| format!("{n} kept"));
    let heads: Vec<String> = std::iter::once("From layer".to_owned()).chain(heads).collect();
    let row = |(index, layer): (usize, &usize)| {
        let of = |rows: &[Vec<Option<f64>>], column: usize| rows.get(index)?.get(column).copied().flatten();
        let cell = |column| accuracies(of(&surface.accuracy_baseline, column), of(&surface.accuracy_candidate, column));
        std::iter::once(layer.to_string()).chain((0..surface.n_kept.len()).map(cell)).collect()
    };
    let cliff = |name: &str, layer: Option<usize>| {
        layer.map(|layer| format!("; the {name} needs no image from layer {layer} on"))
    };
    let cliffs = [cliff("base", surface.cliff_layer_baseline), cliff("candidate", surface.cliff_layer_candidate)];
    let caption = format!(
        "Accuracy, base → candidate, if all tokens see only some positions of the image from a layer on{}",
        cliffs.into_iter().flatten().collect::<String>()
    );
    let names: Vec<&str> = heads.iter().map(String::as_str).collect();
    table(&caption, &names, 1..names.len(), surface.from_layer.iter().enumerate().map(row).collect())
}

fn composite(of: &Composite, dataset: &DatasetDiagnosis) -> Table {
    let row = |name: &str, [full, own]: [f64; 2], shown: fn(f64) -> String| {
        let ratio = (full > 0.0).then(|| own / full);
        vec![name.to_owned(), shown(full), shown(own), words::percent(ratio)]
    };
    let percent = |value| words::percent(Some(value));
    let mut rows = vec![row("accuracy of the base", [dataset.baseline_accuracy, of.accuracy_baseline], percent)];
    let candidate = dataset.candidate_accuracy.zip(of.accuracy_candidate);
    rows.extend(candidate.map(|(full, own)| row("accuracy of the candidate", [full, own], percent)));
    rows.push(row("operations of reading a prompt", [of.operations_full, of.operations_self], words::operations));
    table(
        "What happens if positions of the image attend to themselves only; the ratio says how much of the full attention's \
         accuracy and work is left",
        &["What", "Full attention", "Themselves only", "Ratio"],
        1..4,
        rows,
    )
}

fn merge(merged: &[MergedAnswers]) -> Table {
    let row = |one: &MergedAnswers| {
        let share = (one.n > 0).then(|| one.n_equal as f64 / one.n as f64);
        vec![one.dtype.clone(), one.n_equal.to_string(), one.n.to_string(), words::percent(share)]
    };
    table(
        "Answers that stay equal if the adapter is merged into weights of this type, instead of computed next to them",
        &["Type", "Equal", "Answers", "Share"],
        1..4,
        merged.iter().map(row).collect(),
    )
}

fn cam(maps: &[MapSimilarity]) -> Table {
    let row = |one: &MapSimilarity| {
        vec![
            one.site.clone(),
            one.weighting.clone(),
            one.n.to_string(),
            words::decimal(one.rank_correlation, 2),
            words::decimal(one.overlap, 2),
        ]
    };
    table(
        "How alike the gradient maps of base and candidate are; 1 means that both look at the same places of the image",
        &["Site", "Weighting", "Images", "Rank correlation", "Overlap"],
        2..5,
        maps.iter().map(row).collect(),
    )
}
