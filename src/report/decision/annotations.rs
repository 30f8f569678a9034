//! Annotations of GitHub Actions.

use super::{verdict, why};
use crate::gate::{Decision, Verdict};

/// Returns workflow commands, one line per failed or undecided dataset. On standard output of an Actions job, they are
/// shown next to the change.
pub fn annotations(decision: &Decision) -> String {
    decision
        .datasets
        .iter()
        .filter_map(|dataset| {
            let level = match dataset.decision {
                Verdict::Fail => "error",
                Verdict::Inconclusive => "warning",
                Verdict::Pass | Verdict::NotApplicable => return None,
            };
            let title = property(&format!("emt gate: {} {}", dataset.dataset, verdict(dataset.decision)));
            Some(format!("::{level} title={title}::{}\n", data(&why(dataset))))
        })
        .collect()
}

/// Escapes a message.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes a property, which also ends at a colon or comma.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
