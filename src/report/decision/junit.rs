//! The decision as JUnit XML: one suite per dataset, one case per rule.

use std::fmt::Write as _;

use strum::{EnumCount, IntoStaticStr, VariantArray};

use super::{causes, sentence};
use crate::chart::escape;
use crate::gate::{DatasetDecision, Decision, Reason, ReasonCode, Verdict};

/// A rule; every dataset has one case per rule.
#[derive(Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
enum Rule {
    Forgetting,
    Pairs,
    Unscored,
    Judges,
    Caps,
    Retention,
}

impl Rule {
    const ALL: [Self; Self::COUNT] = *Self::VARIANTS.first_chunk().unwrap();

    /// Returns the rule whose case shows a reason.
    fn of(code: ReasonCode) -> Self {
        match code {
            ReasonCode::Forgetting
            | ReasonCode::ForgettingWording
            | ReasonCode::ForgettingChoice
            | ReasonCode::TunedDatasetFell
            | ReasonCode::Underpowered
            | ReasonCode::NearChance
            | ReasonCode::Ignored
            // A reason of the whole decision only; for a dataset it would mean that there is nothing to decide from.
            | ReasonCode::NothingPassed => Self::Forgetting,
            ReasonCode::TooFewPairs => Self::Pairs,
            ReasonCode::TooManyUnscored | ReasonCode::UnscoredCouldDecide => Self::Unscored,
            ReasonCode::GraderDependent | ReasonCode::JudgeError => Self::Judges,
            ReasonCode::CapExceeded => Self::Caps,
            ReasonCode::RetentionBelowFloor => Self::Retention,
        }
    }
}

/// Returns the decision as JUnit XML. A rule that fails is a failure. A rule that leaves a dataset undecided is skipped
/// with its message, as is every case of a dataset to which the question does not apply.
pub fn junit(decision: &Decision) -> String {
    let suites: Vec<Suite> = decision.datasets.iter().map(Suite::of).collect();
    let count = |of: fn(&Suite) -> usize| suites.iter().map(of).sum::<usize>();
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        text,
        r#"<testsuites name="emt gate" tests="{}" failures="{}" skipped="{}" errors="0">"#,
        count(|suite| suite.cases.len()) + 1,
        count(Suite::n_failed) + usize::from(decision.decision == Verdict::Fail),
        count(Suite::n_skipped) + usize::from(decision.decision == Verdict::Inconclusive),
    );
    suites.iter().for_each(|suite| suite.write(&mut text));
    let whole = Suite {
        name: "all datasets".to_owned(),
        cases: vec![Case { name: "decision", result: whole_result(decision) }],
    };
    whole.write(&mut text);
    text.push_str("</testsuites>\n");
    text
}

fn whole_result(decision: &Decision) -> CaseResult {
    let message =
        || decision.reasons.iter().map(|reason| of_dataset(reason, sentence(reason))).collect::<Vec<_>>().join("; ");
    match decision.decision {
        Verdict::Pass => CaseResult::Passed,
        Verdict::Fail => CaseResult::Failed(message()),
        Verdict::Inconclusive | Verdict::NotApplicable => CaseResult::Skipped(message()),
    }
}

fn of_dataset(reason: &Reason, sentence: String) -> String {
    reason.dataset.as_ref().map(|dataset| format!("{dataset}: {sentence}")).unwrap_or(sentence)
}

struct Suite {
    name: String,
    cases: Vec<Case>,
}

struct Case {
    name: &'static str,
    result: CaseResult,
}

enum CaseResult {
    Passed,
    Failed(String),
    Skipped(String),
}

impl Suite {
    fn of(dataset: &DatasetDecision) -> Self {
        let mut causes = causes(dataset);
        let cases = Rule::ALL.map(|rule| {
            let mut reasons: Vec<String> =
                dataset.reasons.iter().filter(|reason| Rule::of(reason.code) == rule).map(sentence).collect();
            // The first case that says something also says why images were lost.
            if !reasons.is_empty() {
                reasons.append(&mut causes);
            }
            let message = reasons.join("; ");
            let result = match (dataset.decision, reasons.is_empty()) {
                (Verdict::NotApplicable, true) => CaseResult::Skipped("not applicable".to_owned()),
                (_, true) => CaseResult::Passed,
                (Verdict::Fail, false) => CaseResult::Failed(message),
                (_, false) => CaseResult::Skipped(message),
            };
            Case { name: rule.into(), result }
        });
        Self { name: dataset.dataset.clone(), cases: cases.into() }
    }

    fn n_failed(&self) -> usize {
        self.cases.iter().filter(|case| matches!(case.result, CaseResult::Failed(_))).count()
    }

    fn n_skipped(&self) -> usize {
        self.cases.iter().filter(|case| matches!(case.result, CaseResult::Skipped(_))).count()
    }

    fn write(&self, text: &mut String) {
        let name = escape(&self.name);
        let _ = writeln!(
            text,
            r#"  <testsuite name="{name}" tests="{}" failures="{}" skipped="{}" errors="0">"#,
            self.cases.len(),
            self.n_failed(),
            self.n_skipped()
        );
        for case in &self.cases {
            let _ = write!(text, r#"    <testcase classname="{name}" name="{}""#, case.name);
            let _ = match &case.result {
                CaseResult::Passed => writeln!(text, "/>"),
                CaseResult::Failed(message) => {
                    let message = escape(message);
                    writeln!(text, r#"><failure message="{message}">{message}</failure></testcase>"#)
                }
                CaseResult::Skipped(message) => {
                    writeln!(text, r#"><skipped message="{}"/></testcase>"#, escape(message))
                }
            };
        }
        text.push_str("  </testsuite>\n");
    }
}

#[cfg(test)]
mod tests;
