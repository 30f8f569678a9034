use super::*;

#[test]
fn positions_are_interpolated_as_torch_does() {
    // F.interpolate(torch.arange(9.).reshape(1, 1, 3, 3) ** 2, size=2 or scale_factor=2.1 / 3, mode="bicubic")
    let positions: Vec<f32> = (0..10).map(|i| if i == 0 { 7.0 } else { ((i - 1) * (i - 1)) as f32 }).collect();
    let positions = Tensor::from_vec(positions, (1, 10, 1), &Device::Cpu).unwrap();
    let check = |offset: f64, expected: [f32; 5]| {
        let got = resized(&positions, 3, 2, offset).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let far = got.iter().zip(expected).any(|(got, wanted)| (got - wanted).abs() > 1e-4 * wanted.abs().max(1.0));
        assert!(!far && got.len() == 5, "{offset}: {got:?}");
    };
    check(0.0, [7.0, 1.430_756, 6.522_369, 32.397_37, 53.180_756]);
    check(0.1, [7.0, 1.250_336, 5.705_494, 29.147_182, 48.158_638]);
    assert_eq!(resized(&positions, 3, 3, 0.1).unwrap().dims(), [1, 10, 1]);
}
