//! Tests of `bootstrap`.

use proptest::prelude::*;

use super::*;
use crate::stats::golden::{close, golden, numbers};

fn cells([both, only_first, only_second, neither]: [usize; 4]) -> PairCells {
    PairCells { both, only_first, only_second, neither }
}

#[test]
fn intervals_come_near_to_scipys() {
    for case in golden()["ratio_interval"].as_array().unwrap() {
        let counts: Vec<usize> = numbers(&case["cells"]).into_iter().map(|n| n as usize).collect();
        let interval = ratio_interval(cells(counts.try_into().unwrap()), 0.95, 20_000, 1).unwrap();
        let scipy = numbers(&case["scipy"]);
        let width = scipy[1] - scipy[0];
        for end in 0..2 {
            assert!((interval[end] - scipy[end]).abs() < 0.05 * width, "{interval:?} {case}");
        }
    }
}

#[test]
fn the_acceleration_equals_scipys() {
    for case in golden()["ratio_interval"].as_array().unwrap() {
        let counts: Vec<usize> = numbers(&case["cells"]).into_iter().map(|n| n as usize).collect();
        let ratio = |cells: &[usize]| Some((cells[0] + cells[1]) as f64 / (cells[0] + cells[2]) as f64);
        let found = acceleration(&counts, ratio).unwrap();
        assert!(close(found, case["acceleration"].as_f64().unwrap(), 1e-9), "{found} {case}");
    }
}

#[test]
fn without_an_encoder_that_is_ever_right_there_is_no_interval() {
    assert_eq!(ratio_interval(cells([0, 5, 0, 5]), 0.95, 100, 1), None);
    assert_eq!(ratio_interval(cells([0, 0, 0, 0]), 0.95, 100, 1), None);
    // One right answer in ten: a third of the resamples have an infinite ratio.
    assert_eq!(ratio_interval(cells([1, 3, 0, 6]), 0.95, 2_000, 1), None);
    // Two right answers: leaving one out is possible, but an eighth of the resamples have an infinite ratio.
    assert_eq!(ratio_interval(cells([2, 3, 0, 6]), 0.95, 2_000, 1), None);
    assert_eq!(ratio_interval(cells([10, 0, 0, 0]), 0.95, 100, 1), Some([1.0, 1.0]));
}

#[test]
fn without_resamples_or_a_level_there_is_no_interval() {
    let found = cells([60, 3, 13, 24]);
    assert_eq!(ratio_interval(found, 0.95, 0, 1), None);
    assert_eq!((ratio_interval(found, 1.0, 100, 1), ratio_interval(found, f64::NAN, 100, 1)), (None, None));
    assert_eq!(ratio_interval(cells([1, 0, 0, 0]), 0.95, 100, 1), None);
}

#[test]
fn another_seed_moves_the_ends_only_a_little() {
    let cells = cells([600, 30, 130, 240]);
    let (one, other) = (ratio_interval(cells, 0.95, 2_000, 1).unwrap(), ratio_interval(cells, 0.95, 2_000, 2).unwrap());
    assert_ne!(one, other);
    assert!(one.iter().zip(other).all(|(a, b)| (a - b).abs() < 0.01));
    assert_eq!(one, ratio_interval(cells, 0.95, 2_000, 1).unwrap());
}

/// The share of the first cell: a proportion, whose interval is known.
#[test]
fn a_proportions_interval_covers_it_as_often_as_it_should() {
    let mut generator = SplitMix64::new(5);
    let share = |cells: &[usize]| Some(cells[0] as f64 / (cells[0] + cells[1]) as f64);
    let n_runs = 1000;
    let covered = (0..n_runs)
        .filter(|seed| {
            let cells = resample_cells(&mut generator, &[60, 140]);
            let [low, high] = bca_interval(&cells, share, 0.9, 500, *seed).unwrap();
            low <= 0.3 && 0.3 <= high
        })
        .count();
    assert!((870..=930).contains(&covered), "{covered} of {n_runs}");
}

#[test]
fn resamples_without_a_value_count_against_both_ends() {
    // The mean place of two kinds of images, unknown if one kind is missing from a resample.
    let known = |cells: &[usize]| (cells[0] > 0).then(|| cells[1] as f64 / (cells[0] + cells[1]) as f64);
    let interval = |few| bca_interval(&[few, 100], known, 0.95, 2_000, 1);
    // None of 8 in a resample: probability 3 in 10,000. None of 2: an eighth.
    assert!(interval(8).is_some());
    assert_eq!(interval(2), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_interval_holds_the_ratio(counts in proptest::array::uniform4(20_usize..3000)) {
        let [both, first, second, _] = counts;
        let [low, high] = ratio_interval(cells(counts), 0.95, 500, 9).unwrap();
        let ratio = (both + first) as f64 / (both + second) as f64;
        prop_assert!(0.0 < low && low < ratio && ratio < high, "{low} {ratio} {high}");
    }

    #[test]
    fn a_resample_has_as_many_images_and_no_new_kinds(counts in proptest::collection::vec(0_usize..500, 0..6), seed in 0_u64..1000) {
        let drawn = resample_cells(&mut SplitMix64::new(seed), &counts);
        prop_assert_eq!(drawn.iter().sum::<usize>(), counts.iter().sum::<usize>());
        prop_assert!(drawn.iter().zip(&counts).all(|(drawn, count)| *count > 0 || *drawn == 0));
    }
}
