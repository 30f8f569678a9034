//! A decision as the head of a page.

use super::{headline, verdict, why};
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
    DecisionBrief { verdict: decision.decision, headline: headline(decision).to_owned(), datasets: datasets.collect() }
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
