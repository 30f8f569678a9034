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
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::trial;
    use super::*;

    /// A line of the schema `emt.trial/1` as another program may write it.
    const CONTRACT_LINE: &str = concat!(
        r#"{"dataset":"cifar10","split":"test","sample":"cifar10/test/00042","content":"blake3:00","label":"cat","#,
        r#""subject":"model","mode":"generate","prompt":"emt","answer":"a cat.","stop":"eos","#,
        r#""verdicts":[{"judge":"rules","verdict":"correct"},{"judge":"llm","verdict":"correct","reply":"Yes."}],"#,
        r#""outcome":"correct","n_prompt_tokens":137,"n_answer_tokens":4,"logit_gap":3.1}"#
    );

    fn written(trial: &Trial) -> String {
        let mut line = Vec::new();
        write(trial, &mut line).unwrap();
        String::from_utf8(line).unwrap()
    }

    fn chosen(label: &str) -> Response {
        Response::Chosen { label: label.into(), n_prompt_tokens: Some(20) }
    }

    #[test]
    fn the_line_of_the_contract_is_written_as_it_is_read() {
        let trial = parse(CONTRACT_LINE.as_bytes()).unwrap();
        assert_eq!(trial.outcome, Outcome::Correct);
        assert_eq!(trial.verdicts[1].reply.as_deref(), Some("Yes."));
        assert_eq!(written(&trial), format!("{CONTRACT_LINE}\n"));
    }

    #[test]
    fn what_is_not_defined_is_absent() {
        let mut unreadable = trial(0);
        (unreadable.response, unreadable.scores, unreadable.verdicts) = (None, vec![], vec![]);
        unreadable.outcome = Outcome::Unscored(UnscoredReason::ImageUnreadable);
        let line: Value = serde_json::from_str(&written(&unreadable)).unwrap();
        let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        let expected =
            ["dataset", "split", "sample", "content", "label", "subject", "mode", "prompt", "outcome", "reason"];
        assert_eq!(keys, expected);
    }

    #[test]
    fn a_servers_failure_is_a_model_error_that_is_asked_again() {
        let mut failed = trial(0);
        (failed.response, failed.scores, failed.verdicts) = (None, vec![], vec![]);
        failed.outcome = Outcome::Unscored(UnscoredReason::ModelUnreachable);
        let line: Value = serde_json::from_str(&written(&failed)).unwrap();
        assert_eq!((&line["reason"], &line["is_retried"]), (&json!("model_error"), &json!(true)));
        assert_eq!(parse(written(&failed).as_bytes()).unwrap(), failed);
        failed.outcome = Outcome::Unscored(UnscoredReason::ModelError);
        assert!(!written(&failed).contains("is_retried"));
    }

    #[test]
    fn an_encoders_choice_has_scores_and_no_stop() {
        let mut choice = trial(0);
        (choice.response, choice.verdicts) = (Some(chosen("1")), vec![]);
        (choice.subject, choice.mode) = (Subject::Encoder, Mode::ZeroShot);
        choice.scores = vec![ScoredLabel { label: "cat".into(), score: 0.1, share: None }];
        let line: Value = serde_json::from_str(&written(&choice)).unwrap();
        assert_eq!(line["scores"], json!([{ "label": "cat", "score": 0.1 }]));
        assert!(line.get("stop").is_none() && line.get("verdicts").is_none());
        assert_eq!(parse(written(&choice).as_bytes()).unwrap(), choice);
    }

    #[test]
    fn a_scored_choice_has_shares_and_the_choice_without_the_prior() {
        let mut choice = trial(0);
        (choice.mode, choice.response, choice.verdicts) = (Mode::Score, Some(chosen("1")), vec![]);
        choice.scores = vec![ScoredLabel { label: "1".into(), score: -0.5, share: Some(0.75) }];
        choice.prior_corrected = Some(PriorCorrected { answer: "7".into(), is_correct: false });
        let line: Value = serde_json::from_str(&written(&choice)).unwrap();
        assert_eq!(line["scores"], json!([{ "label": "1", "score": -0.5, "share": 0.75 }]));
        assert_eq!(line["prior_corrected"], json!({ "answer": "7", "outcome": "incorrect" }));
        assert_eq!(parse(written(&choice).as_bytes()).unwrap(), choice);
    }

    #[test]
    fn a_probes_choice_has_those_of_fewer_shots_beside() {
        let mut choice = trial(0);
        (choice.response, choice.verdicts) = (Some(chosen("1")), vec![]);
        (choice.subject, choice.mode) = (Subject::Encoder, Mode::Probe);
        choice.prompt = "probe-16".into();
        choice.fewer_shots = vec![FewerShots { shots: 1, answer: "7".into(), is_correct: false }];
        let line: Value = serde_json::from_str(&written(&choice)).unwrap();
        assert_eq!(line["fewer_shots"], json!([{ "shots": 1, "answer": "7", "outcome": "incorrect" }]));
        assert_eq!(parse(written(&choice).as_bytes()).unwrap(), choice);
    }

    #[test]
    fn a_field_of_a_later_version_is_ignored() {
        let mut line: Value = serde_json::from_str(CONTRACT_LINE).unwrap();
        line["a_later_field"] = json!({ "x": 1 });
        assert_eq!(parse(line.to_string().as_bytes()).unwrap(), parse(CONTRACT_LINE.as_bytes()).unwrap());
    }

    #[test]
    fn an_unknown_value_is_named() {
        for (field, value) in [("outcome", "maybe"), ("subject", "judge"), ("mode", "guess"), ("stop", "bored")] {
            let mut line: Value = serde_json::from_str(CONTRACT_LINE).unwrap();
            line[field] = value.into();
            let message = parse(line.to_string().as_bytes()).unwrap_err().to_string();
            assert!(message.contains(value), "{message}");
        }
    }

    #[test]
    fn a_line_that_contradicts_itself_is_refused() {
        let changes = [
            json!({ "code": "wrong" }),
            json!({ "reason": "pending" }),
            json!({ "outcome": "incorrect" }),
            json!({ "outcome": "incorrect", "code": "wrong" }),
            json!({ "outcome": "incorrect", "kind": "incorrect_prediction" }),
            json!({ "outcome": "incorrect", "code": "wrong", "kind": "intrinsic_hallucination" }),
            json!({ "outcome": "incorrect", "code": "wrong", "kind": "incorrect_prediction", "reason": "pending" }),
            json!({ "outcome": "unscored" }),
            json!({ "outcome": "unscored", "reason": "pending", "code": "wrong" }),
            json!({ "answer": null }),
            json!({ "stop": null }),
            json!({ "prior_corrected": { "answer": "cat", "outcome": "unscored" } }),
            json!({ "fewer_shots": [{ "shots": 1, "answer": "cat", "outcome": "unscored" }] }),
            json!({ "verdicts": [{ "judge": "llm" }] }),
            json!({ "verdicts": [{ "judge": "llm", "verdict": "correct", "error": "429" }] }),
        ];
        for change in changes {
            let mut line: Value = serde_json::from_str(CONTRACT_LINE).unwrap();
            line.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let parsed = parse(line.to_string().as_bytes());
            assert!(matches!(parsed, Err(LineError::Contradiction(_))), "{change}");
        }
    }

    #[test]
    fn a_score_that_is_no_number_is_refused_and_an_infinite_gap_is_left_out() {
        let mut broken = trial(0);
        broken.scores = vec![ScoredLabel { label: "cat".into(), score: f32::NAN, share: None }];
        assert!(write(&broken, &mut Vec::new()).is_err());
        let mut lonely = trial(0);
        let Some(Response::Generated(answer)) = &mut lonely.response else { panic!("it was generated") };
        answer.logit_gap = Some(f32::INFINITY);
        assert!(!written(&lonely).contains("logit_gap"));
    }
}
