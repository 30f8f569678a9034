//! Compares every instruction set of the processor with plain sums in f64, over sizes that are multiples of nothing.

use half::{bf16, f16};
use proptest::prelude::*;

use super::simd::{LANES_MAX, Number, Simd, Task};
use super::*;

/// `n` cases, or `PROPTEST_CASES`: each case takes long under valgrind.
pub(super) fn cases(n: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    ProptestConfig::with_cases(asked.unwrap_or(n))
}

/// Random numbers in -1..1.
pub(super) fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..n).map(|_| random.f32() * 2.0 - 1.0).collect()
}

/// ‖a − b‖ / ‖b‖.
fn error(a: &[f32], b: &[f64]) -> f64 {
    error_against(a, b, b)
}

/// ‖a − b‖ / ‖scale‖.
fn error_against(a: &[f32], b: &[f64], scale: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    let norm: f64 = scale.iter().map(|x| x * x).sum();
    (difference / norm.max(f64::MIN_POSITIVE)).sqrt()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub(super) fn exact(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => 0.5 * x * libm::erfc(-x / 2f64.sqrt()),
        Activation::GeluTanh => x * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Silu => x * sigmoid(x),
        Activation::Relu => x.max(0.0),
    }
}

pub(super) const ACTIVATIONS: [Activation; 5] =
    [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu, Activation::Silu, Activation::Relu];

/// Computes `x W^T` with plain sums.
pub(super) fn product(x: &[f32], weight: &[f32], n_in: usize) -> Vec<f64> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
    x.chunks_exact(n_in).flat_map(|x| weight.chunks_exact(n_in).map(move |w| dot(x, w))).collect()
}

