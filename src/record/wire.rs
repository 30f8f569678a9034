//! The form of a trial as a line of `trials.jsonl`.

use serde::{Deserialize, Serialize};

use crate::domain::{
    Answer, ErrorCode, ErrorKind, FewerShots, JudgeVerdict, Judgement, Mode, Outcome, PriorCorrected, Response,
    ScoredLabel, Stop, Subject, Trial, UnscoredReason,
};

/// Why a line is not a trial.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    /// Not JSON, or truncated JSON.
    #[error("{0}")]
    NotJson(serde_json::Error),
    /// JSON, but a field is missing or a value is unknown.
    #[error("{0}")]
    NotATrial(serde_json::Error),
    /// All fields are present but contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
}

/// Parses `line` into a trial. Unknown fields are ignored, since the schema may grow.
pub(super) fn parse(line: &[u8]) -> Result<Trial, LineError> {
    use serde_json::error::Category;
    let wire: WireTrial = serde_json::from_slice(line).map_err(|error| match error.classify() {
        Category::Data => LineError::NotATrial(error),
        Category::Syntax | Category::Eof | Category::Io => LineError::NotJson(error),
    })?;
    wire.into_trial().map_err(LineError::Contradiction)
}

/// Appends the line of `trial`, with its newline, to `lines`. The error says why it would not read back.
pub(super) fn write(trial: &Trial, lines: &mut Vec<u8>) -> Result<(), &'static str> {
    let wire = WireTrial::from_trial(trial)?;
    serde_json::to_writer(&mut *lines, &wire).expect("a trial is plain data, and memory takes every write");
    lines.push(b'\n');
    Ok(())
}

/// The fields in the order of the schema `emt.trial/1`; undefined values are absent.
#[derive(Serialize, Deserialize)]
struct WireTrial {
    dataset: String,
    split: String,
    sample: String,
    content: String,
    label: String,
    subject: Subject,
    mode: Mode,
    prompt: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    thought: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop: Option<Stop>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scores: Vec<ScoredLabel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prior_corrected: Option<WirePriorCorrected>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fewer_shots: Vec<WireFewerShots>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    verdicts: Vec<WireVerdict>,
    outcome: WireOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<ErrorCode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<ErrorKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<WireReason>,
    /// With the reason `model_error`: the server failed, and asking again may give an answer.
    #[serde(default, skip_serializing_if = "is_false")]
    is_retried: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n_prompt_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n_answer_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    logit_gap: Option<f32>,
}

#[derive(Serialize, Deserialize)]
struct WireVerdict {
    judge: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verdict: Option<Judgement>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct WirePriorCorrected {
    answer: String,
    outcome: WireOutcome,
}

#[derive(Serialize, Deserialize)]
struct WireFewerShots {
    shots: usize,
    answer: String,
    outcome: WireOutcome,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// The reasons of the schema.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireReason {
    Pending,
    ImageUnreadable,
    ModelError,
    ThoughtCutOff,
    JudgeFailed,
    JudgeUnparsable,
    JudgeBudget,
}

impl WireReason {
    fn from_reason(reason: UnscoredReason) -> Self {
        match reason {
            UnscoredReason::Pending => Self::Pending,
            UnscoredReason::ImageUnreadable => Self::ImageUnreadable,
            UnscoredReason::ModelError | UnscoredReason::ModelUnreachable => Self::ModelError,
            UnscoredReason::ThoughtCutOff => Self::ThoughtCutOff,
            UnscoredReason::JudgeFailed => Self::JudgeFailed,
            UnscoredReason::JudgeUnparsable => Self::JudgeUnparsable,
            UnscoredReason::JudgeBudget => Self::JudgeBudget,
        }
    }

