//! The decision: `emt.decision/1`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::IntoStaticStr;

use crate::compare::Interval;

/// The schema that this version writes.
pub const DECISION_SCHEMA: &str = "emt.decision/1";

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Verdict {
    /// It may be released.
    Pass,
    /// It may not.
    Fail,
    /// Nothing can be said, for a named reason.
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

/// Why; closed in schema 1.
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
    /// Retention lies below its floor beyond its bound.
    RetentionBelowFloor,
    /// Too few images to show either side.
    Underpowered,
    /// Fewer pairs than the policy wants.
    TooFewPairs,
    /// A larger share of pairs is unscored than the policy lets pass.
    TooManyUnscored,
    /// The unscored trials could turn the decision.
    UnscoredCouldDecide,
    /// Judges contradict each other.
    GraderDependent,
    /// The judge's measured error could turn the decision.
    JudgeError,
    /// The baseline hardly knows the dataset.
    NearChance,
    /// The policy leaves the dataset out.
    Ignored,
    /// The dataset of the fine-tuning itself fell.
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

/// A reason, in a word and in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The word.
    pub code: ReasonCode,
    /// The sentence.
    pub message: String,
    /// In the list of the whole decision: of which dataset.
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
    /// The policy as it was in force.
    pub policy: Value,
    /// `fixed` or `sequential`.
    pub design: String,
    /// Who was compared with whom; set by whoever knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<RunName>,
    /// The same of the candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<RunName>,
    /// Which candidate on this test data it is, from 1, where attempts are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// One entry a dataset, in the baseline's order.
    pub datasets: Vec<DatasetDecision>,
    /// All reasons, each with its dataset.
    pub reasons: Vec<Reason>,
    /// What to do next, where it is no pass; set by whoever knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<NextStep>,
    /// What should be known and decides nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Fields that differ between the runs, and were allowed to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_different: Vec<String>,
}

impl Decision {
    /// A pass that rests on a judge of this doubt is no pass; a fail stays one.
    pub fn doubt_judge(&mut self, message: String) {
        self.reasons.push(Reason { code: ReasonCode::JudgeError, message, dataset: None });
        if self.decision == Verdict::Pass {
            (self.decision, self.exit_code) = (Verdict::Inconclusive, Verdict::Inconclusive.exit_code());
        }
    }
}

/// A run, by name and identity, and the trials that it had.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunName {
    /// Its folder's name.
    pub run: String,
    /// `blake3:…`, the hash of its specification.
    pub identity: String,
    /// Trials that it had when the decision was made; decisions of earlier versions lack it, as the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_trials: Option<usize>,
    /// `blake3:…`, the hash of its `trials.jsonl` then: a run may grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trials: Option<String>,
    /// What it was called before it gained modes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_identities: Vec<String>,
    /// Which model it is of, however that was asked ([`model_key`](crate::compare::model_key)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Of a served model, the log-probabilities of its answer to the probe: a name may stand for another model by now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probe_logprobs: Vec<f64>,
}

/// What a person may do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextStep {
    /// What it is for, in a sentence.
    pub message: String,
    /// The command, quoted for a shell, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// The decision on one dataset.
///
/// Accuracies, forgetting, lost, gained, interval and p values are over the pairs scored on both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetDecision {
    /// Its name.
    pub dataset: String,
    /// All pairs.
    pub n_pairs: usize,
    /// Of them, those with either side unscored.
    pub n_unscored: usize,
    /// Pairs left out because the image is unreadable in both runs.
    pub n_unreadable: usize,
    /// The baseline's.
    pub baseline_accuracy: Option<f64>,
    /// The candidate's.
    pub candidate_accuracy: Option<f64>,
    /// Baseline less candidate accuracy.
    pub forgetting: Option<f64>,
    /// Tango's interval at `confidence`.
    pub forgetting_interval: Option<Interval>,
    /// Of the interval: 1 - 2 x the level in force.
    pub confidence: f64,
    /// The fall with every unscored trial against a fail, then against a pass.
    pub forgetting_bounds: Option<Interval>,
    /// Right before, wrong after.
    pub n_lost: usize,
    /// Wrong before, right after.
    pub n_gained: usize,
    /// Those of the lost that the encoder still gets right.
    pub encoder_knows: Option<usize>,
    /// The margin in force.
    pub margin: f64,
    /// Of "the fall is at least the margin": small where a pass is shown (Tango).
    pub p_value: Option<f64>,
    /// Of "the fall is at most the margin": small where a fail is shown.
    pub p_value_fail: Option<f64>,
    /// McNemar's exact, two-sided.
    pub p_value_mcnemar: Option<f64>,
    /// The exact unconditional p value of a pass, where few discordant pairs made it count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_value_exact: Option<f64>,
    /// The same of a fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_value_fail_exact: Option<f64>,
    /// Pairs that would show no fall as below the margin with 80% power.
    pub n_needed: Option<usize>,
    /// Which look this is, from 1.
    pub look: usize,
    /// Of how many at most.
    pub n_looks: usize,
    /// Samples at the last look.
    pub n_max: usize,
    /// The level of a pass at this look.
    pub alpha_look: f64,
    /// The level of a fail at this look.
    pub alpha_look_fail: f64,
    /// The fall corrected for the judge's measured error, with its interval, where a calibration was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected_interval: Option<Interval>,
    /// What is decided.
    pub decision: Verdict,
    /// Why.
    pub reasons: Vec<Reason>,
}
