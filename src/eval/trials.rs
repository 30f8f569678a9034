//! Turns answers into trials.

use crate::dataset::Dataset;
use crate::domain::{
    ErrorCode, Mode, Outcome, PriorCorrected, Response, ScoredLabel, SplitReply, Stop, Subject, Trial, UnscoredReason,
};
use crate::model::run::subjects::LabelChoice;
use crate::taxonomy::is_same_name;

/// The prompt's name in an encoder's trials.
pub(super) const CAPTION: &str = "caption";

pub(super) const GENERATED: (Subject, Mode) = (Subject::Model, Mode::Generate);
pub(super) const SCORED: (Subject, Mode) = (Subject::Model, Mode::Score);
pub(super) const ZERO_SHOT: (Subject, Mode) = (Subject::Encoder, Mode::ZeroShot);
pub(super) const PROBED: (Subject, Mode) = (Subject::Encoder, Mode::Probe);

/// A trial without an answer or outcome.
pub(super) fn trial(
    dataset: &Dataset,
    position: usize,
    content: &str,
    (subject, mode): (Subject, Mode),
    prompt: &str,
) -> Trial {
    let sample = &dataset.samples[position];
    Trial {
        dataset: dataset.name.clone(),
        split: dataset.split.clone(),
        sample: sample.id.clone(),
        content: content.to_owned(),
        label: dataset.labels.labels()[sample.label].name.clone(),
        subject,
        mode,
        prompt: prompt.to_owned(),
        response: None,
        thought: None,
        scores: Vec::new(),
        prior_corrected: None,
        fewer_shots: Vec::new(),
        verdicts: Vec::new(),
        outcome: Outcome::Unscored(UnscoredReason::Pending),
    }
}

/// Splits the model's thought from its answer. The trial is unscored if the thought was cut off, or if the token limit
/// left no room for an answer.
pub(super) fn thought_apart(mut trial: Trial) -> Trial {
    let mut answer = match trial.response.take() {
        Some(Response::Generated(answer)) => answer,
        other => return Trial { response: other, ..trial },
    };
    let split = SplitReply::new(&answer.text, false);
    let is_cut = |said: &str| answer.stop == Stop::Length && said.is_empty();
    match (split.thought, split.answer) {
        (None, _) => trial.response = Some(Response::Generated(answer)),
        (Some(thought), Some(said)) if !is_cut(&said) => {
            answer.text = said;
            (trial.response, trial.thought) = (Some(Response::Generated(answer)), Some(thought));
        }
        (Some(thought), _) => {
            trial.thought = Some(thought);
            trial.outcome = Outcome::Unscored(UnscoredReason::ThoughtCutOff);
        }
    }
    trial
}

/// The trial of the model's choice among the labels.
pub(super) fn scored_trial(trial: Trial, choice: std::result::Result<LabelChoice, String>) -> Trial {
    let Ok(LabelChoice { scores, prior_corrected, n_prompt_tokens }) = choice else {
        return Trial { outcome: Outcome::Unscored(UnscoredReason::ModelError), ..trial };
    };
    let corrected =
        prior_corrected.map(|answer| PriorCorrected { is_correct: is_same_name(&answer, &trial.label), answer });
    Trial { prior_corrected: corrected, ..chosen(trial, scores, Some(n_prompt_tokens as u32)) }
}

/// The trial of a label that the server chose under a constraint.
pub(super) fn held_trial(trial: Trial, label: String, n_prompt_tokens: Option<u32>) -> Trial {
    let outcome =
        if is_same_name(&label, &trial.label) { Outcome::Correct } else { Outcome::Incorrect(ErrorCode::Wrong) };
    Trial { response: Some(Response::Chosen { label, n_prompt_tokens }), outcome, ..trial }
}

/// `trial` with the best label of `scores` as its response to a prompt of `n_prompt_tokens`, and the resulting outcome.
pub(super) fn chosen(trial: Trial, scores: Vec<ScoredLabel>, n_prompt_tokens: Option<u32>) -> Trial {
    let Some(best) = scores.first().filter(|best| best.score.is_finite()) else {
        return Trial { outcome: Outcome::Unscored(UnscoredReason::ModelError), ..trial };
    };
    let outcome =
        if is_same_name(&best.label, &trial.label) { Outcome::Correct } else { Outcome::Incorrect(ErrorCode::Wrong) };
    let response = Response::Chosen { label: best.label.clone(), n_prompt_tokens };
    Trial { response: Some(response), scores, outcome, ..trial }
}

#[cfg(test)]
mod tests;
