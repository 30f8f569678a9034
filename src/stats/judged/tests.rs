use proptest::prelude::*;

use super::*;
use crate::stats::golden::close;

fn error(right_accepted: usize, n_right: usize, wrong_rejected: usize, n_wrong: usize) -> JudgeError {
    JudgeError { n_right, n_right_accepted: right_accepted, n_wrong, n_wrong_rejected: wrong_rejected }
}

#[test]
fn corrected_rates_meet_the_vectors_of_lee_and_others() {
    for (judge, rate, low, high) in
        [(error(190, 200, 180, 200), 0.5882, 0.5569, 0.6212), (error(495, 500, 490, 500), 0.5979, 0.5856, 0.6110)]
    {
        let found = rogan_gladen(6000, 10_000, judge, 0.95).unwrap();
        let expected = [(found.rate, rate), (found.interval[0], low), (found.interval[1], high)];
        assert!(expected.iter().all(|(a, b)| (a - b).abs() < 5.1e-5), "{found:?}");
    }
}

#[test]
fn a_judge_that_hardly_tells_right_from_wrong_corrects_nothing() {
    assert_eq!(rogan_gladen(600, 1000, error(60, 100, 50, 100), 0.95), None);
    assert!(rogan_gladen(600, 1000, error(60, 100, 51, 100), 0.95).is_some());
    // Perfect on one marked answer of each kind: the interval is nearly everything.
    let [low, high] = rogan_gladen(600, 1000, error(1, 1, 1, 1), 0.95).unwrap().interval;
    assert!(low < 0.1 && high > 0.9, "{low} {high}");
}

#[test]
fn without_answers_there_is_nothing_to_correct() {
    let judge = error(90, 100, 90, 100);
    assert_eq!(rogan_gladen(0, 0, judge, 0.95), None);
    assert_eq!(rogan_gladen(5, 4, judge, 0.95), None);
    assert_eq!(rogan_gladen(5, 10, error(0, 0, 9, 10), 0.95), None);
    assert_eq!(rogan_gladen(5, 10, judge, 1.0), None);
    assert_eq!((judge.sensitivity(), error(3, 2, 1, 1).sensitivity()), (Some(0.9), None));
}

proptest! {
    #[test]
    fn right_and_wrong_mirror_and_more_correct_is_more(
        judged in 1_usize..999, accepted in 150_usize..=200, rejected in 150_usize..=200,
    ) {
        let judge = error(accepted, 200, rejected, 200);
        let found = rogan_gladen(judged, 1000, judge, 0.9).unwrap();
        let mirrored = rogan_gladen(1000 - judged, 1000, error(rejected, 200, accepted, 200), 0.9).unwrap();
        prop_assert!(close(found.rate, 1.0 - mirrored.rate, 1e-12));
        prop_assert!(close(found.interval[0], 1.0 - mirrored.interval[1], 1e-12));
        let more = rogan_gladen(judged + 1, 1000, judge, 0.9).unwrap();
        prop_assert!(more.rate >= found.rate && more.interval[0] >= found.interval[0] - 1e-12);
        // A perfect judge with endless marked answers leaves the rate unchanged.
        let believed = rogan_gladen(judged, 1000, error(1 << 40, 1 << 40, 1 << 40, 1 << 40), 0.9).unwrap();
        prop_assert!(close(believed.rate, judged as f64 / 1000.0, 1e-9));
    }
}
