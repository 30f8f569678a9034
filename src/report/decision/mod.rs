//! A decision as a table, JSON, Markdown, JUnit and annotations.

mod annotations;
mod brief;
mod junit;
mod markdown;
mod table;

pub use annotations::annotations;
pub use brief::{DatasetBrief, DecisionBrief, decision_brief, verdict_class, verdict_name};
pub use junit::junit;
pub use markdown::decision_markdown;
pub use table::decision_table;

use crate::chart::words;
use crate::domain::CauseShare;
use crate::gate::{DatasetDecision, Decision, Reason, Verdict};

/// Returns `decision` as JSON of the schema `emt.decision/1`, indented, with a final newline.
pub fn decision_json(decision: &Decision) -> String {
    let mut text = serde_json::to_string_pretty(decision).expect("a decision holds only strings as keys");
    text.push('\n');
    text
}

/// Returns `PASS`, `FAIL`, …
fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "PASS",
        Verdict::Fail => "FAIL",
        Verdict::Inconclusive => "INCONCLUSIVE",
        Verdict::NotApplicable => "not applicable",
    }
}

/// Returns the decision in one sentence.
fn headline(decision: &Decision) -> &'static str {
    match decision.decision {
        Verdict::Pass => "every dataset that was decided on is shown to have kept its accuracy within the margin",
        Verdict::Fail => "something was forgotten, or a limit is broken",
        Verdict::Inconclusive | Verdict::NotApplicable => "the datasets do not show enough to decide",
    }
}

/// Formats a fall in percentage points as `+1.5 (-0.2 to +3.1)`.
fn fall(dataset: &DatasetDecision) -> String {
    let points = |value: f64| format!("{:+.1}", value * 100.0);
    match (dataset.forgetting, dataset.forgetting_interval) {
        (Some(fall), Some([low, high])) => format!("{} ({} to {})", points(fall), points(low), points(high)),
        (Some(fall), None) => points(fall),
        _ => words::MISSING.to_owned(),
    }
}

/// Formats a reason as `underpowered: 300 pairs …`, on one line.
fn sentence(reason: &Reason) -> String {
    words::printable(&format!("{}: {}", reason.code.name(), reason.message))
}

/// Says why images were lost, one line per cause; empty without a diagnosis.
fn causes(dataset: &DatasetDecision) -> Vec<String> {
    let of = |share: &CauseShare| {
        let interval = match share.share_interval {
            Some([low, high]) => format!(" [{} to {}]", words::percent(Some(low)), words::percent(Some(high))),
            None => String::new(),
        };
        let percent = words::percent(Some(share.share));
        format!("cause {}: {percent}{interval} of the lost images. {}", share.cause.name(), share.mend)
    };
    dataset.causes.iter().map(of).collect()
}

/// Explains the decision on a dataset, on one line.
fn why(dataset: &DatasetDecision) -> String {
    match dataset.decision {
        Verdict::NotApplicable if dataset.reasons.is_empty() => "fine-tuned on, and no fall is shown".to_owned(),
        Verdict::Pass => {
            format!("the fall is shown to be below {:.1} points", dataset.margin * 100.0)
        }
        _ => dataset.reasons.iter().map(sentence).collect::<Vec<_>>().join("; "),
    }
}

/// Describes the level of the intervals: `intervals at 95%`, or that levels differ by dataset.
fn interval_note(decision: &Decision) -> String {
    let levels: Vec<f64> = decision.datasets.iter().map(|dataset| dataset.confidence).collect();
    match levels.first() {
        Some(first) if levels.iter().all(|level| (level - first).abs() < 1e-9) => {
            format!("intervals at {:.4}%", first * 100.0).replace("00%", "%").replace(".%", "%")
        }
        _ => "intervals at the level of each dataset's last look".to_owned(),
    }
}

/// Describes the candidate's number, if attempts are counted.
fn attempt_note(decision: &Decision) -> Option<String> {
    let attempt = decision.attempt?;
    let spent = if attempt > 1 { ": a test set that is often used to choose candidates loses its value" } else { "" };
    Some(format!("candidate number {attempt} on these datasets, tested at a level that all attempts share{spent}"))
}
