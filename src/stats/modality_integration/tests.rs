//! Tests of `modality_integration`.

use super::*;

const EXACT: CrossTerm = CrossTerm::Exact;

/// Half a unit of the last digit that the reference prints.
const PRINTED: f64 = 0.51e-10;

fn near(found: f64, expected: f64, tolerance: f64) -> bool {
    (found - expected).abs() < tolerance
}

/// The sets of layer 1 or 2 of the reference toy: 14 rows and 13 rows of five dimensions.
fn toy(layer: usize) -> (Vec<f64>, Vec<f64>) {
    let (l, at) = (layer as f64, |index: usize| ((index / 5) as f64, (index % 5) as f64));
    let vision = (0..70).map(|index| {
        let (i, j) = at(index);
        let value = 3.0 / l * (0.37 * (i + 1.0) * (j + 2.0) * l + 0.1 * j).sin() + 0.2 * j;
        if index / 5 == 3 { value * 40.0 } else { value }
    });
    let text = (0..65).map(|index| {
        let (i, j) = at(index);
        (0.53 * (i + 2.0) * (j + 1.0) + 0.2 * l).cos() + 0.3
    });
    (vision.collect(), text.collect())
}

/// Rows of `n_dimensions` that no structure ties together.
fn scattered(n_rows: usize, n_dimensions: usize, seed: f64) -> Vec<f64> {
    (0..n_rows * n_dimensions).map(|at| ((at * at) as f64 * 0.7391 + seed).sin() * (1.0 + seed / 9.0)).collect()
}

/// Rows with the mean 0 and the covariance `diag(deviations^2)`: a pair of opposite rows for each dimension.
fn with_deviations(deviations: &[f64]) -> Vec<f64> {
    let n = deviations.len();
    let size = ((2 * n - 1) as f64 / 2.0).sqrt();
    let row = |at: usize| -> Vec<f64> {
        let sign = if at.is_multiple_of(2) { size } else { -size };
        (0..n).map(|j| if j == at / 2 { sign * deviations[j] } else { 0.0 }).collect()
    };
    (0..2 * n).flat_map(row).collect()
}

fn off(vision: &[f64], text: &[f64], n_dimensions: usize, cross: CrossTerm) -> ModalityIntegration {
    modality_integration(vision, text, n_dimensions, Outliers::Off, cross).unwrap()
}

#[test]
fn the_toy_layers_meet_the_reference_to_all_printed_digits() {
    let expected = [
        [
            0.6027946059,
            0.3276558827,
            8.2864430989,
            0.8298915577,
            2.5843253812,
            1.4767080776,
            4.2753397769,
            6.4905743841,
        ],
        [
            0.5982170909,
            0.1063666472,
            2.2275311614,
            0.9512699091,
            1.4377079432,
            0.4164463050,
            0.4097518313,
            2.4522751077,
        ],
    ];
    for (layer, expected) in (1..).zip(expected) {
        let (vision, text) = toy(layer);
        let of = |cross| modality_integration(&vision, &text, 5, Outliers::ReplaceMedian, cross).unwrap();
        let (exact, fast) = (of(EXACT), of(CrossTerm::Published));
        let found = [
            exact.alpha,
            exact.mean_gap,
            exact.trace_vision,
            exact.trace_text,
            exact.cross,
            fast.cross,
            exact.fid(),
            fast.fid(),
        ];
        for (found, expected) in found.into_iter().zip(expected) {
            assert!(near(found, expected, PRINTED), "layer {layer}: {found} for {expected}");
        }
        assert_eq!(exact.vision_outliers, [3]);
        assert_eq!(exact.text_outliers, if layer == 1 { vec![10] } else { Vec::new() });
    }
}

#[test]
fn the_toy_rates_meet_the_reference_to_all_printed_digits() {
    for (outliers, cross, expected) in [
        (Outliers::ReplaceMedian, EXACT, 0.6707180871),
        (Outliers::ReplaceMedian, CrossTerm::Published, 0.9514759216),
        (Outliers::Drop, EXACT, 0.7067503991),
    ] {
        let fids = [1, 2].map(|layer| {
            let (vision, text) = toy(layer);
            modality_integration(&vision, &text, 5, outliers, cross).unwrap().fid()
        });
        let found = modality_integration_rate(&fids).unwrap();
        assert!(near(found, expected, PRINTED), "{outliers:?} {cross:?}: {found} for {expected}");
    }
}

#[test]
fn isotropic_sets_have_their_closed_form() {
    for n in [1, 2, 5, 40] {
        let (vision, text) = (with_deviations(&vec![2.0; n]), with_deviations(&vec![0.75; n]));
        let shifted: Vec<f64> = vision.iter().map(|value| value + 0.5).collect();
        let found = off(&shifted, &text, n, EXACT);
        let expected = found.alpha.powi(2) * n as f64 * (1.25_f64.powi(2) + 0.25);
        assert!(near(found.fid() / expected, 1.0, 1e-9), "{n}: {found:?}");
    }
}

#[test]
fn covariances_along_the_same_axes_have_their_closed_form() {
    let (vision, text) = (with_deviations(&[3.0, 0.1, 0.0, 1.0]), with_deviations(&[0.5, 0.4, 2.0, 0.0]));
    let found = off(&vision, &text, 4, EXACT);
    let expected = found.alpha.powi(2) * (2.5_f64.powi(2) + 0.3_f64.powi(2) + 4.0 + 1.0);
    assert!(near(found.fid(), expected, 1e-7), "{} for {expected}", found.fid());
}

