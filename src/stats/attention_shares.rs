//! Where a token looks: the shares of one row of attention that fall on the parts of a prompt.

use std::ops::Range;

/// How the attention of several heads becomes one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadRule {
    /// The mean over the heads, as in the paper.
    Mean,
    /// The largest of the heads by key, divided by the sum of the row, as in the authors' notebook.
    Max,
}

/// What the attention to a part is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareOf {
    /// All keys of the row: earlier tokens of the answer and left-out keys take a share, too.
    Row,
    /// The keys of the three parts, so that the shares add up to 1, as in the paper.
    Parts,
}

/// The keys of each part of a prompt, as half-open ranges that do not overlap. A part may be empty.
///
/// To leave the begin token out, which draws attention whatever the text is, leave it out of `system`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptParts<'a> {
    /// What stands before the image.
    pub system: &'a [Range<usize>],
    /// The positions of image features.
    pub image: &'a [Range<usize>],
    /// What stands after the image, to the end of the prompt.
    pub user: &'a [Range<usize>],
}

/// The shares of attention that fall on the parts of a prompt, each within [0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShares {
    /// On the text before the image.
    pub system: f64,
    /// On the image.
    pub image: f64,
    /// On the text after the image.
    pub user: f64,
}

/// Returns the shares of one row of attention that fall on the parts of a prompt.
///
/// Zhang et al. (2024), "From redundancy to relevance: information flow in LVLMs across reasoning tasks", arXiv
/// 2406.06579, equation 9. `attention` has the row of each head after the other, `n_keys` weights each, as the softmax
/// returns them. `None` without heads or keys, for a range beyond the keys, for a weight that is negative or not finite,
/// and if the divisor is not above 0.
pub fn attention_shares(
    attention: &[f64],
    n_keys: usize,
    parts: PromptParts<'_>,
    heads: HeadRule,
    of: ShareOf,
) -> Option<AttentionShares> {
    let is_row = n_keys > 0
        && !attention.is_empty()
        && attention.len().is_multiple_of(n_keys)
        && attention.iter().all(|weight| weight.is_finite() && *weight >= 0.0);
    if !is_row {
        return None;
    }
    let row = joined(attention, n_keys, heads);
    let sum_of = |ranges: &[Range<usize>]| -> Option<f64> {
        ranges.iter().map(|range| Some(row.get(range.clone())?.iter().sum::<f64>())).sum()
    };
    let (system, image, user) = (sum_of(parts.system)?, sum_of(parts.image)?, sum_of(parts.user)?);
    let divisor = match (of, heads) {
        (ShareOf::Parts, _) => system + image + user,
        (ShareOf::Row, HeadRule::Max) => row.iter().sum(),
        // The softmax of each head has divided.
        (ShareOf::Row, HeadRule::Mean) => 1.0,
    };
    let shares = AttentionShares { system: system / divisor, image: image / divisor, user: user / divisor };
    (divisor > 0.0 && divisor.is_finite()).then_some(shares)
}

/// Returns the mean of the shares of several rows. The paper renormalises each row and then takes this mean. `None`
/// without rows.
pub fn mean_attention_shares(rows: &[AttentionShares]) -> Option<AttentionShares> {
    let mean = |share: fn(&AttentionShares) -> f64| rows.iter().map(share).sum::<f64>() / rows.len() as f64;
    (!rows.is_empty()).then(|| AttentionShares {
        system: mean(|row| row.system),
        image: mean(|row| row.image),
        user: mean(|row| row.user),
    })
}

/// One row out of those of all heads.
fn joined(attention: &[f64], n_keys: usize, heads: HeadRule) -> Vec<f64> {
    let mut row = vec![0.0; n_keys];
    let n_heads = (attention.len() / n_keys) as f64;
    for head in attention.chunks_exact(n_keys) {
        for (joined, weight) in row.iter_mut().zip(head) {
            match heads {
                HeadRule::Mean => *joined += weight / n_heads,
                HeadRule::Max => *joined = weight.max(*joined),
            }
        }
    }
    row
}

#[cfg(test)]
mod tests {
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
}
