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
    let answer = Answer { text: text.to_owned(), stop, n_prompt_tokens: None, n_answer_tokens: None, logit_gap: None };
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
