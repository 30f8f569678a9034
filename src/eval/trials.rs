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
mod tests {
    use super::*;
    use crate::dataset::{Catalog, DataRoots, OpenRequest, open};
    use crate::domain::Answer;

    fn scored(choice: std::result::Result<LabelChoice, String>) -> Trial {
        let request = OpenRequest { text: "embedded/mnist", split: None, labels_file: None, ..OpenRequest::default() };
        let digits = open(&Catalog::embedded(), &DataRoots::default(), &request).unwrap();
        scored_trial(trial(&digits, 0, "blake3:0", SCORED, "emt"), choice)
    }

    fn choice(answer: &str, prior_corrected: Option<&str>) -> LabelChoice {
        LabelChoice {
            scores: vec![ScoredLabel { label: answer.to_owned(), score: -0.5, share: Some(0.9) }],
            prior_corrected: prior_corrected.map(str::to_owned),
            n_prompt_tokens: 80,
        }
    }

    #[test]
    fn a_choice_is_right_where_it_is_the_label_and_an_error_is_wrong() {
        let label = scored(Err(String::new())).label;
        let right = scored(Ok(choice(&label, Some("none of them"))));
        assert_eq!((right.outcome, right.mode, right.subject), (Outcome::Correct, Mode::Score, Subject::Model));
        assert_eq!(right.prior_corrected.map(|corrected| corrected.is_correct), Some(false));
        assert_eq!(right.response, Some(Response::Chosen { label, n_prompt_tokens: Some(80) }));
        let wrong = scored(Ok(choice("none of them", None)));
        assert_eq!((wrong.outcome, wrong.prior_corrected), (Outcome::Incorrect(ErrorCode::Wrong), None));
    }

    fn answered(text: &str, stop: Stop) -> Trial {
        let answer =
            Answer { text: text.to_owned(), stop, n_prompt_tokens: None, n_answer_tokens: None, logit_gap: None };
        thought_apart(Trial { response: Some(Response::Generated(answer)), ..scored(Err(String::new())) })
    }

    #[test]
    fn a_thought_stands_apart_and_one_that_was_cut_off_leaves_no_answer() {
        let said = answered("<think>a 3?</think>\n7", Stop::Eos);
        assert_eq!((said.text(), said.thought.as_deref()), (Some("7"), Some("<think>a 3?</think>")));
        for text in ["<think>a 7", "<think>a 7</think>\n"] {
            let cut = answered(text, Stop::Length);
            assert_eq!(cut.outcome, Outcome::Unscored(UnscoredReason::ThoughtCutOff), "{text}");
            assert_eq!((cut.response, cut.thought.as_deref()), (None, Some(text.trim())), "{text}");
        }
        // A model that ends by itself and says nothing gave an empty answer.
        assert_eq!(answered("<think>a 7</think>\n", Stop::Eos).text(), Some(""));
        assert_eq!(answered("7", Stop::Length).thought, None);
    }

    #[test]
    fn logits_that_are_no_numbers_leave_a_model_error_and_no_answer() {
        let failed = scored(Err("not finite".to_owned()));
        assert_eq!(failed.outcome, Outcome::Unscored(UnscoredReason::ModelError));
        assert!(failed.response.is_none() && failed.scores.is_empty() && failed.prior_corrected.is_none());
    }
}
