//! Keys and values of earlier positions.

use super::kept::{Kept, KeptNumbers, KvNumbers};
use super::kv_append::{Append, KeptHead, head_sizes, n_scratch as n_scratch_of_append};
use super::memory::{Aligned, Plain, Shared, n_floats, split_off, with_scratch};
use super::simd::{Number, Simd};
use super::{Kernels, for_each};

/// Sizes of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_size: usize,
}

impl HeadShape {
    /// Numbers of a row of queries, keys and values.
    pub fn row(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_size
    }
}

/// Heads of all tokens of a batch, in any memory layout.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a, T> {
    /// The memory with the numbers.
    pub numbers: &'a [T],
    /// The distance in numbers from row to row of the batch, from token to token, and from head to head.
    pub strides: [usize; 3],
    /// The place of the first number.
    pub start: usize,
    /// Tokens per row.
    pub n_tokens: usize,
}

impl<'a, T> Heads<'a, T> {
    /// Returns queries, keys and values of `rows` `(batch, tokens, queries + keys + values)`.
    pub fn side_by_side(rows: &'a [T], n_tokens: usize, shape: HeadShape) -> [Self; 3] {
        let HeadShape { n_heads, n_kv_heads, head_size } = shape;
        let strides = [n_tokens * shape.row(), shape.row(), head_size];
        [0, n_heads, n_heads + n_kv_heads].map(|head| Self {
            numbers: rows,
            strides,
            start: head * head_size,
            n_tokens,
        })
    }

    /// Returns the heads of `rows` `(batch, tokens, heads * head size)`.
    pub fn of_rows(rows: &'a [T], n_tokens: usize, n_heads: usize, head_size: usize) -> Self {
        let row = n_heads * head_size;
        Self { numbers: rows, strides: [n_tokens * row, row, head_size], start: 0, n_tokens }
    }

    /// Returns the heads of `numbers` `(batch, heads, tokens, head size)`.
    pub fn by_head(numbers: &'a [T], n_tokens: usize, n_heads: usize, head_size: usize) -> Self {
        let head = n_tokens * head_size;
        Self { numbers, strides: [n_heads * head, head_size, head], start: 0, n_tokens }
    }

    pub(super) fn head(&self, row: usize, token: usize, head: usize, head_size: usize) -> &'a [T] {
        let [of_row, of_token, of_head] = self.strides;
        &self.numbers[self.start + row * of_row + token * of_token + head * of_head..][..head_size]
    }
}

/// Keys and values of earlier positions, in a buffer of fixed capacity, in the order in which attention reads them.
pub struct KvBuffer {
    pub(super) kernels: Kernels,
    pub(super) batch: usize,
    pub(super) shape: HeadShape,
    capacity: usize,
    pub(super) n_positions: usize,
    pub(super) numbers: KvNumbers, // each (batch, kv heads, numbers of a head)
}

impl KvBuffer {
    /// Creates an empty buffer for `capacity` positions of `batch` rows, for a model that computes in `T`.
    ///
    /// # Panics
    /// The size overflows.
    pub fn new<T: Number>(kernels: Kernels, batch: usize, shape: HeadShape, capacity: usize) -> Self {
        let (keys, values) = head_sizes::<T::Kept>(capacity, shape.head_size, kernels.panel_and_lanes());
        let n_heads = batch.checked_mul(shape.n_kv_heads);
        // If the product wrapped around, less memory would be allocated than is written.
        let of_all = |size| n_heads.and_then(|n| n.checked_mul(size)).expect("keys and values can be counted");
        let numbers = KeptNumbers { keys: Aligned::zeros(of_all(keys)), values: Aligned::zeros(of_all(values)) };
        Self { kernels, batch, shape, capacity, n_positions: 0, numbers: T::Kept::into_buffer(numbers) }
    }

    /// Positions held.
    pub fn n_positions(&self) -> usize {
        self.n_positions
    }

    /// Whether it is for `batch` rows of a layer of `shape`.
    pub fn fits(&self, batch: usize, shape: HeadShape) -> bool {
        self.batch == batch && self.shape == shape
    }

