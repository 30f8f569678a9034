//! Attention that never holds all scores. Softmax is updated block by block of keys (Milakov and Gimelshein 2018; Dao
//! et al. 2022), over keys and values in the order in which products read them.

use super::attend::{Attend, AttendIn, Mask, Visible};
use super::kept::Kept;
use super::kept::KeptNumbers;
use super::kv_append::{Append, KeptHead, head_sizes, n_scratch as n_scratch_of_append};
use super::kv_buffer::{HeadShape, Heads, KvBuffer, RotaryRows, check_angles};
use super::memory::{Shared, n_floats, split_off, with_scratch, written};
use super::simd::{Number, Simd, Task};
use super::{Kernels, for_each};

/// Computes `softmax(query key^T / √head size + mask) value` of `queries`, rotated by `rotary`, over all positions of
/// `buffer`: `(batch, tokens, heads * head size)`.
///
/// # Panics
/// Sizes disagree, or the buffer is for another type.
pub fn attention<T: Number>(
    queries: Heads<T>,
    rotary: Option<RotaryRows>,
    visible: Visible,
    buffer: &KvBuffer,
) -> Vec<T> {
    let KvBuffer { kernels, batch, shape, n_positions, .. } = *buffer;
    let all = All::new(batch, shape, queries, rotary, visible, n_positions);
    let KeptNumbers { keys, values } = T::Kept::of_buffer(&buffer.numbers);
    let n_heads = (batch * shape.n_kv_heads).max(1);
    let (key_size, value_size) = (keys.as_slice().len() / n_heads, values.as_slice().len() / n_heads);
    let n_blocks = all.n_blocks();
    // Safety: the tasks cover all heads of all queries, and each pair of them writes its own places.
    unsafe {
        written(all.n_results(), |result| {
            for_each(n_heads * n_blocks, all.n_products(), |task| {
                // The last queries of a row see the most, so they come first.
                let block = n_blocks - 1 - task % n_blocks;
                let head = task / n_blocks;
                let keys = &keys.as_slice()[head * key_size..][..key_size];
                let values = &values.as_slice()[head * value_size..][..value_size];
                let attend = all.attend(head, block, keys, values, result);
                with_scratch(attend.n_scratch(), |scratch| kernels.run(AttendIn { attend, scratch }));
            });
        })
    }
}

/// Like [`attention`], over `keys` and `values` of `batch` rows that are not kept. Each head's are put in order where
/// they are used. `rotary` rotates queries and keys, each by their own angles.
///
/// # Panics
/// Sizes disagree.
pub fn attention_within<T: Number>(
    kernels: Kernels,
    batch: usize,
    shape: HeadShape,
    [queries, keys, values]: [Heads<T>; 3],
    rotary: Option<[RotaryRows; 2]>,
    visible: Visible,
) -> Vec<T> {
    assert_eq!(keys.n_tokens, values.n_tokens, "there are as many values as keys");
    let of_keys = rotary.map(|[_, of_keys]| of_keys);
    check_angles(of_keys, batch * keys.n_tokens, shape.head_size);
    let all = All::new(batch, shape, queries, rotary.map(|[of_queries, _]| of_queries), visible, keys.n_tokens);
    let n_heads = batch * shape.n_kv_heads;
    // With fewer heads than threads, the queries of a head are split.
    let n_parts = rayon::current_num_threads().div_ceil(n_heads.max(1)).min(all.n_blocks()).max(1);
    // Safety: the tasks cover all heads, their parts cover all queries, and each pair of them writes its own places.
    unsafe {
        written(all.n_results(), |result| {
            for_each(n_heads * n_parts, all.n_products(), |task| {
                let (head, part) = (task / n_parts, task % n_parts);
                let part = [part, n_parts];
                let within = Within { all, keys, values, of_keys, head, part, kernels, result };
                with_scratch(within.n_scratch(), |scratch| kernels.run(WithinIn { within, scratch }));
            });
        })
    }
}

/// What all heads share.
#[derive(Clone, Copy)]
struct All<'a, T> {
    batch: usize,
    shape: HeadShape,
    queries: Heads<'a, T>,
    rotary: Option<RotaryRows<'a>>,
    visible: Visible<'a>,
    n_masks: usize,
    n_positions: usize,
}

/// Rows of scores that are computed at once: queries times the heads that share their keys.
const N_ROWS_OF_A_BLOCK: usize = 60;

