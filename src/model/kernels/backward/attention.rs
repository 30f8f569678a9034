//! The backward pass of attention. The forward pass keeps no scores. They are recomputed for some queries and all keys
//! at once, so that their softmax is available without stored sums (after Dao et al. 2022).
//!
//! Scores have one row per key and one column per query. So softmax runs down the lanes of vectors, and the left sides
//! of all five products need no transposition.

use std::marker::PhantomData;

use super::super::attend::Visible;
use super::super::kv_buffer::{HeadShape, Heads, RotaryRows, Scaled, check_angles, turned};
use super::super::math::exp;
use super::super::memory::{Shared, with_scratch, written};
use super::super::simd::{LANES_MAX, Simd, Task};
use super::super::tile::{Floats, Product};
use super::super::{Kernels, for_each};

/// Gradients of queries, keys and values, each `(batch, tokens, heads * head size)`.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGradients {
    /// The gradient of the queries.
    pub queries: Vec<f32>,
    /// The gradient of the keys.
    pub keys: Vec<f32>,
    /// The gradient of the values.
    pub values: Vec<f32>,
}

/// Returns the gradients of queries, keys and values before their rotation by `rotary`, from the gradient `dy` `(batch,
/// tokens, heads * head size)` of [`attention`](super::super::attention()). Queries, keys and values have equal numbers
/// of tokens.
///
/// # Panics
/// Sizes disagree.
pub fn attention_backward(
    kernels: Kernels,
    shape: HeadShape,
    inputs: [Heads<f32>; 3],
    dy: &[f32],
    rotary: Option<RotaryRows>,
    visible: Visible,
) -> AttentionGradients {
    let HeadShape { n_heads, n_kv_heads, head_size } = shape;
    let n_tokens = inputs[0].n_tokens;
    let batch = dy.len() / (n_tokens * n_heads * head_size).max(1);
    assert_eq!(n_heads % n_kv_heads, 0, "heads are shared evenly");
    assert!(inputs.iter().all(|heads| heads.n_tokens == n_tokens), "there are as many queries as keys and values");
    assert_eq!(dy.len(), batch * n_tokens * n_heads * head_size, "a gradient has the shape of what it is of");
    check_angles(rotary, batch * n_tokens, head_size);
    let n_masks = match visible {
        Visible::All => 1,
        Visible::Ranges(ranges) => ranges.len() / n_tokens.max(1),
        Visible::Added(mask) => mask.len() / (n_tokens * n_tokens).max(1),
    };
    assert!(n_masks == 1 || n_masks == batch, "a mask is for all rows or for each");
    // The backward pass rotates by the opposite angles.
    let opposite: Vec<f32> = rotary.iter().flat_map(|rotary| rotary.sin).map(|sin| -sin).collect();
    let back = rotary.map(|rotary| RotaryRows { cos: rotary.cos, sin: &opposite });
    let n_products = 5 * batch * n_heads * n_tokens * n_tokens * head_size;
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let n_of_keys = batch * n_tokens * n_kv_heads * head_size;
    // Safety: the tasks cover all heads of keys with the query heads that share them, and each writes its own places.
    let queries = unsafe {
        written(dy.len(), |of_queries| {
            keys = written(n_of_keys, |of_keys| {
                values = written(n_of_keys, |of_values| {
                    for_each(batch * n_kv_heads, n_products, |task| {
                        let row = task / n_kv_heads;
                        let heads = Group {
                            inputs,
                            dy: Heads::of_rows(dy, n_tokens, n_heads, head_size),
                            shape,
                            rotary,
                            back,
                            visible,
                            mask_row: row.min(n_masks - 1),
                            n_tokens,
                            row,
                            kv_head: task % n_kv_heads,
                            results: [of_queries, of_keys, of_values],
                        };
                        with_scratch(heads.n_scratch(), |scratch| kernels.run(GroupIn { heads, scratch }));
                    });
                });
            });
        })
    };
    AttentionGradients { queries, keys, values }
}

/// Queries computed at once: whole panels of every instruction set.
const N_QUERIES: usize = 64;
/// The score of a hidden position: finite, so that differences are not NaN.
const HIDDEN: f32 = -1e30;

/// A head of keys and values of one row, with the query heads that share it.
struct Group<'a> {
    inputs: [Heads<'a, f32>; 3],
    dy: Heads<'a, f32>,
    shape: HeadShape,
    rotary: Option<RotaryRows<'a>>,
    /// The opposite angles.
    back: Option<RotaryRows<'a>>,
    visible: Visible<'a>,
    /// The row of the masks.
    mask_row: usize,
    n_tokens: usize,
    row: usize,
    kv_head: usize,
    results: [Shared<f32>; 3],
}

struct GroupIn<'a> {
    heads: Group<'a>,
    scratch: &'a mut [f32],
}