    fn into_reason(self, is_retried: bool) -> UnscoredReason {
        match self {
            Self::ModelError if is_retried => UnscoredReason::ModelUnreachable,
            Self::Pending => UnscoredReason::Pending,
            Self::ImageUnreadable => UnscoredReason::ImageUnreadable,
            Self::ModelError => UnscoredReason::ModelError,
            Self::ThoughtCutOff => UnscoredReason::ThoughtCutOff,
            Self::JudgeFailed => UnscoredReason::JudgeFailed,
            Self::JudgeUnparsable => UnscoredReason::JudgeUnparsable,
            Self::JudgeBudget => UnscoredReason::JudgeBudget,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireOutcome {
    Correct,
    Incorrect,
    Unscored,
}

impl WireTrial {
    fn from_trial(trial: &Trial) -> Result<Self, &'static str> {
        let is_broken =
            |scored: &ScoredLabel| !scored.score.is_finite() || scored.share.is_some_and(|s| !s.is_finite());
        if trial.scores.iter().any(is_broken) {
            return Err("a label's score is not a finite number");
        }
        let (outcome, code, reason) = match trial.outcome {
            Outcome::Correct => (WireOutcome::Correct, None, None),
            Outcome::Incorrect(code) => (WireOutcome::Incorrect, Some(code), None),
            Outcome::Unscored(reason) => (WireOutcome::Unscored, None, Some(reason)),
        };
        if trial.response.is_none() && reason.is_none() {
            return Err(SCORED_WITHOUT_ANSWER);
        }
        let answer = trial.answer();
        let n_prompt_tokens = match &trial.response {
            Some(Response::Generated(answer)) => answer.n_prompt_tokens,
            Some(Response::Chosen { n_prompt_tokens, .. }) => *n_prompt_tokens,
            None => None,
        };
        Ok(Self {
            dataset: trial.dataset.clone(),
            split: trial.split.clone(),
            sample: trial.sample.clone(),
            content: trial.content.clone(),
            label: trial.label.clone(),
            subject: trial.subject,
            mode: trial.mode,
            prompt: trial.prompt.clone(),
            answer: trial.text().map(str::to_owned),
            thought: trial.thought.clone(),
            // Only generation has a reason to stop; a choice among labels does not.
            stop: answer.map(|answer| answer.stop),
            scores: trial.scores.clone(),
            prior_corrected: trial.prior_corrected.as_ref().map(WirePriorCorrected::from_choice),
            fewer_shots: trial.fewer_shots.iter().map(WireFewerShots::from_choice).collect(),
            verdicts: trial.verdicts.iter().map(WireVerdict::from_verdict).collect(),
            outcome,
            code,
            kind: code.map(ErrorCode::kind),
            reason: reason.map(WireReason::from_reason),
            is_retried: reason == Some(UnscoredReason::ModelUnreachable),
            n_prompt_tokens,
            n_answer_tokens: answer.and_then(|answer| answer.n_answer_tokens),
            // An infinite gap is left out, since JSON cannot express it.
            logit_gap: answer.and_then(|answer| answer.logit_gap).filter(|gap| gap.is_finite()),
        })
    }

    fn into_trial(self) -> Result<Trial, &'static str> {
        let outcome = self.outcome()?;
        let response = match (self.answer, self.mode) {
            (None, _) if !matches!(outcome, Outcome::Unscored(_)) => return Err(SCORED_WITHOUT_ANSWER),
            (None, _) => None,
            (Some(text), Mode::Generate) => Some(Response::Generated(Answer {
                text,
                stop: self.stop.ok_or("a generated answer has no `stop`")?,
                n_prompt_tokens: self.n_prompt_tokens,
                n_answer_tokens: self.n_answer_tokens,
                logit_gap: self.logit_gap,
            })),
            (Some(label), Mode::Score | Mode::ZeroShot | Mode::Probe) => {
                Some(Response::Chosen { label, n_prompt_tokens: self.n_prompt_tokens })
            }
        };
        Ok(Trial {
            dataset: self.dataset,
            split: self.split,
            sample: self.sample,
            content: self.content,
            label: self.label,
            subject: self.subject,
            mode: self.mode,
            prompt: self.prompt,
            response,
            thought: self.thought,
            scores: self.scores,
            prior_corrected: self.prior_corrected.map(WirePriorCorrected::into_choice).transpose()?,
            fewer_shots: self.fewer_shots.into_iter().map(WireFewerShots::into_choice).collect::<Result<_, _>>()?,
            verdicts: self.verdicts.into_iter().map(WireVerdict::into_verdict).collect::<Result<_, _>>()?,
            outcome,
        })
    }

    fn outcome(&self) -> Result<Outcome, &'static str> {
        match (self.outcome, self.code, self.kind, self.reason) {
            (WireOutcome::Correct, None, None, None) => Ok(Outcome::Correct),
            (WireOutcome::Correct, ..) => Err("`outcome` is `correct`, but there is a `code`, `kind` or `reason`"),
            (WireOutcome::Incorrect, _, _, Some(_)) => Err("`outcome` is `incorrect`, but there is a `reason`"),
            (WireOutcome::Incorrect, Some(code), Some(kind), None) if code.kind() == kind => {
                Ok(Outcome::Incorrect(code))
            }
            (WireOutcome::Incorrect, Some(_), Some(_), None) => Err("`code` is not of the `kind` beside it"),
            (WireOutcome::Incorrect, ..) => Err("`outcome` is `incorrect`, but `code` or `kind` is missing"),
            (WireOutcome::Unscored, None, None, Some(reason)) => {
                Ok(Outcome::Unscored(reason.into_reason(self.is_retried)))
            }
            (WireOutcome::Unscored, None, None, None) => Err("`outcome` is `unscored`, but `reason` is missing"),
            (WireOutcome::Unscored, ..) => Err("`outcome` is `unscored`, but there is a `code` or `kind`"),
        }
    }
}

const SCORED_WITHOUT_ANSWER: &str = "`outcome` is `correct` or `incorrect`, but there is no `answer`";

impl WirePriorCorrected {
    fn from_choice(choice: &PriorCorrected) -> Self {
        Self { answer: choice.answer.clone(), outcome: WireOutcome::of_choice(choice.is_correct) }
    }

