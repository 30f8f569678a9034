//! The runs of one lock-step beside each other, on the terminal.

use std::fmt::Write as _;

use super::notes;
use super::table::write_aligned;
use crate::chart::words;
use crate::compare::{DatasetSummary, Summary};

/// One row per run and one column per dataset: accuracy in percent, and behind it how far that lies from the first run's in
/// points, where `has_base` says that the first is what the others were made of.
///
/// Accuracies are over each run's own scored images; where these are not the same number in all runs, the number is shown, too.
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

/// Longer names of datasets are cut after this many characters.
const NAME_MAX: usize = 30;

fn of_dataset<'a>(summary: &'a Summary, dataset: &str) -> Option<&'a DatasetSummary> {
    summary.datasets.iter().find(|one| one.dataset == dataset)
}

/// What was generated, or else scored.
fn accuracy_of(dataset: &DatasetSummary) -> Option<f64> {
    notes::accuracy(dataset.model.as_ref().or(dataset.model_score.as_ref())).0
}

fn n_scored(dataset: &DatasetSummary) -> usize {
    dataset.model.as_ref().or(dataset.model_score.as_ref()).map_or(0, |model| model.n_correct + model.n_incorrect)
}

/// The scored images of a dataset, where all runs have the same number of them.
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
