//! `comparison.csv`: one row per candidate and dataset, for spreadsheets and data frames.

use super::super::csv::{cell, ends, text_cell};
use crate::compare::{CandidateComparison, Comparison, DatasetComparison, TowerForgetting};
use crate::domain::{ErrorCode, ErrorKind};

/// The columns before the counts of kinds and codes.
const COLUMNS_BEFORE: [&str; 50] = [
    "baseline",
    "run",
    "dataset",
    "split",
    "is_training_split",
    "is_tuned_on",
    "n_classes",
    "n_pairs",
    "n_unscored",
    "n_unreadable",
    "n_unpaired",
    "baseline_accuracy",
    "baseline_accuracy_low",
    "baseline_accuracy_high",
    "candidate_accuracy",
    "candidate_accuracy_low",
    "candidate_accuracy_high",
    "forgetting",
    "forgetting_low",
    "forgetting_high",
    "forgetting_bound_low",
    "forgetting_bound_high",
    "n_lost",
    "n_gained",
    "encoder_knows",
    "p_value_mcnemar",
    "minimum_detectable_fall",
    "negative_flip_rate",
    "chance_corrected_forgetting",
    "chance_corrected_gain",
    "retention_before",
    "retention_before_low",
    "retention_before_high",
    "retention_after",
    "retention_after_low",
    "retention_after_high",
    "lost_wording",
    "lost_choice",
    "lost_unknown",
    "constant_answer_before",
    "constant_answer_before_share",
    "constant_answer_after",
    "constant_answer_after_share",
    "after_both_correct",
    "after_only_model",
    "after_only_encoder",
    "after_both_wrong",
    "n_scored_before",
    "n_scored_after",
    "allowed_different",
];

/// The last columns: the probe on the tower before and after, if both runs have one.
const COLUMNS_TOWER: [&str; 9] = [
    "tower_shots",
    "tower_is_same",
    "tower_baseline_accuracy",
    "tower_candidate_accuracy",
    "tower_forgetting",
    "tower_forgetting_low",
    "tower_forgetting_high",
    "tower_n_lost",
    "tower_n_gained",
];

/// The cells of the funnel: encoder, scoring, generation, each right (1) or not (0).
pub const FUNNEL_CELLS: [&str; 8] = ["e1s1g1", "e1s1g0", "e1s0g1", "e1s0g0", "e0s1g1", "e0s1g0", "e0s0g1", "e0s0g0"];

/// Returns the names of all columns of [`comparison_csv`], in order. They are public: new ones are added at the end.
///
/// Names are those of `comparison.json`, with `_low` and `_high` for the ends of an interval; `after_…` compare the
/// candidate's model with its encoder. They are followed, for `before` and then for `after`, by the kinds of error
/// (`before_incorrect_prediction`), the codes (`before_code_leak`) and the funnel (`before_e1s1g0`). Rates are
/// fractions in full precision. An undefined value is an empty cell. A text that starts like a formula is prefixed with
/// an apostrophe.
pub fn comparison_columns() -> Vec<String> {
    let mut columns: Vec<String> = COLUMNS_BEFORE.map(str::to_owned).to_vec();
    for side in ["before", "after"] {
        columns.extend(ErrorKind::ALL.map(|kind| format!("{side}_{}", kind.name())));
        columns.extend(ErrorCode::ALL.map(|code| format!("{side}_code_{}", code.name())));
        columns.extend(FUNNEL_CELLS.map(|cell| format!("{side}_{cell}")));
    }
    columns.extend(COLUMNS_TOWER.map(str::to_owned));
    columns
}

/// Returns `comparison` as CSV with the columns of [`comparison_columns`], one row per candidate and dataset.
pub fn comparison_csv(comparison: &Comparison) -> String {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let in_memory = "a CSV of equally long rows is written to memory without fail";
    writer.write_record(comparison_columns()).expect(in_memory);
    for candidate in &comparison.candidates {
        for dataset in &candidate.datasets {
            writer.write_record(row(comparison, candidate, dataset)).expect(in_memory);
        }
    }
    let bytes = writer.into_inner().expect(in_memory);
    String::from_utf8(bytes).expect("all cells are text")
}

