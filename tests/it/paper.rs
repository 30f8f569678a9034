//! Every number that the paper's tables imply, from its published percentages, by our own code.
//!
//! Zhai et al. 2023, tables 2, 6, 9, 10 and 11. Columns are MNIST, CIFAR-10, CIFAR-100, miniImagenet.

use emt::stats::{StageMatrix, retention};

const TUNED_ON: [&str; 4] = ["mnist", "cifar10", "cifar100", "miniimagenet"];

/// Table 2: an encoder and the models over it, with the mean retention and the sum of gaps that follow.
type Family = ([f64; 4], &'static [(&'static str, [f64; 4], f64, f64)]);

const TABLE_2: [Family; 3] = [
    (
        [77.36, 95.39, 76.04, 78.92],
        &[
            ("LLaVA-7b", [56.96, 56.71, 34.53, 14.12], 0.491, -165.39),
            ("LLaVA-13b", [53.84, 67.67, 44.79, 30.11], 0.594, -131.30),
            ("Otter", [49.59, 78.11, 57.63, 14.94], 0.602, -127.44),
        ],
    ),
    ([73.75, 88.17, 85.09, 85.84], &[("LENS", [22.84, 12.97, 0.03, 7.08], 0.135, -289.93)]),
    (
        [63.67, 89.72, 78.86, 83.84],
        &[
            ("InstructBLIP-7b", [45.12, 94.95, 17.00, 12.76], 0.534, -146.26),
            ("InstructBLIP-13b", [37.49, 88.72, 17.70, 14.82], 0.495, -157.36),
        ],
    ),
];

const BASE_7B: [f64; 4] = [56.96, 56.71, 34.53, 14.12];
const BASE_13B: [f64; 4] = [53.84, 67.67, 44.79, 30.11];

/// Table 9: after three epochs, one row for each dataset that was tuned on.
const LINEAR_7B: [[f64; 4]; 4] = [
    [98.03, 9.26, 9.96, 6.14],
    [17.10, 92.23, 36.24, 30.76],
    [17.88, 31.54, 83.86, 22.61],
    [6.36, 38.99, 24.99, 77.69],
];
const LORA_7B: [[f64; 4]; 4] =
    [[99.71, 7.03, 1.55, 1.04], [2.80, 94.59, 3.06, 17.90], [0.26, 2.47, 92.15, 14.14], [0.24, 4.41, 5.14, 95.34]];
const LINEAR_13B: [[f64; 4]; 4] = [
    [98.90, 22.63, 20.83, 10.35],
    [64.98, 92.15, 35.29, 31.55],
    [39.17, 43.07, 86.42, 27.03],
    [47.75, 29.77, 29.89, 91.24],
];
const LORA_13B: [[f64; 4]; 4] =
    [[99.85, 38.09, 30.05, 15.58], [23.43, 95.50, 5.48, 19.68], [5.48, 3.24, 93.16, 14.20], [0.24, 4.99, 5.22, 95.76]];

/// Tables 10 and 11: the 7b model after one and two epochs.
const LINEAR_7B_1: [[f64; 4]; 4] = [
    [97.21, 9.20, 10.38, 5.88],
    [20.45, 90.54, 47.34, 34.90],
    [26.16, 64.54, 72.94, 33.86],
    [0.67, 49.46, 38.07, 68.69],
];
const LINEAR_7B_2: [[f64; 4]; 4] = [
    [98.31, 9.27, 9.92, 5.91],
    [17.96, 91.63, 40.76, 32.36],
    [28.21, 52.26, 76.68, 30.86],
    [2.10, 44.95, 31.37, 75.48],
];
const LORA_7B_1: [[f64; 4]; 4] =
    [[98.52, 11.41, 0.57, 0.28], [0.01, 89.92, 0.44, 15.58], [0.01, 3.29, 84.46, 13.17], [0.01, 8.04, 4.78, 88.77]];
const LORA_7B_2: [[f64; 4]; 4] =
    [[99.24, 13.72, 1.18, 0.86], [0.01, 91.89, 1.39, 15.96], [0.01, 2.55, 88.00, 13.59], [0.00, 5.77, 5.61, 92.03]];

/// The fall of every dataset from the base to one stage, in points; the one that was tuned on comes first in a stage.
fn falls(base: [f64; 4], tuned: [f64; 4], tuned_on: usize) -> Vec<(usize, f64)> {
    let order: Vec<usize> = std::iter::once(tuned_on).chain((0..4).filter(|&at| at != tuned_on)).collect();
    let row = |accuracies: [f64; 4]| order.iter().map(|&at| Some(accuracies[at] / 100.0)).collect();
    let matrix = StageMatrix::new(row(base), vec![row(tuned)]).unwrap();
    order.iter().enumerate().map(|(task, &at)| (at, matrix.fall(task).unwrap() * 100.0)).collect()
}

