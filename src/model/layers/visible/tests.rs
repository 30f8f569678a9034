use candle_core::{DType, Device};

use super::super::{causal_mask, left_padded_mask, tree_mask};
use super::*;

#[test]
fn padding_and_order_are_ranges_and_a_tree_is_not() {
    let causal = causal_mask(3, DType::F32, &Device::Cpu).unwrap();
    assert_eq!(*Visible::of(Some(&causal)), Visible::Ranges(vec![[0, 1], [0, 2], [0, 3]]));
    let padded = left_padded_mask(&[0, 2], 2, 4, DType::BF16, &Device::Cpu).unwrap();
    assert_eq!(*Visible::of(Some(&padded)), Visible::Ranges(vec![[0, 3], [0, 4], [2, 3], [2, 4]]));
    let tree = tree_mask(&[0], 2, &[None, None, Some(0)], 0..3, DType::F32, &Device::Cpu).unwrap();
    assert!(matches!(*Visible::of(Some(&tree)), Visible::Added(_)));
    assert_eq!(Visible::of_numbers(vec![0.0; 6], 3), Visible::All);
    assert_eq!(*Visible::of(None), Visible::All);
}
