//! Attention masks: which positions a query may see. They are described by ranges where each query sees one run of
//! positions, and become a matrix of numbers only for operations that need one.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Result, Tensor};

use super::visible::Visible;

/// Finite even in f16, and far below every score.
pub(super) const MASKED: f32 = -60_000.0;

/// The positions that each query may see. A mask records its structure, so that no layer reads it back from a device. All
/// layers of a pass share it.
#[derive(Clone, Debug)]
pub struct Mask {
    /// Rows (1 if all rows of a batch share them), queries and positions.
    dims: [usize; 3],
    dtype: DType,
    device: Device,
    visible: Arc<Visible>,
    is_causal: bool,
    /// The position of the first query. Queries are positions in a row.
    first_query: usize,
    /// By position, its distance from the first one, if this is not its number: in a tree.
    places: Option<Arc<Vec<usize>>>,
    /// By row and query, the first position that a window does not hide. `None` if windows hide all earlier ones.
    kept_from: Option<Arc<Vec<u32>>>,
    /// The matrix, after it was first asked for.
    added: Arc<OnceLock<Tensor>>,
}

impl Mask {
    fn new(visible: Visible, dims: [usize; 3], dtype: DType, device: &Device) -> Self {
        let [_, n_queries, n_positions] = dims;
        Self {
            dims,
            dtype,
            device: device.clone(),
            is_causal: visible.is_causal(n_queries, n_positions),
            visible: Arc::new(visible),
            first_query: n_positions.saturating_sub(n_queries),
            places: None,
            kept_from: None,
            added: Arc::default(),
        }
    }

    /// Builds the mask of `[rows, queries, positions]` in which a query sees a position if `is_visible` returns true
    /// for row, query and position. Each query must see at least one. The queries are the last positions.
    pub fn of(
        dims: [usize; 3],
        dtype: DType,
        device: &Device,
        is_visible: impl Fn(usize, usize, usize) -> bool,
    ) -> Result<Self> {
        Ok(Self::new(Visible::of_each(dims, is_visible), dims, dtype, device))
    }

    /// Like [`of`](Self::of), for queries that see one run of positions each: `seen` returns the first position and the
    /// one after the last, for row and query.
    pub fn of_ranges(
        dims: [usize; 3],
        dtype: DType,
        device: &Device,
        seen: impl Fn(usize, usize) -> Range<usize>,
    ) -> Self {
        let [n_rows, n_queries, n_positions] = dims;
        let ranges = (0..n_rows).flat_map(|row| (0..n_queries).map(move |query| (row, query)));
        let ranges = ranges.map(|(row, query)| {
            let seen = seen(row, query);
            [seen.start as u32, seen.end as u32]
        });
        Self::new(Visible::of_ranges(ranges.collect(), n_positions), dims, dtype, device)
    }

    /// Lets each query see from position `kept_from` (of row and query) on, whatever the window of a layer hides.
    pub fn keeping(self, kept_from: impl Fn(usize, usize) -> usize) -> Self {
        let [n_rows, n_queries, _] = self.dims;
        let queries = (0..n_rows).flat_map(|row| (0..n_queries).map(move |query| (row, query)));
        let kept_from: Vec<u32> = queries.map(|(row, query)| kept_from(row, query) as u32).collect();
        Self { kept_from: Some(Arc::new(kept_from)), ..self }
    }

    /// Returns the mask of a layer in which a query sees only the last `n_positions` positions up to its own, and what
    /// comes after it as before.
    pub fn windowed(&self, n_positions: usize) -> Self {
        let [_, n_queries, n_all] = self.dims;
        if n_all <= n_positions {
            return self.clone();
        }
        let first_seen = |index: usize| {
            let by_window = (self.place(self.first_query + index % n_queries) + 1).saturating_sub(n_positions);
            self.kept_from.as_ref().map_or(by_window, |kept| by_window.min(kept[index] as usize))
        };
        let visible = match self.visible.as_ref() {
            Visible::Added(added) => {
                let mut added = added.clone();
                for (index, row) in added.chunks_exact_mut(n_all).enumerate() {
                    let first = first_seen(index);
                    let hidden = row.iter_mut().enumerate().filter(|(position, _)| self.place(*position) < first);
                    hidden.for_each(|(_, added)| *added = MASKED);
                }
                Visible::of_numbers(added, n_all)
            }
            ranges => {
                let ranges = (0..self.dims[0] * n_queries).map(|index| {
                    let [start, end] = ranges.range(index, n_all);
                    [start.max(first_seen(index) as u32), end]
                });
                Visible::of_ranges(ranges.collect(), n_all)
            }
        };
        let is_causal = visible.is_causal(n_queries, n_all);
        Self { visible: Arc::new(visible), is_causal, added: Arc::default(), ..self.clone() }
    }

