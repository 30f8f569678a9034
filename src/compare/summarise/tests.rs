//! Tests of `summarise`.

use proptest::prelude::*;

use super::*;
use crate::compare::testing::{RIGHT, UNREADABLE, WRONG, spec, spec_with_probe, trial};
use crate::domain::{ErrorCode, FewerShots, PriorCorrected, ProbeClassifier};

const INPUT: SummaryInput<'static> = SummaryInput { run: "base", uncertain_share: Some(0.25), server_flips: None };

/// Four cats and a dog, for model and encoder.
fn five_pairs() -> Vec<Trial> {
    let rows = [
        ("cat", "a cat.", RIGHT, RIGHT),
        ("cat", "Cat", RIGHT, WRONG),
        ("cat", "", Outcome::Incorrect(ErrorCode::Empty), RIGHT),
        ("cat", "cat, dog", Outcome::Incorrect(ErrorCode::Multi), UNREADABLE),
        ("dog", "CAT ", WRONG, RIGHT),
    ];
    rows.into_iter()
        .enumerate()
        .flat_map(|(n, (label, answer, model, encoder))| {
            [trial(Subject::Model, n, label, answer, model), trial(Subject::Encoder, n, label, "cat", encoder)]
        })
        .collect()
}

#[test]
fn a_small_run_gives_the_numbers_worked_out_by_hand() {
    let summary = summarise(&INPUT, &spec(true), &five_pairs());
    assert_eq!((summary.schema.as_str(), summary.judge.name.as_str()), ("emt.summary/1", "rules+llm"));
    assert_eq!(summary.encoder.comparator, "zero_shot");
    let cifar10 = &summary.datasets[0];
    assert_eq!((cifar10.n_samples, cifar10.n_classes), (5, 3));
    let model = cifar10.model.as_ref().unwrap();
    assert_eq!((model.n_trials, model.n_correct, model.n_incorrect, model.n_unscored), (5, 2, 3, 0));
    assert_eq!(model.accuracy, Some(0.4));
    // Cats 2 of 4, dogs 0 of 1; there is no frog.
    assert_eq!(model.balanced_accuracy, Some(0.25));
    let kinds = [("extrinsic_hallucination", 1), ("incorrect_prediction", 1), ("intrinsic_hallucination", 1)];
    assert_eq!(model.kinds, kinds.map(|(kind, n)| (kind.to_owned(), n)).into());
    assert_eq!(model.codes, [("empty", 1), ("multi", 1), ("wrong", 1)].map(|(code, n)| (code.to_owned(), n)).into());
    let encoder = cifar10.encoder.as_ref().unwrap();
    assert_eq!(encoder.unscored, [("image_unreadable".to_owned(), 1)].into());
    assert_eq!((encoder.accuracy, encoder.accuracy_bounds), (Some(0.75), Some([0.6, 0.8])));
    let pairs = EncoderPairs { both_correct: 1, only_encoder: 2, only_model: 1, both_wrong: 0, unscored: 1 };
    assert_eq!(cifar10.pairs, Some(pairs));
    // On the four pairs scored on both sides, 2 of 4 over 3 of 4.
    assert_eq!(cifar10.retention, Some(2.0 / 3.0));
    assert_eq!(cifar10.constant_answer, None);
    assert_eq!(summary.datasets[1].model, None);
}

