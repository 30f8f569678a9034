//! The decision: `emt.decision/1`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::IntoStaticStr;

use crate::compare::Interval;
use crate::domain::CauseShare;

/// The schema that this version writes.
pub const DECISION_SCHEMA: &str = "emt.decision/1";

/// A verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Verdict {
    /// The candidate may be released.
    Pass,
    /// The candidate may not be released.
    Fail,
    /// The evidence decides nothing, for a named reason.
    Inconclusive,
    /// The question does not apply to this dataset.
    NotApplicable,
}

impl Verdict {
    /// The name in the schema.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The exit code of a decision: 0, 1 or 3.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail => 1,
            Self::Inconclusive | Self::NotApplicable => 3,
        }
    }
}

/// Why a verdict was reached; the list is closed in schema 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr, Serialize, Deserialize)]
#[cfg_attr(test, derive(strum::VariantArray))]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ReasonCode {
    /// The fall is shown to be above the margin.
    Forgetting,
    /// More than half of the lost images are right by label scoring.
    ForgettingWording,
    /// More than half of the lost images are known to the encoder and wrong by label scoring.
    ForgettingChoice,
    /// A cap is exceeded beyond its bound.
    CapExceeded,
    /// Retention is below its floor by more than its bound.
    RetentionBelowFloor,
    /// Too few images to show either verdict.
    Underpowered,
    /// Fewer pairs than the policy requires.
    TooFewPairs,
    /// The unscored share of pairs is larger than the policy allows.
    TooManyUnscored,
    /// The unscored trials could change the decision.
    UnscoredCouldDecide,
    /// Judges contradict each other.
    GraderDependent,
    /// The judge's measured error could change the decision.
    JudgeError,
    /// The baseline is near chance on the dataset.
    NearChance,
    /// The policy leaves the dataset out.
    Ignored,
    /// The accuracy on a dataset of the fine-tuning itself fell.
    TunedDatasetFell,
    /// No dataset passed.
    NothingPassed,
}

impl ReasonCode {
    /// The name in the schema.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// A reason, as a code and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The code.
    pub code: ReasonCode,
    /// The sentence.
    pub message: String,
    /// The dataset, in the list of the whole decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
}

/// The whole decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// [`DECISION_SCHEMA`].
    pub schema: String,
    /// Pass, fail or inconclusive.
    pub decision: Verdict,
    /// 0, 1 or 3.
    pub exit_code: u8,
    /// The policy in force.
    pub policy: Value,
    /// `fixed` or `sequential`.
    pub design: String,
    /// The baseline run; the caller sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<RunName>,
    /// The candidate run; the caller sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<RunName>,
    /// The number of this candidate on this test data, from 1, if attempts are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// One entry per dataset, in the baseline's order.
    pub datasets: Vec<DatasetDecision>,
    /// All reasons, each with its dataset.
    pub reasons: Vec<Reason>,
    /// What to do next if it is not a pass; the caller sets it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<NextStep>,
    /// Warnings, which decide nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Fields that differ between the runs and were allowed to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_different: Vec<String>,
}

impl Decision {
    /// Records a doubt about the judge. It turns a pass into inconclusive; a fail stays a fail.
    pub fn doubt_judge(&mut self, message: String) {
        self.reasons.push(Reason { code: ReasonCode::JudgeError, message, dataset: None });
        if self.decision == Verdict::Pass {
            (self.decision, self.exit_code) = (Verdict::Inconclusive, Verdict::Inconclusive.exit_code());
        }
    }
}

/// A run by name and identity, with the trials that it had.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunName {
    /// Its folder's name.
    pub run: String,
    /// `blake3:…`, the hash of its specification.
    pub identity: String,
    /// The number of trials when the decision was made. Decisions of earlier versions lack it and `trials`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_trials: Option<usize>,
    /// `blake3:…`, the hash of its `trials.jsonl` at that time; a run may grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trials: Option<String>,
    /// The identities that it had before it gained modes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_identities: Vec<String>,
    /// The model, independent of how it was evaluated ([`model_key`](crate::compare::model_key)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// For a served model, the log-probabilities of its answer to the probe: a name may refer to another model later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probe_logprobs: Vec<f64>,
}

/// A possible next step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextStep {
    /// Its purpose, as a sentence.
    pub message: String,
    /// The command, quoted for a shell, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// The decision on one dataset.
///
/// Accuracies, forgetting, lost, gained, interval and p values are over the pairs that are scored on both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetDecision {
    /// Its name.
    pub dataset: String,
    /// All pairs.
    pub n_pairs: usize,
    /// Pairs in which either side is unscored.
    pub n_unscored: usize,
    /// Pairs left out because the image is unreadable in both runs.
    pub n_unreadable: usize,
    /// The baseline's accuracy.
    pub baseline_accuracy: Option<f64>,
    /// The candidate's accuracy.
    pub candidate_accuracy: Option<f64>,
    /// Baseline accuracy minus candidate accuracy.
    pub forgetting: Option<f64>,
    /// Tango's interval at `confidence`.
    pub forgetting_interval: Option<Interval>,
    /// The confidence of the interval: 1 - 2 x the level in force.
    pub confidence: f64,
    /// The fall with every unscored trial counted against a fail, then against a pass.
    pub forgetting_bounds: Option<Interval>,
    /// Right before, wrong after.
    pub n_lost: usize,
    /// Wrong before, right after.
    pub n_gained: usize,
    /// Lost images that the encoder still gets right.
    pub encoder_knows: Option<usize>,
    /// The margin in force.
    pub margin: f64,
    /// The p value of "the fall is at least the margin" (Tango): small if a pass is shown.
    pub p_value: Option<f64>,
    /// The p value of "the fall is at most the margin": small if a fail is shown.
    pub p_value_fail: Option<f64>,
    /// McNemar's exact two-sided p value.
    pub p_value_mcnemar: Option<f64>,
    /// The exact unconditional p value of a pass, if the exact test was needed because of few discordant pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_value_exact: Option<f64>,
    /// The exact unconditional p value of a fail, under the same condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_value_fail_exact: Option<f64>,
    /// Pairs needed to show no fall as below the margin with 80% power.
    pub n_needed: Option<usize>,
    /// The number of this look, from 1.
    pub look: usize,
    /// The largest number of looks.
    pub n_looks: usize,
    /// Samples at the last look.
    pub n_max: usize,
    /// The level of a pass at this look.
    pub alpha_look: f64,
    /// The level of a fail at this look.
    pub alpha_look_fail: f64,
    /// The fall corrected for the judge's measured error, as an interval, if a calibration was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected_interval: Option<Interval>,
    /// The verdict.
    pub decision: Verdict,
    /// The reasons for the verdict.
    pub reasons: Vec<Reason>,
    /// Why images were lost, if a diagnosis was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<CauseShare>,
}
