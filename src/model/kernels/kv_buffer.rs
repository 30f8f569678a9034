//! Keys and values in the order in which attention reads them.

use super::memory::{Aligned, Shared, with_scratch};
use super::simd::{Number, PANEL_MAX, Simd, Task};
use super::{Kernels, for_each};

/// Sizes of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_size: usize,
}

impl AttentionShape {
    /// Numbers of a row of queries, keys and values side by side.
    pub fn row(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_size
    }
}

/// Heads of all tokens of a batch, wherever they lie.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a, T> {
    /// The numbers of all.
    pub numbers: &'a [T],
    /// Numbers from row to row of the batch, from token to token, and from head to head.
    pub strides: [usize; 3],
    /// Where the first begins.
    pub start: usize,
    /// Tokens of a row.
    pub n_tokens: usize,
}

impl<'a, T> Heads<'a, T> {
    /// Queries, keys and values of `rows` `(batch, tokens, queries + keys + values)`.
    pub fn side_by_side(rows: &'a [T], n_tokens: usize, shape: AttentionShape) -> [Self; 3] {
        let AttentionShape { n_heads, n_kv_heads, head_size } = shape;
        let strides = [n_tokens * shape.row(), shape.row(), head_size];
        [0, n_heads, n_heads + n_kv_heads].map(|head| Self {
            numbers: rows,
            strides,
            start: head * head_size,
            n_tokens,
        })
    }

    /// The heads of `rows` `(batch, tokens, heads * head size)`.
    pub fn of_rows(rows: &'a [T], n_tokens: usize, n_heads: usize, head_size: usize) -> Self {
        let row = n_heads * head_size;
        Self { numbers: rows, strides: [n_tokens * row, row, head_size], start: 0, n_tokens }
    }

    /// The heads of `numbers` `(batch, heads, tokens, head size)`.
    pub fn by_head(numbers: &'a [T], n_tokens: usize, n_heads: usize, head_size: usize) -> Self {
        let head = n_tokens * head_size;
        Self { numbers, strides: [n_heads * head, head_size, head], start: 0, n_tokens }
    }

    pub(super) fn head(&self, row: usize, token: usize, head: usize, head_size: usize) -> &'a [T] {
        let [of_row, of_token, of_head] = self.strides;
        &self.numbers[self.start + row * of_row + token * of_token + head * of_head..][..head_size]
    }
}

/// Keys and values of earlier positions, in a buffer of fixed capacity.
///
/// Keys lie in panels, as the packed weights of a product with queries; values in rows, as those of a product with the
/// softmax's weights.
pub struct KvBuffer {
    pub(super) kernels: Kernels,
    pub(super) batch: usize,
    pub(super) shape: AttentionShape,
    capacity: usize,
    pub(super) n_positions: usize,
    pub(super) keys: Aligned<f32>,   // (batch, kv heads, panels, head size, panel)
    pub(super) values: Aligned<f32>, // (batch, kv heads, capacity, head size in whole vectors)
}

impl KvBuffer {
    /// An empty buffer for `capacity` positions of `batch` rows.
    ///
    /// # Panics
    /// There is no such number of numbers.
    pub fn new(kernels: Kernels, batch: usize, shape: AttentionShape, capacity: usize) -> Self {
        let (panel, lanes) = kernels.panel_and_lanes();
        let whole = |size: usize, of: usize| size.checked_next_multiple_of(of);
        let product =
            |sizes: [Option<usize>; 4]| sizes.into_iter().try_fold(1usize, |all, size| all.checked_mul(size?));
        // A product that wrapped around would give memory for less than is written.
        let zeros = |sizes| Aligned::zeros(product(sizes).expect("keys and values can be counted"));
        let (batch_size, n_heads, head_size) = (Some(batch), Some(shape.n_kv_heads), Some(shape.head_size));
        let keys = zeros([batch_size, n_heads, head_size, whole(capacity, panel)]);
        let values = zeros([batch_size, n_heads, Some(capacity), whole(shape.head_size, lanes)]);
        Self { kernels, batch, shape, capacity, n_positions: 0, keys, values }
    }

    /// Positions held.
    pub fn n_positions(&self) -> usize {
        self.n_positions
    }

    /// Whether it is for `batch` rows of a layer of `shape`.
    pub fn fits(&self, batch: usize, shape: AttentionShape) -> bool {
        self.batch == batch && self.shape == shape
    }

    /// Forgets all but the first `n_positions`; what is appended next takes their place.
    pub fn truncate(&mut self, n_positions: usize) {
        self.n_positions = self.n_positions.min(n_positions);
    }

    /// Keeps only the rows of the batch named by `rows`, in that order.
    ///
    /// # Panics
    /// There is no such row.
    pub fn keep_rows(&mut self, rows: &[u32]) {
        let mut kept = Self::new(self.kernels, rows.len(), self.shape, self.capacity);
        kept.n_positions = self.n_positions;
        for (new, old) in [(&mut kept.keys, &self.keys), (&mut kept.values, &self.values)] {
            let size = old.as_slice().len() / self.batch.max(1);
            for (new, &row) in new.as_mut_slice().chunks_exact_mut(size.max(1)).zip(rows) {
                new.copy_from_slice(&old.as_slice()[row as usize * size..][..size]);
            }
        }
        *self = kept;
    }

    /// Numbers of all keys and of all values of one head.
    pub(super) fn head_sizes(&self) -> (usize, usize) {
        let n_heads = (self.batch * self.shape.n_kv_heads).max(1);
        (self.keys.as_slice().len() / n_heads, self.values.as_slice().len() / n_heads)
    }

