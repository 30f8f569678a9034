use std::slice::from_ref;

use super::*;

/// Two heads of three rows of nine keys.
const ROWS: [[f64; 18]; 3] = [
    [0.10, 0.10, 0.05, 0.05, 0.10, 0.20, 0.40, 0.0, 0.0, 0.30, 0.10, 0.10, 0.10, 0.10, 0.10, 0.20, 0.0, 0.0],
    [0.05, 0.05, 0.10, 0.10, 0.20, 0.20, 0.20, 0.10, 0.0, 0.25, 0.05, 0.05, 0.05, 0.10, 0.10, 0.20, 0.20, 0.0],
    [0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.2, 0.1, 0.05, 0.05, 0.1, 0.1],
];

fn parts() -> PromptParts<'static> {
    PromptParts { system: from_ref(&(0..2)), image: from_ref(&(2..5)), user: from_ref(&(5..7)) }
}

fn toy(row: usize, heads: HeadRule, of: ShareOf) -> [f64; 3] {
    let AttentionShares { system, image, user } = attention_shares(&ROWS[row], 9, parts(), heads, of).unwrap();
    [system, image, user]
}

fn are_near(found: [f64; 3], expected: [f64; 3], tolerance: f64) -> bool {
    found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < tolerance)
}

#[test]
fn the_toy_rows_meet_the_reference() {
    let expected = [[0.30, 0.25, 0.45], [0.20, 0.30, 0.35], [0.25, 0.40, 0.15]];
    for (row, expected) in expected.into_iter().enumerate() {
        let found = toy(row, HeadRule::Mean, ShareOf::Row);
        assert!(are_near(found, expected, 1e-15), "row {row}: {found:?}");
    }
    let found = toy(0, HeadRule::Max, ShareOf::Row);
    assert!(are_near(found, [0.30769231, 0.23076923, 0.46153846], 0.51e-8), "{found:?}");
}

#[test]
fn the_mean_of_the_renormalised_toy_rows_meets_the_reference() {
    let of_row = |row: &[f64; 18]| attention_shares(row, 9, parts(), HeadRule::Mean, ShareOf::Parts).unwrap();
    let rows: Vec<AttentionShares> = ROWS.iter().map(of_row).collect();
    let AttentionShares { system, image, user } = mean_attention_shares(&rows).unwrap();
    let found = [system, image, user];
    assert!(are_near(found, [0.28259804, 0.36764706, 0.34975490], 0.51e-8), "{found:?}");
    assert_eq!(mean_attention_shares(&[]), None);
}

#[test]
fn a_key_that_is_left_out_counts_only_in_shares_of_the_row() {
    let without_first = PromptParts { system: from_ref(&(1..2)), ..parts() };
    let of = |of| attention_shares(&ROWS[0], 9, without_first, HeadRule::Mean, of).unwrap();
    let (row, renormalised) = (of(ShareOf::Row), of(ShareOf::Parts));
    assert!(are_near([row.system, row.image, row.user], [0.1, 0.25, 0.45], 1e-15));
    assert!(are_near([renormalised.system, renormalised.image, renormalised.user], [0.125, 0.3125, 0.5625], 1e-15));
}

#[test]
fn the_runs_of_a_part_add_up() {
    let runs = PromptParts { image: &[2..3, 4..4, 3..5], ..parts() };
    let shares = |parts| attention_shares(&ROWS[1], 9, parts, HeadRule::Mean, ShareOf::Parts).unwrap();
    assert!((shares(runs).image - shares(parts()).image).abs() < 1e-15);
    let none = PromptParts { image: &[], ..parts() };
    assert!(shares(none).image == 0.0 && (shares(none).system + shares(none).user - 1.0).abs() < 1e-15);
}

#[test]
fn rows_without_a_share_have_none() {
    let of =
        |attention: &[f64], n_keys, parts, share| attention_shares(attention, n_keys, parts, HeadRule::Mean, share);
    let nothing = PromptParts { system: &[], image: &[], user: &[] };
    assert_eq!(of(&[], 9, parts(), ShareOf::Row), None);
    assert_eq!(of(&ROWS[0], 0, parts(), ShareOf::Row), None);
    assert_eq!(of(&ROWS[0], 5, parts(), ShareOf::Row), None);
    assert_eq!(of(&[0.5; 6], 6, parts(), ShareOf::Row), None, "the user's part ends after the row");
    assert_eq!(of(&[f64::NAN; 9], 9, parts(), ShareOf::Row), None);
    assert_eq!(of(&ROWS[0], 9, nothing, ShareOf::Parts), None);
    let zero = AttentionShares { system: 0.0, image: 0.0, user: 0.0 };
    assert_eq!(of(&ROWS[0], 9, nothing, ShareOf::Row), Some(zero));
}