#[test]
fn label_scoring_is_counted_apart_and_so_is_its_choice_without_the_prior() {
    let scored = |n: usize, outcome: Outcome, is_correct: Option<bool>| Trial {
        mode: Mode::Score,
        prior_corrected: is_correct.map(|is_correct| PriorCorrected { answer: "cat".into(), is_correct }),
        ..trial(Subject::Model, n, "cat", "cat", outcome)
    };
    let mut trials = five_pairs();
    trials.extend([
        scored(0, RIGHT, Some(true)),
        scored(1, RIGHT, Some(false)),
        scored(2, WRONG, Some(true)),
        scored(3, UNREADABLE, None),
    ]);
    let summary = summarise(&INPUT, &spec(true), &trials);
    let (generated, scored) = (summary.datasets[0].model.as_ref().unwrap(), &summary.datasets[0].model_score);
    let scored = scored.as_ref().unwrap();
    assert_eq!((generated.n_trials, generated.prior_corrected_accuracy), (5, None));
    assert_eq!(generated.prior_corrected_interval, None);
    assert_eq!((scored.n_trials, scored.n_correct, scored.n_unscored), (4, 2, 1));
    assert_eq!(scored.prior_corrected_accuracy, Some(2.0 / 3.0));
    assert_eq!(scored.prior_corrected_interval, wilson(2, 3, CONFIDENCE));
    assert_eq!(summary.datasets[0].n_samples, 5);
}

#[test]
fn without_an_encoder_what_needs_it_is_none() {
    let trials: Vec<Trial> = five_pairs().into_iter().filter(|trial| trial.subject == Subject::Model).collect();
    let summary = summarise(&INPUT, &spec(false), &trials);
    let cifar10 = &summary.datasets[0];
    assert_eq!((summary.encoder.comparator.as_str(), summary.encoder.tower_equal), ("none", None));
    assert_eq!(
        (&cifar10.encoder, cifar10.retention, cifar10.retention_interval, &cifar10.pairs),
        (&None, None, None, &None)
    );
    assert!(cifar10.model.is_some());
}

#[test]
fn a_probe_is_a_comparator_of_its_own_with_the_accuracies_of_fewer_shots() {
    let mut trials = five_pairs();
    for trial in trials.iter_mut().filter(|trial| trial.subject == Subject::Encoder) {
        trial.mode = Mode::Probe;
        if trial.response.is_some() && !matches!(trial.outcome, Outcome::Unscored(_)) {
            let choice = |shots, is_correct| FewerShots { shots, answer: "cat".into(), is_correct };
            trial.fewer_shots = vec![choice(1, false), choice(5, trial.label == "cat")];
        }
    }
    let summary = summarise(&INPUT, &spec_with_probe(), &trials);
    let heading = &summary.encoder;
    assert_eq!((heading.comparator.as_str(), heading.relation), ("probe", EncoderRelation::Own));
    assert_eq!((heading.tower_equal, &heading.name), (Some(true), &None));
    let probe = ProbeHeading { classifier: ProbeClassifier::NearestMean, shots: vec![2, 16] };
    assert_eq!(heading.probe, Some(probe));
    let encoder = summary.datasets[0].encoder.as_ref().unwrap();
    assert_eq!((encoder.shots, encoder.accuracy), (Some(16), Some(0.75)));
    let fewer: Vec<_> = encoder.fewer_shots.iter().map(|fewer| (fewer.shots, fewer.accuracy)).collect();
    assert_eq!(fewer, [(1, Some(0.0)), (5, Some(0.75))]);
    let zero_shot = summarise(&INPUT, &spec(true), &five_pairs());
    assert_eq!((zero_shot.encoder.probe, &zero_shot.datasets[0].encoder.as_ref().unwrap().shots), (None, &None));
    assert_eq!(summary.datasets[0].retention, zero_shot.datasets[0].retention);
}

#[test]
fn nothing_scored_has_no_accuracy_and_bounds_from_0_to_1() {
    let trials = [trial(Subject::Model, 0, "cat", "cat", Outcome::Unscored(UnscoredReason::Pending))];
    let summary = summarise(&INPUT, &spec(true), &trials);
    let model = summary.datasets[0].model.as_ref().unwrap();
    assert_eq!((model.accuracy, model.accuracy_interval, model.balanced_accuracy), (None, None, None));
    assert_eq!(model.accuracy_bounds, Some([0.0, 1.0]));
}

