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
mod tests;