/// Returns the weight in each type in which it can be stored, with its values.
pub(super) fn in_all_types(
    kernels: Kernels,
    weight: &[f32],
    n_out: usize,
    n_in: usize,
) -> Vec<(PackedWeight, Vec<f32>)> {
    let halves: Vec<f16> = weight.iter().map(|&x| f16::from_f32(x)).collect();
    let brains: Vec<bf16> = weight.iter().map(|&x| bf16::from_f32(x)).collect();
    let numbers = [WeightNumbers::F32(weight), WeightNumbers::F16(&halves), WeightNumbers::Bf16(&brains)];
    let values = [
        weight.to_vec(),
        halves.iter().map(|x| x.to_f32()).collect(),
        brains.iter().map(|x| x.to_f32()).collect::<Vec<_>>(),
    ];
    let packed = numbers.map(|numbers| PackedWeight::new(kernels, numbers, n_out, n_in).unwrap());
    let narrow = PackedWeight::rounded_to_int8(kernels, WeightNumbers::F32(weight), n_out, n_in).unwrap();
    let narrow_values = narrow.unpacked();
    packed.into_iter().zip(values).chain([(narrow, narrow_values)]).collect()
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn maps_of_any_size_are_what_plain_sums_are(
        n_rows in 1usize..40, n_in in 1usize..600, n_out in 1usize..150, seed: u64
    ) {
        let (x, weight) = (random(n_rows * n_in, seed), random(n_out * n_in, seed ^ 1));
        let (bias, residual) = (random(n_out, seed ^ 2), random(n_rows * n_out, seed ^ 3));
        let activation = ACTIVATIONS[seed as usize % 5];
        for kernels in Kernels::available() {
            for (packed, values) in in_all_types(kernels, &weight, n_out, n_in) {
                prop_assert_eq!(&packed.unpacked(), &values);
                let part = Part { weight: &packed, bias: Some(&bias) };
                let sums = product(&x, &values, n_in);
                let expected: Vec<f64> = sums.iter().enumerate().map(|(index, sum)| {
                    exact(activation, sum + f64::from(bias[index % n_out])) + f64::from(residual[index])
                }).collect();
                let y = linear(&x, &[part], Some(activation), Some(&residual));
                // The rounding of terms that cancel depends on their own sizes.
                let sizes = |x: &[f32]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
                let error = error_against(&y, &expected, &product(&sizes(&x), &sizes(&values), n_in));
                prop_assert!(error < 1e-6, "{} {:?}: {error:e}", kernels.name(), packed);
            }
        }
    }

    #[test]
    fn a_weight_of_8_bits_lies_within_half_a_step_of_what_it_was(n_out in 1usize..150, n_in in 1usize..300, seed: u64) {
        // Outputs of different sizes, one of which is all 0.
        let size = |output: usize| if output == 1 { 0.0 } else { 10f32.powi(output as i32 % 7 - 3) };
        let weight: Vec<f32> = random(n_out * n_in, seed).iter().enumerate().map(|(i, x)| x * size(i / n_in)).collect();
        let narrow: Vec<bf16> = weight.iter().map(|&x| bf16::from_f32(x)).collect();
        let values: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
        for kernels in Kernels::available() {
            for (numbers, values) in [(WeightNumbers::F32(&weight), &weight), (WeightNumbers::Bf16(&narrow), &values)] {
                let packed = PackedWeight::rounded_to_int8(kernels, numbers, n_out, n_in).unwrap().unpacked();
                for (rounded, row) in packed.chunks_exact(n_in).zip(values.chunks_exact(n_in)) {
                    let step = row.iter().fold(0f32, |highest, x| highest.max(x.abs())) / 127.0;
                    let worst = rounded.iter().zip(row).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
                    prop_assert!(worst <= 0.5001 * step, "{}: {worst} of {step}", kernels.name());
                }
            }
        }
    }

    #[test]
    fn narrow_activations_are_rounded_once(n_rows in 1usize..20, n_in in 1usize..200, n_out in 1usize..100, seed: u64) {
        let x: Vec<bf16> = random(n_rows * n_in, seed).into_iter().map(bf16::from_f32).collect();
        let half_x: Vec<f16> = x.iter().map(|x| f16::from_f32(x.to_f32())).collect();
        let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
        let weight = random(n_out * n_in, seed ^ 1);
        for kernels in Kernels::available() {
            for (packed, values) in in_all_types(kernels, &weight, n_out, n_in) {
                let expected = product(&wide, &values, n_in);
                let part = Part { weight: &packed, bias: None };
                let y: Vec<f32> = linear(&x, &[part], None, None).into_iter().map(bf16::to_f32).collect();
                prop_assert!(error(&y, &expected) < 4e-3, "{}", kernels.name());
                let y: Vec<f32> = linear(&half_x, &[part], None, None).into_iter().map(f16::to_f32).collect();
                prop_assert!(error(&y, &expected) < 5e-4, "{}", kernels.name());
            }
        }
    }

    #[test]
    fn maps_side_by_side_and_gated_are_the_maps_alone(n_rows in 1usize..20, n_in in 1usize..100, n_out in 1usize..100, seed: u64) {
        let x = random(n_rows * n_in, seed);
        let (gate, up) = (random(n_out * n_in, seed ^ 1), random(n_out * n_in, seed ^ 2));
        let bias = random(n_out, seed ^ 3);
        for kernels in Kernels::available() {
            let pack = |weight: &[f32]| PackedWeight::new(kernels, WeightNumbers::F32(weight), n_out, n_in).unwrap();
            let (gate, up) = (pack(&gate), pack(&up));
            let (gate, up) = (Part { weight: &gate, bias: Some(&bias) }, Part { weight: &up, bias: None });
            let (first, second) = (linear(&x, &[gate], None, None), linear(&x, &[up], None, None));
            let both = linear(&x, &[gate, up], None, None);
            for (row, both) in both.chunks_exact(2 * n_out).enumerate() {
                prop_assert_eq!(&both[..n_out], &first[row * n_out..][..n_out]);
                prop_assert_eq!(&both[n_out..], &second[row * n_out..][..n_out]);
            }
            let product = activated(kernels, &first, Activation::Silu, Some(&second));
            prop_assert_eq!(gated(&x, gate, up, Activation::Silu), product);
        }
    }

    #[test]
    fn norms_are_what_plain_sums_are(n_rows in 1usize..20, size in 1usize..300, seed: u64) {
        let x: Vec<f32> = random(n_rows * size, seed).into_iter().map(|x| 3.0 * x + 0.5).collect();
        let (weight, bias) = (random(size, seed ^ 1), random(size, seed ^ 2));
        let (mut centred, mut scaled) = (Vec::new(), Vec::new());
        for row in x.chunks_exact(size) {
            let wide = || row.iter().map(|&x| f64::from(x));
            let mean = wide().sum::<f64>() / size as f64;
            let variance = wide().map(|x| (x - mean).powi(2)).sum::<f64>() / size as f64;
            let square = wide().map(|x| x * x).sum::<f64>() / size as f64;
            for ((x, w), b) in wide().zip(&weight).zip(&bias) {
                centred.push((x - mean) / (variance + 1e-5).sqrt() * f64::from(*w) + f64::from(*b));
                scaled.push(x / (square + 1e-5).sqrt() * f64::from(*w));
            }
        }
        for kernels in Kernels::available() {
            prop_assert!(error(&layer_norm(kernels, &x, &weight, &bias, 1e-5), &centred) < 2e-6, "{}", kernels.name());
            prop_assert!(error(&rms_norm(kernels, &x, &weight, 1e-5), &scaled) < 1e-6, "{}", kernels.name());
        }
    }

    #[test]
    fn a_row_is_computed_as_if_it_were_alone(n_rows in 2usize..40, n_in in 1usize..600, n_out in 1usize..100, seed: u64) {
        let (x, weight) = (random(n_rows * n_in, seed), random(n_out * n_in, seed ^ 1));
        for kernels in Kernels::available() {
            for (packed, _) in in_all_types(kernels, &weight, n_out, n_in) {
                let part = Part { weight: &packed, bias: None };
                let together = linear(&x, &[part], None, None);
                for (x, together) in x.chunks_exact(n_in).zip(together.chunks_exact(n_out)) {
                    prop_assert_eq!(linear(x, &[part], None, None), together);
                }
            }
        }
    }
}

