use proptest::prelude::*;

use super::*;
use crate::stats::golden::close;

fn row(values: &[f64]) -> Vec<Option<f64>> {
    values.iter().copied().map(Some).collect()
}

/// Three stages, and a fourth task that is never trained.
fn three_stages() -> StageMatrix {
    let stages = [[0.9, 0.3, 0.25, 0.55], [0.7, 0.8, 0.4, 0.5], [0.75, 0.6, 0.95, 0.35]];
    StageMatrix::new(row(&[0.2, 0.4, 0.3, 0.6]), stages.iter().map(|stage| row(stage)).collect()).unwrap()
}

fn is(found: Option<f64>, expected: f64) -> bool {
    found.is_some_and(|found| close(found, expected, 1e-12))
}

#[test]
fn three_stages_give_the_measures_worked_out_by_hand() {
    let matrix = three_stages();
    assert!(is(matrix.average_accuracy(), (0.75 + 0.6 + 0.95) / 3.0));
    assert!(is(matrix.average_incremental_accuracy(), (0.9 + 0.75 + 2.3 / 3.0) / 3.0));
    // Task 1 from 0.9 to 0.75, task 2 from 0.8 to 0.6.
    assert!(is(matrix.backward_transfer(), (-0.15 - 0.2) / 2.0));
    // Before its stage, task 2 has 0.3 against 0.4 and task 3 has 0.4 against 0.3.
    assert!(is(matrix.forward_transfer(), 0.0));
    assert!(is(matrix.forgetting(), (0.15 + 0.2) / 2.0));
    assert!(is(matrix.task_forgetting(0), 0.15) && is(matrix.task_forgetting(1), 0.2));
    assert_eq!((matrix.task_forgetting(2), matrix.task_forgetting(3)), (None, None));
    assert!(is(matrix.fall(3), 0.25) && is(matrix.fall(2), -0.65));
    assert_eq!((matrix.n_stages(), matrix.n_tasks(), matrix.initial(3)), (3, 4, Some(0.6)));
}

#[test]
fn a_task_that_peaked_after_its_own_stage_is_forgotten_from_there() {
    let stages = vec![row(&[0.5, 0.0, 0.0]), row(&[0.9, 0.5, 0.0]), row(&[0.6, 0.5, 0.5])];
    let matrix = StageMatrix::new(row(&[0.0; 3]), stages).unwrap();
    assert!(is(matrix.task_forgetting(0), 0.3) && is(matrix.forgetting(), 0.15));
    assert!(is(matrix.backward_transfer(), 0.05));
}

#[test]
fn one_stage_is_emts_case() {
    let matrix = StageMatrix::new(row(&[0.5, 0.8]), vec![row(&[0.9, 0.3])]).unwrap();
    assert!(is(matrix.fall(1), 0.5) && is(matrix.average_accuracy(), 0.9));
    assert_eq!((matrix.backward_transfer(), matrix.forward_transfer(), matrix.forgetting()), (None, None, None));
}

#[test]
fn what_was_not_measured_leaves_undefined_only_what_needs_it() {
    let stages = vec![vec![Some(0.9), None], row(&[0.7, 0.8])];
    let matrix = StageMatrix::new(row(&[0.2, 0.4]), stages).unwrap();
    assert_eq!(matrix.forward_transfer(), None);
    assert!(is(matrix.backward_transfer(), -0.2) && is(matrix.average_accuracy(), 0.75));
    assert_eq!((matrix.accuracy(0, 1), matrix.accuracy(5, 0), matrix.accuracy(0, 5)), (None, None, None));
}

#[test]
fn what_is_no_matrix_is_refused_with_its_place() {
    assert_eq!(StageMatrix::new(row(&[0.5]), vec![]), Err(StageError::NoStage));
    let few = StageMatrix::new(row(&[0.5]), vec![row(&[0.5]), row(&[0.5])]);
    assert_eq!(few, Err(StageError::TooFewTasks { n_stages: 2, n_tasks: 1 }));
    let ragged = StageMatrix::new(row(&[0.5, 0.5]), vec![row(&[0.5])]);
    assert_eq!(ragged, Err(StageError::Ragged { stage: 1, found: 1, expected: 2 }));
    let percent = StageMatrix::new(row(&[0.5, 0.5]), vec![row(&[0.5, 56.0])]).unwrap_err();
    assert_eq!(percent.to_string(), "stage 1: the accuracy on task 2 is 56, which is not a fraction from 0 to 1");
}

proptest! {
    #[test]
    fn forgetting_is_at_least_the_backward_loss(cells in proptest::collection::vec(0.0..=1.0_f64, 20)) {
        let stages = cells[4..].chunks(4).map(row).collect();
        let matrix = StageMatrix::new(row(&cells[..4]), stages).unwrap();
        prop_assert!(matrix.forgetting().unwrap() >= -matrix.backward_transfer().unwrap() - 1e-12);
    }
}
