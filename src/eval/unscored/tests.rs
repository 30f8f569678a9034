use super::*;

fn trial(mode: Mode, outcome: Outcome) -> Trial {
    Trial {
        dataset: "mnist".into(),
        split: "test".into(),
        sample: "mnist/test/00000".into(),
        content: "blake3:0".into(),
        label: "7".into(),
        subject: Subject::Model,
        mode,
        prompt: "emt".into(),
        response: None,
        thought: None,
        scores: Vec::new(),
        fewer_shots: Vec::new(),
        prior_corrected: None,
        verdicts: Vec::new(),
        outcome,
    }
}

#[test]
fn unscored_shares_are_by_mode() {
    let good = trial(Mode::Generate, Outcome::Correct);
    let failed = trial(Mode::Score, Outcome::Unscored(UnscoredReason::ModelError));
    let unscored = largest_unscored_share(&[good.clone(), good.clone(), good, failed]).unwrap();
    assert_eq!((unscored.mode, unscored.share), (Mode::Score, 1.0));
}