/// Expected values come from `tests/golden/make_int8.py`.
#[test]
fn weights_are_rounded_to_8_bits_as_torch_rounds_them() {
    let lines = include_str!("../../../tests/golden/int8.tsv").lines();
    let rows: Vec<Vec<f32>> = lines.map(|line| line.split('\t').map(|x| x.parse().unwrap()).collect()).collect();
    let n_in = rows[0].len();
    let of = |first: usize| rows.iter().skip(first).step_by(2).flatten().copied().collect::<Vec<f32>>();
    let (weight, expected) = (of(0), of(1));
    for kernels in Kernels::available() {
        let numbers = WeightNumbers::F32(&weight);
        let packed = PackedWeight::rounded_to_int8(kernels, numbers, weight.len() / n_in, n_in).unwrap();
        for (rounded, expected) in packed.unpacked().into_iter().zip(&expected) {
            assert!((rounded - expected).abs() <= 1e-6 * expected.abs(), "{}: {rounded} {expected}", kernels.name());
        }
    }
}

/// Applies `exp`, or stores in `T` and reads back.
enum Pass<'a> {
    Exp(&'a mut [f32]),
    Bf16(&'a [f32], &'a mut [bf16]),
    F16(&'a [f32], &'a mut [f16]),
}

impl Task for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        fn copy<S: Simd, T: Number>(simd: S, from: &[f32], to: &mut [T]) {
            for (from, to) in from.chunks(S::LANES).zip(to.chunks_mut(S::LANES)) {
                // Safety: both have the same length, at most one vector.
                unsafe { T::store(simd, to.as_mut_ptr(), f32::load(simd, from.as_ptr(), from.len()), from.len()) };
            }
        }
        match self {
            Self::Exp(x) => {
                for x in x.chunks_mut(S::LANES) {
                    // Safety: `x` is at most one vector.
                    unsafe {
                        let y = math::exp(simd, f32::load(simd, x.as_ptr(), x.len()));
                        f32::store(simd, x.as_mut_ptr(), y, x.len());
                    }
                }
            }
            Self::Bf16(from, to) => copy(simd, from, to),
            Self::F16(from, to) => copy(simd, from, to),
        }
    }
}

