//! Tests of `measure`.

use proptest::prelude::*;

use super::*;
use crate::domain::{ErrorCode, UnscoredReason};

const RIGHT: Outcome = Outcome::Correct;
const WRONG: Outcome = Outcome::Incorrect(ErrorCode::Wrong);
const FAILED: Outcome = Outcome::Unscored(UnscoredReason::JudgeFailed);

fn pair(answer: &str, is_correct: Option<bool>, outcome: Outcome) -> MarkedPair {
    MarkedPair {
        dataset: Some("d".into()),
        label: "cat".into(),
        answer: answer.into(),
        group: None,
        stratum: None,
        n_stratum_trials: None,
        n_stratum_drawn: None,
        n_trials: 1,
        weight: 1.0,
        is_correct,
        outcome,
    }
}

/// Builds distinct pairs of the same cell.
fn cell(n: usize, is_correct: bool, outcome: Outcome) -> impl Iterator<Item = MarkedPair> {
    (0..n).map(move |i| pair(&format!("{is_correct} {outcome:?} {i}"), Some(is_correct), outcome))
}

fn rules() -> JudgeIdentity {
    JudgeIdentity { judge: "rules".into(), model: None, prompt: None, rules_version: Some("1".into()) }
}

fn calibrated(pairs: &[MarkedPair]) -> Calibration {
    Calibration::new(rules(), None, pairs)
}

fn close(found: Option<f64>, expected: f64) -> bool {
    found.is_some_and(|found| (found - expected).abs() < 1e-6)
}

fn are_close(found: Option<Interval>, expected: Interval) -> bool {
    found.is_some_and(|found| found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6))
}

#[test]
fn rates_of_an_unweighted_sheet_are_those_of_its_table() {
    let pairs: Vec<MarkedPair> = cell(90, true, RIGHT)
        .chain(cell(10, true, WRONG))
        .chain(cell(38, false, WRONG))
        .chain(cell(2, false, RIGHT))
        .collect();
    let found = calibrated(&pairs);
    let measured = &found.measured;
    assert_eq!((measured.n, measured.n_distinct, measured.n_right), (140, 140, 100));
    assert!(close(measured.sensitivity, 0.9) && close(measured.specificity, 0.95));
    assert!(close(measured.agreement, 128.0 / 140.0));
    // statsmodels: proportion_confint(90, 100, method="beta"), (38, 40); cohens_kappa([[90, 10], [2, 38]]).
    assert!(are_close(measured.sensitivity_interval, [0.823_777_402_3, 0.950_995_310_8]), "{measured:?}");
    assert!(are_close(measured.specificity_interval, [0.830_803_136_0, 0.993_886_353_4]), "{measured:?}");
    assert!(
        close(measured.kappa, 0.801_886_792_5)
            && are_close(measured.kappa_interval, [0.695_819_998_9, 0.907_953_586_0]),
        "{measured:?}"
    );
    let [style, dataset] =
        [GroupBy::Style, GroupBy::Dataset].map(|by| found.groups.iter().find(|group| group.by == by));
    assert_eq!(dataset.unwrap().measured, *measured);
    assert_eq!(style.unwrap().group, "phrase");
    let strata: Vec<(&str, usize, usize, Option<f64>, f64)> = found
        .strata
        .iter()
        .map(|of| (of.outcome.as_str(), of.n_marked, of.n_errors, of.error_rate, of.n_effective))
        .collect();
    assert_eq!(strata, [("correct", 92, 2, Some(2.0 / 92.0), 92.0), ("wrong", 48, 10, Some(10.0 / 48.0), 48.0)]);
}

#[test]
fn a_pair_counts_once_however_often_it_stands_in_the_sheet() {
    let mut pairs: Vec<MarkedPair> = cell(3, true, RIGHT).chain(cell(2, false, WRONG)).collect();
    let once = calibrated(&pairs).measured;
    pairs.extend_from_within(..);
    let twice = calibrated(&pairs).measured;
    assert_eq!((twice.n, twice.n_distinct), (10, 5));
    assert_eq!(Measured { n: 5, ..twice }, once);
}

#[test]
fn unmarked_failed_and_conflicting_pairs_are_counted_apart() {
    let mut pairs: Vec<MarkedPair> = cell(3, true, RIGHT).chain(cell(2, false, WRONG)).collect();
    let clean = calibrated(&pairs).measured;
    pairs.push(pair("nobody looked", None, RIGHT));
    pairs.push(pair("the judge failed", Some(true), FAILED));
    pairs.extend([true, false].map(|mark| pair("they disagree", Some(mark), RIGHT)));
    let found = calibrated(&pairs);
    assert_eq!((found.n_unmarked, found.n_judge_failed, found.n_conflicting), (1, 1, 1));
    assert_eq!((found.measured.n, found.measured.n_distinct), (5, 5));
    assert_eq!((found.measured.sensitivity, found.measured.specificity), (clean.sensitivity, clean.specificity));
    pairs.push(pair("they disagree", Some(true), RIGHT));
    assert_eq!((calibrated(&pairs).n_conflicting, calibrated(&pairs).measured.n_distinct), (0, 6));
}