/// Memory for all queries. Rows are heads padded to whole vectors; the numbers after the head are 0.
struct Held<'a> {
    keys: &'a mut [f32],        // (tokens, row)
    values: &'a mut [f32],      // (tokens, row)
    keys_across: &'a mut [f32], // (head size, tokens)
    of_keys: &'a mut [f32],     // (tokens, row)
    of_values: &'a mut [f32],   // (tokens, row)
}

/// Memory for some queries, in `N_QUERIES` columns where it is transposed.
struct Block<'a> {
    queries: &'a mut [f32],        // (queries, row)
    queries_across: &'a mut [f32], // panels of (head size, queries)
    dy: &'a mut [f32],             // (queries, row)
    dy_across: &'a mut [f32],      // panels of (head size, queries)
    weights: &'a mut [f32],        // (tokens, queries)
    slopes: &'a mut [f32],         // (tokens, queries), of the weights and then of the scores
    of_queries: &'a mut [f32],     // (head size, queries)
}

impl Task for GroupIn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { heads, mut scratch } = self;
        let head_size = heads.shape.head_size;
        let (n_tokens, width) = (heads.n_tokens, head_size.next_multiple_of(S::LANES));
        // Begins at whole vectors, because loads that cross cache lines cost twice.
        let mut take = |n: usize| {
            let (taken, rest) = std::mem::take(&mut scratch).split_at_mut(n.next_multiple_of(LANES_MAX));
            scratch = rest;
            taken
        };
        let n = n_tokens * width;
        let across = head_size * N_QUERIES;
        let mut held = Held {
            keys: take(n),
            values: take(n),
            keys_across: take(n_tokens * head_size),
            of_keys: take(n),
            of_values: take(n),
        };
        let mut block = Block {
            queries: take(N_QUERIES * width),
            queries_across: take(across),
            dy: take(N_QUERIES * width),
            dy_across: take(across),
            weights: take(n_tokens * N_QUERIES),
            slopes: take(n_tokens * N_QUERIES),
            of_queries: take(across),
        };
        heads.begin(simd, &mut held);
        let group = heads.shape.n_heads / heads.shape.n_kv_heads;
        for head in heads.kv_head * group..(heads.kv_head + 1) * group {
            for start in (0..n_tokens).step_by(N_QUERIES) {
                heads.add_queries(simd, head, [start, n_tokens.min(start + N_QUERIES)], &mut held, &mut block);
            }
        }
        heads.finish(simd, &held);
    }
}

