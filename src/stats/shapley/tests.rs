use super::*;

#[test]
fn the_glove_game_has_its_known_values() {
    // Players 0 and 1 have a left glove, player 2 a right one; a pair is worth 1.
    let worth: Vec<f64> = (0..8_usize).map(|mask| f64::from(u8::from(mask & 4 != 0 && mask & 3 != 0))).collect();
    let values = shapley(&worth).unwrap();
    for (value, expected) in values.iter().zip([1.0 / 6.0, 1.0 / 6.0, 2.0 / 3.0]) {
        assert!((value - expected).abs() < 1e-12, "{values:?}");
    }
    assert_eq!(shapley(&[0.0, 0.4]), Some(vec![0.4]));
    assert_eq!(shapley(&[0.5]), Some(Vec::new()), "nobody plays");
    assert_eq!(shapley(&[0.0, 1.0, 2.0]), None);
}
