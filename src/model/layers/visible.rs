//! The content of a mask, in the form that the kernels take.

use super::Mask;
use super::mask::MASKED;
use crate::model::kernels;

/// What the queries of a mask see.
#[derive(Debug, PartialEq)]
pub(super) enum Visible {
    /// Nothing is hidden.
    All,
    /// For each query of each row, the first position that it sees and the one after the last.
    Ranges(Vec<[u32; 2]>),
    /// The numbers that are added to the scores.
    Added(Vec<f32>),
}

impl Visible {
    /// Returns the content of `mask`.
    pub(super) fn of(mask: Option<&Mask>) -> &Self {
        static ALL: Visible = Visible::All;
        mask.map_or(&ALL, Mask::visible)
    }

    /// The content of a mask of `[rows, queries, positions]` with a run of positions for each query.
    pub(super) fn of_ranges(ranges: Vec<[u32; 2]>, n_positions: usize) -> Self {
        match ranges.iter().all(|&[start, end]| start == 0 && end as usize == n_positions) {
            true => Self::All,
            false => Self::Ranges(ranges),
        }
    }

    /// The content of a mask of `[rows, queries, positions]` by its numbers.
    pub(super) fn of_numbers(numbers: Vec<f32>, n_positions: usize) -> Self {
        let ranges: Option<Vec<[u32; 2]>> = numbers.chunks_exact(n_positions.max(1)).map(range).collect();
        match ranges {
            Some(ranges) => Self::of_ranges(ranges, n_positions),
            None => Self::Added(numbers),
        }
    }

    /// The content of a mask of `[rows, queries, positions]` in which a query sees what `is_visible` returns true for.
    pub(super) fn of_each(
        [n_rows, n_queries, n_positions]: [usize; 3],
        is_visible: impl Fn(usize, usize, usize) -> bool,
    ) -> Self {
        let queries = || (0..n_rows).flat_map(|row| (0..n_queries).map(move |query| (row, query)));
        let number = |row: usize, query: usize, key: usize| if is_visible(row, query, key) { 0f32 } else { MASKED };
        let mut numbers = Vec::with_capacity(n_positions);
        // Most masks are runs, for which the matrix is never held.
        let ranges: Option<Vec<[u32; 2]>> = queries()
            .map(|(row, query)| {
                numbers.clear();
                numbers.extend((0..n_positions).map(|key| number(row, query, key)));
                range(&numbers)
            })
            .collect();
        if let Some(ranges) = ranges {
            return Self::of_ranges(ranges, n_positions);
        }
        let all = queries().flat_map(|(row, query)| (0..n_positions).map(move |key| (row, query, key)));
        Self::Added(all.map(|(row, query, key)| number(row, query, key)).collect())
    }

    /// The run of positions that query `index`, counted through the rows, sees. All of `n_positions` if it is none.
    pub(super) fn range(&self, index: usize, n_positions: usize) -> [u32; 2] {
        match self {
            Self::Ranges(ranges) => ranges[index],
            Self::All | Self::Added(_) => [0, n_positions as u32],
        }
    }

    /// Whether query `index`, counted through the rows, sees position `key` of `n_positions`.
    pub(super) fn sees(&self, index: usize, key: usize, n_positions: usize) -> bool {
        match self {
            Self::All => true,
            Self::Ranges(ranges) => (ranges[index][0] as usize..ranges[index][1] as usize).contains(&key),
            Self::Added(numbers) => numbers[index * n_positions + key] == 0.0,
        }
    }

    /// Returns the numbers that are added to the scores of `n_queries` queries, counted through the rows.
    pub(super) fn numbers(&self, n_queries: usize, n_positions: usize) -> Vec<f32> {
        match self {
            Self::All => vec![0.0; n_queries * n_positions],
            Self::Ranges(ranges) => {
                let mut numbers = vec![MASKED; n_queries * n_positions];
                for (row, [start, end]) in numbers.chunks_exact_mut(n_positions.max(1)).zip(ranges) {
                    row[*start as usize..*end as usize].fill(0.0);
                }
                numbers
            }
            Self::Added(numbers) => numbers.clone(),
        }
    }

    /// Whether `n_queries` queries are the last of `n_positions` positions and see exactly those up to their own.
    pub(super) fn is_causal(&self, n_queries: usize, n_positions: usize) -> bool {
        let first_end = (n_positions + 1).saturating_sub(n_queries);
        match self {
            Self::All => n_queries == 1,
            Self::Ranges(ranges) => {
                let ends = (first_end..=n_positions).cycle();
                n_queries <= n_positions
                    && ranges.iter().zip(ends).all(|(&[start, end], wanted)| start == 0 && end as usize == wanted)
            }
            Self::Added(_) => false,
        }
    }

    pub(super) fn borrowed(&self) -> kernels::Visible<'_> {
        match self {
            Self::All => kernels::Visible::All,
            Self::Ranges(ranges) => kernels::Visible::Ranges(ranges),
            Self::Added(mask) => kernels::Visible::Added(mask),
        }
    }
}

/// Returns the range in which a row of a mask is 0, if it is one run and everything else is hidden.
fn range(row: &[f32]) -> Option<[u32; 2]> {
    let start = row.iter().position(|&added| added == 0.0)?;
    let n = row[start..].iter().take_while(|&&added| added == 0.0).count();
    let is_hidden = |row: &[f32]| row.iter().all(|&added| added <= MASKED / 2.0);
    (is_hidden(&row[..start]) && is_hidden(&row[start + n..])).then_some([start as u32, (start + n) as u32])
}

#[cfg(test)]
mod tests;
