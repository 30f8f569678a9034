use super::*;

#[test]
fn slopes_are_those_of_mpt() {
    assert_eq!(Alibi::new(4, 8.0).slopes, [0.25, 0.0625, 0.015625, 0.00390625]);
    // Of eight: the second, the fourth, the sixth and the eighth, then the first and the third.
    assert_eq!(Alibi::new(6, 8.0).slopes, [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]);
}

#[test]
fn wider_heads_score_as_narrow_ones_with_a_bias() {
    let device = &Device::Cpu;
    let random = |seed: usize| {
        let values = (0..2 * 5 * 4).map(|i| ((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0);
        Tensor::from_vec(values.collect::<Vec<_>>(), (1, 2, 5, 4), device).unwrap()
    };
    let (queries, keys) = (random(1), random(2));
    let positions = Tensor::new(&[[3u32, 40, 41, 1000, 7]], device).unwrap();
    let alibi = Alibi::new(2, 8.0);
    let [wide, wide_keys, _] = alibi.widened([&queries, &keys, &keys], &positions).unwrap();
    let scores = (wide.matmul(&wide_keys.t().unwrap()).unwrap() / 12f64.sqrt()).unwrap();
    let plain = (queries.matmul(&keys.t().unwrap()).unwrap() / 2.0).unwrap();
    let bias = (scores - plain).unwrap().squeeze(0).unwrap().to_vec3::<f32>().unwrap();
    for (head, slope) in alibi.slopes.iter().enumerate() {
        for row in &bias[head] {
            for (bias, position) in row.iter().zip([3.0, 40.0, 41.0, 1000.0, 7.0]) {
                assert!((bias - slope * position).abs() < 1e-4, "{bias} {slope} {position}");
            }
        }
    }
}