    /// Appends keys, turned by `rotary`, and values.
    ///
    /// # Panics
    /// There is no room for them, or sizes disagree.
    pub fn append<T: Number>(&mut self, keys: Heads<T>, values: Heads<T>, rotary: Option<RotaryRows>) {
        let n_tokens = keys.n_tokens;
        assert_eq!(n_tokens, values.n_tokens, "there are as many values as keys");
        assert!(self.n_positions + n_tokens <= self.capacity, "the buffer has room for {} positions", self.capacity);
        let (kernels, shape) = (self.kernels, self.shape);
        check_angles(rotary, self.batch * n_tokens, shape.head_size);
        let (key_size, value_size) = self.head_sizes();
        let first = self.n_positions;
        self.n_positions += n_tokens;
        let (to_keys, to_values) = (Shared::new(self.keys.as_mut_slice()), Shared::new(self.values.as_mut_slice()));
        let n_heads = self.batch * shape.n_kv_heads;
        for_each(n_heads, 4 * n_heads * n_tokens * shape.head_size, |head| {
            with_scratch(PANEL_MAX * shape.head_size, |panel| {
                kernels.run(Append {
                    from_keys: keys,
                    from_values: values,
                    rotary,
                    head_size: shape.head_size,
                    row: head / shape.n_kv_heads,
                    head: head % shape.n_kv_heads,
                    first,
                    keys: to_keys.at(head * key_size),
                    values: to_values.at(head * value_size),
                    panel,
                });
            });
        });
    }
}

pub(super) fn check_angles(rotary: Option<RotaryRows>, n_tokens: usize, head_size: usize) {
    if let Some(RotaryRows { cos, sin }) = rotary {
        assert!(head_size.is_multiple_of(2), "a head of {head_size} numbers has no two halves to turn");
        assert!(cos.len() == n_tokens * head_size / 2 && sin.len() == cos.len(), "angles are for half of each head");
    }
}

/// The angles by which the pairs `(i, i + head size / 2)` of a head are turned.
#[derive(Clone, Copy, Debug)]
pub struct RotaryRows<'a> {
    /// Cosines `(batch, tokens, head size / 2)`.
    pub cos: &'a [f32],
    /// Sines of that shape.
    pub sin: &'a [f32],
}

/// Writes `scale * x` of one head to `to`, turned by the angles of `token`, counted through the batch.
///
/// # Safety
/// `to` is valid for writes of as many numbers as `x` has, and `rotary` passed [`check_angles`] with `token` counted.
#[inline(always)]
pub(super) unsafe fn turned<S: Simd, T: Number>(
    simd: S,
    x: &[T],
    rotary: Option<RotaryRows>,
    token: usize,
    scale: f32,
    to: *mut f32,
) {
    let scale = simd.splat(scale);
    let size = x.len();
    let n_turned = if rotary.is_some() { size / 2 } else { size };
    for offset in (0..n_turned).step_by(S::LANES) {
        let n = S::LANES.min(n_turned - offset);
        // Safety: `n` numbers from `offset` on lie in (half of) the head and in the token's angles.
        unsafe {
            let first = simd.multiply(T::load(simd, x.as_ptr().add(offset), n), scale);
            let Some(rotary) = rotary else {
                f32::store(simd, to.add(offset), first, n);
                continue;
            };
            let second = simd.multiply(T::load(simd, x.as_ptr().add(n_turned + offset), n), scale);
            let angle = token * n_turned + offset;
            let cos = f32::load(simd, rotary.cos.as_ptr().add(angle), n);
            let sin = f32::load(simd, rotary.sin.as_ptr().add(angle), n);
            let minus = simd.subtract(simd.splat(0.0), sin);
            let turned_first = simd.multiply_add(second, minus, simd.multiply(first, cos));
            let turned_second = simd.multiply_add(first, sin, simd.multiply(second, cos));
            f32::store(simd, to.add(offset), turned_first, n);
            f32::store(simd, to.add(n_turned + offset), turned_second, n);
        }
    }
}

/// Puts the keys and values of one head into their places.
struct Append<'a, T> {
    from_keys: Heads<'a, T>,
    from_values: Heads<'a, T>,
    rotary: Option<RotaryRows<'a>>,
    head_size: usize,
    row: usize,
    head: usize,
    /// The position of the first token.
    first: usize,
    keys: *mut f32,
    values: *mut f32,
    /// Scratch memory for the keys of a panel.
    panel: &'a mut [f32],
}

impl<T: Number> Task for Append<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let head_size = self.head_size;
        let value_stride = head_size.next_multiple_of(S::LANES);
        let n_tokens = self.from_keys.n_tokens;
        let mut token = 0;
        while token < n_tokens {
            // The tokens that fall into one panel.
            let column = (self.first + token) % S::PANEL;
            let n = (S::PANEL - column).min(n_tokens - token);
            for index in 0..n {
                let here = token + index;
                let key = self.from_keys.head(self.row, here, self.head, head_size);
                let value = self.from_values.head(self.row, here, self.head, head_size);
                // Safety: the panel has room for its keys; the buffer has a row of values for every position.
                unsafe {
                    let to = self.panel[index * head_size..][..head_size].as_mut_ptr();
                    turned(simd, key, self.rotary, self.row * n_tokens + here, 1.0, to);
                    let to = self.values.add((self.first + here) * value_stride);
                    turned(simd, value, None, 0, 1.0, to);
                }
            }
            let start = (self.first + token) / S::PANEL * S::PANEL * head_size + column;
            for number in 0..head_size {
                for index in 0..n {
                    // Safety: the panel of these positions lies in the buffer.
                    unsafe {
                        *self.keys.add(start + number * S::PANEL + index) = self.panel[index * head_size + number];
                    }
                }
            }
            token += n;
        }
    }
}
