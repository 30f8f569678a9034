use super::*;

#[test]
fn the_first_of_equal_logits_wins_with_gap_zero() {
    assert_eq!(top_two(&[1.0, 3.0, 3.0]), Some((1, 0.0)));
}

#[test]
fn what_a_device_chooses_is_what_the_plain_loop_chooses() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut rows: Vec<Vec<f32>> = (0..20).map(|_| (0..37).map(|_| random.i8(-9..9) as f32 / 2.0).collect()).collect();
    rows.extend([vec![1.0; 37], vec![-1e30; 37], vec![0.0; 37]]);
    rows[0][3] = f32::NAN;
    rows[1][36] = f32::INFINITY;
    rows[2][0] = f32::NEG_INFINITY;
    let expected: Vec<_> = rows.iter().map(|row| top_two(row)).collect();
    assert!(expected[..3].iter().all(Option::is_none) && expected[3..].iter().all(Option::is_some));
    let logits = Tensor::new(rows, &candle_core::Device::Cpu).unwrap();
    let mut choose = Choose::default();
    assert_eq!(choose.on_device(&logits).unwrap(), expected);
    // Again with fewer rows.
    assert_eq!(choose.on_device(&logits.narrow(0, 5, 4).unwrap()).unwrap(), expected[5..9]);
    assert_eq!(choose.of(&logits).unwrap(), expected);
}

#[test]
fn a_logit_that_is_not_finite_is_no_answer() {
    assert_eq!(top_two(&[1.0, f32::NAN]), None);
    assert_eq!(top_two(&[1.0, f32::INFINITY]), None);
}
