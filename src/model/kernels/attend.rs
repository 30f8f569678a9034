//! Attention of some queries over the keys and values of one head.

use std::marker::PhantomData;

use super::kept::{Kept, LeftRow, RowsByKept};
use super::kv_buffer::{HeadShape, Heads, RotaryRows, turned};
use super::math::exp;
use super::memory::Shared;
use super::simd::{LANES_MAX, Number, Simd, Task, first_lanes};

/// The positions that a query sees.
#[derive(Clone, Copy, Debug)]
pub enum Visible<'a> {
    /// All positions.
    All,
    /// By query, or by batch row and query, the first position that it sees and the one after the last.
    Ranges(&'a [[u32; 2]]),
    /// Numbers that are added to the scores, `(1 or batch, queries, positions)`.
    Added(&'a [f32]),
}

impl Visible<'_> {
    pub(super) fn n_masks(&self, n_tokens: usize, n_positions: usize) -> usize {
        match self {
            Self::All => 1,
            Self::Ranges(ranges) => ranges.len() / n_tokens.max(1),
            Self::Added(mask) => mask.len() / (n_tokens * n_positions).max(1),
        }
    }
}

/// The number of keys between updates of the softmax.
const N_KEYS_OF_A_BLOCK: usize = 256;
/// The score of a hidden position: finite, so that differences are not NaN.
const HIDDEN: f32 = -1e30;

#[derive(Clone, Copy)]
pub(super) struct Mask<'a> {
    visible: Visible<'a>,
    /// The row of the masks.
    row: usize,
    n_tokens: usize,
    n_positions: usize,
}

impl<'a> Mask<'a> {
    /// Returns row `row` of the masks, for `n_tokens` queries of `n_positions` positions.
    pub(super) fn new(visible: Visible<'a>, row: usize, n_tokens: usize, n_positions: usize) -> Self {
        Self { visible, row, n_tokens, n_positions }
    }

    /// Returns the positions that `query` may see.
    fn range(&self, query: usize) -> [usize; 2] {
        match self.visible {
            Visible::Ranges(ranges) => {
                ranges[self.row * self.n_tokens + query].map(|end| (end as usize).min(self.n_positions))
            }
            Visible::All | Visible::Added(_) => [0, self.n_positions],
        }
    }

    /// Returns what is added to the scores of `query` at `n` positions from `first` on.
    fn added(&self, query: usize, first: usize, n: usize) -> Option<&'a [f32]> {
        match self.visible {
            Visible::Added(mask) => Some(&mask[(self.row * self.n_tokens + query) * self.n_positions + first..][..n]),
            Visible::All | Visible::Ranges(_) => None,
        }
    }
}

/// Some queries of the heads that share one head of keys.
pub(super) struct Attend<'a, T, K> {
    pub(super) from: Heads<'a, T>,
    pub(super) shape: HeadShape,
    pub(super) rotary: Option<RotaryRows<'a>>,
    pub(super) mask: Mask<'a>,
    pub(super) row: usize,
    pub(super) kv_head: usize,
    /// The first query, and the one after the last.
    pub(super) queries: [usize; 2],
    /// In the layout of [`KeptHead`](super::kv_append::KeptHead).
    pub(super) keys: &'a [K],
    pub(super) values: &'a [K],
    pub(super) result: Shared<T>,
}

/// The state of the rows of scores while keys pass.
struct Running<'a> {
    queries: &'a mut [f32], // (rows, head size)
    scores: &'a mut [f32],  // (rows, keys of a block)
    mixed: &'a mut [f32],   // (rows, head size in whole vectors)
    highest: &'a mut [f32], // (rows)
    sums: &'a mut [f32],    // (rows)
}

/// The same with its memory.
pub(super) struct AttendIn<'a, T, K> {
    pub(super) attend: Attend<'a, T, K>,
    pub(super) scratch: &'a mut [f32],
}

impl<T: Number, K: Kept> Task for AttendIn<'_, T, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { attend, scratch } = self;
        let head_size = attend.shape.head_size;
        let width = head_size.next_multiple_of(S::LANES);
        let n_rows = attend.n_rows();
        // All but the last two begin at whole vectors, because loads that cross cache lines cost twice.
        let (queries, rest) = scratch.split_at_mut((n_rows * head_size).next_multiple_of(LANES_MAX));
        let (scores, rest) = rest.split_at_mut(n_rows * N_KEYS_OF_A_BLOCK);
        let (mixed, rest) = rest.split_at_mut(n_rows * width);
        let (highest, rest) = rest.split_at_mut(n_rows);
        let mut running = Running { queries, scores, mixed, highest, sums: &mut rest[..n_rows] };
        attend.begin(simd, &mut running);
        let [first, last] = attend.seen();
        let mut start = first / S::PANEL * S::PANEL;
        while start < last {
            let n_keys = N_KEYS_OF_A_BLOCK.min(last - start);
            attend.add_keys(simd, &mut running, start, n_keys);
            start += n_keys;
        }
        attend.finish(simd, &running);
    }
}