#[test]
fn an_answer_that_most_images_get_is_named() {
    let answers = ["bird", "Bird.", "bird ", "cat", "dog"];
    let trials: Vec<Trial> =
        answers.iter().enumerate().map(|(n, answer)| trial(Subject::Model, n, "cat", answer, WRONG)).collect();
    let constant = |trials: &[Trial]| summarise(&INPUT, &spec(true), trials).datasets[0].constant_answer.clone();
    assert_eq!(constant(&trials), Some(ConstantAnswer { answer: "bird".into(), share: 0.6 }));
    // Exactly one half is not a majority.
    assert_eq!(constant(&trials[1..]), None);
}

#[test]
fn uncertainty_is_a_share_of_scored_model_answers() {
    let trials = five_pairs();
    let certain = |trial: &Trial| Some(trial.outcome != Outcome::Incorrect(ErrorCode::Multi));
    assert_eq!(uncertain_share(&trials, certain), Some(0.2));
    assert_eq!(uncertain_share(&trials, |_| None), None);
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(RIGHT),
        proptest::sample::select(ErrorCode::ALL.to_vec()).prop_map(Outcome::Incorrect),
        Just(UNREADABLE),
        Just(Outcome::Unscored(UnscoredReason::JudgeFailed)),
    ]
}

/// Trials with duplicate images: `content` repeats, the sample does not.
fn runs() -> impl Strategy<Value = Vec<Trial>> {
    let row = (outcomes(), outcomes(), 0..3_usize, 0..4_usize, any::<bool>());
    proptest::collection::vec(row, 1..25).prop_map(|rows| {
        let mut trials = Vec::new();
        for (n, (model, encoder, label, content, has_encoder)) in rows.into_iter().enumerate() {
            let label = ["cat", "dog", "frog"][label];
            let mut pair = vec![trial(Subject::Model, n, label, label, model)];
            if has_encoder {
                pair.push(trial(Subject::Encoder, n, label, label, encoder));
            }
            pair.iter_mut().for_each(|trial| trial.content = format!("blake3:{content}"));
            trials.extend(pair);
        }
        trials
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counts_add_up_and_bounds_hold_the_accuracy(trials in runs()) {
        let summary = summarise(&INPUT, &spec(true), &trials);
        let cifar10 = &summary.datasets[0];
        for subject in [&cifar10.model, &cifar10.encoder].into_iter().flatten() {
            prop_assert_eq!(subject.n_trials, subject.n_correct + subject.n_incorrect + subject.n_unscored);
            prop_assert_eq!(subject.n_incorrect, subject.kinds.values().sum::<usize>());
            prop_assert_eq!(subject.n_incorrect, subject.codes.values().sum::<usize>());
            prop_assert_eq!(subject.n_unscored, subject.unscored.values().sum::<usize>());
            prop_assert_eq!(subject.kinds.len(), 3);
            let [low, high] = subject.accuracy_bounds.unwrap();
            prop_assert!(0.0 <= low && low <= high && high <= 1.0);
            if let (Some(accuracy), Some(interval)) = (subject.accuracy, subject.accuracy_interval) {
                prop_assert!(low <= accuracy && accuracy <= high);
                prop_assert!(interval[0] <= accuracy && accuracy <= interval[1]);
            }
        }
        if let (Some(pairs), Some(model), Some(encoder)) = (&cifar10.pairs, &cifar10.model, &cifar10.encoder) {
            let n_pairs = pairs.both_correct + pairs.only_encoder + pairs.only_model + pairs.both_wrong + pairs.unscored;
            prop_assert!(n_pairs <= model.n_trials.min(encoder.n_trials));
            prop_assert!(pairs.both_correct + pairs.only_model <= model.n_correct);
        }
    }

    #[test]
    fn the_order_of_trials_does_not_matter(
        (trials, shuffled) in runs().prop_flat_map(|trials| (Just(trials.clone()), Just(trials).prop_shuffle()))
    ) {
        prop_assert_eq!(summarise(&INPUT, &spec(true), &trials), summarise(&INPUT, &spec(true), &shuffled));
    }
}
