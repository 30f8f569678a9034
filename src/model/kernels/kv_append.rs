//! Puts keys and values into the order in which attention reads them.

use super::kept::Kept;
use super::kv_buffer::{Heads, RotaryRows, turned};
use super::simd::{Number, PANEL_MAX, Simd, Task};
use super::transpose::transpose_at;

/// The memory of the keys and of the values of one head.
///
/// Keys are stored in panels `(panels, head size in whole steps / together, panel, together)`, like packed weights of a
/// product with queries. Values are `(positions in whole steps / together, head size in whole vectors, together)`, like
/// packed weights of a product with the softmax weights.
#[derive(Clone, Copy)]
pub(super) struct KeptHead<K> {
    pub(super) keys: *mut K,
    pub(super) values: *mut K,
}

/// Returns how many numbers the keys and the values of one head take for `n_positions` positions.
///
/// # Panics
/// The count overflows.
pub(super) fn head_sizes<K: Kept>(
    n_positions: usize,
    head_size: usize,
    (panel, lanes): (usize, usize),
) -> (usize, usize) {
    let product = |n: usize, of_n: usize, size: usize, of_size: usize| {
        n.checked_next_multiple_of(of_n)?.checked_mul(size.checked_next_multiple_of(of_size)?)
    };
    let sizes =
        product(n_positions, panel, head_size, K::TOGETHER).zip(product(n_positions, K::TOGETHER, head_size, lanes));
    sizes.expect("keys and values can be counted")
}

/// Returns the size of the scratch memory of [`Append`], in numbers.
pub(super) fn n_scratch<K: Kept>(head_size: usize) -> usize {
    PANEL_MAX * head_size.next_multiple_of(K::TOGETHER)
}

/// Writes the keys and values of one head to their places.
pub(super) struct Append<'a, T, K> {
    pub(super) from_keys: Heads<'a, T>,
    pub(super) from_values: Heads<'a, T>,
    pub(super) rotary: Option<RotaryRows<'a>>,
    pub(super) head_size: usize,
    pub(super) row: usize,
    pub(super) head: usize,
    /// The position of the first token.
    pub(super) first: usize,
    /// Valid for writes of the sizes of [`head_sizes`] for all positions.
    pub(super) to: KeptHead<K>,
    /// Scratch memory for the keys of a panel.
    pub(super) panel: &'a mut [K],
}

impl<T: Number<Kept = K>, K: Kept> Task for Append<'_, T, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let n_tokens = self.from_keys.n_tokens;
        let mut token = 0;
        while token < n_tokens {
            // The tokens that belong to one panel.
            let column = (self.first + token) % S::PANEL;
            let n = (S::PANEL - column).min(n_tokens - token);
            self.add_keys(simd, token, n, column);
            token += n;
        }
        self.add_values(simd);
    }
}

impl<T: Number<Kept = K>, K: Kept> Append<'_, T, K> {
    /// Adds the keys of `n` tokens from `token` on, which are in one panel from `column` on.
    #[inline(always)]
    fn add_keys<S: Simd>(&mut self, simd: S, token: usize, n: usize, column: usize) {
        let n_numbers = self.head_size.next_multiple_of(K::TOGETHER);
        let n_tokens = self.from_keys.n_tokens;
        for index in 0..n {
            let here = token + index;
            let key = self.from_keys.head(self.row, here, self.head, self.head_size);
            let to = &mut self.panel[index * n_numbers..][..n_numbers];
            // Safety: `to` has room for a head.
            unsafe {
                turned(simd, key, self.rotary, self.row * n_tokens + here, to.as_mut_ptr());
                if n_numbers > self.head_size {
                    K::store(simd, to.as_mut_ptr().add(self.head_size), simd.splat(0.0), 1);
                }
            }
        }
        let start = (self.first + token) / S::PANEL * S::PANEL * n_numbers;
        // Numbers that are stored together move together.
        let n_moved = n_numbers / K::TOGETHER;
        // Safety: the panel of these positions is within the head's memory, and `n` keys of whole steps are within the
        // scratch memory. A step of numbers, or a single number, is four bytes.
        unsafe {
            let to = self.to.keys.add(start).cast::<u32>().add(column);
            transpose_at(simd, self.panel.as_ptr().cast(), n_moved, [n, n_moved], to, S::PANEL);
        }
    }

    #[inline(always)]
    fn add_values<S: Simd>(&self, simd: S) {
        let width = self.head_size.next_multiple_of(S::LANES);
        let n_tokens = self.from_values.n_tokens;
        let value = |token: usize| self.from_values.head(self.row, token, self.head, self.head_size);
        if K::TOGETHER == 1 {
            for token in 0..n_tokens {
                // Safety: the head has a row of values for every position.
                unsafe { turned(simd, value(token), None, 0, self.to.values.add((self.first + token) * width)) };
            }
            return;
        }
        // Only bf16 is kept in pairs.
        let bits = |token: usize| T::as_bf16(value(token)).unwrap_or(&[]);
        let mut token = 0;
        while token < n_tokens {
            let position = self.first + token;
            // Safety: the head has a row of pairs for every two positions.
            unsafe {
                let pairs = self.to.values.add(position / 2 * 2 * width).cast::<[u16; 2]>();
                if !position.is_multiple_of(2) {
                    bits(token).iter().enumerate().for_each(|(place, &second)| (*pairs.add(place))[1] = second);
                    token += 1;
                    continue;
                }
                let first = bits(token).iter().enumerate();
                if token + 1 < n_tokens {
                    let second = bits(token + 1);
                    first.zip(second).for_each(|((place, &first), &second)| *pairs.add(place) = [first, second]);
                } else {
                    // The padding after the last value is multiplied by 0, so it must not be NaN.
                    first.for_each(|(place, &first)| *pairs.add(place) = [first, 0]);
                }
                token += 2;
            }
        }
    }
}
