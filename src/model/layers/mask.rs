//! Attention masks: which positions a query may see, as numbers that are added to its scores.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Result, Tensor};

use super::visible::Visible;

/// Finite even in f16, and far below every score.
pub(super) const MASKED: f32 = -60_000.0;

/// Zero where a query may look, a large negative number where it may not. A mask records its structure, so that no
/// layer reads it back from a device. All layers of a pass share what the kernels read of it.
#[derive(Clone, Debug)]
pub struct Mask {
    added: Tensor,
    is_causal: bool,
    /// What the kernels read, after the first read.
    visible: Arc<OnceLock<Visible>>,
}

impl Mask {
    /// Builds a mask from the numbers `(rows, 1, queries, positions)`.
    fn new(
        added: Vec<f32>,
        [n_rows, n_queries, n_positions]: [usize; 3],
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let is_causal = is_causal(&added, n_queries, n_positions);
        let added = Tensor::from_vec(added, (n_rows, 1, n_queries, n_positions), device)?.to_dtype(dtype)?;
        Ok(Self { added, is_causal, visible: Arc::default() })
    }

    /// Builds the mask `(rows, 1, queries, positions)` in which a query sees a position if `is_visible` returns true
    /// for row, query and position. Each query must see at least one.
    pub fn of(
        [n_rows, n_queries, n_positions]: [usize; 3],
        dtype: DType,
        device: &Device,
        is_visible: impl Fn(usize, usize, usize) -> bool,
    ) -> Result<Self> {
        let mut added = Vec::with_capacity(n_rows * n_queries * n_positions);
        for (row, query) in (0..n_rows).flat_map(|row| (0..n_queries).map(move |query| (row, query))) {
            added.extend((0..n_positions).map(|key| if is_visible(row, query, key) { 0f32 } else { MASKED }));
        }
        Self::new(added, [n_rows, n_queries, n_positions], dtype, device)
    }

    /// Returns the mask of only the `queries`.
    pub fn of_queries(&self, queries: Range<usize>) -> Result<Self> {
        // The last queries of a causal mask form a causal mask.
        let is_causal = self.is_causal && queries.end == self.added.dim(2)?;
        let added = self.added.narrow(2, queries.start, queries.len())?.contiguous()?;
        Ok(Self { added, is_causal, visible: Arc::default() })
    }

    /// Returns the mask over `n_positions` more positions before all others, which every query sees.
    pub fn after(&self, n_positions: usize) -> Result<Self> {
        let added = self.added.pad_with_zeros(3, n_positions, 0)?;
        Ok(Self { added, is_causal: false, visible: Arc::default() })
    }

    /// Returns the numbers `(1 or batch, 1, queries, positions)`.
    pub fn added(&self) -> &Tensor {
        &self.added
    }

    /// Returns what each query may see, which is read at the first call.
    pub(super) fn visible(&self) -> Result<&Visible> {
        match self.visible.get() {
            Some(visible) => Ok(visible),
            None => {
                let read = Visible::read(&self.added)?;
                Ok(self.visible.get_or_init(|| read))
            }
        }
    }

    /// Whether in every row the queries are the last positions and each sees exactly the positions up to its own.
    pub fn is_causal(&self) -> bool {
        self.is_causal
    }
}

fn is_causal(added: &[f32], n_queries: usize, n_positions: usize) -> bool {
    let queries = (n_positions.saturating_sub(n_queries)..n_positions).cycle();
    n_queries <= n_positions
        && added.chunks_exact(n_positions.max(1)).zip(queries).all(|(row, query)| {
            let (seen, hidden) = row.split_at(query + 1);
            seen.iter().all(|&added| added == 0.0) && hidden.iter().all(|&added| added != 0.0)
        })
}

/// Returns the mask of causal text, `(1, 1, tokens, tokens)`.
pub fn causal_mask(n_tokens: usize, dtype: DType, device: &Device) -> Result<Mask> {
    left_padded_mask(&[0], n_tokens, n_tokens, dtype, device)
}

/// Returns the mask of the last `n_queries` of `n_positions` positions, in which the first `n_padding[row]` positions
/// of a row are padding: `(batch, 1, queries, positions)`.
///
/// A padded query sees only itself. With no visible position its softmax would be NaN and spread through the values.
pub fn left_padded_mask(
    n_padding: &[usize],
    n_queries: usize,
    n_positions: usize,
    dtype: DType,
    device: &Device,
) -> Result<Mask> {
    let n_before = n_positions - n_queries;
    Mask::of([n_padding.len(), n_queries, n_positions], dtype, device, |row, query, key| {
        let query = n_before + query;
        key == query || (key >= n_padding[row] && key <= query)
    })
}