#[test]
fn the_exponential_is_right_to_a_millionth() {
    let x: Vec<f32> = (-87_300..88_000).map(|i| i as f32 * 1e-3).collect();
    for kernels in Kernels::available() {
        let mut y = x.clone();
        kernels.run(Pass::Exp(&mut y));
        let worst =
            x.iter().zip(&y).map(|(x, y)| (f64::from(*y) / f64::from(*x).exp() - 1.0).abs()).fold(0.0, f64::max);
        assert!(worst < 3e-7, "{}: {worst:e}", kernels.name());
        let mut edges = [0.0, f32::NEG_INFINITY, -1e30, -88.0, f32::NAN, f32::INFINITY];
        kernels.run(Pass::Exp(&mut edges));
        assert_eq!(edges[..4], [1.0, 0.0, 0.0, 0.0], "{}", kernels.name());
        assert!(edges[4].is_nan() && edges[5] > 1e38, "{}", kernels.name());
    }
}

#[test]
fn activations_are_right_to_a_millionth() {
    let x: Vec<f32> = (-8_000..8_000).map(|i| i as f32 * 1e-3 + 1e-4).collect();
    for kernels in Kernels::available() {
        for activation in ACTIVATIONS {
            let y = activated(kernels, &x, activation, None);
            let of = |(x, y): (&f32, &f32)| {
                let expected = exact(activation, f64::from(*x));
                (f64::from(*y) - expected).abs() / expected.abs().max(1e-9)
            };
            // In the tails the rounding of the argument dominates.
            let worst = x.iter().zip(&y).filter(|(x, _)| x.abs() < 4.0).map(of).fold(0.0, f64::max);
            assert!(worst < 2e-6, "{} {activation:?}: {worst:e}", kernels.name());
            let all = x.iter().zip(&y).map(of).fold(0.0, f64::max);
            assert!(all < 2e-5, "{} {activation:?}: {all:e}", kernels.name());
        }
    }
}

#[test]
fn numbers_are_rounded_as_everywhere() {
    let mut x = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 3.4e38, 65_519.0, 65_520.0, 1e-8];
    // Halfway between two bf16 numbers: rounds to the even one.
    x.extend([0x3f80_8000, 0x3f81_8000, 0xbf80_8000].map(f32::from_bits));
    x.extend(random(1000, 3));
    let brains: Vec<u16> = x.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
    let halves: Vec<u16> = x.iter().map(|&x| f16::from_f32(x).to_bits()).collect();
    for kernels in Kernels::available() {
        let mut to = vec![bf16::ZERO; x.len()];
        kernels.run(Pass::Bf16(&x, &mut to));
        assert_eq!(to.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), brains, "{}", kernels.name());
        let mut to = vec![f16::ZERO; x.len()];
        kernels.run(Pass::F16(&x, &mut to));
        assert_eq!(to.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), halves, "{}", kernels.name());
    }
}

#[test]
fn vectors_fit_their_buffers() {
    for kernels in Kernels::available() {
        let (panel, lanes) = kernels.panel_and_lanes();
        assert!(lanes <= LANES_MAX && panel <= simd::PANEL_MAX && panel.is_multiple_of(lanes));
    }
}

#[test]
fn kernels_that_cannot_be_used_are_refused_by_name() {
    let error = Kernels::named("sse9").unwrap_err().to_string();
    assert!(error.contains("sse9") && error.contains("avx512bf16"), "{error}");
    assert_eq!(Kernels::named("scalar").unwrap().name(), "scalar");
    for name in NAMES.iter().filter(|name| Kernels::available().iter().all(|kernels| kernels.name() != **name)) {
        let error = Kernels::named(name).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("scalar"), "{error}");
    }
}
