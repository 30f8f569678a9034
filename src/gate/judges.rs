//! Whether the decision depends on the judge rather than on the model.

use super::evidence::{shows_fail, shows_pass};
use super::{DatasetPolicy, JudgesMustAgree};
use crate::compare::DatasetComparison;
use crate::stats::mcnemar_mid_p;

/// If judges are required to agree, at least two must have judged this share of the pairs.
const SHARE_REQUIRED: f64 = 0.95;

/// The levels in force at a look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Levels {
    /// The level of a pass.
    pub pass: f64,
    /// The level of a fail.
    pub fail: f64,
}

/// Describes how the judges contradict each other; `None` if they do not, or need not agree.
pub(super) fn contradiction(
    comparison: &DatasetComparison,
    policy: &DatasetPolicy,
    margin: f64,
    levels: Levels,
) -> Option<String> {
    if policy.judges_must_agree == JudgesMustAgree::No {
        return None;
    }
    let judges: Vec<_> = comparison.judges.iter().filter(|judge| judge.table.n_scored() > 0).collect();
    for first in &judges {
        for second in &judges {
            let (one, other) = (first.table.scored(), second.table.scored());
            let (fall, other_fall) = (first.forgetting?, second.forgetting?);
            let has_other_sign = fall * other_fall < 0.0;
            if has_other_sign && mcnemar_mid_p(one) < 2.0 * policy.level() {
                return Some(format!(
                    "judged by `{}` the accuracy changes by {:+.1} points, by `{}` by {:+.1}",
                    first.judge,
                    -fall * 100.0,
                    second.judge,
                    -other_fall * 100.0
                ));
            }
            if shows_pass(one, margin, levels.pass) && shows_fail(other, margin, levels.fail) {
                return Some(format!("`{}` alone would pass and `{}` alone would fail", first.judge, second.judge));
            }
        }
    }
    let is_required = policy.judges_must_agree == JudgesMustAgree::Required;
    let n_both = comparison.n_pairs_of_all_judges;
    if is_required && (n_both as f64) < SHARE_REQUIRED * comparison.n_pairs as f64 {
        return Some(format!(
            "two judges are required, but only {n_both} of {} pairs have the verdicts of both",
            comparison.n_pairs
        ));
    }
    None
}
