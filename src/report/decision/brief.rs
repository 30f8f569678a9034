//! A decision at the top of a page.

use super::{headline, sentence, verdict, why};
use crate::gate::{Decision, Verdict};

/// A decision as a page shows it: the verdict and the reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionBrief {
    /// The verdict.
    pub verdict: Verdict,
    /// The decision in one sentence.
    pub headline: String,
    /// Per dataset, the verdict, the number of images and the reasons.
    pub datasets: Vec<DatasetBrief>,
    /// Notes on the whole decision: reasons without a dataset, warnings, and the next steps if it is inconclusive.
    pub notes: Vec<String>,
}

/// The decision on one dataset, as a page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetBrief {
    /// Its name.
    pub dataset: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Images in the decision that are scored in both runs.
    pub n_scored: usize,
    /// The reasons, on one line.
    pub why: String,
}

/// Returns `decision` for the top of a page.
pub fn decision_brief(decision: &Decision) -> DecisionBrief {
    let datasets = decision.datasets.iter().map(|dataset| DatasetBrief {
        dataset: dataset.dataset.clone(),
        verdict: dataset.decision,
        n_scored: dataset.n_pairs.saturating_sub(dataset.n_unscored),
        why: why(dataset),
    });
    DecisionBrief {
        verdict: decision.decision,
        headline: headline(decision).to_owned(),
        datasets: datasets.collect(),
        notes: notes(decision),
    }
}

fn notes(decision: &Decision) -> Vec<String> {
    let reasons = decision.reasons.iter().filter(|reason| reason.dataset.is_none()).map(sentence);
    let warnings = decision.warnings.iter().map(|warning| format!("warning: {warning}"));
    // After a fail, this page is the next step.
    let is_open = decision.decision == Verdict::Inconclusive;
    let next = decision.next.iter().filter(|_| is_open).map(|step| match &step.command {
        Some(command) => format!("next: {}: {command}", step.message),
        None => format!("next: {}", step.message),
    });
    reasons.chain(warnings).chain(next).collect()
}

/// Returns `PASS`, `FAIL`, `INCONCLUSIVE` or `not applicable`.
pub fn verdict_name(of: Verdict) -> &'static str {
    verdict(of)
}

/// The class by which a page colours a verdict.
pub fn verdict_class(of: Verdict) -> &'static str {
    match of {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Inconclusive => "inconclusive",
        Verdict::NotApplicable => "apart",
    }
}