fn row(comparison: &Comparison, candidate: &CandidateComparison, dataset: &DatasetComparison) -> Vec<String> {
    let mut cells = vec![
        text_cell(&comparison.baseline),
        text_cell(&candidate.run),
        text_cell(&dataset.dataset),
        text_cell(&dataset.split),
        dataset.is_training_split.to_string(),
        dataset.is_tuned_on.to_string(),
    ];
    let counts = [dataset.n_classes, dataset.n_pairs, dataset.n_unscored, dataset.n_unreadable, dataset.n_unpaired];
    cells.extend(counts.map(|n| n.to_string()));
    cells.extend(rates(dataset));
    cells.push(text_cell(&comparison.allowed_different.join(" ")));
    for (errors, side) in [(&dataset.errors_before, 0), (&dataset.errors_after, 1)] {
        let n_in = |counts: &std::collections::BTreeMap<String, usize>, name: &str| {
            counts.get(name).copied().unwrap_or(0).to_string()
        };
        cells.extend(ErrorKind::ALL.map(|kind| n_in(&errors.kinds, kind.name())));
        let is_known = |code: ErrorCode| code != ErrorCode::Leak || dataset.is_leak_known;
        let n_of_code = |code: ErrorCode| if is_known(code) { n_in(&errors.codes, code.name()) } else { String::new() };
        cells.extend(ErrorCode::ALL.map(n_of_code));
        let funnel = dataset.funnel.as_ref().map(|funnel| [&funnel.before, &funnel.after][side]);
        cells.extend(FUNNEL_CELLS.map(|cell| funnel.map(|counts| n_in(counts, cell)).unwrap_or_default()));
    }
    cells.extend(dataset.tower.as_ref().map_or_else(|| COLUMNS_TOWER.map(|_| String::new()), tower));
    cells
}

fn tower(tower: &TowerForgetting) -> [String; 9] {
    let [low, high] = ends(tower.forgetting_interval);
    [
        tower.shots.to_string(),
        tower.is_same_tower.to_string(),
        cell(tower.baseline_accuracy),
        cell(tower.candidate_accuracy),
        cell(tower.forgetting),
        low,
        high,
        tower.n_lost.to_string(),
        tower.n_gained.to_string(),
    ]
}

/// The cells from the baseline's accuracy to the number of scored trials.
fn rates(dataset: &DatasetComparison) -> Vec<String> {
    let n = |count: Option<usize>| count.map(|count| count.to_string()).unwrap_or_default();
    let rate = |value: Option<f64>, interval: Option<[f64; 2]>| {
        let [low, high] = ends(interval);
        [cell(value), low, high]
    };
    let mut cells = Vec::new();
    cells.extend(rate(dataset.baseline_accuracy, dataset.baseline_accuracy_interval));
    cells.extend(rate(dataset.candidate_accuracy, dataset.candidate_accuracy_interval));
    cells.extend(rate(dataset.forgetting, dataset.forgetting_interval));
    cells.extend(ends(dataset.forgetting_bounds));
    cells.extend([dataset.n_lost, dataset.n_gained].map(|n| n.to_string()));
    cells.push(n(dataset.encoder_knows));
    cells.push(cell(dataset.p_value_mcnemar));
    cells.push(cell(dataset.minimum_detectable_fall));
    cells.push(cell(dataset.negative_flip_rate));
    cells.push(cell(dataset.chance_corrected_forgetting));
    cells.push(cell(dataset.chance_corrected_gain));
    cells.extend(rate(dataset.retention_before, dataset.retention_before_interval));
    cells.extend(rate(dataset.retention_after, dataset.retention_after_interval));
    let funnel = dataset.funnel.as_ref();
    cells.push(n(funnel.map(|funnel| funnel.lost_wording)));
    cells.push(n(funnel.map(|funnel| funnel.lost_choice)));
    cells.push(n(funnel.map(|funnel| funnel.lost_unknown)));
    for constant in [&dataset.constant_answer_before, &dataset.constant_answer_after] {
        cells.push(constant.as_ref().map(|constant| text_cell(&constant.answer)).unwrap_or_default());
        cells.push(cell(constant.as_ref().map(|constant| constant.share)));
    }
    cells.extend((0..4).map(|index| n(dataset.encoder_cells_after.map(|counts| counts[index]))));
    cells.extend([dataset.errors_before.n_scored, dataset.errors_after.n_scored].map(|n| n.to_string()));
    cells
}
