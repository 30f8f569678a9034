use proptest::prelude::*;

use super::*;
use crate::stats::golden::{close, golden, numbers};

#[test]
fn kappa_equals_statsmodels() {
    for case in golden()["kappa"].as_array().unwrap() {
        let row = |row| numbers(row).into_iter().map(|n| n as usize).collect();
        let table: Vec<Vec<usize>> = case["table"].as_array().unwrap().iter().map(row).collect();
        let found = cohen_kappa(&table, 0.95).unwrap();
        let [kappa, error, low, high] = numbers(&case["kappa"])[..] else { panic!("{case}") };
        assert!(close(found.kappa, kappa, 1e-12) && close(found.standard_error, error, 1e-9), "{case} {found:?}");
        assert!(close(found.interval[0], low, 1e-9) && close(found.interval[1], high, 1e-9), "{case} {found:?}");
    }
}

#[test]
fn full_agreement_is_1_and_none_beyond_chance_is_0() {
    let full = cohen_kappa(&[[30, 0], [0, 70]], 0.95).unwrap();
    assert!(close(full.kappa, 1.0, 1e-12) && full.standard_error < 1e-9);
    let chance = cohen_kappa(&[[20, 20], [30, 30]], 0.95).unwrap();
    assert!(chance.kappa.abs() < 1e-12 && chance.interval[0] < 0.0 && chance.interval[1] > 0.0);
}

#[test]
fn a_table_of_one_class_or_of_nothing_has_no_kappa() {
    assert_eq!(cohen_kappa(&[[50, 0], [0, 0]], 0.95), None);
    assert_eq!(cohen_kappa(&[[0, 0], [0, 0]], 0.95), None);
    assert_eq!(cohen_kappa(&[vec![1, 2], vec![3]], 0.95), None);
    assert_eq!(cohen_kappa(&[[1, 2], [3, 4]], 1.0), None);
    assert_eq!(cohen_kappa::<[usize; 0]>(&[], 0.95), None);
}

proptest! {
    #[test]
    fn either_grader_may_come_first(cells in proptest::array::uniform4(1_usize..200)) {
        let [a, b, c, d] = cells;
        let (one, other) = (cohen_kappa(&[[a, b], [c, d]], 0.9).unwrap(), cohen_kappa(&[[a, c], [b, d]], 0.9).unwrap());
        prop_assert!(close(one.kappa, other.kappa, 1e-12) && close(one.standard_error, other.standard_error, 1e-9));
        prop_assert!(one.interval[0] <= one.kappa && one.kappa <= one.interval[1]);
    }
}
