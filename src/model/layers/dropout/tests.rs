use candle_core::Device;

use super::*;

fn values(dropout: &Dropout) -> Vec<f32> {
    let ones = Tensor::ones((100, 100), candle_core::DType::F32, &Device::Cpu).unwrap();
    dropout.forward(&ones).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_share_is_dropped_and_the_mean_is_kept() {
    let dropped = values(&Dropout::new(0.3, 5, StepCounter::default()));
    let n_dropped = dropped.iter().filter(|&&value| value == 0.0).count();
    assert!((2_800..3_200).contains(&n_dropped), "{n_dropped}");
    let mean: f32 = dropped.iter().sum::<f32>() / 10_000.0;
    assert!((mean - 1.0).abs() < 0.03, "{mean}");
}

#[test]
fn numbers_are_dropped_one_by_one_as_all_together() {
    let mask = Dropout::new(0.3, 5, StepCounter::default()).mask();
    let together = mask.applied(&vec![1.0; 2 * N_AT_ONCE + 3]);
    assert!(together.iter().enumerate().all(|(index, &factor)| factor == mask.of(index)));
}

#[test]
fn a_step_drops_the_same_places_again_and_another_step_others() {
    let step = StepCounter::default();
    let dropout = Dropout::new(0.5, 5, step.clone());
    let first = values(&dropout);
    assert_eq!(values(&dropout), first);
    step.store(1, Ordering::Relaxed);
    assert_ne!(values(&dropout), first);
    step.store(0, Ordering::Relaxed);
    assert_eq!(values(&dropout), first);
    assert_ne!(values(&Dropout::new(0.5, 6, step)), first);
}
