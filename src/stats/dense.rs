//! Products, factors and eigenvalues of large dense matrices, in f64 on one thread.
//!
//! All matrices are slices with one row after the other.

/// Products that are summed side by side, so that the compiler can use vectors.
const N_LANES: usize = 4;

/// The rows of one tile of a product, and how much of each row is read at a time. Two tiles fit a second-level cache.
const N_TILE_ROWS: usize = 48;
const N_TILE_COLUMNS: usize = 512;

/// The rows of the left and of the right matrix whose products are held in registers.
const N_LEFT: usize = 4;
const N_RIGHT: usize = 2;

/// Steps of the QL method for one eigenvalue, at most. Two are common.
const N_STEPS_MAX: usize = 60;

/// Returns the scalar product of two slices of one length.
pub(super) fn dot(left: &[f64], right: &[f64]) -> f64 {
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks::<N_LANES>(), right.as_chunks::<N_LANES>());
    let mut sums = [0.0; N_LANES];
    for (left, right) in left.iter().zip(right) {
        for lane in 0..N_LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    let rest: f64 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f64>() + rest
}

/// Returns the `(columns, rows)` transpose of a matrix with rows of `n_columns` entries.
pub(super) fn transposed(matrix: &[f64], n_columns: usize) -> Vec<f64> {
    const N_BLOCK: usize = 16;
    let n_rows = matrix.len() / n_columns.max(1);
    let mut result = vec![0.0; n_rows * n_columns];
    for top in (0..n_rows).step_by(N_BLOCK) {
        for left in (0..n_columns).step_by(N_BLOCK) {
            for column in left..(left + N_BLOCK).min(n_columns) {
                for row in top..(top + N_BLOCK).min(n_rows) {
                    result[column * n_rows + row] = matrix[row * n_columns + column];
                }
            }
        }
    }
    result
}

/// Returns `left right^T`, of shape `(rows of left, rows of right)`. The rows of both have `n_columns` entries.
pub(super) fn product_transposed(left: &[f64], right: &[f64], n_columns: usize) -> Vec<f64> {
    tiled_product(left, right, n_columns, false)
}

/// Returns the symmetric `matrix matrix^T`. The rows of `matrix` have `n_columns` entries. Costs half a product.
pub(super) fn gram(matrix: &[f64], n_columns: usize) -> Vec<f64> {
    let mut result = tiled_product(matrix, matrix, n_columns, true);
    let n = matrix.len() / n_columns.max(1);
    for row in 0..n {
        for column in row + 1..n {
            result[row * n + column] = result[column * n + row];
        }
    }
    result
}

/// The product of `product_transposed`. With `lower_only`, tiles that lie above the diagonal stay 0.
fn tiled_product(left: &[f64], right: &[f64], n_columns: usize, lower_only: bool) -> Vec<f64> {
    let (n_left, n_right) = (left.len() / n_columns.max(1), right.len() / n_columns.max(1));
    let mut result = vec![0.0; n_left * n_right];
    for start in (0..n_columns).step_by(N_TILE_COLUMNS) {
        let columns = start..(start + N_TILE_COLUMNS).min(n_columns);
        for i in (0..n_left).step_by(N_TILE_ROWS) {
            let i_end = (i + N_TILE_ROWS).min(n_left);
            for j in (0..n_right).step_by(N_TILE_ROWS) {
                if lower_only && j >= i_end {
                    break;
                }
                let j_end = (j + N_TILE_ROWS).min(n_right);
                let left_row = |i: usize| &left[i * n_columns..][columns.clone()];
                let right_row = |j: usize| &right[j * n_columns..][columns.clone()];
                add_tile(&mut result, n_right, (i..i_end, left_row), (j..j_end, right_row));
            }
        }
    }
    result
}

