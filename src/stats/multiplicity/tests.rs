use proptest::prelude::*;

use super::*;
use crate::stats::golden::{close, golden, numbers};

#[test]
fn adjusted_p_values_equal_statsmodels() {
    for case in golden()["multiplicity"].as_array().unwrap() {
        let p_values = numbers(&case["p"]);
        for (found, name) in [(holm(&p_values), "holm"), (benjamini_hochberg(&p_values), "fdr_bh")] {
            let expected = numbers(&case[name]);
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(&expected).all(|(a, b)| close(*a, *b, 1e-14)), "{name} {found:?} {case}");
        }
    }
}

#[test]
fn what_is_no_probability_is_never_evidence() {
    assert_eq!(holm(&[f64::NAN, 0.01, -1.0]), [1.0, 0.03, 1.0]);
    assert_eq!(benjamini_hochberg(&[f64::NAN, 0.01]), [1.0, 0.02]);
    assert!(holm(&[]).is_empty() && benjamini_hochberg(&[]).is_empty());
}

proptest! {
    #[test]
    fn adjusted_values_keep_order_and_holm_is_the_stricter(p in proptest::collection::vec(0.0..=1.0_f64, 1..30)) {
        let (holm, hochberg) = (holm(&p), benjamini_hochberg(&p));
        for i in 0..p.len() {
            prop_assert!(p[i] <= hochberg[i] + 1e-15 && hochberg[i] <= holm[i] + 1e-15 && holm[i] <= 1.0);
            for j in 0..p.len() {
                prop_assert!(p[i] > p[j] || (holm[i] <= holm[j] && hochberg[i] <= hochberg[j]));
            }
        }
    }
}
