//! Spectra of small matrices, in f64.

/// Sweeps of Jacobi's method, at most. A handful suffice.
const N_SWEEPS_MAX: usize = 60;

/// Returns eigenvalues and eigenvectors of a symmetric matrix of `n` rows, by Jacobi's method (Golub and Van Loan,
/// "Matrix computations", section 8.5). `matrix` has its rows one after the other. The columns of the second result, also
/// stored by rows, are the eigenvectors. `None` if `matrix` does not have `n * n` finite entries.
pub fn symmetric_eigen(matrix: &[f64], n: usize) -> Option<(Vec<f64>, Vec<f64>)> {
    if matrix.len() != n * n || matrix.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let mut a = matrix.to_vec();
    let mut vectors: Vec<f64> = (0..n * n).map(|at| f64::from(u8::from(at % (n + 1) == 0))).collect();
    let total: f64 = a.iter().map(|value| value * value).sum();
    for _ in 0..N_SWEEPS_MAX {
        let off: f64 = (0..n * n).filter(|at| at / n != at % n).map(|at| a[at] * a[at]).sum();
        if off <= 1e-30 * total {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut vectors, n, p, q);
            }
        }
    }
    Some(((0..n).map(|i| a[i * n + i]).collect(), vectors))
}

/// Makes the entries (p, q) and (q, p) of `a` zero.
fn rotate(a: &mut [f64], vectors: &mut [f64], n: usize, p: usize, q: usize) {
    let off = a[p * n + q];
    if off == 0.0 {
        return;
    }
    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * off);
    let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    let sine = tangent * cosine;
    for k in 0..n {
        let (kp, kq) = (a[k * n + p], a[k * n + q]);
        (a[k * n + p], a[k * n + q]) = (cosine * kp - sine * kq, sine * kp + cosine * kq);
    }
    for k in 0..n {
        let (pk, qk) = (a[p * n + k], a[q * n + k]);
        (a[p * n + k], a[q * n + k]) = (cosine * pk - sine * qk, sine * pk + cosine * qk);
        let (vp, vq) = (vectors[k * n + p], vectors[k * n + q]);
        (vectors[k * n + p], vectors[k * n + q]) = (cosine * vp - sine * vq, sine * vp + cosine * vq);
    }
}

/// Returns the singular values of the product `B A` of a `(rows, rank)` and a `(rank, columns)` matrix, given the
/// symmetric `rank * rank` matrices `B^T B` and `A A^T`, largest first.
///
/// Their squares are the eigenvalues of `(A A^T)^(1/2) (B^T B) (A A^T)^(1/2)`.
pub fn singular_values_of_product(btb: &[f64], aat: &[f64], rank: usize) -> Option<Vec<f64>> {
    let (values, vectors) = symmetric_eigen(aat, rank)?;
    let root = |i: usize, j: usize| -> f64 {
        (0..rank).map(|k| vectors[i * rank + k] * values[k].max(0.0).sqrt() * vectors[j * rank + k]).sum()
    };
    let root: Vec<f64> = (0..rank * rank).map(|at| root(at / rank, at % rank)).collect();
    let product = product(&product(&root, btb, rank), &root, rank);
    // Rounding makes it slightly asymmetric.
    let symmetric: Vec<f64> =
        (0..rank * rank).map(|at| 0.5 * (product[at] + product[(at % rank) * rank + at / rank])).collect();
    let (squares, _) = symmetric_eigen(&symmetric, rank)?;
    let mut singular: Vec<f64> = squares.into_iter().map(|square| square.max(0.0).sqrt()).collect();
    singular.sort_by(|a, b| b.total_cmp(a));
    Some(singular)
}

fn product(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    let entry = |at: usize| (0..n).map(|k| a[at / n * n + k] * b[k * n + at % n]).sum();
    (0..n * n).map(entry).collect()
}

/// Returns the effective rank of a matrix with these singular values: exp of the entropy of their shares (Roy and
/// Vetterli 2007, "The effective rank"). `None` if all are zero.
pub fn effective_rank(singular: &[f64]) -> Option<f64> {
    let sum: f64 = singular.iter().sum();
    let entropy = |value: &f64| {
        let share = value / sum;
        if share > 0.0 { -share * share.ln() } else { 0.0 }
    };
    (sum > 0.0).then(|| singular.iter().map(entropy).sum::<f64>().exp())
}

#[cfg(test)]
mod tests;
