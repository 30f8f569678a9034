//! `summary.csv`: one row per dataset and subject, for spreadsheets and data frames.

use crate::chart::words;
use crate::compare::{DatasetSummary, SubjectSummary, Summary};
use crate::domain::{ErrorCode, ErrorKind, UnscoredReason};

/// Every reason for an unscored trial, in the order of its column.
const REASONS: [(UnscoredReason, &str); 7] = [
    (UnscoredReason::Pending, "pending"),
    (UnscoredReason::ImageUnreadable, "image_unreadable"),
    (UnscoredReason::ModelError, "model_error"),
    (UnscoredReason::JudgeFailed, "judge_failed"),
    (UnscoredReason::JudgeUnparsable, "judge_unparsable"),
    (UnscoredReason::JudgeBudget, "judge_budget"),
    (UnscoredReason::ThoughtCutOff, "thought_cut_off"),
];

/// The columns before the counts of kinds, codes and reasons.
const COLUMNS_BEFORE: [&str; 24] = [
    "run",
    "model",
    "encoder",
    "encoder_relation",
    "tower_equal",
    "judge",
    "dataset",
    "split",
    "is_training_split",
    "n_samples",
    "n_classes",
    "subject",
    "mode",
    "n_trials",
    "n_correct",
    "n_incorrect",
    "n_unscored",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "accuracy_bound_low",
    "accuracy_bound_high",
    "balanced_accuracy",
    "chance",
];

/// The columns after the counts, only for the generating model of a dataset; empty in other rows.
const COLUMNS_AFTER: [&str; 10] = [
    "retention",
    "retention_low",
    "retention_high",
    "pairs_both_correct",
    "pairs_only_encoder",
    "pairs_only_model",
    "pairs_both_wrong",
    "pairs_unscored",
    "constant_answer",
    "constant_answer_share",
];

/// The following columns, only for label scoring.
const COLUMNS_SCORING: [&str; 3] =
    ["prior_corrected_accuracy", "prior_corrected_accuracy_low", "prior_corrected_accuracy_high"];

/// The last column, only for a probe: its training images per class.
const COLUMN_SHOTS: &str = "shots";

/// Returns the names of all columns, in order. They are public: new ones are added at the end.
///
/// A text that starts like a formula is prefixed with an apostrophe. Kinds have their schema names, codes are `code_…`
/// and reasons `unscored_…`. Rates are fractions in full precision. An undefined value is an empty cell.
pub fn columns() -> Vec<String> {
    let mut columns: Vec<String> = COLUMNS_BEFORE.map(str::to_owned).to_vec();
    columns.extend(ErrorKind::ALL.map(|kind| kind.name().to_owned()));
    columns.extend(ErrorCode::ALL.map(|code| format!("code_{}", code.name())));
    columns.extend(REASONS.map(|(_, name)| format!("unscored_{name}")));
    columns.extend(COLUMNS_AFTER.map(str::to_owned));
    columns.extend(COLUMNS_SCORING.map(str::to_owned));
    columns.push(COLUMN_SHOTS.to_owned());
    columns
}

/// Returns `summary` as CSV with the columns of [`columns`].
pub fn csv(summary: &Summary) -> String {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let in_memory = "a CSV of equally long rows is written to memory without fail";
    writer.write_record(columns()).expect(in_memory);
    for dataset in &summary.datasets {
        for (subject, mode, numbers) in subjects(summary, dataset) {
            writer.write_record(row(summary, dataset, subject, mode, numbers)).expect(in_memory);
        }
    }
    let bytes = writer.into_inner().expect(in_memory);
    String::from_utf8(bytes).expect("all cells are text")
}

fn subjects<'a>(summary: &'a Summary, dataset: &'a DatasetSummary) -> Vec<(&'a str, &'a str, &'a SubjectSummary)> {
    let rows = [
        ("model", "generate", dataset.model.as_ref()),
        ("model", "score", dataset.model_score.as_ref()),
        ("encoder", summary.encoder.comparator.as_str(), dataset.encoder.as_ref()),
    ];
    rows.into_iter().filter_map(|(subject, mode, numbers)| Some((subject, mode, numbers?))).collect()
}