#[test]
fn equal_sets_are_at_distance_0() {
    for (n_rows, n_dimensions) in [(30, 6), (14, 5), (5, 12), (2, 3)] {
        let rows = scattered(n_rows, n_dimensions, 1.0);
        for outliers in [Outliers::ReplaceMedian, Outliers::Drop, Outliers::Off] {
            let found = modality_integration(&rows, &rows, n_dimensions, outliers, EXACT).unwrap();
            assert!(found.fid().abs() < 1e-6 * found.trace_text && found.mean_gap == 0.0, "{found:?}");
        }
    }
}

#[test]
fn the_published_term_is_above_0_for_equal_sets() {
    let rows = with_deviations(&[0.5_f64.sqrt(), 0.25_f64.sqrt(), 0.125_f64.sqrt()]);
    // Scaled so that the norms of the text have the mean 1, which keeps the covariance as it is.
    let mean_norm = norms(&rows, 3).iter().sum::<f64>() / 6.0;
    let found = off(&rows, &rows, 3, CrossTerm::Published);
    let unscaled = 2.0 * found.trace_text * mean_norm.powi(2) - 2.0 * found.cross * mean_norm.powi(4);
    assert!(near(unscaled, 1.09375, 1e-12), "{unscaled}");
    assert!(found.fid() > 0.01, "{found:?}");
}

#[test]
fn both_routes_to_the_cross_term_agree() {
    // Dimensions of zeros change no trace, and lead to the route by rows.
    for (n_vision, n_text, n_dimensions) in [(20, 15, 6), (9, 40, 7), (8, 8, 8)] {
        let (vision, text) = (scattered(n_vision, n_dimensions, 2.0), scattered(n_text, n_dimensions, 5.0));
        let padded = |rows: &[f64]| -> Vec<f64> {
            rows.chunks(n_dimensions).flat_map(|row| row.iter().copied().chain([0.0; 50])).collect()
        };
        for cross in [EXACT, CrossTerm::Published] {
            let by_dimensions = off(&vision, &text, n_dimensions, cross);
            let by_rows = off(&padded(&vision), &padded(&text), n_dimensions + 50, cross);
            assert!(near(by_rows.cross / by_dimensions.cross, 1.0, 1e-9), "{by_rows:?} {by_dimensions:?}");
            assert!(near(by_rows.fid(), by_dimensions.fid(), 1e-9));
        }
    }
}

#[test]
fn sets_on_two_lines_have_the_cross_term_of_their_angle() {
    // Covariances of rank 1, along two directions of 60 degrees.
    let line = |direction: [f64; 2], times: [f64; 3]| -> Vec<f64> {
        times.into_iter().flat_map(|time| direction.map(|part| part * time)).collect()
    };
    let vision = line([1.0, 0.0], [-2.0, 0.0, 2.0]);
    let text = line([0.5, 0.75_f64.sqrt()], [-1.0, 0.0, 1.0]);
    let found = off(&vision, &text, 2, EXACT);
    let expected = found.alpha.powi(2) * 2.0 * 1.0 * 0.5;
    assert!(near(found.cross, expected, 1e-7), "{} for {expected}", found.cross);
}

#[test]
fn a_common_scale_and_the_order_of_rows_do_not_matter() {
    let (vision, text) = toy(1);
    let of =
        |vision: &[f64], text: &[f64]| modality_integration(vision, text, 5, Outliers::ReplaceMedian, EXACT).unwrap();
    let fid = of(&vision, &text).fid();
    let scaled = |rows: &[f64]| -> Vec<f64> { rows.iter().map(|value| value * 37.5).collect() };
    let reversed = |rows: &[f64]| -> Vec<f64> { rows.chunks(5).rev().flatten().copied().collect() };
    assert!(near(of(&scaled(&vision), &scaled(&text)).fid(), fid, 1e-9));
    assert!(near(of(&reversed(&vision), &reversed(&text)).fid(), fid, 1e-9));
    assert!((of(&scaled(&vision), &text).fid() - fid).abs() > 1.0, "the scale of one set alone matters");
}

#[test]
fn a_common_rotation_does_not_matter_without_outliers() {
    let (vision, text) = toy(1);
    let (sine, cosine) = 0.7_f64.sin_cos();
    let turned = |rows: &[f64]| -> Vec<f64> {
        let mut rows = rows.to_vec();
        for row in rows.chunks_mut(5) {
            for (i, j) in [(0, 3), (1, 4), (2, 0), (3, 1)] {
                (row[i], row[j]) = (cosine * row[i] - sine * row[j], sine * row[i] + cosine * row[j]);
            }
        }
        rows
    };
    let (found, expected) = (off(&turned(&vision), &turned(&text), 5, EXACT), off(&vision, &text, 5, EXACT));
    assert!(near(found.fid() / expected.fid(), 1.0, 1e-9), "{found:?} {expected:?}");
    assert!(found.vision_outliers.is_empty());
}

#[test]
fn sets_that_have_no_covariance_have_no_distance() {
    let rows = [1.0, 2.0, 3.0, 5.0];
    let of = |vision: &[f64], text: &[f64], n| modality_integration(vision, text, n, Outliers::Drop, EXACT);
    assert!(of(&rows, &rows, 2).is_some());
    assert_eq!(of(&[], &[], 0), None);
    assert_eq!(of(&[], &rows, 2), None);
    assert_eq!(of(&rows, &rows[..2], 2), None);
    assert_eq!(of(&rows, &rows, 3), None);
    assert_eq!(of(&rows, &[0.0; 4], 2), None);
    assert_eq!(of(&[1.0, f64::NAN, 0.0, 0.0], &rows, 2), None);
    assert_eq!((modality_integration_rate(&[]), modality_integration_rate(&[-1.0, 0.5])), (None, None));
    assert_eq!(modality_integration_rate(&[40.0, 60.0]), Some(2.0));
}