/// Adds the products of some rows of the left and the right matrix to `result`, whose rows have `n_right` entries.
fn add_tile<'a>(
    result: &mut [f64],
    n_right: usize,
    (lefts, left_row): (std::ops::Range<usize>, impl Fn(usize) -> &'a [f64]),
    (rights, right_row): (std::ops::Range<usize>, impl Fn(usize) -> &'a [f64]),
) {
    for i in lefts.clone().step_by(N_LEFT) {
        for j in rights.clone().step_by(N_RIGHT) {
            if i + N_LEFT <= lefts.end && j + N_RIGHT <= rights.end {
                let lefts = std::array::from_fn(|offset| left_row(i + offset));
                let rights = std::array::from_fn(|offset| right_row(j + offset));
                for (i, sums) in (i..).zip(dots(lefts, rights)) {
                    for (j, sum) in (j..).zip(sums) {
                        result[i * n_right + j] += sum;
                    }
                }
                continue;
            }
            for i in i..(i + N_LEFT).min(lefts.end) {
                for j in j..(j + N_RIGHT).min(rights.end) {
                    result[i * n_right + j] += dot(left_row(i), right_row(j));
                }
            }
        }
    }
}

/// The scalar products of each left with each right row. All have one length.
fn dots(lefts: [&[f64]; N_LEFT], rights: [&[f64]; N_RIGHT]) -> [[f64; N_RIGHT]; N_LEFT] {
    let n = rights[0].len();
    let n_chunks = n / N_LANES;
    let (left, right) = (
        lefts.map(|row| &row.as_chunks::<N_LANES>().0[..n_chunks]),
        rights.map(|row| &row.as_chunks::<N_LANES>().0[..n_chunks]),
    );
    let mut sums = [[[0.0; N_LANES]; N_RIGHT]; N_LEFT];
    for at in 0..n_chunks {
        for i in 0..N_LEFT {
            for j in 0..N_RIGHT {
                for lane in 0..N_LANES {
                    sums[i][j][lane] += left[i][at][lane] * right[j][at][lane];
                }
            }
        }
    }
    let rest = n_chunks * N_LANES..n;
    std::array::from_fn(|i| {
        std::array::from_fn(|j| {
            let rest = lefts[i][rest.clone()].iter().zip(&rights[j][rest.clone()]).map(|(left, right)| left * right);
            sums[i][j].iter().sum::<f64>() + rest.sum::<f64>()
        })
    })
}

/// Returns `factor^T` of a positive semidefinite matrix `factor factor^T` of `n` rows, by Cholesky's method with the
/// largest pivot first (Golub and Van Loan, "Matrix computations", section 4.2).
///
/// The result has one row of `n` entries for each pivot, so as many as the rank. Pivots below `n` roundings of the
/// largest end it. Takes about `n^3 / 3` multiplications.
pub(super) fn semidefinite_factor(matrix: &[f64], n: usize) -> Vec<f64> {
    let mut remaining: Vec<f64> = (0..n).map(|i| matrix[i * n + i]).collect();
    let smallest = n as f64 * f64::EPSILON * remaining.iter().copied().fold(0.0, f64::max);
    // By rows, so that each entry of the next column is a scalar product of two slices.
    let mut factor = vec![0.0; n * n];
    let mut rank = 0;
    while let Some(pivot) = (0..n).max_by(|&i, &j| remaining[i].total_cmp(&remaining[j])) {
        if rank == n || remaining[pivot] <= smallest {
            break;
        }
        let root = remaining[pivot].sqrt();
        let pivot_row = factor[pivot * n..][..rank].to_vec();
        for i in 0..n {
            // A finished row has nothing left that later columns could hold.
            if remaining[i] == f64::NEG_INFINITY {
                continue;
            }
            let entry = (matrix[i * n + pivot] - dot(&factor[i * n..][..rank], &pivot_row)) / root;
            factor[i * n + rank] = if i == pivot { root } else { entry };
            remaining[i] -= entry * entry;
        }
        remaining[pivot] = f64::NEG_INFINITY;
        rank += 1;
    }
    let mut by_columns = transposed(&factor, n);
    by_columns.truncate(rank * n);
    by_columns
}

/// Returns the eigenvalues of a symmetric matrix of `n` rows, in no order. Only the lower triangle is read.
///
/// The matrix becomes tridiagonal by Householder's reflections, and that is solved by the implicit QL method (Golub and
/// Van Loan, "Matrix computations", section 8.3). It takes about `4 n^3 / 3` operations, where
/// [`symmetric_eigen`](super::symmetric_eigen) takes ten to a hundred times as many and also finds the vectors. `None`
/// if the matrix does not have `n * n` finite entries.
pub(super) fn symmetric_eigenvalues(matrix: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    if matrix.len() != n * n || matrix.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let (diagonal, beside) = tridiagonal(matrix, n);
    tridiagonal_eigenvalues(diagonal, beside)
}

/// The diagonal of a similar tridiagonal matrix, and what stands beside it: entry `i` is at row `i + 1`, column `i`. The
/// last entry is 0.
fn tridiagonal(mut matrix: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut beside = vec![0.0; n];
    let mut product = vec![0.0; n];
    for last in (1..n).rev() {
        let (above, row) = matrix.split_at_mut(last * n);
        // The reflection of `reflector` turns this row into one entry beside the diagonal.
        let reflector = &mut row[..last];
        let norm = dot(reflector, reflector).sqrt();
        let end = reflector[last - 1];
        beside[last - 1] = if end > 0.0 { -norm } else { norm };
        if norm == 0.0 {
            continue;
        }
        reflector[last - 1] -= beside[last - 1];
        let half_square = norm * (norm + end.abs());
        let product = &mut product[..last];
        product.fill(0.0);
        for i in 0..last {
            let row = &above[i * n..][..i];
            let value = reflector[i];
            product[i] += dot(row, &reflector[..i]) + above[i * n + i] * value;
            for (sum, entry) in product.iter_mut().zip(row) {
                *sum += entry * value;
            }
        }
        let along = dot(product, reflector) / (2.0 * half_square * half_square);
        for (value, direction) in product.iter_mut().zip(&*reflector) {
            *value = *value / half_square - along * direction;
        }
        for i in 0..last {
            let (by_product, by_reflector) = (reflector[i], product[i]);
            for ((entry, value), direction) in above[i * n..][..=i].iter_mut().zip(&*product).zip(&*reflector) {
                *entry -= by_product * value + by_reflector * direction;
            }
        }
    }
    ((0..n).map(|i| matrix[i * n + i]).collect(), beside)
}

/// The eigenvalues of the tridiagonal matrix of `tridiagonal`. `None` if the method does not end.
fn tridiagonal_eigenvalues(mut diagonal: Vec<f64>, mut beside: Vec<f64>) -> Option<Vec<f64>> {
    let n = diagonal.len();
    let largest = diagonal.iter().chain(&beside).fold(0.0, |largest: f64, value| largest.max(value.abs()));
    for first in 0..n {
        for n_steps in 0.. {
            let is_zero = |i: usize| {
                let size = beside[i].abs();
                size <= f64::EPSILON * (diagonal[i].abs() + diagonal[i + 1].abs()) || size <= 1e-30 * largest
            };
            let last = (first..n - 1).find(|&i| is_zero(i)).unwrap_or(n - 1);
            if last == first {
                break;
            }
            if n_steps == N_STEPS_MAX {
                return None;
            }
            ql_step(&mut diagonal, &mut beside, first, last);
        }
    }
    Some(diagonal)
}

/// One step of the QL method with Wilkinson's shift on the rows `first..=last`.
fn ql_step(diagonal: &mut [f64], beside: &mut [f64], first: usize, last: usize) {
    let slope = (diagonal[first + 1] - diagonal[first]) / (2.0 * beside[first]);
    let shift = beside[first] / (slope + slope.hypot(1.0).copysign(slope));
    let mut rest = diagonal[last] - diagonal[first] + shift;
    let (mut sine, mut cosine, mut moved) = (1.0, 1.0, 0.0);
    for i in (first..last).rev() {
        let (out, inside) = (sine * beside[i], cosine * beside[i]);
        let length = out.hypot(rest);
        beside[i + 1] = length;
        if length == 0.0 {
            // The matrix has come apart here.
            diagonal[i + 1] -= moved;
            beside[last] = 0.0;
            return;
        }
        (sine, cosine) = (out / length, rest / length);
        let base = diagonal[i + 1] - moved;
        let turned = (diagonal[i] - base) * sine + 2.0 * cosine * inside;
        moved = sine * turned;
        diagonal[i + 1] = base + moved;
        rest = cosine * turned - inside;
    }
    diagonal[first] -= moved;
    beside[first] = rest;
    beside[last] = 0.0;
}

#[cfg(test)]
mod tests;