impl Group<'_> {
    /// The size of the scratch memory, in numbers.
    fn n_scratch(&self) -> usize {
        let width = self.shape.head_size.next_multiple_of(LANES_MAX);
        self.n_tokens * (5 * width + 2 * N_QUERIES) + 5 * N_QUERIES * width + 12 * LANES_MAX
    }

    /// Returns the token's place in the angles.
    fn place(&self, token: usize) -> usize {
        self.row * self.n_tokens + token
    }

    #[inline(always)]
    fn begin<S: Simd>(&self, simd: S, held: &mut Held) {
        let head_size = self.shape.head_size;
        let width = head_size.next_multiple_of(S::LANES);
        let [_, keys, values] = self.inputs;
        for numbers in [&mut *held.keys, held.values, held.of_keys, held.of_values] {
            numbers.fill(0.0);
        }
        for token in 0..self.n_tokens {
            let row = token * width..token * width + head_size;
            let key = keys.head(self.row, token, self.kv_head, head_size);
            let value = values.head(self.row, token, self.kv_head, head_size);
            // Safety: a row has room for a head.
            unsafe {
                turned(simd, key, self.rotary, self.place(token), held.keys[row.clone()].as_mut_ptr());
                turned(simd, value, None, 0, held.values[row.clone()].as_mut_ptr());
            }
            for (number, &key) in held.keys[row].iter().enumerate() {
                held.keys_across[number * self.n_tokens + token] = key;
            }
        }
    }

    /// Returns the positions that `query` may see.
    fn range(&self, query: usize) -> [usize; 2] {
        match self.visible {
            Visible::Ranges(ranges) => {
                ranges[self.mask_row * self.n_tokens + query].map(|end| (end as usize).min(self.n_tokens))
            }
            Visible::All | Visible::Added(_) => [0, self.n_tokens],
        }
    }

    /// Adds the contribution of `queries` of `head` to the gradients of keys and values, and writes the gradient of the
    /// queries.
    #[inline(always)]
    fn add_queries<S: Simd>(&self, simd: S, head: usize, queries: [usize; 2], held: &mut Held, block: &mut Block) {
        let head_size = self.shape.head_size;
        let width = head_size.next_multiple_of(S::LANES);
        self.load_queries(simd, head, queries, block);
        let ranges = (queries[0]..queries[1]).map(|query| self.range(query)).filter(|[start, end]| start < end);
        let seen = ranges.reduce(|[first, last], [start, end]| [first.min(start), last.max(end)]);
        let [first, last] = seen.unwrap_or([0, 0]);
        block.of_queries.fill(0.0);
        if first < last {
            let n_keys = last - first;
            let rows = first * width;
            scores(simd, &held.keys[rows..], block.queries_across, block.weights, [n_keys, head_size]);
            scores(simd, &held.values[rows..], block.dy_across, block.slopes, [n_keys, head_size]);
            self.weigh(simd, queries, [first, last], block);
            let n_queries = queries[1] - queries[0];
            mixed(simd, block.weights, block.dy, &mut held.of_values[rows..], [n_keys, n_queries, width]);
            mixed(simd, block.slopes, block.queries, &mut held.of_keys[rows..], [n_keys, n_queries, width]);
            let product = Product::<Floats> {
                left: held.keys_across[first..].as_ptr(),
                left_stride: self.n_tokens,
                n_rows: head_size,
                n_steps: n_keys,
                right: block.slopes.as_ptr(),
                right_stride: N_QUERIES,
                n_vectors: N_QUERIES / S::LANES,
                result: block.of_queries.as_mut_ptr(),
                result_stride: N_QUERIES,
                accumulates: false,
                operands: PhantomData,
            };
            // Safety: the slices hold `n_keys` keys after `first`, and a row of queries for each number of a head.
            unsafe { product.run(simd) };
        }
        self.store_queries(simd, head, queries, block);
    }

    #[inline(always)]
    fn load_queries<S: Simd>(&self, simd: S, head: usize, queries: [usize; 2], block: &mut Block) {
        let head_size = self.shape.head_size;
        let width = head_size.next_multiple_of(S::LANES);
        let scale = (head_size as f32).sqrt().recip();
        // Columns without a query are 0 and contribute nothing.
        for numbers in [&mut *block.queries, block.queries_across, block.dy, block.dy_across] {
            numbers.fill(0.0);
        }
        for (index, query) in (queries[0]..queries[1]).enumerate() {
            let x = self.inputs[0].head(self.row, query, head, head_size);
            let dy = self.dy.head(self.row, query, head, head_size);
            let row = index * width..index * width + head_size;
            // Safety: a row has room for a head.
            unsafe {
                turned(simd, x, self.rotary, self.place(query), Scaled(block.queries[row.clone()].as_mut_ptr(), scale));
                turned(simd, dy, None, 0, block.dy[row.clone()].as_mut_ptr());
            }
            let column = index / S::PANEL * S::PANEL * head_size + index % S::PANEL;
            for (number, (&x, &dy)) in block.queries[row.clone()].iter().zip(&block.dy[row]).enumerate() {
                block.queries_across[column + number * S::PANEL] = x;
                block.dy_across[column + number * S::PANEL] = dy;
            }
        }
    }

    /// Turns scores into weights, and the gradient of the weights into that of the scores.
    #[inline(always)]
    fn weigh<S: Simd>(&self, simd: S, queries: [usize; 2], [first, last]: [usize; 2], block: &mut Block) {
        let mut ranges = [[first as f32; N_QUERIES], [last as f32; N_QUERIES]];
        for (index, query) in (queries[0]..queries[1]).enumerate() {
            let [start, end] = self.range(query);
            (ranges[0][index], ranges[1][index]) = (start as f32, end as f32);
            if let Visible::Added(mask) = self.visible {
                let mask = &mask[(self.mask_row * self.n_tokens + query) * self.n_tokens..][first..last];
                for (key, added) in mask.iter().enumerate() {
                    block.weights[key * N_QUERIES + index] += added;
                }
            }
        }
        for lanes in (0..N_QUERIES).step_by(S::LANES) {
            let weights = &mut block.weights[lanes..(last - first - 1) * N_QUERIES + lanes + S::LANES];
            let slopes = &mut block.slopes[lanes..(last - first - 1) * N_QUERIES + lanes + S::LANES];
            // Safety: rows of the slices, and the ranges, are `N_QUERIES` numbers apart and hold a vector.
            unsafe {
                let [start, end] = [0, 1].map(|which: usize| simd.load(ranges[which][lanes..].as_ptr()));
                weigh_lanes(simd, weights.as_mut_ptr(), slopes.as_mut_ptr(), [first, last], [start, end]);
            }
        }
    }

    #[inline(always)]
    fn store_queries<S: Simd>(&self, simd: S, head: usize, queries: [usize; 2], block: &mut Block) {
        let HeadShape { n_heads, head_size, .. } = self.shape;
        let scale = (head_size as f32).sqrt().recip();
        for (index, query) in (queries[0]..queries[1]).enumerate() {
            let row = &mut block.queries[..head_size];
            for (number, to) in row.iter_mut().enumerate() {
                *to = block.of_queries[number * N_QUERIES + index];
            }
            let to = self.results[0].at((self.place(query) * n_heads + head) * head_size);
            // Safety: this is the head's place in the result, which no other task writes.
            unsafe { turned(simd, row, self.back, self.place(query), Scaled(to, scale)) };
        }
    }

    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, held: &Held) {
        let HeadShape { n_kv_heads, head_size, .. } = self.shape;
        let width = head_size.next_multiple_of(S::LANES);
        let [_, of_keys, of_values] = self.results;
        for token in 0..self.n_tokens {
            let row = token * width..token * width + head_size;
            let place = (self.place(token) * n_kv_heads + self.kv_head) * head_size;
            // Safety: as above.
            unsafe {
                let key = &held.of_keys[row.clone()];
                turned(simd, key, self.back, self.place(token), of_keys.at(place));
                turned(simd, &held.of_values[row], None, 0, of_values.at(place));
            }
        }
    }
}