    /// Drops all but the first `n_positions`; appended positions replace the rest.
    pub fn truncate(&mut self, n_positions: usize) {
        self.n_positions = self.n_positions.min(n_positions);
        let (panel, lanes) = self.kernels.panel_and_lanes();
        let (_, value_size) = head_sizes::<half::bf16>(self.capacity, self.shape.head_size, (panel, lanes));
        if let KvNumbers::Bf16(numbers) = &mut self.numbers
            && !self.n_positions.is_multiple_of(2)
        {
            // The padding after the last value is multiplied by 0, so it must not be NaN.
            let width = self.shape.head_size.next_multiple_of(lanes);
            for values in numbers.values.as_mut_slice().chunks_exact_mut(value_size.max(1)) {
                let pairs = values[(self.n_positions - 1) * width..][..2 * width].chunks_exact_mut(2);
                pairs.for_each(|pair| pair[1] = half::bf16::ZERO);
            }
        }
    }

    /// Returns a buffer for `capacity` positions of `batch` rows, each of which begins with the positions of this
    /// buffer's only row.
    ///
    /// # Panics
    /// There are more rows, or more positions than `capacity`.
    pub fn begun(&self, batch: usize, capacity: usize) -> Self {
        match &self.numbers {
            KvNumbers::F32(_) => self.begun_of::<f32>(batch, capacity),
            KvNumbers::Bf16(_) => self.begun_of::<half::bf16>(batch, capacity),
        }
    }

    fn begun_of<K: Kept + Number<Kept = K>>(&self, batch: usize, capacity: usize) -> Self {
        assert_eq!(self.batch, 1, "one row is what all begin with");
        assert!(self.n_positions <= capacity, "{} positions do not fit into {capacity}", self.n_positions);
        let mut begun = Self::new::<K>(self.kernels, batch, self.shape, capacity);
        begun.n_positions = self.n_positions;
        let sizes = |n| head_sizes::<K>(n, self.shape.head_size, self.kernels.panel_and_lanes());
        let [from, to, used] = [self.capacity, capacity, self.n_positions].map(sizes);
        let (numbers, into) = (K::of_buffer(&self.numbers), K::of_buffer_mut(&mut begun.numbers));
        copy_heads(&numbers.keys, &mut into.keys, [from.0, to.0, used.0]);
        copy_heads(&numbers.values, &mut into.values, [from.1, to.1, used.1]);
        begun
    }

    /// Keeps only the batch rows named by `rows`, in that order.
    ///
    /// # Panics
    /// There is no such row.
    pub fn keep_rows(&mut self, rows: &[u32]) {
        match &mut self.numbers {
            KvNumbers::F32(numbers) => numbers.keep_rows(self.batch, rows),
            KvNumbers::Bf16(numbers) => numbers.keep_rows(self.batch, rows),
        }
        self.batch = rows.len();
    }

    /// Appends keys, rotated by `rotary`, and values.
    ///
    /// # Panics
    /// There is no room for them, sizes disagree, or the buffer is for another type.
    pub fn append<T: Number>(&mut self, keys: Heads<T>, values: Heads<T>, rotary: Option<RotaryRows>) {
        let n_tokens = keys.n_tokens;
        assert_eq!(n_tokens, values.n_tokens, "there are as many values as keys");
        assert!(self.n_positions + n_tokens <= self.capacity, "the buffer has room for {} positions", self.capacity);
        let (kernels, shape) = (self.kernels, self.shape);
        check_angles(rotary, self.batch * n_tokens, shape.head_size);
        let (key_size, value_size) = head_sizes::<T::Kept>(self.capacity, shape.head_size, kernels.panel_and_lanes());
        let first = self.n_positions;
        self.n_positions += n_tokens;
        let KeptNumbers { keys: to_keys, values: to_values } = T::Kept::of_buffer_mut(&mut self.numbers);
        let (to_keys, to_values) = (Shared::new(to_keys.as_mut_slice()), Shared::new(to_values.as_mut_slice()));
        let n_heads = self.batch * shape.n_kv_heads;
        for_each(n_heads, 4 * n_heads * n_tokens * shape.head_size, |head| {
            let n_scratch = n_scratch_of_append::<T::Kept>(shape.head_size);
            with_scratch(n_floats::<T::Kept>(n_scratch), |scratch| {
                let (panel, _) = split_off(scratch, n_scratch);
                kernels.run(Append {
                    from_keys: keys,
                    from_values: values,
                    rotary,
                    head_size: shape.head_size,
                    row: head / shape.n_kv_heads,
                    head: head % shape.n_kv_heads,
                    first,
                    to: KeptHead { keys: to_keys.at(head * key_size), values: to_values.at(head * value_size) },
                    panel,
                });
            });
        });
    }
}