impl<T: Number, K: Kept> Attend<'_, T, K> {
    fn group(&self) -> usize {
        self.shape.n_heads / self.shape.n_kv_heads
    }

    /// The number of rows of scores.
    fn n_rows(&self) -> usize {
        (self.queries[1] - self.queries[0]) * self.group()
    }

    /// The size of the scratch memory, in numbers.
    pub(super) fn n_scratch(&self) -> usize {
        let width = self.shape.head_size.next_multiple_of(LANES_MAX);
        self.n_rows() * (N_KEYS_OF_A_BLOCK + 2 * width + 2) + LANES_MAX
    }

    /// Returns the first position that any of the queries sees, and the one after the last.
    fn seen(&self) -> [usize; 2] {
        let ranges = (self.queries[0]..self.queries[1]).map(|query| self.mask.range(query));
        let seen = ranges.filter(|[start, end]| start < end);
        seen.reduce(|[first, last], [start, end]| [first.min(start), last.max(end)]).unwrap_or([0, 0])
    }

    /// Returns the query and the head of a row of scores.
    fn query_and_head(&self, row: usize) -> (usize, usize) {
        (self.queries[0] + row / self.group(), self.kv_head * self.group() + row % self.group())
    }

    #[inline(always)]
    fn begin<S: Simd>(&self, simd: S, running: &mut Running) {
        let head_size = self.shape.head_size;
        for (row, to) in running.queries.chunks_exact_mut(head_size).take(running.highest.len()).enumerate() {
            let (query, head) = self.query_and_head(row);
            let x = self.from.head(self.row, query, head, head_size);
            let token = self.row * self.from.n_tokens + query;
            let to = LeftRow::<K> { row: to.as_mut_ptr(), kept: PhantomData };
            // Safety: the row is one head long.
            unsafe { turned(simd, x, self.rotary, token, to) };
        }
        running.highest.fill(HIDDEN);
        running.sums.fill(0.0);
        running.mixed.fill(0.0);
    }

    /// Adds `n_keys` keys from `start` on, which begins a panel, to the softmax and its mixture.
    #[inline(always)]
    fn add_keys<S: Simd>(&self, simd: S, running: &mut Running, start: usize, n_keys: usize) {
        let head_size = self.shape.head_size;
        let width = head_size.next_multiple_of(S::LANES);
        let n_rows = running.highest.len();
        for column in (0..n_keys).step_by(S::PANEL) {
            let product = RowsByKept {
                left: running.queries.as_ptr(),
                left_stride: head_size,
                n_rows,
                n_steps: head_size,
                right: self.keys[(start + column) * head_size.next_multiple_of(K::TOGETHER)..].as_ptr(),
                right_stride: S::PANEL,
                n_vectors: (n_keys - column).min(S::PANEL).div_ceil(S::LANES),
                result: running.scores[column..].as_mut_ptr(),
                result_stride: N_KEYS_OF_A_BLOCK,
                accumulates: false,
            };
            // Safety: queries and scores are rows of a block, and the keys of a head are whole panels.
            unsafe { K::multiply(simd, product) };
        }
        for row in 0..n_rows {
            let (query, _) = self.query_and_head(row);
            let [first, last] = self.mask.range(query).map(|end| end.clamp(start, start + n_keys) - start);
            let last = last.max(first);
            let scores = running.scores[row * N_KEYS_OF_A_BLOCK..][..n_keys].as_mut_ptr();
            if first < last {
                let softmax = Softmax {
                    scores,
                    seen: [first, last],
                    scale: (head_size as f32).sqrt().recip(),
                    added: self.mask.added(query, start + first, last - first),
                    highest: &mut running.highest[row],
                    sum: &mut running.sums[row],
                    mixed: &mut running.mixed[row * width..][..width],
                };
                softmax.add::<S, K>(simd);
            }
            // Safety: these are the row's scores. The visible ones have been read; narrow weights occupy memory of
            // earlier neighbours.
            unsafe {
                K::clear_left::<S>(scores, 0, first);
                K::clear_left::<S>(scores, last, n_keys);
            }
        }
        let product = RowsByKept {
            left: running.scores.as_ptr(),
            left_stride: N_KEYS_OF_A_BLOCK,
            n_rows,
            n_steps: n_keys,
            right: self.values[start * width..].as_ptr(),
            right_stride: width,
            n_vectors: width / S::LANES,
            result: running.mixed.as_mut_ptr(),
            result_stride: width,
            accumulates: true,
        };
        // Safety: scores and mixtures are rows of a block, and the values of a head have a row in whole vectors for
        // each key.
        unsafe { K::multiply(simd, product) };
    }

    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, running: &Running) {
        let head_size = self.shape.head_size;
        let width = head_size.next_multiple_of(S::LANES);
        for (row, mixed) in running.mixed.chunks_exact(width).enumerate() {
            let (query, head) = self.query_and_head(row);
            let inverse = simd.splat(1.0 / running.sums[row]);
            for offset in (0..head_size).step_by(S::LANES) {
                let n = S::LANES.min(head_size - offset);
                // Safety: the head's numbers are within `mixed` and within the result, where no other task writes them.
                unsafe {
                    let y = simd.multiply(simd.load(mixed.as_ptr().add(offset)), inverse);
                    let token = self.row * self.from.n_tokens + query;
                    let place = (token * self.shape.n_heads + head) * head_size + offset;
                    T::store(simd, self.result.at(place), y, n);
                }
            }
        }
    }
}

