//! A judge measured against human marks: `emt.calibration/1`.

use serde::{Deserialize, Serialize};

use super::Interval;
use crate::domain::{ErrorCode, JudgeKind, JudgeSpec, Outcome, RunSpec};
use crate::stats::{JudgeError, JudgedRate, rogan_gladen};

/// The schema that this version writes.
pub const CALIBRATION_SCHEMA: &str = "emt.calibration/1";

/// The parts of a judge that decide verdicts and codes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeIdentity {
    /// `rules`, `llm` or `rules+llm`.
    pub judge: String,
    /// The language model's name, if one judges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The hash of its prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The version of the rules, which always give at least the codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules_version: Option<String>,
}

impl JudgeIdentity {
    /// Returns the identity of a run's judges; the deciding judge is last.
    pub fn of(judges: &[JudgeSpec]) -> Self {
        let rules = judges.iter().find(|judge| judge.judge == JudgeKind::Rules.name());
        let llm = judges.iter().find(|judge| judge.judge != JudgeKind::Rules.name());
        let codes = || Some(llm?.parameters.get("codes")?.as_str()?.to_owned());
        Self {
            judge: judges.iter().map(|judge| judge.judge.as_str()).collect::<Vec<_>>().join("+"),
            model: llm.map(|judge| judge.model.clone()),
            prompt: llm.and_then(|judge| judge.prompt.clone()),
            rules_version: rules.map(|judge| judge.model.clone()).or_else(codes),
        }
    }
}

impl std::fmt::Display for JudgeIdentity {
    /// Writes it as in `rules+llm (model gpt-4o, prompt blake3:…, rules version 1)`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [("model", &self.model), ("prompt", &self.prompt), ("rules version", &self.rules_version)];
        let known: Vec<String> =
            parts.iter().filter_map(|(name, part)| Some(format!("{name} {}", part.as_ref()?))).collect();
        write!(formatter, "{} ({})", self.judge, known.join(", "))
    }
}

/// The calibration is of another judge than the run's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the calibration is for the judge {calibrated}, but the run was judged by {run}; hint: `emt judge calibrate` with \
     the run's judge, or `emt judge score` with the calibrated one"
)]
pub struct OtherJudge {
    /// The calibration's judge.
    pub calibrated: JudgeIdentity,
    /// The run's judge.
    pub run: JudgeIdentity,
}

/// An answer that was marked by people and judged.
#[derive(Clone, Debug, PartialEq)]
pub struct MarkedPair {
    /// The dataset, if the sheet names one.
    pub dataset: Option<String>,
    /// The label's name.
    pub label: String,
    /// The answer, normalised as for judges: equal answers are one pair.
    pub answer: String,
    /// The sheet's own group, if it has one.
    pub group: Option<String>,
    /// The stratum that it was drawn from.
    pub stratum: Option<String>,
    /// Trials of that stratum in the run, if the sheet was drawn from a run of this judge.
    pub n_stratum_trials: Option<usize>,
    /// Pairs drawn from that stratum, if the sheet records it.
    pub n_stratum_drawn: Option<usize>,
    /// Trials that gave this answer to this label.
    pub n_trials: usize,
    /// 1 / (probability of being drawn).
    pub weight: f64,
    /// The human mark; `None` if unmarked.
    pub is_correct: Option<bool>,
    /// The judge's outcome; unscored if the judge failed.
    pub outcome: Outcome,
}

/// How well a judge does on some distinct pairs. Positive means marked correct. Rates are weighted by `weight`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Marked rows.
    pub n: usize,
    /// Distinct pairs among them; every number below counts each once.
    pub n_distinct: usize,
    /// Distinct pairs that are marked correct.
    #[serde(default)]
    pub n_right: usize,
    /// Share of the right answers that the judge calls correct.
    pub sensitivity: Option<f64>,
    /// Its interval, 95% two-sided: Clopper-Pearson over the effective number of pairs.
    pub sensitivity_interval: Option<Interval>,
    /// Share of the wrong answers that the judge calls incorrect.
    pub specificity: Option<f64>,
    /// The interval of the specificity.
    pub specificity_interval: Option<Interval>,
    /// Share of equal verdicts.
    pub agreement: Option<f64>,
    /// Cohen's kappa.
    pub kappa: Option<f64>,
    /// The interval of kappa.
    pub kappa_interval: Option<Interval>,
}

/// What the members of a group in [`Calibration::groups`] share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// The dataset.
    Dataset,
    /// The form of the answer: [`output_style`].
    Style,
    /// The sheet's column `group`, which replaces the style.
    Group,
}

/// A group of the sheet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupMeasured {
    /// Its name.
    pub group: String,
    /// What its members share.
    pub by: GroupBy,
    /// The numbers.
    #[serde(flatten)]
    pub measured: Measured,
}

