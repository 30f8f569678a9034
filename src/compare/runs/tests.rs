//! Tests of `runs`.

use proptest::prelude::*;

use super::*;
use crate::compare::testing::{RIGHT, UNREADABLE, WRONG, spec, spec_with_probe, trial};
use crate::domain::{ErrorCode, JudgeVerdict, Judgement, ProbeClassifier, Subject, UnscoredReason};

const FAILED: Outcome = Outcome::Unscored(UnscoredReason::JudgeFailed);

fn compared(before: &[Trial], after: &[Trial]) -> DatasetComparison {
    let spec = spec(true);
    let view = |name, trials| RunView { name, identity: name, spec: &spec, trials };
    let candidate = Candidate { run: view("after", after), differences: &[] };
    let tuned_on = BTreeSet::from(["cifar10".to_owned()]);
    let comparison = compare_runs(view("before", before), &[candidate], &tuned_on, &[]);
    comparison.candidates[0].datasets[0].clone()
}

fn scored(n: usize, outcome: Outcome) -> Trial {
    Trial { mode: Mode::Score, ..trial(Subject::Model, n, "cat", "cat", outcome) }
}

/// By image: the model before and after, its label scoring after, the encoder.
fn rows() -> [(Outcome, Outcome, Outcome, Outcome); 7] {
    [
        (RIGHT, Outcome::Incorrect(ErrorCode::Leak), RIGHT, RIGHT),
        (RIGHT, Outcome::Incorrect(ErrorCode::Leak), WRONG, RIGHT),
        (RIGHT, WRONG, WRONG, WRONG),
        (WRONG, RIGHT, RIGHT, RIGHT),
        (RIGHT, RIGHT, RIGHT, RIGHT),
        (FAILED, RIGHT, RIGHT, RIGHT),
        (UNREADABLE, UNREADABLE, UNREADABLE, UNREADABLE),
    ]
}

fn runs() -> (Vec<Trial>, Vec<Trial>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for (n, (was, is, scoring, encoder)) in rows().into_iter().enumerate() {
        let said = if is == RIGHT { "cat" } else { "The object is a 7." };
        before.push(trial(Subject::Model, n, "cat", "cat", was));
        before.push(scored(n, was));
        before.push(trial(Subject::Encoder, n, "cat", "cat", encoder));
        after.push(trial(Subject::Model, n, "cat", said, is));
        after.push(scored(n, scoring));
        after.push(trial(Subject::Encoder, n, "cat", "cat", encoder));
    }
    (before, after)
}

#[test]
fn every_image_is_followed_from_encoder_to_answer() {
    let (before, after) = runs();
    let found = compared(&before, &after);
    assert_eq!((found.n_pairs, found.n_unscored, found.n_unreadable, found.n_unpaired), (6, 1, 1, 0));
    assert_eq!((found.n_lost, found.n_gained, found.forgetting), (3, 1, Some(0.4)));
    assert_eq!((found.encoder_knows, found.negative_flip_rate, found.is_tuned_on), (Some(2), Some(0.6), true));
    let funnel = found.funnel.unwrap();
    assert_eq!((funnel.lost_wording, funnel.lost_choice, funnel.lost_unknown), (1, 1, 1));
    assert_eq!(funnel.after.len(), 8);
    assert_eq!((funnel.after["e1s1g1"], funnel.after["e1s1g0"], funnel.after["e1s0g0"]), (3, 1, 1));
    assert_eq!(funnel.after["e0s0g0"], 1);
    let leaked = &found.transitions[0];
    assert_eq!((leaked.from.as_str(), leaked.to.as_str(), leaked.n), ("correct", "leak", 2));
    assert_eq!(found.transitions.iter().map(|transition| transition.n).sum::<usize>(), 6);
    assert_eq!(found.errors_after.codes["leak"], 2);
    assert_eq!(found.lost.len(), 3);
    assert_eq!(found.lost[1].encoder, Some(("cat".to_owned(), true)));
    let shift = &found.confusion_shifts[0];
    assert_eq!((shift.label.as_str(), shift.said.as_str(), shift.n_after), ("cat", "7", 3));
    let classes: Vec<&str> = found.classes.iter().map(|class| class.label.as_str()).collect();
    assert_eq!(classes, ["cat", "dog", "frog"]);
    // Twice the probability of at most one of four.
    assert!((found.classes[0].p_holm.unwrap() - 0.625).abs() < 1e-12);
    assert_eq!(found.classes[1].p_holm, None);
    // Before: model 4 right of 5 scored, encoder 4. After: model 3 right of 6, encoder 5.
    assert_eq!(found.retention_before, Some(1.0));
    assert_eq!(found.retention_after, Some(0.6));
}