fn row(
    summary: &Summary,
    dataset: &DatasetSummary,
    subject: &str,
    mode: &str,
    numbers: &SubjectSummary,
) -> Vec<String> {
    let [low, high] = ends(numbers.accuracy_interval);
    let [bound_low, bound_high] = ends(numbers.accuracy_bounds);
    let chance = (dataset.n_classes > 0).then(|| 1.0 / dataset.n_classes as f64);
    let mut cells = vec![
        text_cell(&summary.run),
        text_cell(&summary.model.name),
        text_cell(summary.encoder.name.as_deref().unwrap_or_default()),
        serde_name(&summary.encoder.relation),
        summary.encoder.tower_equal.map(|is_equal| is_equal.to_string()).unwrap_or_default(),
        text_cell(&summary.judge.name),
        text_cell(&dataset.dataset),
        text_cell(&dataset.split),
        dataset.is_training_split.to_string(),
        dataset.n_samples.to_string(),
        dataset.n_classes.to_string(),
        subject.to_owned(),
        mode.to_owned(),
        numbers.n_trials.to_string(),
        numbers.n_correct.to_string(),
        numbers.n_incorrect.to_string(),
        numbers.n_unscored.to_string(),
        cell(numbers.accuracy),
        low,
        high,
        bound_low,
        bound_high,
        cell(numbers.balanced_accuracy),
        cell(chance),
    ];
    let n_in = |counts: &std::collections::BTreeMap<String, usize>, name: &str| {
        counts.get(name).copied().unwrap_or(0).to_string()
    };
    cells.extend(ErrorKind::ALL.map(|kind| n_in(&numbers.kinds, kind.name())));
    let is_known = |code: ErrorCode| code != ErrorCode::Leak || !summary.tuned_on.is_empty();
    cells.extend(
        ErrorCode::ALL.map(|code| if is_known(code) { n_in(&numbers.codes, code.name()) } else { String::new() }),
    );
    cells.extend(REASONS.map(|(_, name)| n_in(&numbers.unscored, name)));
    cells.extend(if mode == "generate" { cells_after(dataset) } else { COLUMNS_AFTER.map(|_| String::new()) });
    let [low, high] = ends(numbers.prior_corrected_interval);
    cells.extend([cell(numbers.prior_corrected_accuracy), low, high]);
    cells.push(numbers.shots.map(|shots| shots.to_string()).unwrap_or_default());
    cells
}

fn cells_after(dataset: &DatasetSummary) -> [String; 10] {
    let [low, high] = ends(dataset.retention_interval);
    let pairs = dataset.pairs.as_ref();
    let n = |count: Option<usize>| count.map(|count| count.to_string()).unwrap_or_default();
    let constant = dataset.constant_answer.as_ref();
    [
        cell(dataset.retention),
        low,
        high,
        n(pairs.map(|pairs| pairs.both_correct)),
        n(pairs.map(|pairs| pairs.only_encoder)),
        n(pairs.map(|pairs| pairs.only_model)),
        n(pairs.map(|pairs| pairs.both_wrong)),
        n(pairs.map(|pairs| pairs.unscored)),
        constant.map(|constant| text_cell(&constant.answer)).unwrap_or_default(),
        cell(constant.map(|constant| constant.share)),
    ]
}

/// Returns a text that no spreadsheet reads as a formula: one that starts like a formula is prefixed with an
/// apostrophe.
pub(super) fn text_cell(text: &str) -> String {
    let starts =
        |letter: &char| matches!(letter, '=' | '+' | '-' | '@' | '\u{ff1d}' | '\u{ff0b}' | '\u{ff0d}' | '\u{ff20}');
    let first = text.trim_start_matches(|letter: char| letter.is_whitespace() || letter.is_control()).chars().next();
    let is_formula = text.starts_with(['\t', '\r']) || first.as_ref().is_some_and(starts);
    // A cell may have several lines, but no characters that steer a terminal.
    let plain: String = text.split('\n').map(words::printable).collect::<Vec<_>>().join("\n");
    if is_formula { format!("'{plain}") } else { plain }
}

/// Formats a number as the shortest text that parses to the same value; empty if there is none.
pub(super) fn cell(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map(|value| value.to_string()).unwrap_or_default()
}

pub(super) fn ends(interval: Option<[f64; 2]>) -> [String; 2] {
    interval.map_or([const { String::new() }; 2], |ends| ends.map(|end| cell(Some(end))))
}

fn serde_name(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
