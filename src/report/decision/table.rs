//! The decision on the terminal.

use std::fmt::Write as _;

use super::{attempt_note, causes, fall, headline, interval_note, verdict, why};
use crate::chart::words;
use crate::gate::Decision;
use crate::report::table::write_aligned;

/// Returns the decision as plain text: one row per dataset, then the reasons, then the verdict.
pub fn decision_table(decision: &Decision) -> String {
    let mut text = String::new();
    if let (Some(baseline), Some(candidate)) = (&decision.baseline, &decision.candidate) {
        let _ = writeln!(text, "baseline  {}", words::printable(&baseline.run));
        let _ = writeln!(text, "candidate {}\n", words::printable(&candidate.run));
    }
    let header =
        ["dataset", "decision", "before", "after", "fall, points", "lost", "gained", "pairs", "unscored", "look"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(decision.datasets.iter().map(|dataset| {
        vec![
            words::shortened(&words::printable(&dataset.dataset), 36),
            verdict(dataset.decision).to_owned(),
            words::percent_number(dataset.baseline_accuracy),
            words::percent_number(dataset.candidate_accuracy),
            fall(dataset),
            dataset.n_lost.to_string(),
            dataset.n_gained.to_string(),
            dataset.n_pairs.to_string(),
            dataset.n_unscored.to_string(),
            format!("{}/{}", dataset.look, dataset.n_looks),
        ]
    }));
    write_aligned(&mut text, &rows);
    let _ = writeln!(text, "\nPercent; {} by Tango. A positive fall is a loss.\n", interval_note(decision));
    for dataset in &decision.datasets {
        let _ = writeln!(text, "{}: {}", words::printable(&dataset.dataset), why(dataset));
        causes(dataset).iter().for_each(|cause| _ = writeln!(text, "  {cause}"));
    }
    for field in &decision.allowed_different {
        let _ = writeln!(text, "warning: the runs were compared although `{field}` differs");
    }
    for warning in &decision.warnings {
        let _ = writeln!(text, "warning: {}", words::printable(warning));
    }
    if let Some(note) = attempt_note(decision) {
        let _ = writeln!(text, "note: {note}");
    }
    for step in &decision.next {
        let _ = writeln!(text, "\nnext: {}", words::printable(&step.message));
        if let Some(command) = &step.command {
            let _ = writeln!(text, "  {}", words::printable(command));
        }
    }
    let _ = writeln!(text, "\n{}: {}", verdict(decision.decision), headline(decision));
    text
}
