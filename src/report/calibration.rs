//! Sheets and calibrations: the tables on the terminal, and `emt.calibration/1`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::table::{rate, write_aligned};
use crate::chart::words;
use crate::compare::{Calibration, GroupBy, Measured};
use crate::judging::{Sheet, SheetRow};

/// Returns `calibration` as JSON of the schema `emt.calibration/1`, indented, with a final newline.
pub fn calibration_json(calibration: &Calibration) -> String {
    let mut text = serde_json::to_string_pretty(calibration).expect("a calibration holds only strings as keys");
    text.push('\n');
    text
}

/// Returns the calibration as plain text, with one row for all pairs and one per group.
pub fn calibration_table(calibration: &Calibration) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "Judge: {}", words::printable(&calibration.judge.to_string()));
    let counts = [
        (calibration.measured.n, "rows"),
        (calibration.measured.n_distinct, "distinct pairs"),
        (calibration.n_unmarked, "not marked"),
        (calibration.n_judge_failed, "without a verdict"),
        (calibration.n_conflicting, "marked both ways"),
    ];
    let shown: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let _ = writeln!(text, "Sheet: {}\n", shown.join(", "));
    let header = ["", "pairs", "sensitivity", "specificity", "agreement", "kappa"];
    let mut rows = vec![header.map(str::to_owned).to_vec(), row("all", &calibration.measured)];
    for group in &calibration.groups {
        let by = match group.by {
            GroupBy::Dataset => "dataset",
            GroupBy::Style => "style",
            GroupBy::Group => "group",
        };
        rows.push(row(&format!("{by}: {}", words::printable(&group.group)), &group.measured));
    }
    write_aligned(&mut text, &rows);
    if !calibration.accuracies.is_empty() {
        text.push('\n');
        let header = ["dataset", "trials", "accuracy", "corrected"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        rows.extend(calibration.accuracies.iter().map(|of| {
            vec![
                words::printable(&of.dataset),
                of.n_scored.to_string(),
                rate((Some(of.accuracy), None)),
                rate((Some(of.corrected_accuracy), Some(of.corrected_accuracy_interval))),
            ]
        }));
        write_aligned(&mut text, &rows);
    }
    text.push_str("\nPercent with 95% intervals; kappa as it is. Positive is what people call correct.\n");
    text
}

fn row(name: &str, measured: &Measured) -> Vec<String> {
    let kappa = match (measured.kappa, measured.kappa_interval) {
        (Some(kappa), Some([low, high])) => format!("{kappa:.2} [{low:.2}–{high:.2}]"),
        (Some(kappa), None) => format!("{kappa:.2}"),
        (None, _) => words::MISSING.to_owned(),
    };
    vec![
        name.to_owned(),
        measured.n_distinct.to_string(),
        rate((measured.sensitivity, measured.sensitivity_interval)),
        rate((measured.specificity, measured.specificity_interval)),
        rate((measured.agreement, None)),
        kappa,
    ]
}

/// Returns a table of what was drawn from each stratum.
pub fn sheet_table(sheet: &Sheet) -> String {
    let mut strata: BTreeMap<(&str, &str), Vec<&SheetRow>> = BTreeMap::new();
    for row in &sheet.rows {
        let key = (row.dataset.as_deref().unwrap_or_default(), row.stratum.as_deref().unwrap_or_default());
        strata.entry(key).or_default().push(row);
    }
    let mut rows = vec![["dataset", "stratum", "trials", "drawn"].map(str::to_owned).to_vec()];
    for ((dataset, stratum), members) in strata {
        let n_trials = members[0].n_stratum_trials;
        rows.push(vec![
            words::printable(dataset),
            stratum.to_owned(),
            n_trials.map_or_else(|| words::MISSING.to_owned(), |n| n.to_string()),
            members.len().to_string(),
        ]);
    }
    let mut text = String::new();
    write_aligned(&mut text, &rows);
    text
}
