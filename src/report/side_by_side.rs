//! The runs of one lock-step side by side, on the terminal.

use std::fmt::Write as _;

use super::notes;
use super::table::write_aligned;
use crate::chart::words;
use crate::compare::{DatasetSummary, Summary};

/// Returns one row per run and one column per dataset: the accuracy in percent, followed by the difference from the
/// first run in points if `has_base` says that the others were made from it.
///
/// Accuracies are over each run's own scored images. Their number is shown if it differs between runs.
pub fn side_by_side(summaries: &[Summary], has_base: bool) -> String {
    let Some(first) = summaries.first() else { return String::new() };
    let mut header = vec!["run".to_owned()];
    header.extend(first.datasets.iter().map(|dataset| {
        let n = same_n_scored(summaries, &dataset.dataset);
        let n = n.map(|n| format!(", {n} images")).unwrap_or_default();
        format!("{}{n}", words::shortened(&words::printable(&dataset.dataset), NAME_MAX))
    }));
    let mut rows = vec![header];
    for (index, summary) in summaries.iter().enumerate() {
        let mut row = vec![words::printable(&summary.run)];
        row.extend(first.datasets.iter().map(|base| {
            let base_accuracy = accuracy_of(base).filter(|_| has_base && index > 0);
            let is_same = same_n_scored(summaries, &base.dataset).is_some();
            cell(of_dataset(summary, &base.dataset), base_accuracy, is_same)
        }));
        rows.push(row);
    }
    let mut text = String::new();
    write_aligned(&mut text, &rows);
    let _ = match has_base {
        true => writeln!(
            text,
            "\nAccuracy in percent; in parentheses its change against {} in points.",
            words::printable(&first.run)
        ),
        false => writeln!(text, "\nAccuracy in percent."),
    };
    text
}

/// The most characters of a dataset's name; longer ones are cut.
const NAME_MAX: usize = 30;

fn of_dataset<'a>(summary: &'a Summary, dataset: &str) -> Option<&'a DatasetSummary> {
    summary.datasets.iter().find(|one| one.dataset == dataset)
}

/// The accuracy of generated answers, or of label scoring if there are none.
fn accuracy_of(dataset: &DatasetSummary) -> Option<f64> {
    notes::accuracy(dataset.model.as_ref().or(dataset.model_score.as_ref())).0
}

fn n_scored(dataset: &DatasetSummary) -> usize {
    dataset.model.as_ref().or(dataset.model_score.as_ref()).map_or(0, |model| model.n_correct + model.n_incorrect)
}

/// The number of scored images of a dataset, if all runs have the same.
fn same_n_scored(summaries: &[Summary], dataset: &str) -> Option<usize> {
    let mut all = summaries.iter().map(|summary| of_dataset(summary, dataset).map_or(0, n_scored));
    let first = all.next()?;
    all.all(|n| n == first).then_some(first)
}

fn cell(dataset: Option<&DatasetSummary>, base: Option<f64>, is_same_n: bool) -> String {
    let Some((dataset, accuracy)) = dataset.and_then(|dataset| Some((dataset, accuracy_of(dataset)?))) else {
        return words::MISSING.to_owned();
    };
    let mut text = words::percent_number(Some(accuracy));
    if !is_same_n {
        text.push_str(&format!(" of {}", n_scored(dataset)));
    }
    if let Some(base) = base {
        text.push_str(&format!(" ({:+.1})", (accuracy - base) * 100.0));
    }
    text
}
