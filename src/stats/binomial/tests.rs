use super::*;
use crate::stats::golden::{close, golden, numbers};

#[test]
fn masses_and_tails_equal_scipys() {
    for case in golden()["binomial"].as_array().unwrap() {
        let [k, n, p, expected_mass, expected_tail] = numbers(case)[..] else { panic!("{case}") };
        let found = mass(k, n - k, p, 1.0 - p);
        assert!((found - expected_mass).abs() <= 1e-11 * expected_mass, "{case} {found}");
        let found = lower_tail(k as usize, n as usize, p);
        assert!((found - expected_tail).abs() <= 1e-11 * expected_tail, "{case} {found}");
    }
}

#[test]
fn the_bulk_sums_to_one_and_is_made_of_masses() {
    for (n, p) in [(1, 0.5), (20, 0.0), (20, 1.0), (19, 0.97), (500, 1e-6), (100_000, 0.02), (100_000, 0.5)] {
        let (first, masses) = bulk(n, p);
        assert!(close(masses.iter().sum(), 1.0, 1e-11), "{n} {p}");
        for (k, found) in (first..).zip(&masses) {
            assert!(close(*found, mass(k as f64, (n - k) as f64, p, 1.0 - p), 1e-12), "{n} {p} {k}");
        }
    }
}

#[test]
fn a_certain_outcome_is_certain() {
    assert_eq!((lower_tail(3, 5, 1.0), lower_tail(5, 5, 1.0), lower_tail(0, 5, 0.0)), (0.0, 1.0, 1.0));
    assert_eq!((mass(0.0, 4.0, 0.0, 1.0), mass(4.0, 0.0, 1.0, 0.0), mass(1.0, 3.0, 0.0, 1.0)), (1.0, 1.0, 0.0));
}
