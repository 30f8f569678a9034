//! Compares two runs, dataset by dataset.

use std::collections::{BTreeMap, BTreeSet};

use super::image_counts::{
    classes, confusion_shifts, encoder_cells, errors, funnel, gained_images, judge_agreement, judges, lost_images,
    n_pairs_of_all_judges, transitions,
};
use super::images::{Image, Images, Side, by_dataset, is_correct};
use super::settings::shown_setting_differences;
use super::summarise::{constant_answer, retention, retention_interval};
use super::{
    COMPARISON_SCHEMA, CandidateComparison, Comparison, DatasetComparison, FieldDifference, PairTable, TowerForgetting,
};
use crate::domain::{DatasetSpec, Mode, Outcome, ProbeSpec, RunSpec, Trial};

/// A recorded run.
#[derive(Clone, Copy, Debug)]
pub struct RunView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its identity.
    pub identity: &'a str,
    /// Its specification.
    pub spec: &'a RunSpec,
    /// Its trials, in any order. The codes of all runs must be computed with the same tuned-on labels.
    pub trials: &'a [Trial],
}

/// A candidate with the result of its comparability check.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The run.
    pub run: RunView<'a>,
    /// The fields in which it differs from the baseline; all are allowed to.
    pub differences: &'a [FieldDifference],
}

/// Compares each candidate with the baseline on the datasets that both have.
pub fn compare_runs(
    baseline: RunView<'_>,
    candidates: &[Candidate<'_>],
    tuned_on: &BTreeSet<String>,
    allowed_different: &[String],
) -> Comparison {
    Comparison {
        schema: COMPARISON_SCHEMA.to_owned(),
        baseline: baseline.name.to_owned(),
        baseline_identity: baseline.identity.to_owned(),
        candidates: candidates.iter().map(|candidate| compare_candidate(baseline, candidate, tuned_on)).collect(),
        allowed_different: allowed_different.to_vec(),
        tuned_on: tuned_on.iter().cloned().collect(),
    }
}

/// Returns, by dataset, the outcomes before and after of every image that both runs have, paired as in
/// [`compare_runs`].
pub fn outcome_pairs(baseline: &[Trial], candidate: &[Trial]) -> BTreeMap<String, Vec<(Outcome, Outcome)>> {
    let (before, after) = (by_dataset(baseline), by_dataset(candidate));
    let shared = before.iter().filter_map(|(name, before)| Some((name, before, after.get(name)?)));
    shared
        .map(|(name, before, after)| {
            let images = Images::pair(before, after).images;
            let outcomes = images.iter().map(|image| (image.model[0].outcome, image.model[1].outcome));
            ((*name).to_owned(), outcomes.collect())
        })
        .collect()
}

fn compare_candidate(
    baseline: RunView<'_>,
    candidate: &Candidate<'_>,
    tuned_on: &BTreeSet<String>,
) -> CandidateComparison {
    let run = candidate.run;
    let has = |spec: &RunSpec, name: &str| spec.datasets.iter().any(|dataset| dataset.dataset == name);
    let (before, after) = (by_dataset(baseline.trials), by_dataset(run.trials));
    let nothing = Side::default();
    let datasets = baseline.spec.datasets.iter().filter(|dataset| has(run.spec, &dataset.dataset)).map(|dataset| {
        let name = dataset.dataset.as_str();
        let images = Images::pair(before.get(name).unwrap_or(&nothing), after.get(name).unwrap_or(&nothing));
        let probes = baseline.spec.probe.as_ref().zip(run.spec.probe.as_ref());
        DatasetComparison {
            tower: probes.and_then(|probes| tower(name, probes, &images.images)),
            is_leak_known: !tuned_on.is_empty(),
            ..compare_dataset(dataset, tuned_on.contains(name), &images)
        }
    });
    let only_candidate = run.spec.datasets.iter().filter(|dataset| !has(baseline.spec, &dataset.dataset));
    CandidateComparison {
        run: run.name.to_owned(),
        identity: run.identity.to_owned(),
        datasets: datasets.collect(),
        only_candidate: only_candidate.map(|dataset| dataset.dataset.clone()).collect(),
        differences: candidate.differences.to_vec(),
        settings: settings_of(baseline.spec, candidate.run.spec),
        tuned_on: tuned_on.iter().cloned().collect(),
    }
}

/// Returns the differences between the models' settings, if both runs record them.
fn settings_of(before: &RunSpec, after: &RunSpec) -> Vec<FieldDifference> {
    let both = before.model.settings.as_ref().zip(after.model.settings.as_ref());
    both.map(|(before, after)| shown_setting_differences(before, after)).unwrap_or_default()
}

fn compare_dataset(dataset: &DatasetSpec, is_tuned_on: bool, found: &Images<'_>) -> DatasetComparison {
    let images = found.images.as_slice();
    let mut table = PairTable::default();
    for image in images {
        let [before, after] = image.is_correct();
        table.add(before, after);
    }
    let cells = [encoder_cells(images, 0), encoder_cells(images, 1)];
    let lost = lost_images(images);
    let n_known = lost.iter().filter(|image| image.encoder.as_ref().is_some_and(|(_, is_right)| *is_right)).count();
    let of_run = |run: usize| images.iter().map(move |image| image.model[run]);
    DatasetComparison {
        split: dataset.split.clone(),
        is_training_split: dataset.is_training_split,
        is_tuned_on,
        is_leak_known: false,
        n_unreadable: found.n_unreadable,
        n_unpaired: found.n_unpaired,
        encoder_knows: cells[1].map(|_| n_known),
        retention_before: cells[0].and_then(retention),
        retention_before_interval: cells[0].and_then(retention_interval),
        retention_after: cells[1].and_then(retention),
        retention_after_interval: cells[1].and_then(retention_interval),
        funnel: funnel(images),
        transitions: transitions(images),
        errors_before: errors(of_run(0)),
        errors_after: errors(of_run(1)),
        constant_answer_before: constant_answer(&of_run(0).collect::<Vec<_>>()),
        constant_answer_after: constant_answer(&of_run(1).collect::<Vec<_>>()),
        classes: classes(dataset, images),
        confusion_shifts: confusion_shifts(images),
        judges: judges(images),
        n_pairs_of_all_judges: n_pairs_of_all_judges(images),
        judge_agreement: judge_agreement(images),
        encoder_cells_after: cells[1].map(|cells| [cells.both, cells.only_first, cells.only_second, cells.neither]),
        n_distinct_images: images.iter().map(|image| &image.model[0].content).collect::<BTreeSet<_>>().len(),
        is_unchanged: !images.is_empty() && images.iter().all(Image::is_unchanged),
        lost,
        gained: gained_images(images),
        ..DatasetComparison::of_table(&dataset.dataset, dataset.labels.len(), table)
    }
}

/// Compares the probes before and after; `None` if their training images differ or one did not run.
fn tower(dataset: &str, probes: (&ProbeSpec, &ProbeSpec), images: &[Image<'_>]) -> Option<TowerForgetting> {
    let (before, after) = probes;
    let shots = before.datasets.get(dataset).filter(|shots| Some(*shots) == after.datasets.get(dataset))?;
    let mut table = PairTable::default();
    for image in images {
        let [Some(before), Some(after)] = image.encoder else { continue };
        if before.mode == Mode::Probe && after.mode == Mode::Probe {
            table.add(is_correct(before), is_correct(after));
        }
    }
    let is_alike = before.classifier == after.classifier && table.n_pairs() > 0;
    is_alike.then(|| TowerForgetting::of_table(shots.n_shots(), before.tower == after.tower, table))
}

#[cfg(test)]
mod tests {
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
}