#[test]
fn probes_on_both_towers_tell_what_the_tower_itself_forgot() {
    let (mut before, mut after) = runs();
    for trial in before.iter_mut().chain(&mut after).filter(|trial| trial.subject == Subject::Encoder) {
        trial.mode = Mode::Probe;
    }
    let is_of_0 = |trial: &&mut Trial| trial.subject == Subject::Encoder && trial.sample.ends_with("00000");
    after.iter_mut().find(is_of_0).unwrap().outcome = WRONG;
    let probed = spec_with_probe();
    let compare = |candidate: &RunSpec| {
        let view = |name, spec, trials| RunView { name, identity: name, spec, trials };
        let candidates = [Candidate { run: view("after", candidate, after.as_slice()), differences: &[] }];
        compare_runs(view("before", &probed, &before), &candidates, &BTreeSet::new(), &[]).candidates[0].datasets[0]
            .tower
            .clone()
    };
    let with = |change: fn(&mut ProbeSpec)| {
        let mut spec = probed.clone();
        change(spec.probe.as_mut().unwrap());
        compare(&spec)
    };
    let tower = with(|probe| probe.tower = "blake3:trained".into()).unwrap();
    assert_eq!((tower.shots, tower.is_same_tower, tower.n_pairs, tower.n_unscored), (16, false, 6, 0));
    assert_eq!((tower.n_lost, tower.n_gained), (1, 0));
    assert!((tower.forgetting.unwrap() - 1.0 / 6.0).abs() < 1e-12);
    assert!(with(|_| {}).unwrap().is_same_tower);
    assert_eq!(with(|probe| probe.datasets.get_mut("cifar10").unwrap().content.push('x')), None);
    assert_eq!(with(|probe| probe.classifier = ProbeClassifier::Knn), None);
    assert_eq!(compare(&spec(true)), None);
}

#[test]
fn without_scoring_or_encoder_there_is_no_funnel() {
    let (before, after) = runs();
    let only = |trials: &[Trial], is_kept: fn(&Trial) -> bool| -> Vec<Trial> {
        trials.iter().filter(|trial| is_kept(trial)).cloned().collect()
    };
    let unscored: fn(&Trial) -> bool = |trial| trial.mode != Mode::Score;
    assert_eq!(compared(&only(&before, unscored), &after).funnel, None);
    let alone: fn(&Trial) -> bool = |trial| trial.subject == Subject::Model;
    let found = compared(&only(&before, alone), &only(&after, alone));
    assert_eq!((found.funnel, found.encoder_knows, found.retention_after), (None, None, None));
}

#[test]
fn each_judge_alone_grades_the_same_pairs() {
    let (mut before, mut after) = runs();
    let give = |trials: &mut [Trial], by_llm: fn(usize) -> Option<Judgement>| {
        for (n, trial) in trials.iter_mut().filter(|trial| trial.mode == Mode::Generate).enumerate() {
            let verdict = |judge: &str, result| JudgeVerdict { judge: judge.into(), result, reply: None };
            let by_rules = if trial.outcome == RIGHT { Judgement::Correct } else { Judgement::Undecided };
            trial.verdicts.push(verdict("rules", Ok(by_rules)));
            trial.verdicts.push(verdict("llm", by_llm(n).ok_or_else(|| "no answer".to_owned())));
        }
    };
    give(&mut before, |_| Some(Judgement::Incorrect));
    give(&mut after, |n| (n > 0).then_some(Judgement::Correct));
    let found = compared(&before, &after);
    let names: Vec<&str> = found.judges.iter().map(|judge| judge.judge.as_str()).collect();
    assert_eq!(names, ["llm", "rules"]);
    assert_eq!(found.judges[0].forgetting, Some(-1.0));
    assert_eq!(found.judges[0].table.wrong_unscored, 1);
    assert_eq!((found.judges[1].table.lost, found.judges[1].table.gained), (3, 2));
    assert_eq!(found.n_pairs_of_all_judges, 5);
    let of_baseline = &found.judge_agreement[0];
    assert_eq!((of_baseline.side.as_str(), of_baseline.cells), ("baseline", [0, 0, 4, 2]));
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![Just(RIGHT), Just(WRONG), Just(Outcome::Incorrect(ErrorCode::Leak)), Just(FAILED), Just(UNREADABLE)]
}

/// Contents repeat; samples do not.
fn run() -> impl Strategy<Value = Vec<Trial>> {
    proptest::collection::vec((outcomes(), 0..6_usize, 0..2_usize), 0..20).prop_map(|rows| {
        let row = |(n, (outcome, content, label)): (usize, (Outcome, usize, usize))| {
            let mut trial = trial(Subject::Model, n, ["cat", "dog"][label], "x", outcome);
            trial.content = format!("blake3:{content}");
            trial
        };
        rows.into_iter().enumerate().map(row).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_trials_never_matters(
        (before, shuffled) in run().prop_flat_map(|run| (Just(run.clone()), Just(run).prop_shuffle())),
        after in run(),
    ) {
        prop_assert_eq!(compared(&before, &after), compared(&shuffled, &after));
        prop_assert_eq!(compared(&after, &before), compared(&after, &shuffled));
    }

    #[test]
    fn turned_around_what_was_lost_is_gained(before in run(), after in run()) {
        let (there, back) = (compared(&before, &after), compared(&after, &before));
        prop_assert_eq!((there.n_lost, there.n_gained), (back.n_gained, back.n_lost));
        prop_assert_eq!(there.forgetting.map(|fall| -fall + 0.0), back.forgetting.map(|fall| fall + 0.0));
        prop_assert_eq!(there.n_pairs + there.n_unreadable, back.n_pairs + back.n_unreadable);
        let n_trials = before.len() + after.len();
        prop_assert_eq!(2 * (there.n_pairs + there.n_unreadable) + there.n_unpaired, n_trials);
        let n_transitions: usize = there.transitions.iter().map(|transition| transition.n).sum();
        prop_assert_eq!(n_transitions, there.n_pairs);
        let n_classes: usize = there.classes.iter().map(|class| class.n_lost).sum();
        prop_assert_eq!(n_classes, there.n_lost);
    }
}
