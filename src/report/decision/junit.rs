//! The decision as JUnit XML: one suite a dataset, one case a rule.

use std::fmt::Write as _;

use super::sentence;
use crate::chart::escape;
use crate::gate::{DatasetDecision, Decision, Reason, ReasonCode, Verdict};

/// The rules, each a case of every dataset, with the reasons that belong to it.
const RULES: [(&str, &[ReasonCode]); 6] = [
    (
        "forgetting",
        &[
            ReasonCode::Forgetting,
            ReasonCode::ForgettingWording,
            ReasonCode::ForgettingChoice,
            ReasonCode::TunedDatasetFell,
            ReasonCode::Underpowered,
            ReasonCode::NearChance,
            ReasonCode::Ignored,
        ],
    ),
    ("pairs", &[ReasonCode::TooFewPairs]),
    ("unscored", &[ReasonCode::TooManyUnscored, ReasonCode::UnscoredCouldDecide]),
    ("judges", &[ReasonCode::GraderDependent, ReasonCode::JudgeError]),
    ("caps", &[ReasonCode::CapExceeded]),
    ("retention", &[ReasonCode::RetentionBelowFloor]),
];

/// JUnit XML. A rule that fails is a failure; one that leaves a dataset undecided is skipped with its message, and so is
/// every case of a dataset to which the question does not apply.
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
        let cases = RULES.map(|(name, codes)| {
            let reasons: Vec<String> =
                dataset.reasons.iter().filter(|reason| codes.contains(&reason.code)).map(sentence).collect();
            let message = reasons.join("; ");
            let result = match (dataset.decision, reasons.is_empty()) {
                (Verdict::NotApplicable, true) => CaseResult::Skipped("not applicable".to_owned()),
                (_, true) => CaseResult::Passed,
                (Verdict::Fail, false) => CaseResult::Failed(message),
                (_, false) => CaseResult::Skipped(message),
            };
            Case { name, result }
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