    fn into_choice(self) -> Result<PriorCorrected, &'static str> {
        let unscored = "`prior_corrected` has an answer, and `outcome` is `unscored`";
        Ok(PriorCorrected { answer: self.answer, is_correct: self.outcome.into_choice().ok_or(unscored)? })
    }
}

impl WireFewerShots {
    fn from_choice(choice: &FewerShots) -> Self {
        let FewerShots { shots, ref answer, is_correct } = *choice;
        Self { shots, answer: answer.clone(), outcome: WireOutcome::of_choice(is_correct) }
    }

    fn into_choice(self) -> Result<FewerShots, &'static str> {
        let unscored = "`fewer_shots` has an answer, and `outcome` is `unscored`";
        let is_correct = self.outcome.into_choice().ok_or(unscored)?;
        Ok(FewerShots { shots: self.shots, answer: self.answer, is_correct })
    }
}

impl WireOutcome {
    fn of_choice(is_correct: bool) -> Self {
        if is_correct { Self::Correct } else { Self::Incorrect }
    }

    /// Whether a choice among labels is right; `None` if it is unscored.
    fn into_choice(self) -> Option<bool> {
        match self {
            Self::Correct => Some(true),
            Self::Incorrect => Some(false),
            Self::Unscored => None,
        }
    }
}

impl WireVerdict {
    fn from_verdict(verdict: &JudgeVerdict) -> Self {
        let (result, error) = match &verdict.result {
            Ok(result) => (Some(*result), None),
            Err(error) => (None, Some(error.clone())),
        };
        Self { judge: verdict.judge.clone(), verdict: result, error, reply: verdict.reply.clone() }
    }

    fn into_verdict(self) -> Result<JudgeVerdict, &'static str> {
        let result = match (self.verdict, self.error) {
            (Some(verdict), None) => Ok(verdict),
            (None, Some(error)) => Err(error),
            (Some(_), Some(_)) => return Err("a judge has both a `verdict` and an `error`"),
            (None, None) => return Err("a judge has neither a `verdict` nor an `error`"),
        };
        Ok(JudgeVerdict { judge: self.judge, result, reply: self.reply })
    }
}

#[cfg(test)]
mod tests;
