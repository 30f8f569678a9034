//! Attention that never holds all scores: softmax is kept up block by block of keys (Milakov and Gimelshein 2018; Dao et
//! al. 2022), over keys and values in the order in which products read them.

use std::marker::PhantomData;

use super::for_each;
use super::kv_buffer::{AttentionShape, Heads, KvBuffer, RotaryRows, check_angles, turned};
use super::math::exp;
use super::memory::{Shared, with_scratch, written};
use super::simd::{LANES_MAX, Number, Simd, Task};
use super::tile::{Floats, Product};

/// What a query sees.
#[derive(Clone, Copy, Debug)]
pub enum Visible<'a> {
    /// All positions.
    All,
    /// By query, or by row of the batch and query, the first position that it sees and the one after the last.
    Ranges(&'a [[u32; 2]]),
    /// The same as numbers that are added to the scores, `(1 or batch, queries, positions)`.
    Added(&'a [f32]),
}

/// `softmax(query key^T / √head size + mask) value` of `queries`, turned by `rotary`, over all positions of `buffer`:
/// `(batch, tokens, heads * head size)`.
///
/// # Panics
/// Sizes disagree.
pub fn attention<T: Number>(
    queries: Heads<T>,
    rotary: Option<RotaryRows>,
    visible: Visible,
    buffer: &KvBuffer,
) -> Vec<T> {
    let KvBuffer { kernels, batch, shape, n_positions, .. } = *buffer;
    let n_tokens = queries.n_tokens;
    assert_eq!(shape.n_heads % shape.n_kv_heads, 0, "heads are shared evenly");
    check_angles(rotary, batch * n_tokens, shape.head_size);
    let n_masks = visible.n_masks(n_tokens, n_positions);
    assert!(n_masks == 1 || n_masks == batch, "a mask is for all rows or for each");

    let (key_size, value_size) = buffer.head_sizes();
    let n_queries = (N_ROWS_OF_A_BLOCK * shape.n_kv_heads / shape.n_heads).max(1);
    let n_blocks = n_tokens.div_ceil(n_queries);
    let n_tasks = batch * shape.n_kv_heads * n_blocks;
    let n_products = batch * n_tokens * shape.n_heads * shape.head_size * n_positions;
    // Safety: the tasks are all heads of all queries, and each pair of them writes its own places.
    unsafe {
        written(batch * n_tokens * shape.n_heads * shape.head_size, |result| {
            for_each(n_tasks, n_products, |task| {
                // The last queries of a row see the most: they come first.
                let block = n_blocks - 1 - task % n_blocks;
                let head = task / n_blocks;
                let row = head / shape.n_kv_heads;
                let attend = Attend {
                    from: queries,
                    shape,
                    rotary,
                    mask: Mask { visible, row: row.min(n_masks - 1), n_tokens, n_positions },
                    row,
                    kv_head: head % shape.n_kv_heads,
                    queries: [block * n_queries, n_tokens.min((block + 1) * n_queries)],
                    keys: &buffer.keys.as_slice()[head * key_size..][..key_size],
                    values: &buffer.values.as_slice()[head * value_size..][..value_size],
                    result,
                };
                with_scratch(attend.n_scratch(), |scratch| kernels.run(AttendIn { attend, scratch }));
            });
        })
    }
}

impl Visible<'_> {
    fn n_masks(&self, n_tokens: usize, n_positions: usize) -> usize {
        match self {
            Self::All => 1,
            Self::Ranges(ranges) => ranges.len() / n_tokens.max(1),
            Self::Added(mask) => mask.len() / (n_tokens * n_positions).max(1),
        }
    }
}

/// Rows of scores, of queries and the heads that share their keys, that are computed at once.
const N_ROWS_OF_A_BLOCK: usize = 60;
/// Keys between which softmax is kept up.
const N_KEYS_OF_A_BLOCK: usize = 256;
/// The score of what is not seen: finite, so that differences of it are numbers.
const HIDDEN: f32 = -1e30;

