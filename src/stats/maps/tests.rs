use super::*;

const ACTIVATIONS: [f64; 8] = [1.0, 0.0, 0.0, 2.0, 3.0, -1.0, -1.0, 1.0];
const GRADIENTS: [f64; 8] = [1.0, -1.0, 0.0, 2.0, -2.0, 0.0, 1.0, 1.0];

fn are_near(found: &[f64], expected: &[f64]) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15)
}

#[test]
fn the_toy_maps_meet_the_reference() {
    let paper = cam_heat(&ACTIVATIONS, &GRADIENTS, 2, CamWeights::Paper).unwrap();
    assert!(are_near(&paper.map, &[0.0, 1.0, 0.0, 0.5]) && paper.max == 1.0, "{paper:?}");
    let code = cam_heat(&ACTIVATIONS, &GRADIENTS, 2, CamWeights::Code).unwrap();
    assert!(are_near(&code.map, &[1.0 / 3.0, 1.0, 0.5, 1.0 / 6.0]) && code.max == 0.75, "{code:?}");
    assert!(are_near(&code.thresholded(), &[0.0, 1.0, 0.5, 0.0]), "{code:?}");
}

#[test]
fn a_map_without_heat_stays_zero() {
    for weights in [CamWeights::Paper, CamWeights::Code] {
        let found = cam_heat(&ACTIVATIONS, &[0.0; 8], 2, weights).unwrap();
        assert_eq!((found.map, found.max), (vec![0.0; 4], 0.0));
    }
    // Activations that speak against the score.
    let found = cam_heat(&[-1.0, -2.0], &[1.0, 1.0], 1, CamWeights::Paper).unwrap();
    assert_eq!((found.thresholded(), found.max), (vec![0.0; 2], 0.0));
}

#[test]
fn arrays_that_are_no_map_have_no_heat() {
    assert_eq!(cam_heat(&[], &[], 2, CamWeights::Paper), None);
    assert_eq!(cam_heat(&[1.0], &[1.0], 0, CamWeights::Code), None);
    assert_eq!(cam_heat(&[1.0; 4], &[1.0; 2], 2, CamWeights::Code), None);
    assert_eq!(cam_heat(&[1.0; 3], &[1.0; 3], 2, CamWeights::Code), None);
    assert_eq!(cam_heat(&[1.0, f64::NAN], &[1.0; 2], 2, CamWeights::Paper), None);
}

#[test]
fn rank_correlation_is_1_for_one_order_and_less_1_for_the_opposite() {
    assert_eq!(rank_correlation(&[1.0, 2.0, 30.0], &[-5.0, 0.0, 0.1]), Some(1.0));
    assert_eq!(rank_correlation(&[1.0, 2.0, 30.0], &[3.0, 2.0, 1.0]), Some(-1.0));
    // 1 - 6 (1 + 1) / (4 * 15)
    let found = rank_correlation(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0]).unwrap();
    assert!((found - 0.8).abs() < 1e-15, "{found}");
}

/// Computed by scipy.stats.spearmanr.
#[test]
fn rank_correlation_with_ties_meets_scipy() {
    let first = [0.0, 0.0, 0.5, 1.0, 0.25, 0.5, 0.0, 0.75];
    let second = [0.1, 0.0, 0.5, 0.5, 0.5, 1.0, 0.0, 0.2];
    let found = rank_correlation(&first, &second).unwrap();
    assert!((found - 0.6835443037974684).abs() < 1e-14, "{found}");
    assert_eq!(rank_correlation(&[0.0, -0.0, 1.0], &[1.0, 1.0, 2.0]), Some(1.0), "zeros of either sign are tied");
}

#[test]
fn maps_without_an_order_have_no_rank_correlation() {
    assert_eq!(rank_correlation(&[], &[]), None);
    assert_eq!(rank_correlation(&[1.0], &[1.0]), None);
    assert_eq!(rank_correlation(&[1.0, 1.0], &[1.0, 2.0]), None);
    assert_eq!(rank_correlation(&[1.0, 2.0], &[1.0, 2.0, 3.0]), None);
    assert_eq!(rank_correlation(&[1.0, f64::NAN], &[1.0, 2.0]), None);
}

#[test]
fn overlap_counts_the_cells_of_at_least_half_the_maximum() {
    assert_eq!(overlap(&[1.0, 0.5, 0.4, 0.0], &[4.0, 0.0, 2.0, 1.9]), Some(1.0 / 3.0));
    assert_eq!(overlap(&[1.0, 0.0], &[0.1, 0.0]), Some(1.0));
    assert_eq!(overlap(&[1.0, 0.0], &[0.0, 1.0]), Some(0.0));
}

#[test]
fn maps_without_heat_have_no_overlap() {
    assert_eq!(overlap(&[], &[]), None);
    assert_eq!(overlap(&[0.0, 0.0], &[0.0, 1.0]), None);
    assert_eq!(overlap(&[1.0, 2.0], &[1.0]), None);
    assert_eq!(overlap(&[1.0, f64::INFINITY], &[1.0, 2.0]), None);
}