/// Returns the mask of the nodes `new` of a tree whose root is the last of `n_before` positions, the first
/// `n_padding[row]` of which are padding. A node sees the positions before the tree, its ancestors and itself.
/// `parents` is indexed by node, each before its children; `None` is the root. The shape is `(batch, 1, new, n_before +
/// new.end)`.
pub fn tree_mask(
    n_padding: &[usize],
    n_before: usize,
    parents: &[Option<usize>],
    new: Range<usize>,
    dtype: DType,
    device: &Device,
) -> Result<Mask> {
    let n_positions = n_before + new.end;
    let mut added = vec![MASKED; n_padding.len() * new.len() * n_positions];
    let queries = n_padding.iter().flat_map(|&padding| new.clone().map(move |node| (padding, node)));
    for (row, (padding, node)) in added.chunks_exact_mut(n_positions).zip(queries) {
        row[padding..n_before].fill(0.0);
        let mut next = Some(node);
        while let Some(node) = next {
            row[n_before + node] = 0.0;
            next = parents[node];
        }
    }
    Mask::new(added, [n_padding.len(), new.len(), n_positions], dtype, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns for each number whether it is zero.
    fn visible(mask: &Mask) -> Vec<bool> {
        let added = mask.added().to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        added.iter().map(|&added| added == 0.0).collect()
    }

    #[test]
    fn a_node_sees_the_prompt_its_ancestors_and_itself() {
        // Two children of the root, and two children of the first of them.
        let parents = [None, None, Some(0), Some(0)];
        let mask = tree_mask(&[0, 1], 2, &parents, 1..4, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(mask.added().dims(), [2, 1, 3, 6]);
        let visible: Vec<u8> = visible(&mask).into_iter().map(u8::from).collect();
        let of_row = |first: u8| [[first, 1, 0, 1, 0, 0], [first, 1, 1, 0, 1, 0], [first, 1, 1, 0, 0, 1]].concat();
        assert_eq!(visible, [of_row(1), of_row(0)].concat());
    }

    #[test]
    fn a_padded_row_sees_its_own_tokens_only() {
        let mask = left_padded_mask(&[0, 2], 3, 3, DType::F32, &Device::Cpu).unwrap();
        let expected = [
            [true, false, false, true, true, false, true, true, true],
            [true, false, false, false, true, false, false, false, true],
        ];
        assert_eq!(visible(&mask), expected.concat());
    }

    #[test]
    fn a_mask_says_causal_exactly_where_its_numbers_are_those_of_a_causal_mask() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let causal = |mask: &Mask| {
                let (_, _, n_queries, n_positions) = mask.added().dims4().unwrap();
                let place = |number: usize| (number / n_positions % n_queries, number % n_positions);
                visible(mask).into_iter().enumerate().all(|(number, is_visible)| {
                    let (query, position) = place(number);
                    is_visible == (position <= query + n_positions - n_queries)
                })
            };
            let check = |mask: candle_core::Result<Mask>, expected: bool| {
                let mask = mask.unwrap();
                assert_eq!((mask.is_causal(), causal(&mask)), (expected, expected), "{:?}", mask.added().dims());
            };
            let cpu = Device::Cpu;
            check(causal_mask(1, dtype, &cpu), true);
            check(causal_mask(7, dtype, &cpu), true);
            check(left_padded_mask(&[0], 3, 8, dtype, &cpu), true);
            check(left_padded_mask(&[0, 0], 1, 8, dtype, &cpu), true);
            check(left_padded_mask(&[0, 2], 8, 8, dtype, &cpu), false);
            check(left_padded_mask(&[0, 2], 3, 8, dtype, &cpu), false);
            check(left_padded_mask(&[1, 0], 1, 8, dtype, &cpu), false);
            check(tree_mask(&[0], 2, &[None, None, Some(0)], 0..3, dtype, &cpu), false);
            check(tree_mask(&[0, 1], 2, &[None, Some(0)], 0..2, dtype, &cpu), false);
            // A single label is not a tree.
            check(tree_mask(&[0], 2, &[None, Some(0), Some(1)], 1..3, dtype, &cpu), true);
        }
    }
}
