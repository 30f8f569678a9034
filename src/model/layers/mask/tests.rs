//! Tests of `mask`.

use super::*;

/// Returns for each number whether it is zero.
fn visible(mask: &Mask) -> Vec<bool> {
    let added = mask.added().unwrap().to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    added.iter().map(|&added| added == 0.0).collect()
}

#[test]
fn a_node_sees_the_prompt_its_ancestors_and_itself() {
    // Two children of the root, and two children of the first of them.
    let parents = [None, None, Some(0), Some(0)];
    let mask = tree_mask(&[0, 1], 2, &parents, 1..4, DType::F32, &Device::Cpu).unwrap();
    assert_eq!((mask.dims(), mask.added().unwrap().dims()), ([2, 3, 6], &[2, 1, 3, 6][..]));
    let visible: Vec<u8> = visible(&mask).into_iter().map(u8::from).collect();
    let of_row = |first: u8| [[first, 1, 0, 1, 0, 0], [first, 1, 1, 0, 1, 0], [first, 1, 1, 0, 0, 1]].concat();
    assert_eq!(visible, [of_row(1), of_row(0)].concat());
}

#[test]
fn a_padded_row_sees_its_own_tokens_only() {
    let mask = left_padded_mask(&[0, 2], 3, 3, DType::F32, &Device::Cpu).unwrap();
    let expected = [
        [true, false, false, true, true, false, true, true, true],
        [true, false, false, false, true, false, false, false, true],
    ];
    assert_eq!(visible(&mask), expected.concat());
}

#[test]
fn a_mask_says_causal_exactly_where_its_numbers_are_those_of_a_causal_mask() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let causal = |mask: &Mask| {
            let [_, n_queries, n_positions] = mask.dims();
            let place = |number: usize| (number / n_positions % n_queries, number % n_positions);
            visible(mask).into_iter().enumerate().all(|(number, is_visible)| {
                let (query, position) = place(number);
                is_visible == (position <= query + n_positions - n_queries)
            })
        };
        let check = |mask: candle_core::Result<Mask>, expected: bool| {
            let mask = mask.unwrap();
            assert_eq!((mask.is_causal(), causal(&mask)), (expected, expected), "{:?}", mask.dims());
        };
        let cpu = Device::Cpu;
        check(causal_mask(1, dtype, &cpu), true);
        check(causal_mask(7, dtype, &cpu), true);
        check(left_padded_mask(&[0], 3, 8, dtype, &cpu), true);
        check(left_padded_mask(&[0, 0], 1, 8, dtype, &cpu), true);
        check(left_padded_mask(&[0, 2], 8, 8, dtype, &cpu), false);
        check(left_padded_mask(&[0, 2], 3, 8, dtype, &cpu), false);
        check(left_padded_mask(&[1, 0], 1, 8, dtype, &cpu), false);
        check(tree_mask(&[0], 2, &[None, None, Some(0)], 0..3, dtype, &cpu), false);
        check(tree_mask(&[0, 1], 2, &[None, Some(0)], 0..2, dtype, &cpu), false);
        // A single label is not a tree.
        check(tree_mask(&[0], 2, &[None, Some(0), Some(1)], 1..3, dtype, &cpu), true);
    }
}

#[test]
fn a_window_hides_what_lies_before_it_by_the_distance_in_a_tree_and_spares_what_is_kept() {
    let cpu = Device::Cpu;
    let ranges = |mask: &Mask| match mask.visible() {
        Visible::Ranges(ranges) => ranges.clone(),
        other => panic!("{other:?}"),
    };
    let causal = causal_mask(4, DType::F32, &cpu).unwrap();
    assert_eq!(ranges(&causal.windowed(2)), [[0, 1], [0, 2], [1, 3], [2, 4]]);
    assert!(causal.windowed(4).is_causal() && !causal.windowed(3).is_causal());
    let last = causal.of_queries(3..4).unwrap();
    assert_eq!(ranges(&last.windowed(2)), [[2, 4]]);
    let block = Mask::of_ranges([1, 4, 4], DType::F32, &cpu, |_, query| 0..if query < 3 { 3 } else { 4 });
    assert_eq!(ranges(&block.windowed(2)), [[0, 3], [0, 3], [1, 3], [2, 4]]);
    let kept = block.keeping(|_, query| if query < 3 { 0 } else { 3 });
    assert_eq!(ranges(&kept.windowed(2)), [[0, 3], [0, 3], [0, 3], [2, 4]]);
    // Two children of the root, and a child of the first: depths 2, 2 and 3 after two positions.
    let tree = tree_mask(&[0], 2, &[None, None, Some(0)], 0..3, DType::F32, &cpu).unwrap();
    let seen: Vec<u8> = visible(&tree.windowed(2)).into_iter().map(u8::from).collect();
    assert_eq!(seen, [[0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 0, 1]].concat());
}

#[test]
fn a_long_mask_is_described_and_not_a_matrix() {
    let n = 1 << 17;
    let mask = causal_mask(n, DType::F32, &Device::Cpu).unwrap().windowed(1 << 10);
    assert!(matches!(mask.visible(), Visible::Ranges(ranges) if ranges.len() == n) && mask.added.get().is_none());
}