impl<'a, T: Number> All<'a, T> {
    fn new(
        batch: usize,
        shape: HeadShape,
        queries: Heads<'a, T>,
        rotary: Option<RotaryRows<'a>>,
        visible: Visible<'a>,
        n_positions: usize,
    ) -> Self {
        assert_eq!(shape.n_heads % shape.n_kv_heads, 0, "heads are shared evenly");
        check_angles(rotary, batch * queries.n_tokens, shape.head_size);
        let n_masks = visible.n_masks(queries.n_tokens, n_positions);
        assert!(n_masks == 1 || n_masks == batch, "a mask is for all rows or for each");
        Self { batch, shape, queries, rotary, visible, n_masks, n_positions }
    }

    /// Queries per block.
    fn n_queries(&self) -> usize {
        (N_ROWS_OF_A_BLOCK * self.shape.n_kv_heads / self.shape.n_heads).max(1)
    }

    /// Blocks of queries per head.
    fn n_blocks(&self) -> usize {
        self.queries.n_tokens.div_ceil(self.n_queries())
    }

    fn n_results(&self) -> usize {
        self.batch * self.queries.n_tokens * self.shape.n_heads * self.shape.head_size
    }

    fn n_products(&self) -> usize {
        self.n_results() * self.n_positions
    }

    /// Computes one block of queries for one head of keys, which counts through the batch.
    fn attend<K>(
        &self,
        head: usize,
        block: usize,
        keys: &'a [K],
        values: &'a [K],
        result: Shared<T>,
    ) -> Attend<'a, T, K> {
        let row = head / self.shape.n_kv_heads;
        let n_tokens = self.queries.n_tokens;
        Attend {
            from: self.queries,
            shape: self.shape,
            rotary: self.rotary,
            mask: Mask::new(self.visible, row.min(self.n_masks - 1), n_tokens, self.n_positions),
            row,
            kv_head: head % self.shape.n_kv_heads,
            queries: [block * self.n_queries(), n_tokens.min((block + 1) * self.n_queries())],
            keys,
            values,
            result,
        }
    }
}

/// Some queries of one head over keys and values that are not in order yet.
struct Within<'a, T> {
    all: All<'a, T>,
    keys: Heads<'a, T>,
    values: Heads<'a, T>,
    /// The angles by which keys are rotated.
    of_keys: Option<RotaryRows<'a>>,
    /// The head of keys, counted through the batch.
    head: usize,
    /// The part of the head's queries, and the number of parts.
    part: [usize; 2],
    kernels: Kernels,
    result: Shared<T>,
}

impl<T: Number> Within<'_, T> {
    /// Returns the sizes of all keys, all values and the scratch memory that orders them, in numbers.
    fn sizes(&self) -> [usize; 3] {
        let head_size = self.all.shape.head_size;
        let (keys, values) = head_sizes::<T::Kept>(self.keys.n_tokens, head_size, self.kernels.panel_and_lanes());
        [keys, values, n_scratch_of_append::<T::Kept>(head_size)]
    }

    fn n_scratch(&self) -> usize {
        let [keys, values, of_append] = self.sizes().map(n_floats::<T::Kept>);
        let of_block = self.all.attend::<T::Kept>(self.head, 0, &[], &[], self.result).n_scratch();
        keys + values + of_append.max(of_block)
    }
}

/// The same with its memory.
struct WithinIn<'a, T> {
    within: Within<'a, T>,
    scratch: &'a mut [f32],
}

impl<T: Number> Task for WithinIn<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { within, scratch } = self;
        let Within { all, head, part: [first, step], result, .. } = within;
        let [n_keys, n_values, n_of_append] = within.sizes();
        let (keys, rest) = split_off(scratch, n_keys);
        let (values, rest) = split_off(rest, n_values);
        let (panel, _) = split_off(rest, n_of_append);
        let append = Append {
            from_keys: within.keys,
            from_values: within.values,
            rotary: within.of_keys,
            head_size: all.shape.head_size,
            row: head / all.shape.n_kv_heads,
            head: head % all.shape.n_kv_heads,
            first: 0,
            to: KeptHead { keys: keys.as_mut_ptr(), values: values.as_mut_ptr() },
            panel,
        };
        append.run(simd);
        for block in (first..all.n_blocks()).step_by(step) {
            let attend = all.attend::<T::Kept>(head, block, keys, values, result);
            AttendIn { attend, scratch: rest }.run(simd);
        }
    }
}