#[derive(Clone, Copy)]
struct Mask<'a> {
    visible: Visible<'a>,
    /// Of the masks.
    row: usize,
    n_tokens: usize,
    n_positions: usize,
}

impl<'a> Mask<'a> {
    /// The positions that `query` may see.
    fn range(&self, query: usize) -> [usize; 2] {
        match self.visible {
            Visible::Ranges(ranges) => {
                ranges[self.row * self.n_tokens + query].map(|end| (end as usize).min(self.n_positions))
            }
            Visible::All | Visible::Added(_) => [0, self.n_positions],
        }
    }

    /// What is added to the scores of `query` at `n` positions from `first` on.
    fn added(&self, query: usize, first: usize, n: usize) -> Option<&'a [f32]> {
        match self.visible {
            Visible::Added(mask) => Some(&mask[(self.row * self.n_tokens + query) * self.n_positions + first..][..n]),
            Visible::All | Visible::Ranges(_) => None,
        }
    }
}

/// Some queries of the heads that share one head of keys.
struct Attend<'a, T> {
    from: Heads<'a, T>,
    shape: AttentionShape,
    rotary: Option<RotaryRows<'a>>,
    mask: Mask<'a>,
    row: usize,
    kv_head: usize,
    /// The first, and the one after the last.
    queries: [usize; 2],
    keys: &'a [f32],
    values: &'a [f32],
    result: Shared<T>,
}

/// What is kept of the rows of scores while keys pass.
struct Running<'a> {
    queries: &'a mut [f32], // (rows, head size)
    scores: &'a mut [f32],  // (rows, keys of a block)
    mixed: &'a mut [f32],   // (rows, head size in whole vectors)
    highest: &'a mut [f32], // (rows)
    sums: &'a mut [f32],    // (rows)
}

/// The same with the memory that it needs.
struct AttendIn<'a, T> {
    attend: Attend<'a, T>,
    scratch: &'a mut [f32],
}

impl<T: Number> Task for AttendIn<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { attend, scratch } = self;
        let head_size = attend.shape.head_size;
        let width = head_size.next_multiple_of(S::LANES);
        let n_rows = attend.n_rows();
        // All but the last two at whole vectors: loads that cross lines of the cache cost twice.
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

