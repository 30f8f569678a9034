//! The table on the terminal.

use std::fmt::Write as _;

use super::notes::{self, Scoring, Weight};
use crate::chart::words;
use crate::compare::{DatasetSummary, Summary};
use crate::domain::ErrorKind;

/// The most characters of a dataset's name; longer ones are cut.
const NAME_MAX: usize = 36;

/// Returns the run as plain text: headings, notes and one row per dataset, in aligned columns.
///
/// Rates are in percent with their 95% intervals in brackets; `–` is an undefined value.
pub fn table(summary: &Summary) -> String {
    let mut text = String::new();
    for (name, value) in notes::headings(summary) {
        let _ = writeln!(text, "{name:<8} {}", words::printable(&value));
    }
    text.push('\n');
    let scoring = notes::scoring(summary);
    let mut rows = vec![header(scoring, &words::encoder_column(&summary.encoder))];
    rows.extend(summary.datasets.iter().map(|dataset| row(dataset, scoring)));
    write_aligned(&mut text, &rows);
    text.push('\n');
    text.push_str("Percent with 95% intervals. Incorrect predictions, intrinsic and extrinsic hallucinations: the model's errors by kind.\n");
    for note in notes::notes(summary) {
        let mark = if note.weight == Weight::Warning { "warning: " } else { "note: " };
        let _ = writeln!(text, "{mark}{}", words::printable(&note.text));
    }
    text
}

fn header(scoring: Scoring, encoder: &str) -> Vec<String> {
    let mut cells = vec!["dataset", "images", "chance", "model"];
    if scoring.is_run {
        cells.push("label scoring");
    }
    if scoring.has_prior {
        cells.push("prior-corrected");
    }
    cells.extend([encoder, "retention", "incorrect", "intrinsic", "extrinsic", "unscored"]);
    cells.into_iter().map(str::to_owned).collect()
}

fn row(dataset: &DatasetSummary, scoring: Scoring) -> Vec<String> {
    let split = if dataset.is_training_split { " (train!)" } else { "" };
    let chance = (dataset.n_classes > 0).then(|| words::chance(1.0 / dataset.n_classes as f64));
    let mut cells = vec![
        format!("{}{split}", words::shortened(&words::printable(&dataset.dataset), NAME_MAX)),
        dataset.n_samples.to_string(),
        chance.unwrap_or_else(|| words::MISSING.to_owned()),
        rate(notes::accuracy(dataset.model.as_ref())),
    ];
    if scoring.is_run {
        cells.push(rate(notes::accuracy(dataset.model_score.as_ref())));
    }
    if scoring.has_prior {
        cells.push(rate(notes::prior_corrected(dataset.model_score.as_ref())));
    }
    cells.push(rate(notes::accuracy(dataset.encoder.as_ref())));
    cells.push(rate((dataset.retention, dataset.retention_interval)));
    cells.extend(ErrorKind::ALL.map(|kind| notes::count(notes::n_of_kind(dataset.model.as_ref(), kind))));
    cells.push(notes::count(dataset.model.as_ref().map(|model| model.n_unscored)));
    cells
}

/// Formats `73.3 [70.4–75.9]`, the number alone, or a dash.
pub(super) fn rate((value, interval): (Option<f64>, Option<[f64; 2]>)) -> String {
    let number = words::percent_number(value);
    match interval {
        Some(_) if number != words::MISSING => format!("{number} [{}]", words::interval(interval)),
        _ => number,
    }
}

/// Writes the first column flush left, the others flush right, and a rule below the header.
pub(super) fn write_aligned(text: &mut String, rows: &[Vec<String>]) {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
        if index == 0 {
            let n_chars = widths.iter().sum::<usize>() + 2 * n_columns.saturating_sub(1);
            text.push_str(&"─".repeat(n_chars));
            text.push('\n');
        }
    }
}
