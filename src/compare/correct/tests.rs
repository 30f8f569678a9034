//! Tests of `correct`.

use proptest::prelude::*;

use super::*;
use crate::compare::{JudgeIdentity, MarkedPair};
use crate::domain::UnscoredReason;
use crate::stats::{PairedCounts, tango_interval};

const RIGHT: Outcome = Outcome::Correct;
const WRONG: Outcome = Outcome::Incorrect(ErrorCode::Wrong);
const OUT: Outcome = Outcome::Incorrect(ErrorCode::Out);

fn pair(answer: String, outcome: Outcome, is_correct: bool, n_trials: usize, weight: f64) -> MarkedPair {
    MarkedPair {
        dataset: Some("d".into()),
        label: "cat".into(),
        answer,
        group: None,
        stratum: None,
        n_stratum_trials: None,
        n_stratum_drawn: None,
        n_trials,
        weight,
        is_correct: Some(is_correct),
        outcome,
    }
}

fn calibration(pairs: &[MarkedPair]) -> Calibration {
    let judge = JudgeIdentity { judge: "rules".into(), model: None, prompt: None, rules_version: Some("1".into()) };
    Calibration::new(judge, None, pairs)
}

/// Builds a calibration from `(outcome, marked pairs, errors among them)`; each pair is one trial.
fn of_cells(cells: &[(Outcome, usize, usize)]) -> Calibration {
    let pairs = cells.iter().flat_map(|&(outcome, n, n_errors)| {
        let is_correct = move |i| (outcome == RIGHT) != (i < n_errors);
        (0..n).map(move |i| pair(format!("{outcome:?} {i}"), outcome, is_correct(i), 1, 1.0))
    });
    calibration(&pairs.collect::<Vec<_>>())
}

fn images(cells: &[(Outcome, Outcome, usize)]) -> Vec<(Outcome, Outcome)> {
    cells.iter().flat_map(|&(before, after, n)| std::iter::repeat_n((before, after), n)).collect()
}

fn width([low, high]: Interval) -> f64 {
    high - low
}

fn are_near(a: Interval, b: Interval, tolerance: f64) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() < tolerance)
}

#[test]
fn without_calibrations_the_judge_counts_as_right() {
    let pairs = images(&[(RIGHT, RIGHT, 600), (RIGHT, WRONG, 90), (OUT, RIGHT, 40), (WRONG, OUT, 270)]);
    let found = corrected_forgetting("d", &pairs, None, None, 0.95).unwrap();
    assert!((found.baseline_accuracy - 0.69).abs() < 1e-12 && (found.candidate_accuracy - 0.64).abs() < 1e-12);
    assert!((found.forgetting - 0.05).abs() < 1e-12);
    let tango = tango_interval(PairedCounts { n_lost: 90, n_gained: 40, n: 1_000 }, 0.95).unwrap();
    assert!(are_near(found.forgetting_interval, tango, 0.003), "{found:?} {tango:?}");
    let unscored = Outcome::Unscored(UnscoredReason::JudgeFailed);
    let mut more = pairs.clone();
    more.extend([(unscored, RIGHT), (WRONG, unscored)]);
    assert_eq!(corrected_forgetting("d", &more, None, None, 0.95), Some(found));
    let mut elsewhere = of_cells(&[(RIGHT, 50, 50)]);
    elsewhere.strata[0].dataset = Some("another".into());
    assert_eq!(corrected_forgetting("d", &pairs, Some(&elsewhere), None, 0.95), Some(found));
}

#[test]
fn the_correction_is_the_sum_over_marked_pairs_of_weight_times_trials_times_difference() {
    // Of 60 trials judged correct, a fifth is marked, 4 of them as wrong. Of 40 others, half are marked, 3 and 1 of
    // them as right.
    let marked = [
        pair("a".into(), RIGHT, true, 8, 5.0),
        pair("b".into(), RIGHT, false, 4, 5.0),
        pair("c".into(), WRONG, true, 3, 2.0),
        pair("d".into(), WRONG, true, 1, 2.0),
        pair("e".into(), WRONG, false, 16, 2.0),
    ];
    let mut calibration = calibration(&marked);
    for stratum in &calibration.strata {
        assert_eq!(stratum.n_trials, if stratum.outcome == "correct" { 60.0 } else { 40.0 });
    }
    let outcomes = [vec![RIGHT; 60], vec![WRONG; 40]].concat();
    let found = corrected_accuracy("d", &outcomes, Some(&calibration), 0.95).unwrap();
    let difference = -5.0 * 4.0 + 2.0 * 3.0 + 2.0 * 1.0;
    assert!((found.judged - 0.6).abs() < 1e-12 && (found.corrected - (0.6 + difference / 100.0)).abs() < 1e-12);
    // A sheet without datasets applies to all of them.
    calibration.strata.iter_mut().for_each(|stratum| stratum.dataset = None);
    assert_eq!(corrected_accuracy("x", &outcomes, Some(&calibration), 0.95), Some(found));
}

