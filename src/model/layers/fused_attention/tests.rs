use candle_core::Device;

use super::*;

#[test]
fn attention_in_parts_is_attention_at_once() {
    let random = |seed: usize, n_tokens: usize| {
        let values: Vec<f32> =
            (0..2 * 3 * n_tokens * 4).map(|i| ((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0).collect();
        Tensor::from_vec(values, (2, 3, n_tokens, 4), &Device::Cpu).unwrap()
    };
    // 2 × 3 heads × 2048 keys: 1365 of the 2048 queries fit at once.
    let (query, key, value) = (random(1, 2048), random(2, 2048), random(3, 2048));
    let at_once = mix(&query, &key, &value, None).unwrap();
    let in_parts = mix_in_parts(&query, &key, &value).unwrap();
    let difference = (at_once - in_parts).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(difference < 1e-6, "{difference}");
}

#[test]
fn segments_of_equal_length_become_a_batch_in_order() {
    let values: Vec<f32> = (0..2 * 6 * 2).map(|i| i as f32).collect();
    let x = Tensor::from_vec(values, (1, 2, 6, 2), &Device::Cpu).unwrap();
    let batch = batch_of(&x, 3).unwrap();
    for segment in 0..3 {
        let expected = x.narrow(2, segment * 2, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(batch.get(segment).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
    }
}
