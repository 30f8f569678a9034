//! The comparison on the terminal.

use std::fmt::Write as _;

use super::super::table::write_aligned;
use super::notes::LEAKS_UNKNOWN;
use crate::chart::words;
use crate::compare::{Comparison, DatasetComparison, settings_in_words};
use crate::domain::ErrorCode;

/// Returns one aligned table per candidate; rates in percent, falls in points, with their 95% intervals.
pub fn comparison_table(comparison: &Comparison) -> String {
    let mut text = String::new();
    for candidate in &comparison.candidates {
        let _ =
            writeln!(text, "{} against {}\n", words::printable(&candidate.run), words::printable(&comparison.baseline));
        let header = ["dataset", "before", "after", "fall, points", "lost", "gained", "retention", "leaks", "pairs"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        rows.extend(candidate.datasets.iter().map(row));
        write_aligned(&mut text, &rows);
        text.push('\n');
        for dataset in &candidate.datasets {
            let Some(tower) = dataset.tower.as_ref().filter(|tower| !tower.is_same_tower) else { continue };
            let _ = writeln!(
                text,
                "note: {}: a probe ({} shots) on the tower itself went from {} to {}, a fall of {} points",
                words::printable(&dataset.dataset),
                tower.shots,
                words::percent(tower.baseline_accuracy),
                words::percent(tower.candidate_accuracy),
                words::points(tower.forgetting, tower.forgetting_interval)
            );
        }
        if !candidate.settings.is_empty() {
            let told = settings_in_words(&candidate.settings);
            let _ = writeln!(text, "note: its own settings: {}", words::printable(&told));
        }
        if candidate.datasets.iter().any(|dataset| !dataset.is_leak_known) {
            let _ = writeln!(text, "note: {LEAKS_UNKNOWN}");
        }
        for difference in &candidate.differences {
            let _ = writeln!(text, "warning: `{}` differs, which was allowed", difference.field);
        }
        if !candidate.only_candidate.is_empty() {
            let names: Vec<String> = candidate.only_candidate.iter().map(|name| words::printable(name)).collect();
            let _ = writeln!(text, "note: only the candidate has {}", names.join(", "));
        }
    }
    text.push_str("Percent with 95% intervals; the fall's is Tango's for paired answers. A positive fall is a loss.\n");
    text
}

fn row(dataset: &DatasetComparison) -> Vec<String> {
    let tuned_on = if dataset.is_tuned_on { " (tuned on)" } else { "" };
    let rate = |rate, interval| format!("{} [{}]", words::percent_number(rate), words::interval(interval));
    let points = |value: f64| format!("{:+.1}", value * 100.0);
    let fall = match (dataset.forgetting, dataset.forgetting_interval) {
        (Some(fall), Some([low, high])) => format!("{} [{} to {}]", points(fall), points(low), points(high)),
        _ => words::MISSING.to_owned(),
    };
    let retention = [dataset.retention_before, dataset.retention_after].map(words::percent_number);
    let [leaks_before, leaks_after] = dataset.share_of_code(ErrorCode::Leak).map(words::percent_number);
    vec![
        format!("{}{tuned_on}", words::shortened(&words::printable(&dataset.dataset), 36)),
        rate(dataset.baseline_accuracy, dataset.baseline_accuracy_interval),
        rate(dataset.candidate_accuracy, dataset.candidate_accuracy_interval),
        fall,
        dataset.n_lost.to_string(),
        dataset.n_gained.to_string(),
        retention.join(" → "),
        format!("{leaks_before} → {leaks_after}"),
        dataset.n_pairs.to_string(),
    ]
}