#[test]
fn a_stratum_without_a_marked_error_is_not_certain_and_one_without_a_mark_may_be_anything() {
    let pairs = images(&[(RIGHT, RIGHT, 700), (RIGHT, WRONG, 30), (WRONG, RIGHT, 30), (OUT, OUT, 240)]);
    let interval = |calibration: Option<&Calibration>| {
        corrected_forgetting("d", &pairs, None, calibration, 0.95).unwrap().forgetting_interval
    };
    let judged = interval(None);
    let faultless = of_cells(&[(RIGHT, 50, 0), (WRONG, 50, 0), (OUT, 50, 0)]);
    assert!(width(interval(Some(&faultless))) > 1.2 * width(judged), "{judged:?}");
    let many = of_cells(&[(RIGHT, 5_000, 0), (WRONG, 5_000, 0), (OUT, 5_000, 0)]);
    assert!(are_near(interval(Some(&many)), judged, 0.002));
    let without_out = of_cells(&[(RIGHT, 5_000, 0), (WRONG, 5_000, 0)]);
    let [low, high] = interval(Some(&without_out));
    assert!(low < -0.2 && high > -0.01, "a quarter of the images may be right after all: {low} {high}");
}

#[test]
fn a_judge_that_errs_on_one_runs_answers_only_makes_a_fall_that_is_none() {
    // The judge misses a fifth of the candidate's right answers because of their form.
    let pairs = images(&[(RIGHT, RIGHT, 640), (RIGHT, OUT, 160), (WRONG, WRONG, 200)]);
    let before = of_cells(&[(RIGHT, 200, 0), (WRONG, 100, 0)]);
    let after = of_cells(&[(RIGHT, 200, 0), (OUT, 150, 148), (WRONG, 100, 0)]);
    let judged = corrected_forgetting("d", &pairs, None, None, 0.95).unwrap();
    let found = corrected_forgetting("d", &pairs, Some(&before), Some(&after), 0.95).unwrap();
    assert!(judged.forgetting_interval[0] > 0.13);
    assert!(found.forgetting < 0.005 && found.forgetting_interval[0] < 0.0 && found.forgetting_interval[1] < 0.03);
    assert!((found.candidate_accuracy - (0.64 + 0.16 * 148.0 / 150.0)).abs() < 1e-12);
}

#[test]
fn extreme_levels_stretch_the_interval_and_do_not_break_it() {
    let pairs = images(&[(RIGHT, RIGHT, 600), (RIGHT, WRONG, 90), (WRONG, RIGHT, 40), (WRONG, OUT, 270)]);
    let widths: Vec<f64> = [0.5, 0.9, 0.99, 0.995, 0.9999, 1.0 - 1e-6]
        .map(|confidence| width(corrected_forgetting("d", &pairs, None, None, confidence).unwrap().forgetting_interval))
        .to_vec();
    assert!(widths.is_sorted_by(|a, b| a < b), "{widths:?}");
    // The ratio of the normal quantiles 4.892 and 2.576.
    assert!((widths[5] / widths[2] / (4.892 / 2.576) - 1.0).abs() < 0.05, "{widths:?}");
    for confidence in [0.0, 1.0, f64::NAN] {
        assert_eq!(corrected_forgetting("d", &pairs, None, None, confidence), None);
    }
    assert_eq!(corrected_forgetting("d", &[], None, None, 0.95), None);
    assert_eq!(corrected_accuracy("d", &[], None, 0.95), None);
}

#[test]
fn a_file_that_holds_nonsense_gives_accuracies_all_the_same() {
    let mut calibration = of_cells(&[(RIGHT, 5, 1), (WRONG, 5, 1), (OUT, 5, 1)]);
    calibration.strata[0].error_rate = Some(7.0);
    calibration.strata[1].n_effective = -3.0;
    calibration.strata[2].n_trials = -1.0;
    let pairs = images(&[(RIGHT, OUT, 10), (WRONG, RIGHT, 10)]);
    let found = corrected_forgetting("d", &pairs, Some(&calibration), Some(&calibration), 0.95).unwrap();
    for [low, high] in [found.baseline_accuracy_interval, found.candidate_accuracy_interval] {
        assert!(0.0 <= low && low <= high && high <= 1.0, "{found:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn the_order_of_trials_does_not_matter_and_runs_mirror(
        cells in proptest::collection::vec((0_usize..3, 0_usize..3, 1_usize..40), 1..6), turn in 0_usize..100,
    ) {
        let outcome = |at: usize| [RIGHT, WRONG, OUT][at];
        let cells: Vec<_> = cells.into_iter().map(|(a, b, n)| (outcome(a), outcome(b), n)).collect();
        let mut pairs = images(&cells);
        let one = of_cells(&[(RIGHT, 20, 1), (WRONG, 20, 4), (OUT, 9, 0)]);
        let other = of_cells(&[(RIGHT, 30, 3), (WRONG, 5, 0)]);
        let found = corrected_forgetting("d", &pairs, Some(&one), Some(&other), 0.9).unwrap();
        let turn = turn % pairs.len();
        pairs.rotate_left(turn);
        prop_assert_eq!(corrected_forgetting("d", &pairs, Some(&one), Some(&other), 0.9), Some(found));
        let swapped: Vec<_> = pairs.iter().map(|&(before, after)| (after, before)).collect();
        let mirrored = corrected_forgetting("d", &swapped, Some(&other), Some(&one), 0.9).unwrap();
        prop_assert!((found.forgetting + mirrored.forgetting).abs() < 1e-12);
        prop_assert!(found.forgetting_interval[0] <= found.forgetting_interval[1]);
        let [low, high] = mirrored.forgetting_interval;
        let tolerance = 0.05 + 0.1 * width(found.forgetting_interval);
        prop_assert!(are_near(found.forgetting_interval, [-high, -low], tolerance));
    }
}