/// One row of scores of some keys. It becomes weights relative to the highest score so far, and the earlier mixture is
/// rescaled to match.
struct Softmax<'a> {
    /// Unscaled scores, which are overwritten by weights as [`Kept::store_left`] writes them.
    scores: *mut f32,
    /// The first visible position, and the one after the last; at least one is visible.
    seen: [usize; 2],
    scale: f32,
    added: Option<&'a [f32]>,
    highest: &'a mut f32,
    sum: &'a mut f32,
    mixed: &'a mut [f32],
}

impl Softmax<'_> {
    #[inline(always)]
    fn add<S: Simd, K: Kept>(self, simd: S) {
        let [first, last] = self.seen;
        let top = self.top(simd);
        let before = *self.highest;
        *self.highest = before.max(top);
        // Nothing was mixed before the first visible position.
        if *self.highest > before && *self.sum > 0.0 {
            let scale = (before - *self.highest).exp();
            *self.sum *= scale;
            for offset in (0..self.mixed.len()).step_by(S::LANES) {
                let place = self.mixed[offset..].as_mut_ptr();
                // Safety: `mixed` is whole vectors.
                unsafe { simd.store(place, simd.multiply(simd.load(place), simd.splat(scale))) };
            }
        }
        let scale = simd.splat(if self.added.is_some() { 1.0 } else { self.scale });
        let shift = simd.splat(-*self.highest);
        let mut total = simd.splat(0.0);
        for place in (first..last).step_by(S::LANES) {
            let n = S::LANES.min(last - place);
            // Safety: `n` scores from `place` on belong to the row; a narrow weight is no later than its score.
            unsafe {
                let score = f32::load(simd, self.scores.add(place), n);
                let weight = exp(simd, simd.multiply_add(score, scale, shift));
                // Lanes after the end do not count.
                let weight = if n < S::LANES { first_lanes(simd, weight, n) } else { weight };
                K::store_left(simd, self.scores, place, weight, n);
                total = simd.add(total, weight);
            }
        }
        *self.sum += simd.sum(total);
    }

    /// Returns the highest scaled score. If a mask is added, this also scales the scores in place; otherwise it scales
    /// only the result.
    #[inline(always)]
    fn top<S: Simd>(&self, simd: S) -> f32 {
        let [first, last] = self.seen;
        let mut top = simd.splat(f32::NEG_INFINITY);
        for place in (first..last).step_by(S::LANES) {
            let n = S::LANES.min(last - place);
            // Safety: `n` scores from `place` on belong to the row, and the mask has as many numbers.
            unsafe {
                let mut score = f32::load(simd, self.scores.add(place), n);
                if let Some(added) = self.added {
                    let added = f32::load(simd, added.as_ptr().add(place - first), n);
                    score = simd.multiply_add(score, simd.splat(self.scale), added);
                    f32::store(simd, self.scores.add(place), score, n);
                }
                if n < S::LANES {
                    // The lanes after the end would be scores of 0.
                    let mut lanes = [f32::NEG_INFINITY; LANES_MAX];
                    simd.store_first(lanes.as_mut_ptr(), score, n);
                    score = simd.load(lanes.as_ptr());
                }
                top = simd.max(top, score);
            }
        }
        let top = simd.highest(top);
        if self.added.is_some() { top } else { top * self.scale }
    }
}
