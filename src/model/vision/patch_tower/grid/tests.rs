use super::*;

#[test]
fn windows_are_listed_by_row_and_cut_at_the_edges() {
    let (order, lengths) = windows((3, 5), 2);
    assert_eq!(lengths, [4, 4, 2, 2, 2, 1]);
    assert_eq!(order, [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]);
    let back: Vec<u32> = inverse(&order).into_iter().map(|place| order[place as usize]).collect();
    assert_eq!(back, (0..15).collect::<Vec<u32>>());
}

#[test]
fn a_grid_as_learned_keeps_its_positions() {
    let places: Vec<(usize, usize)> = (0..9).map(|i| (i / 3, i % 3)).collect();
    let (indices, weights) = interpolation(&places, (3, 3), 3);
    for (patch, (indices, weights)) in indices.chunks(4).zip(weights.chunks(4)).enumerate() {
        let own: f32 = indices.iter().zip(weights).filter(|(i, _)| **i == patch as u32).map(|(_, w)| w).sum();
        assert!((own - 1.0).abs() < 1e-6, "{patch}: {indices:?} {weights:?}");
    }
}

#[test]
fn a_coarser_grid_lies_between_positions() {
    let (indices, weights) = interpolation(&[(0, 1)], (1, 3), 6);
    assert_eq!(indices, [2, 3, 8, 9]);
    assert_eq!(weights, [0.5, 0.5, 0.0, 0.0]);
}
