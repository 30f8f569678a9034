//! Tests of `sampling`.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::domain::{
    Answer, AnswerType, Computing, DatasetSpec, ErrorCode, JudgeSpec, Label, ModelSpec, Response, Stop, UnscoredReason,
};

fn spec() -> RunSpec {
    let animals = DatasetSpec {
        dataset: "animals".into(),
        split: "test".into(),
        is_training_split: false,
        label_set: "blake3:l".into(),
        labels: ["cat", "dog"].map(Label::named).into(),
        answer_type: AnswerType::Object,
        exif: None,
        prompts: Vec::new(),
    };
    let model = ModelSpec {
        name: "tiny".into(),
        family: "llava".into(),
        weights: Some("blake3:w".into()),
        adapter: None,
        merged: false,
        tokenizer: Some("blake3:t".into()),
        chat_template: Some("blake3:c".into()),
        preprocessing: serde_json::Value::Null,
        settings: None,
        own_settings: None,
        generation_config: serde_json::Value::Null,
        served: None,
        part: None,
    };
    let rules =
        JudgeSpec { judge: "rules".into(), model: "1".into(), prompt: None, parameters: serde_json::Value::Null };
    RunSpec {
        model,
        encoder: None,
        probe: None,
        datasets: vec![animals],
        sample_seed: 0,
        modes: vec![Mode::Generate],
        max_new_tokens: 32,
        computing: Computing::Local { compute_type: "f32".into(), device_kind: "cpu".into() },
        judges: vec![rules],
        label_scoring_version: 1,
        tuned_on: BTreeMap::new(),
    }
}

fn trial(label: &str, text: &str, outcome: Outcome) -> Trial {
    let answer =
        Answer { text: text.into(), stop: Stop::Eos, n_prompt_tokens: None, n_answer_tokens: None, logit_gap: None };
    Trial {
        dataset: "animals".into(),
        split: "test".into(),
        sample: "animals/test/0".into(),
        content: "blake3:c".into(),
        label: label.into(),
        subject: Subject::Model,
        mode: Mode::Generate,
        prompt: "emt".into(),
        response: Some(Response::Generated(answer)),
        thought: None,
        scores: Vec::new(),
        prior_corrected: None,
        fewer_shots: Vec::new(),
        verdicts: Vec::new(),
        outcome,
    }
}

/// 400 right answers, of which 300 are equal, 200 distinct wrong ones, and 4 empty ones.
fn trials() -> Vec<Trial> {
    let right = (0..400).map(|i| trial("cat", &format!("a {} cat", i.max(300)), Outcome::Correct));
    let wrong = (0..200).map(|i| trial("cat", &format!("dog {i}"), Outcome::Incorrect(ErrorCode::Wrong)));
    let empty = (0..4).map(|_| trial("dog", " ", Outcome::Incorrect(ErrorCode::Empty)));
    right.chain(wrong).chain(empty).collect()
}

fn draw(trials: &[Trial], n: usize, seed: u64) -> Sheet {
    draw_sheet(&spec(), "blake3:r", trials, n, seed)
}

fn of_stratum<'a>(sheet: &'a Sheet, name: &str) -> Vec<&'a SheetRow> {
    sheet.rows.iter().filter(|row| row.stratum.as_deref() == Some(name)).collect()
}

#[test]
fn strata_are_drawn_in_proportion_with_a_minimum() {
    let sheet = draw(&trials(), 100, 0);
    assert_eq!(sheet.rows.len(), 100);
    let frequent = of_stratum(&sheet, "correct/frequent");
    assert_eq!((frequent.len(), frequent[0].n_trials, frequent[0].weight), (1, 301, 1.0));
    let empty = of_stratum(&sheet, "incorrect/empty");
    assert_eq!((empty.len(), empty[0].n_trials, empty[0].answer.as_str(), empty[0].weight), (1, 4, "", 1.0));
    let (right, wrong) = (of_stratum(&sheet, "correct"), of_stratum(&sheet, "incorrect/wrong"));
    // 79 beyond the minima of 10, 10 and 1, shared as 400 to 200.
    assert_eq!((right.len(), wrong.len()), (10 + 53 - 1, 10 + 26));
    assert!(right.iter().all(|row| (row.n_stratum_trials, row.n_stratum_drawn) == (Some(99), Some(62))));
    assert!(wrong.iter().all(|row| row.n_stratum_trials == Some(200) && row.weight == wrong[0].weight));
    // A very small and a very large `n`.
    assert_eq!(draw(&trials(), 1, 0).rows.len(), 21);
    let all = draw(&trials(), 10_000, 0);
    assert!(all.rows.len() == 301 && all.rows.iter().all(|row| row.weight == 1.0));
}

#[test]
fn weights_times_trials_add_up_to_all_trials_on_average() {
    let mut trials = trials();
    // Adds an uneven tail.
    trials.extend((0..240).map(|i: usize| trial("dog", &format!("{}", i.isqrt()), Outcome::Correct)));
    let (mut sums, mut counts) = (Vec::new(), Vec::new());
    for seed in 0..600 {
        let sheet = draw(&trials, 60, seed);
        let right = sheet.rows.iter().filter(|row| row.outcome == Some(Outcome::Correct));
        sums.push(right.clone().map(|row| row.weight * row.n_trials as f64).sum::<f64>());
        counts.push(right.map(|row| row.weight).sum::<f64>());
    }
    for (found, expected) in [(sums, 640.0), (counts, 116.0)] {
        let mean = found.iter().sum::<f64>() / 600.0;
        let error = (found.iter().map(|sum| (sum - mean).powi(2)).sum::<f64>()).sqrt() / 600.0;
        assert!((mean - expected).abs() < 4.0 * error, "{mean} +- {error}, and not {expected}");
    }
}

#[test]
fn trials_without_an_outcome_and_of_others_are_no_part_of_it() {
    let mut encoder = trial("cat", "cat", Outcome::Correct);
    encoder.subject = Subject::Encoder;
    let mut scored = trial("cat", "cat", Outcome::Correct);
    scored.mode = Mode::Score;
    let unscored = trial("cat", "cat", Outcome::Unscored(UnscoredReason::JudgeFailed));
    assert!(draw(&[encoder, scored, unscored], 10, 0).rows.is_empty());
}

#[test]
fn equally_frequent_pairs_are_drawn_equally_often() {
    let trials = trials();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..400 {
        for row in of_stratum(&draw(&trials, 60, seed), "incorrect/wrong") {
            *counts.entry(row.answer.clone()).or_default() += 1;
        }
    }
    let n_drawn = of_stratum(&draw(&trials, 60, 0), "incorrect/wrong").len();
    let (mean, n) = (400.0 * n_drawn as f64 / 200.0, counts.len());
    let chi2: f64 = counts.values().map(|&count| (count as f64 - mean).powi(2) / mean).sum();
    // 199 degrees of freedom, minus some for draws without replacement.
    assert!(n == 200 && chi2 < 270.0, "{chi2}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_smaller_sheet_is_a_part_of_a_larger_one(n in 1_usize..300, more in 0_usize..60, seed: u64) {
        let trials = trials();
        let keys = |sheet: &Sheet| -> BTreeSet<String> {
            sheet.rows.iter().map(|row| format!("{}|{}", row.label, row.answer)).collect()
        };
        let (small, large) = (draw(&trials, n, seed), draw(&trials, n + more, seed));
        prop_assert!(keys(&small).is_subset(&keys(&large)));
        let mut turned = trials.clone();
        turned.reverse();
        prop_assert_eq!(draw(&turned, n, seed), small);
    }
}