impl<T: Number> Attend<'_, T> {
    fn group(&self) -> usize {
        self.shape.n_heads / self.shape.n_kv_heads
    }

    /// Rows of scores.
    fn n_rows(&self) -> usize {
        (self.queries[1] - self.queries[0]) * self.group()
    }

    /// Numbers of scratch memory.
    fn n_scratch(&self) -> usize {
        let width = self.shape.head_size.next_multiple_of(LANES_MAX);
        self.n_rows() * (N_KEYS_OF_A_BLOCK + 2 * width + 2) + LANES_MAX
    }

    /// The first position that any of the queries sees, and the one after the last.
    fn seen(&self) -> [usize; 2] {
        let ranges = (self.queries[0]..self.queries[1]).map(|query| self.mask.range(query));
        let seen = ranges.filter(|[start, end]| start < end);
        seen.reduce(|[first, last], [start, end]| [first.min(start), last.max(end)]).unwrap_or([0, 0])
    }

    /// The query and the head of a row of scores.
    fn query_and_head(&self, row: usize) -> (usize, usize) {
        (self.queries[0] + row / self.group(), self.kv_head * self.group() + row % self.group())
    }

    #[inline(always)]
    fn begin<S: Simd>(&self, simd: S, running: &mut Running) {
        let head_size = self.shape.head_size;
        let scale = (head_size as f32).sqrt().recip();
        for (row, to) in running.queries.chunks_exact_mut(head_size).take(running.highest.len()).enumerate() {
            let (query, head) = self.query_and_head(row);
            let x = self.from.head(self.row, query, head, head_size);
            let token = self.row * self.from.n_tokens + query;
            // Safety: `to` is one head long.
            unsafe { turned(simd, x, self.rotary, token, scale, to.as_mut_ptr()) };
        }
        running.highest.fill(HIDDEN);
        running.sums.fill(0.0);
        running.mixed.fill(0.0);
    }

    /// Takes `n_keys` keys from `start` on, which is the first of a panel, into the softmax and its mixture.
    #[inline(always)]
    fn add_keys<S: Simd>(&self, simd: S, running: &mut Running, start: usize, n_keys: usize) {
        let head_size = self.shape.head_size;
        let width = head_size.next_multiple_of(S::LANES);
        let n_rows = running.highest.len();
        for column in (0..n_keys).step_by(S::PANEL) {
            simd.vectorise(&Product::<Floats> {
                left: running.queries.as_ptr(),
                left_stride: head_size,
                n_rows,
                n_steps: head_size,
                right: self.keys[(start + column) * head_size..].as_ptr(),
                right_stride: S::PANEL,
                n_vectors: (n_keys - column).min(S::PANEL).div_ceil(S::LANES),
                result: running.scores[column..].as_mut_ptr(),
                result_stride: N_KEYS_OF_A_BLOCK,
                accumulates: false,
                operands: PhantomData,
            });
        }
        for row in 0..n_rows {
            let (query, _) = self.query_and_head(row);
            let [first, last] = self.mask.range(query).map(|end| end.clamp(start, start + n_keys) - start);
            let scores = &mut running.scores[row * N_KEYS_OF_A_BLOCK..][..n_keys];
            scores[..first].fill(0.0);
            scores[last.max(first)..].fill(0.0);
            if first < last {
                let added = self.mask.added(query, start + first, last - first);
                let mixed = &mut running.mixed[row * width..][..width];
                let (highest, sum) = (&mut running.highest[row], &mut running.sums[row]);
                add_scores(simd, &mut scores[first..last], added, highest, sum, mixed);
            }
        }
        simd.vectorise(&Product::<Floats> {
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
            operands: PhantomData,
        });
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
                // Safety: the head's numbers lie in `mixed` and in the result, where no other task writes them.
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

/// Turns `scores` into weights over the highest score so far, and scales what was mixed before down to it.
#[inline(always)]
fn add_scores<S: Simd>(
    simd: S,
    scores: &mut [f32],
    added: Option<&[f32]>,
    highest: &mut f32,
    sum: &mut f32,
    mixed: &mut [f32],
) {
    let n_keys = scores.len();
    let to = scores.as_mut_ptr();
    let mut top = simd.splat(HIDDEN);
    for offset in (0..n_keys).step_by(S::LANES) {
        let n = S::LANES.min(n_keys - offset);
        // Safety: `n` numbers from `offset` on lie in the scores and in what is added to them.
        unsafe {
            let mut score = f32::load(simd, to.add(offset), n);
            if let Some(added) = added {
                score = simd.add(score, f32::load(simd, added.as_ptr().add(offset), n));
                f32::store(simd, to.add(offset), score, n);
            }
            if n < S::LANES {
                // The lanes after the end would be scores of 0.
                let mut lanes = [HIDDEN; LANES_MAX];
                simd.store_first(lanes.as_mut_ptr(), score, n);
                score = simd.load(lanes.as_ptr());
            }
            top = simd.max(top, score);
        }
    }
    let before = *highest;
    *highest = before.max(simd.highest(top));
    if *highest > before {
        let scale = (before - *highest).exp();
        *sum *= scale;
        for offset in (0..mixed.len()).step_by(S::LANES) {
            let place = mixed[offset..].as_mut_ptr();
            // Safety: `mixed` is whole vectors.
            unsafe { simd.store(place, simd.multiply(simd.load(place), simd.splat(scale))) };
        }
    }
    let shift = simd.splat(*highest);
    let mut total = simd.splat(0.0);
    for offset in (0..n_keys).step_by(S::LANES) {
        let n = S::LANES.min(n_keys - offset);
        // Safety: as above.
        unsafe {
            let weight = exp(simd, simd.subtract(f32::load(simd, to.add(offset), n), shift));
            f32::store(simd, to.add(offset), weight, n);
            // What was not stored does not count.
            total = simd.add(total, f32::load(simd, to.add(offset), n));
        }
    }
    *sum += simd.sum(total);
}
