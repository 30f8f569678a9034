//! Transposes matrices.

use super::simd::Simd;

/// Columns that are read in turn, so that written memory stays in the cache.
const N_COLUMNS_AT_ONCE: usize = 16;

/// Writes `n_rows` rows of `n_columns` numbers as columns. Numbers are only moved, so they may be any 32 bits.
///
/// # Safety
/// `from` is valid for reads of the rows, which are `from_stride` apart, and `to` for writes of `n_columns` rows of
/// `n_rows` numbers, which are `to_stride` apart.
#[inline(always)]
pub(super) unsafe fn transpose_at<S: Simd>(
    simd: S,
    from: *const u32,
    from_stride: usize,
    [n_rows, n_columns]: [usize; 2],
    to: *mut u32,
    to_stride: usize,
) {
    for first in (0..n_columns).step_by(N_COLUMNS_AT_ONCE) {
        let end = n_columns.min(first + N_COLUMNS_AT_ONCE);
        for row in (0..n_rows).step_by(S::LANES) {
            for column in (first..end).step_by(S::LANES) {
                // Safety: the caller guarantees the pointers for these rows and columns.
                unsafe {
                    let (from, to) = (from.add(row * from_stride + column), to.add(column * to_stride + row));
                    if row + S::LANES <= n_rows && column + S::LANES <= n_columns {
                        simd.transpose(from, from_stride, to, to_stride);
                        continue;
                    }
                    for row in 0..(n_rows - row).min(S::LANES) {
                        for column in 0..(n_columns - column).min(S::LANES) {
                            *to.add(column * to_stride + row) = *from.add(row * from_stride + column);
                        }
                    }
                }
            }
        }
    }
}