/// How often the judge errs in one stratum, the basis of a correction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StratumErrors {
    /// The dataset; `None` if the sheet names none, and then it applies to any.
    pub dataset: Option<String>,
    /// The judge's outcome: `correct`, or the code of an incorrect answer.
    pub outcome: String,
    /// The stratum of the sheet, if it has any.
    pub stratum: Option<String>,
    /// Trials that the stratum represents: from the run, or from the weights.
    pub n_trials: f64,
    /// Distinct pairs that people marked.
    pub n_marked: usize,
    /// Marked pairs that contradict the judge.
    pub n_errors: usize,
    /// The estimated share of trials in error, with weights and numbers of trials; `None` without a marked pair.
    pub error_rate: Option<f64>,
    /// The number of trials, marked one by one, that would give the same precision.
    pub n_effective: f64,
}

/// The accuracy of the run that the sheet was drawn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibratedAccuracy {
    /// The dataset.
    pub dataset: String,
    /// Scored trials.
    pub n_scored: usize,
    /// The accuracy according to the judge.
    pub accuracy: f64,
    /// The accuracy according to people, estimated from the marked pairs by double sampling.
    pub corrected_accuracy: f64,
    /// Its interval, 95% two-sided.
    pub corrected_accuracy_interval: Interval,
}

/// A judge measured against people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// [`CALIBRATION_SCHEMA`].
    pub schema: String,
    /// The measured judge.
    pub judge: JudgeIdentity,
    /// The identity of the run that the sheet was drawn from, if it was.
    #[serde(default)]
    pub run: Option<String>,
    /// Measured on the whole sheet.
    #[serde(flatten)]
    pub measured: Measured,
    /// Unmarked rows.
    #[serde(default)]
    pub n_unmarked: usize,
    /// Marked rows on which the judge failed; no other count includes them.
    #[serde(default)]
    pub n_judge_failed: usize,
    /// Distinct pairs marked correct as often as incorrect; no other count includes them.
    #[serde(default)]
    pub n_conflicting: usize,
    /// Measured by dataset, and by output style or the sheet's own groups.
    #[serde(default)]
    pub groups: Vec<GroupMeasured>,
    /// The judge's errors by its outcome.
    #[serde(default)]
    pub strata: Vec<StratumErrors>,
    /// Accuracies by dataset of the run that the sheet was drawn from, if that run's judge was measured.
    #[serde(default)]
    pub accuracies: Vec<CalibratedAccuracy>,
}

impl Calibration {
    /// Refuses a run of other judges.
    ///
    /// # Errors
    /// Name, model, prompt or rules version differs. The error names both judges.
    pub fn check(&self, spec: &RunSpec) -> Result<(), Box<OtherJudge>> {
        let run = JudgeIdentity::of(&spec.judges);
        if run == self.judge { Ok(()) } else { Err(Box::new(OtherJudge { calibrated: self.judge.clone(), run })) }
    }

    /// Returns the accuracy by human standards if the judge calls `n_correct` of `n_scored` answers correct, after
    /// Rogan and Gladen. Sensitivity and specificity are those of the dataset's pairs, or of all pairs if the sheet
    /// names no datasets.
    ///
    /// It is meant for sheets from elsewhere; with a sheet of the run itself,
    /// [`corrected_accuracy`](super::corrected_accuracy) uses more information. `None` if the marks do not cover the
    /// dataset, or if sensitivity and specificity sum to 1.1 or less.
    pub fn rogan_gladen(
        &self,
        dataset: &str,
        n_correct: usize,
        n_scored: usize,
        confidence: f64,
    ) -> Option<JudgedRate> {
        let is_of_dataset = |group: &&GroupMeasured| group.by == GroupBy::Dataset;
        let of_dataset = self.groups.iter().filter(is_of_dataset).find(|group| group.group == dataset);
        let measured = match of_dataset {
            Some(group) => &group.measured,
            None if !self.groups.iter().any(|group| group.by == GroupBy::Dataset) => &self.measured,
            None => return None,
        };
        let (n_right, n_wrong) = (measured.n_right, measured.n_distinct.saturating_sub(measured.n_right));
        let of = |rate: f64, n: usize| (rate * n as f64).round() as usize;
        let error = JudgeError {
            n_right,
            n_right_accepted: of(measured.sensitivity?, n_right),
            n_wrong,
            n_wrong_rejected: of(measured.specificity?, n_wrong),
        };
        rogan_gladen(n_correct, n_scored, error, confidence)
    }
}

/// Returns the form of an answer, on which the strictness of judges depends.
pub fn output_style(answer: &str, outcome: Outcome) -> &'static str {
    match (answer.split_whitespace().count(), outcome) {
        (0, _) => "empty",
        (_, Outcome::Incorrect(ErrorCode::Multi | ErrorCode::Echo)) => "several labels",
        (1, _) => "one word",
        (2 | 3, _) => "phrase",
        _ => "sentence",
    }
}

/// Returns the name of an outcome in [`StratumErrors::outcome`]; `None` for an unscored trial.
pub(super) fn outcome_name(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Correct => Some("correct"),
        Outcome::Incorrect(code) => Some(code.name()),
        Outcome::Unscored(_) => None,
    }
}

#[cfg(test)]
mod tests;
