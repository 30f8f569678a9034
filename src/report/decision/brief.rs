//! A decision as the head of a page.

use super::{headline, sentence, verdict, why};
use crate::gate::{Decision, Verdict};

/// What a page says of a decision: the verdict, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionBrief {
    /// What was decided.
    pub verdict: Verdict,
    /// The decision in one sentence.
    pub headline: String,
    /// Of each dataset, what was decided, over how many images, and why.
    pub datasets: Vec<DatasetBrief>,
    /// What holds for the whole decision: reasons of no one dataset, warnings, and what to do where nothing is decided.
    pub notes: Vec<String>,
}

/// What a page says of the decision on one dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetBrief {
    /// Its name.
    pub dataset: String,
    /// What was decided.
    pub verdict: Verdict,
    /// Images that are scored in both runs and were looked at.
    pub n_scored: usize,
    /// The reasons, in one line.
    pub why: String,
}

/// `decision` as the head of a page.
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
    // After a fail the next step is this page.
    let is_open = decision.decision == Verdict::Inconclusive;
    let next = decision.next.iter().filter(|_| is_open).map(|step| match &step.command {
        Some(command) => format!("next: {}: {command}", step.message),
        None => format!("next: {}", step.message),
    });
    reasons.chain(warnings).chain(next).collect()
}

/// `PASS`, `FAIL`, `INCONCLUSIVE` or `not applicable`.
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