impl<K: Plain> KeptNumbers<K> {
    fn keep_rows(&mut self, batch: usize, rows: &[u32]) {
        for numbers in [&mut self.keys, &mut self.values] {
            let size = numbers.as_slice().len() / batch.max(1);
            let mut kept = Aligned::zeros(rows.len() * size);
            for (new, &row) in kept.as_mut_slice().chunks_exact_mut(size.max(1)).zip(rows) {
                new.copy_from_slice(&numbers.as_slice()[row as usize * size..][..size]);
            }
            *numbers = kept;
        }
    }
}

/// Copies the first `used` numbers of each head of one row, `from_size` numbers apart, to each row, whose heads are
/// `to_size` numbers apart.
fn copy_heads<K: Plain>(from: &Aligned<K>, to: &mut Aligned<K>, [from_size, to_size, used]: [usize; 3]) {
    let heads = from.as_slice().chunks_exact(from_size.max(1)).cycle();
    for (head, of_row) in to.as_mut_slice().chunks_exact_mut(to_size.max(1)).zip(heads) {
        head[..used].copy_from_slice(&of_row[..used]);
    }
}

pub(super) fn check_angles(rotary: Option<RotaryRows>, n_tokens: usize, head_size: usize) {
    if let Some(RotaryRows { cos, sin }) = rotary {
        assert!(head_size.is_multiple_of(2), "a head of {head_size} numbers has no two halves to turn");
        assert!(cos.len() == n_tokens * head_size / 2 && sin.len() == cos.len(), "angles are for half of each head");
    }
}

/// The angles by which the pairs `(i, i + head size / 2)` of a head are rotated.
#[derive(Clone, Copy, Debug)]
pub struct RotaryRows<'a> {
    /// Cosines `(batch, tokens, head size / 2)`.
    pub cos: &'a [f32],
    /// Sines of that shape.
    pub sin: &'a [f32],
}

/// The destination of a head's numbers.
///
/// This is a trait because a closure would be compiled without the instruction set.
pub(super) trait HeadTo: Copy {
    /// # Safety
    /// Places `offset..offset + n` are valid for writes, `n <= LANES`.
    unsafe fn store<S: Simd>(self, simd: S, offset: usize, x: S::V, n: usize);
}

impl<U: Number> HeadTo for *mut U {
    #[inline(always)]
    unsafe fn store<S: Simd>(self, simd: S, offset: usize, x: S::V, n: usize) {
        // Safety: guaranteed by the caller.
        unsafe { U::store(simd, self.add(offset), x, n) }
    }
}

/// A destination that multiplies the numbers by a scale.
#[derive(Clone, Copy)]
pub(super) struct Scaled<U>(pub(super) *mut U, pub(super) f32);

impl<U: Number> HeadTo for Scaled<U> {
    #[inline(always)]
    unsafe fn store<S: Simd>(self, simd: S, offset: usize, x: S::V, n: usize) {
        // Safety: guaranteed by the caller.
        unsafe { U::store(simd, self.0.add(offset), simd.multiply(x, simd.splat(self.1)), n) }
    }
}

/// Writes `x` of one head to `to`, rotated by the angles of `token`, which counts through the batch.
///
/// # Safety
/// `to` is valid for writes of as many numbers as `x` has, and `rotary` passed [`check_angles`] with `token` counted.
#[inline(always)]
pub(super) unsafe fn turned<S: Simd, T: Number>(
    simd: S,
    x: &[T],
    rotary: Option<RotaryRows>,
    token: usize,
    to: impl HeadTo,
) {
    let size = x.len();
    let n_turned = if rotary.is_some() { size / 2 } else { size };
    for offset in (0..n_turned).step_by(S::LANES) {
        let n = S::LANES.min(n_turned - offset);
        // Safety: `n` numbers from `offset` on are within (half of) the head and within the token's angles.
        unsafe {
            let first = T::load(simd, x.as_ptr().add(offset), n);
            let Some(rotary) = rotary else {
                to.store(simd, offset, first, n);
                continue;
            };
            let second = T::load(simd, x.as_ptr().add(n_turned + offset), n);
            let angle = token * n_turned + offset;
            let cos = f32::load(simd, rotary.cos.as_ptr().add(angle), n);
            let sin = f32::load(simd, rotary.sin.as_ptr().add(angle), n);
            let minus = simd.subtract(simd.splat(0.0), sin);
            to.store(simd, offset, simd.multiply_add(second, minus, simd.multiply(first, cos)), n);
            to.store(simd, n_turned + offset, simd.multiply_add(first, sin, simd.multiply(second, cos)), n);
        }
    }
}