    fn place(&self, position: usize) -> usize {
        self.places.as_ref().map_or(position, |places| places[position])
    }

    /// Returns the mask of only the `queries`.
    pub fn of_queries(&self, queries: Range<usize>) -> Result<Self> {
        let [n_rows, n_queries, n_positions] = self.dims;
        let dims = [n_rows, queries.len(), n_positions];
        let kept =
            |index: usize| index / queries.len().max(1) * n_queries + queries.start + index % queries.len().max(1);
        let indices = || (0..n_rows * queries.len()).map(kept);
        let visible = match self.visible.as_ref() {
            Visible::All => Visible::All,
            Visible::Ranges(ranges) => Visible::of_ranges(indices().map(|index| ranges[index]).collect(), n_positions),
            Visible::Added(added) => {
                let rows = indices().flat_map(|index| &added[index * n_positions..(index + 1) * n_positions]);
                Visible::of_numbers(rows.copied().collect(), n_positions)
            }
        };
        Ok(Self {
            first_query: self.first_query + queries.start,
            places: self.places.clone(),
            kept_from: self.kept_from.as_ref().map(|kept| Arc::new(indices().map(|index| kept[index]).collect())),
            // The last queries of a causal mask form a causal mask.
            is_causal: self.is_causal && queries.end == n_queries,
            ..Self::new(visible, dims, self.dtype, &self.device)
        })
    }

    /// Returns the mask over `n_before` more positions before all others, which every query sees.
    pub fn after(&self, n_before: usize) -> Result<Self> {
        let [n_rows, n_queries, n_positions] = self.dims;
        let is_visible = |row: usize, query: usize, key: usize| {
            key < n_before || self.visible.sees(row * n_queries + query, key - n_before, n_positions)
        };
        let mask = Self::of([n_rows, n_queries, n_before + n_positions], self.dtype, &self.device, is_visible)?;
        Ok(Self { is_causal: false, ..mask })
    }

    /// The numbers of rows, queries and positions.
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// Returns the numbers that are added to scores, `(1 or batch, 1, queries, positions)`: zero where a query may look, a
    /// large negative number where it may not. The matrix is built at the first call.
    ///
    /// # Errors
    /// A device failure.
    pub fn added(&self) -> Result<&Tensor> {
        if let Some(added) = self.added.get() {
            return Ok(added);
        }
        let [n_rows, n_queries, n_positions] = self.dims;
        let numbers = self.visible.numbers(n_rows * n_queries, n_positions);
        let added = Tensor::from_vec(numbers, (n_rows, 1, n_queries, n_positions), &self.device)?;
        let added = added.to_dtype(self.dtype)?;
        Ok(self.added.get_or_init(|| added))
    }

    /// What each query may see.
    pub(super) fn visible(&self) -> &Visible {
        &self.visible
    }

    /// Whether in every row the queries are the last positions and each sees exactly the positions up to its own.
    pub fn is_causal(&self) -> bool {
        self.is_causal
    }

    /// Whether every query sees all positions.
    pub fn is_open(&self) -> bool {
        matches!(self.visible.as_ref(), Visible::All)
    }
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
    Ok(Mask::of_ranges([n_padding.len(), n_queries, n_positions], dtype, device, |row, query| {
        let query = n_before + query;
        n_padding[row].min(query)..query + 1
    }))
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
    let mut places: Vec<usize> = (0..n_before).collect();
    for parent in &parents[..new.end] {
        places.push(parent.map_or(n_before, |parent| places[n_before + parent] + 1));
    }
    let dims = [n_padding.len(), new.len(), n_positions];
    let mask = Mask::new(Visible::of_numbers(added, n_positions), dims, dtype, device);
    Ok(Mask { places: Some(Arc::new(places)), ..mask })
}

#[cfg(test)]
mod tests;
