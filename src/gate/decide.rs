//! Decides on finished runs, and combines the decisions on datasets into one.

use super::evidence::margin_in_force;
use super::family::{Member, Settled, settle};
use super::sequence::{Look, Spending};
use super::{DECISION_SCHEMA, Decision, Policy, Reason, ReasonCode, Verdict};
use crate::compare::{CandidateComparison, Interval};

/// The fall of a dataset corrected for the judge's measured error, as an interval at a confidence; `None` if the error
/// was not measured.
pub type Corrections<'a> = &'a dyn Fn(&str, f64) -> Option<Interval>;

/// The judge's error was not measured.
pub fn no_corrections(_: &str, _: f64) -> Option<Interval> {
    None
}

/// Decides on finished runs, with one look at all pairs.
pub fn decide(policy: &Policy, comparison: &CandidateComparison, corrections: Corrections<'_>) -> Decision {
    let looks: Vec<Look> = comparison.datasets.iter().map(|dataset| Look::fixed(dataset.n_pairs)).collect();
    let spending = Spending::default();
    let members: Vec<Member> = comparison
        .datasets
        .iter()
        .zip(&looks)
        .map(|(dataset, look)| {
            let policy = policy.of(&dataset.dataset);
            let margin = margin_in_force(policy, &dataset.table, dataset.n_classes);
            Member { comparison: dataset, policy, margin, look, spending: &spending }
        })
        .collect();
    let n_family = members.iter().filter(|member| member.is_tested()).count();
    let settled = settle(&members, n_family, 0, corrections);
    assemble(policy, "fixed", settled.iter())
}

/// Combines the datasets' decisions. Any fail is a fail. Otherwise any inconclusive dataset, or the lack of a pass, is
/// inconclusive. Otherwise it is a pass.
pub(super) fn assemble<'a>(policy: &Policy, design: &str, settled: impl Iterator<Item = &'a Settled>) -> Decision {
    let settled: Vec<&Settled> = settled.collect();
    let datasets: Vec<_> = settled.iter().map(|settled| settled.decision.clone()).collect();
    let any = |verdict| datasets.iter().any(|dataset| dataset.decision == verdict);
    let mut reasons: Vec<Reason> = datasets
        .iter()
        .flat_map(|dataset| {
            let name = &dataset.dataset;
            dataset.reasons.iter().map(|reason| Reason { dataset: Some(name.clone()), ..reason.clone() })
        })
        .collect();
    let decision = match () {
        () if any(Verdict::Fail) => Verdict::Fail,
        () if any(Verdict::Inconclusive) => Verdict::Inconclusive,
        () if any(Verdict::Pass) => Verdict::Pass,
        () => {
            let message = "no dataset passed: none of them is informative".to_owned();
            reasons.push(Reason { code: ReasonCode::NothingPassed, message, dataset: None });
            Verdict::Inconclusive
        }
    };
    let warnings = settled
        .iter()
        .flat_map(|settled| settled.warnings.iter().map(|warning| format!("{}: {warning}", settled.decision.dataset)));
    Decision {
        schema: DECISION_SCHEMA.to_owned(),
        decision,
        exit_code: decision.exit_code(),
        policy: policy.to_json(),
        design: design.to_owned(),
        baseline: None,
        candidate: None,
        attempt: None,
        warnings: warnings.collect(),
        datasets,
        reasons,
        next: Vec::new(),
        allowed_different: Vec::new(),
    }
}
