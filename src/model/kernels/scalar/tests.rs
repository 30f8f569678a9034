use super::*;

#[test]
fn every_half_is_widened_exactly() {
    for bits in 0..=u16::MAX {
        let (ours, expected) = (widen_half(bits), f16::from_bits(bits).to_f32());
        assert!(ours.to_bits() == expected.to_bits() || ours.is_nan() && expected.is_nan(), "{bits:#x}");
    }
}
