//! The places of the patches of an image: windows, and positions learned on another grid.

/// Returns the merged patches of a `(rows, columns)` grid in the order of windows of `side` merged patches, and the
/// size of each window in merged patches. Windows are in row order, and so are the merged patches within each. Windows
/// at the right and lower edges hold the rest.
pub(super) fn windows((rows, columns): (usize, usize), side: usize) -> (Vec<u32>, Vec<usize>) {
    let mut order = Vec::with_capacity(rows * columns);
    let mut lengths = Vec::new();
    for top in (0..rows).step_by(side) {
        for left in (0..columns).step_by(side) {
            let (bottom, right) = ((top + side).min(rows), (left + side).min(columns));
            for row in top..bottom {
                order.extend((left..right).map(|column| (row * columns + column) as u32));
            }
            lengths.push((bottom - top) * (right - left));
        }
    }
    (order, lengths)
}

/// Returns the permutation that undoes `order`.
pub(super) fn inverse(order: &[u32]) -> Vec<u32> {
    let mut inverse = vec![0; order.len()];
    for (place, &from) in (0..).zip(order) {
        inverse[from as usize] = place;
    }
    inverse
}

/// Returns, per patch, the four nearest learned positions and their bilinear weights, for the patches at `places` (row,
/// column) of a `(rows, columns)` grid. Positions are learned on a square grid of `side` whose corners are on the
/// image's corners.
pub(super) fn interpolation(
    places: &[(usize, usize)],
    (rows, columns): (usize, usize),
    side: usize,
) -> (Vec<u32>, Vec<f32>) {
    let along = |index: usize, n: usize| {
        // Order and precision as in transformers.
        let at = index as f32 * (side - 1) as f32 / n.saturating_sub(1).max(1) as f32;
        let floor = at.floor();
        let next = (floor as usize + 1).min(side - 1);
        [(floor as usize, 1.0 - (at - floor)), (next, 1.0 - (floor + 1.0 - at))]
    };
    let taps = places.iter().flat_map(|&(row, column)| {
        let (down, across) = (along(row, rows), along(column, columns));
        down.into_iter().flat_map(move |(row, down)| {
            across.into_iter().map(move |(column, across)| ((row * side + column) as u32, down * across))
        })
    });
    taps.unzip()
}

#[cfg(test)]
mod tests;