#[test]
fn a_weighted_rate_speaks_of_the_pairs_that_were_not_drawn() {
    // 10 of 1,000 pairs judged incorrect are marked, 1 of them as right; so are all 100 judged correct.
    let drawn = cell(1, true, WRONG).chain(cell(9, false, WRONG)).map(|pair| MarkedPair { weight: 100.0, ..pair });
    let pairs: Vec<MarkedPair> = cell(100, true, RIGHT).chain(drawn).collect();
    let measured = calibrated(&pairs).measured;
    assert!(close(measured.sensitivity, 0.5) && close(measured.specificity, 1.0), "{measured:?}");
    assert!(close(measured.agreement, 1000.0 / 1100.0));
    // 101 right pairs have an effective number of 200^2 / (100 + 10,000), about four.
    let [low, high] = measured.sensitivity_interval.unwrap();
    assert!(low < 0.1 && high > 0.9, "{low} {high}");
    assert_eq!(measured.specificity_interval.unwrap()[1], 1.0);
}

#[test]
fn marked_pairs_stand_in_for_the_unmarked_ones_of_their_stratum() {
    let stratum = |pairs: Vec<MarkedPair>, name: &str, n_trials: usize| -> Vec<MarkedPair> {
        let of = |pair| MarkedPair {
            stratum: Some(name.into()),
            n_stratum_trials: Some(n_trials),
            n_stratum_drawn: Some(20),
            weight: 2.0,
            n_trials: 3,
            ..pair
        };
        pairs.into_iter().map(of).collect()
    };
    let half = |is_correct, outcome| {
        let mut pairs: Vec<MarkedPair> = cell(20, is_correct, outcome).collect();
        pairs[10..].iter_mut().for_each(|pair| pair.is_correct = None);
        pairs[0].is_correct = Some(!is_correct);
        pairs
    };
    let mut pairs = stratum(half(true, RIGHT), "correct", 120);
    pairs.extend(stratum(half(false, WRONG), "incorrect/wrong", 120));
    let found = Calibration::new(rules(), Some("blake3:r".into()), &pairs);
    for of in &found.strata {
        assert_eq!((of.n_trials, of.n_marked, of.n_errors), (120.0, 10, 1));
        assert!(close(of.error_rate, 0.1), "{of:?}");
        // 40 pairs of three trials, ten of them marked: 1 / (1/120 + 3/4 / 10).
        assert!((of.n_effective - 12.0).abs() < 1e-9, "{of:?}");
    }
    let [accuracy] = found.accuracies.as_slice() else { panic!("{found:?}") };
    assert_eq!((accuracy.n_scored, accuracy.accuracy), (240, 0.5));
    assert!(close(Some(accuracy.corrected_accuracy), 0.5));
    // Deleting the unmarked rows changes nothing.
    pairs.retain(|pair| pair.is_correct.is_some());
    let again = Calibration::new(rules(), Some("blake3:r".into()), &pairs);
    assert_eq!((again.strata, again.accuracies), (found.strata, found.accuracies));
}

#[test]
fn rogan_and_gladens_correction_needs_a_judge_that_tells_right_from_wrong() {
    let sheet = |accepted: usize, rejected: usize| -> Vec<MarkedPair> {
        let right = cell(accepted, true, RIGHT).chain(cell(100 - accepted, true, WRONG));
        right.chain(cell(rejected, false, WRONG)).chain(cell(100 - rejected, false, RIGHT)).collect()
    };
    let found = calibrated(&sheet(95, 90)).rogan_gladen("d", 600, 1_000, 0.95).unwrap();
    assert!(close(Some(found.rate), 0.5 / 0.85));
    assert_eq!(calibrated(&sheet(60, 50)).rogan_gladen("d", 600, 1_000, 0.95), None);
    assert_eq!(calibrated(&sheet(95, 90)).rogan_gladen("another", 600, 1_000, 0.95), None);
    let mut open = sheet(95, 90);
    open.iter_mut().for_each(|pair| pair.dataset = None);
    assert!(calibrated(&open).rogan_gladen("any", 600, 1_000, 0.95).is_some());
}

#[test]
fn it_is_read_as_it_was_written() {
    let pairs: Vec<MarkedPair> = cell(3, true, RIGHT).chain(cell(2, false, WRONG)).collect();
    let found = calibrated(&pairs);
    let value = serde_json::to_value(&found).unwrap();
    assert_eq!(value["schema"], "emt.calibration/1");
    assert_eq!((&value["n"], &value["groups"][0]["group"]), (&5.into(), &"d".into()));
    assert_eq!(serde_json::from_value::<Calibration>(value).unwrap(), found);
    let nothing = calibrated(&[pair("x", None, RIGHT)]);
    let value = serde_json::to_value(&nothing).unwrap();
    assert!(value["sensitivity"].is_null() && value["kappa_interval"].is_null());
}

proptest! {
    #[test]
    fn the_order_of_rows_does_not_matter(
        rows in proptest::collection::vec(
            (0_usize..6, proptest::option::of(any::<bool>()), any::<bool>(), 1_usize..9), 1..30,
        ),
        turn in 0_usize..30,
    ) {
        let mut pairs: Vec<MarkedPair> = rows
            .into_iter()
            .map(|(answer, mark, is_right, weight)| {
                let outcome = if is_right { RIGHT } else { WRONG };
                MarkedPair { weight: weight as f64, ..pair(&answer.to_string(), mark, outcome) }
            })
            .collect();
        let found = calibrated(&pairs);
        let turn = turn % pairs.len();
        pairs.rotate_left(turn);
        let again = calibrated(&pairs);
        let near = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() < 1e-9,
            (a, b) => a == b,
        };
        prop_assert!(near(found.measured.sensitivity, again.measured.sensitivity));
        prop_assert!(near(found.measured.agreement, again.measured.agreement));
        prop_assert_eq!(found.strata.len(), again.strata.len());
        let measured = &found.measured;
        let rates = [measured.sensitivity, measured.specificity, measured.agreement];
        for rate in rates.into_iter().flatten() {
            prop_assert!((0.0..=1.0).contains(&rate));
        }
    }
}