/// Computes the products of `n_keys` rows of keys and all columns of the queries: `(keys, queries)`.
#[inline(always)]
fn scores<S: Simd>(simd: S, keys: &[f32], across: &[f32], result: &mut [f32], [n_keys, head_size]: [usize; 2]) {
    for column in (0..N_QUERIES).step_by(S::PANEL) {
        let product = Product::<Floats> {
            left: keys.as_ptr(),
            left_stride: head_size.next_multiple_of(S::LANES),
            n_rows: n_keys,
            n_steps: head_size,
            right: across[column * head_size..].as_ptr(),
            right_stride: S::PANEL,
            n_vectors: S::VECTORS,
            result: result[column..].as_mut_ptr(),
            result_stride: N_QUERIES,
            accumulates: false,
            operands: PhantomData,
        };
        // Safety: `keys` are `n_keys` rows in whole vectors, `across` a panel for each number of a head, and `result` a
        // row for each key.
        unsafe { product.run(simd) };
    }
}

/// Adds the product of `weights` `(keys, queries)` and `rows` `(queries, row)` to the rows of `result`.
#[inline(always)]
fn mixed<S: Simd>(simd: S, weights: &[f32], rows: &[f32], result: &mut [f32], [n_keys, n_queries, width]: [usize; 3]) {
    let product = Product::<Floats> {
        left: weights.as_ptr(),
        left_stride: N_QUERIES,
        n_rows: n_keys,
        n_steps: n_queries,
        right: rows.as_ptr(),
        right_stride: width,
        n_vectors: width / S::LANES,
        result: result.as_mut_ptr(),
        result_stride: width,
        accumulates: true,
        operands: PhantomData,
    };
    // Safety: the slices hold a row for each of `n_keys` and of `n_queries`, in whole vectors.
    unsafe { product.run(simd) };
}

/// Computes softmax down the lanes of one vector of queries over the keys `first..last`, of which each lane sees
/// `start..end`.
///
/// # Safety
/// `weights` and `slopes` are valid for a vector in each of `last - first` rows that are `N_QUERIES` apart.
#[inline(always)]
unsafe fn weigh_lanes<S: Simd>(
    simd: S,
    weights: *mut f32,
    slopes: *mut f32,
    [first, last]: [usize; 2],
    [start, end]: [S::V; 2],
) {
    let hidden = simd.splat(HIDDEN);
    let n_keys = last - first;
    // Safety: guaranteed by the caller.
    unsafe {
        let mut highest = hidden;
        for key in 0..n_keys {
            let place = weights.add(key * N_QUERIES);
            let position = simd.splat((first + key) as f32);
            let score = simd.select_not_less(position, end, hidden, simd.load(place));
            let score = simd.select_not_less(position, start, score, hidden);
            simd.store(place, score);
            highest = simd.max(highest, score);
        }
        let (mut sum, mut along) = (simd.splat(0.0), simd.splat(0.0));
        for key in 0..n_keys {
            let place = weights.add(key * N_QUERIES);
            let weight = exp(simd, simd.subtract(simd.load(place), highest));
            simd.store(place, weight);
            sum = simd.add(sum, weight);
            along = simd.multiply_add(weight, simd.load(slopes.add(key * N_QUERIES)), along);
        }
        let inverse = simd.divide(simd.splat(1.0), sum);
        let along = simd.multiply(along, inverse);
        for key in 0..n_keys {
            let (weight, slope) = (weights.add(key * N_QUERIES), slopes.add(key * N_QUERIES));
            let normed = simd.multiply(simd.load(weight), inverse);
            simd.store(weight, normed);
            simd.store(slope, simd.multiply(normed, simd.subtract(simd.load(slope), along)));
        }
    }
}