/// The changes of every dataset that was not tuned on, over all four fine-tunes.
fn changes_elsewhere(base: [f64; 4], tuned: &[[f64; 4]; 4], is_wanted: impl Fn(usize, usize) -> bool) -> Vec<f64> {
    let mut changes = Vec::new();
    for (tuned_on, row) in tuned.iter().enumerate() {
        for (dataset, fall) in falls(base, *row, tuned_on) {
            if dataset != tuned_on && is_wanted(tuned_on, dataset) {
                changes.push(-fall);
            }
        }
    }
    changes
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn close(found: f64, expected: f64, digits: i32) -> bool {
    (found - expected).abs() <= 0.5001 * 10f64.powi(-digits)
}

#[test]
fn retention_and_gaps_follow_from_table_2() {
    let mut above_its_encoder = Vec::new();
    for (encoder, models) in TABLE_2 {
        for (name, model, mean_retention, sum_of_gaps) in models {
            let retained: Vec<f64> = model
                .iter()
                .zip(encoder)
                .map(|(model, encoder)| retention(model / 100.0, encoder / 100.0).unwrap())
                .collect();
            assert!(close(mean(&retained), *mean_retention, 3), "{name}: {}", mean(&retained));
            let gap: f64 = falls(encoder, *model, 0).iter().map(|(_, fall)| -fall).sum();
            assert!(close(gap, *sum_of_gaps, 2), "{name}: {gap}");
            above_its_encoder.extend((0..4).filter(|&at| retained[at] > 1.0).map(|at| (*name, TUNED_ON[at])));
        }
    }
    assert_eq!(above_its_encoder, [("InstructBLIP-7b", "cifar10")]);
    let [.., (encoder, models)] = TABLE_2;
    assert!(close(-falls(encoder, models[0].1, 1)[0].1, 5.23, 2));
}

#[test]
fn changes_elsewhere_follow_from_table_9() {
    for (name, base, tuned, expected, n_worse) in [
        ("7b linear", BASE_7B, LINEAR_7B, -19.59, 9),
        ("7b LoRA", BASE_7B, LORA_7B, -35.58, 10),
        ("13b linear", BASE_13B, LINEAR_13B, -15.58, 10),
        ("13b LoRA", BASE_13B, LORA_13B, -35.30, 12),
    ] {
        let changes = changes_elsewhere(base, &tuned, |_, _| true);
        assert_eq!(changes.len(), 12);
        assert!(close(mean(&changes), expected, 2), "{name}: {}", mean(&changes));
        assert_eq!(changes.iter().filter(|&&change| change < 0.0).count(), n_worse, "{name}");
    }
}

/// On the other colour datasets, after tuning on a colour dataset: linear gains at first and loses at last, LoRA loses at once.
#[test]
fn changes_by_epoch_follow_from_tables_10_and_11() {
    let is_colour = |tuned_on: usize, dataset: usize| tuned_on > 0 && dataset > 0;
    for (name, tuned, expected) in [
        ("linear, 1 epoch", LINEAR_7B_1, 9.58),
        ("linear, 2 epochs", LINEAR_7B_2, 3.64),
        ("linear, 3 epochs", LINEAR_7B, -4.26),
        ("LoRA, 1 epoch", LORA_7B_1, -27.57),
        ("LoRA, 2 epochs", LORA_7B_2, -27.64),
        ("LoRA, 3 epochs", LORA_7B, -27.27),
    ] {
        let changes = changes_elsewhere(BASE_7B, &tuned, is_colour);
        assert_eq!(changes.len(), 6);
        assert!(close(mean(&changes), expected, 2), "{name}: {}", mean(&changes));
    }
}

/// The same answers by two graders: linear on MNIST, asked about CIFAR-10. By the judge (table 10) and by the nearest label of
/// CLIP's text tower (table 6).
#[test]
fn two_graders_of_the_same_answers_differ_in_sign() {
    let change = |before: f64, after: f64| -falls([before; 4], [after; 4], 0)[0].1;
    let (by_judge, by_nearest_label) = (change(56.71, 9.20), change(68.10, 80.60));
    assert!(close(by_judge, -47.51, 2) && close(by_nearest_label, 12.50, 2), "{by_judge} {by_nearest_label}");
    // After two epochs they lie 71.8 points apart.
    assert!(close(change(9.27, 81.09), 71.82, 2));
}
