//! Compares probes with scikit-learn on real features: `tests/golden/make_probe.py`.

use serde_json::Value;

use super::*;
use crate::stats::golden::{close, numbers};

/// scikit-learn's results, and the features of the shots (by class) and of the test images.
struct Golden {
    expected: Value,
    shots: Vec<Vec<Vec<f32>>>,
    tests: Vec<Vec<f32>>,
}

fn golden() -> Golden {
    let expected: Value = serde_json::from_str(include_str!("../../../tests/golden/probe.json")).unwrap();
    let size = |name: &str| expected[name].as_u64().unwrap() as usize;
    let (numbers, _) = include_bytes!("../../../tests/golden/probe_features.bin").as_chunks::<4>();
    let numbers: Vec<f32> = numbers.iter().copied().map(f32::from_le_bytes).collect();
    let mut rows: Vec<Vec<f32>> = numbers.chunks_exact(size("n_columns")).map(<[f32]>::to_vec).collect();
    let tests = rows.split_off(size("n_classes") * size("n_shots"));
    assert_eq!(tests.len(), size("n_test"));
    let shots = rows.chunks_exact(size("n_shots")).map(<[Vec<f32>]>::to_vec).collect();
    Golden { expected, shots, tests }
}

impl Golden {
    /// Returns the first `n_shots` examples of each class.
    fn examples(&self, n_shots: usize) -> Vec<Vec<&[f32]>> {
        self.shots.iter().map(|class| class[..n_shots].iter().map(Vec::as_slice).collect()).collect()
    }

    /// Checks that a classifier makes scikit-learn's choices, and its score of the first image.
    fn check(&self, classifier: ProbeClassifier, name: &str, tolerance: f64) {
        for n_shots in [1, 5, 16] {
            let expected = &self.expected[name][n_shots.to_string()];
            let probe = Probe::fit(classifier, &self.examples(n_shots)).unwrap();
            let scores: Vec<Vec<f64>> = self.tests.iter().map(|features| probe.scores(features).unwrap()).collect();
            let chosen: Vec<u64> = scores.iter().map(|scores| best(scores) as u64).collect();
            let of_sklearn: Vec<u64> = serde_json::from_value(expected["chosen"].clone()).unwrap();
            assert_eq!(chosen, of_sklearn, "{name}, {n_shots} shots");
            for (found, expected) in scores[0].iter().zip(numbers(&expected["scores_of_first"])) {
                assert!(close(*found, expected, tolerance), "{name}, {n_shots} shots: {found} {expected}");
            }
        }
    }
}

fn best(scores: &[f64]) -> usize {
    (0..scores.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap()
}

#[test]
fn the_nearest_class_mean_is_that_of_scikit_learn() {
    golden().check(ProbeClassifier::NearestMean, "nearest_mean", 1e-9);
}

#[test]
fn the_nearest_neighbours_are_those_of_scikit_learn() {
    golden().check(ProbeClassifier::Knn, "knn", 1e-9);
}

#[test]
fn the_logistic_regression_is_that_of_scikit_learn() {
    let golden = golden();
    golden.check(ProbeClassifier::Logistic, "logistic", 1e-5);
    for n_shots in [1, 5, 16] {
        let expected = &golden.expected["logistic"][n_shots.to_string()];
        let rows = Rows::of(&golden.examples(n_shots)).unwrap();
        assert_eq!(Logistic::strength(&rows), expected["strength"].as_f64().unwrap());
        let fitted = Logistic::fit(&rows);
        let (intercept, weights) = fitted.classes()[0].split_last().unwrap();
        let intercepts = numbers(&expected["intercepts"]);
        assert!(close(*intercept, intercepts[0], 1e-4), "{intercept} {}", intercepts[0]);
        for (found, expected) in weights.iter().zip(numbers(&expected["weights_of_first"])) {
            assert!(close(*found, expected, 1e-4), "{n_shots} shots: {found} {expected}");
        }
    }
}

#[test]
fn what_is_no_set_of_examples_gives_no_probe() {
    let (one, other, zero): (&[f32], &[f32], &[f32]) = (&[1.0, 0.0], &[0.5, 2.0], &[0.0, 0.0]);
    for classifier in [ProbeClassifier::NearestMean, ProbeClassifier::Knn, ProbeClassifier::Logistic] {
        let fit = |examples: &[Vec<&[f32]>]| Probe::fit(classifier, examples);
        let probe = fit(&[vec![one], vec![other]]).unwrap();
        assert_eq!(best(&probe.scores(&[0.1, 1.0]).unwrap()), 1);
        let long = [1.0_f32, 2.0, 3.0];
        for unscored in [zero, &[f32::NAN, 1.0], &[f32::INFINITY, 1.0], &long] {
            assert!(probe.scores(unscored).is_none());
        }
        assert!(fit(&[]).is_none());
        assert!(fit(&[vec![one]]).is_none());
        assert!(fit(&[vec![one], vec![]]).is_none());
        assert!(fit(&[vec![one], vec![other, one]]).is_none());
        assert!(fit(&[vec![one], vec![zero]]).is_none());
        assert!(fit(&[vec![one], vec![&long]]).is_none());
    }
    assert!(Probe::fit(ProbeClassifier::NearestMean, &[vec![one, &[-1.0, 0.0]], vec![one, other]]).is_none());
}
