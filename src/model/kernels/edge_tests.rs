//! The edges of every kernel in every instruction set of the processor: no rows, one row and odd sizes, two-byte
//! numbers, slices at any offset, and NaN. The reference is plain sums in f64.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use half::{bf16, f16};
use proptest::prelude::*;

use super::attention_tests::Case;
use super::simd::{LANES_MAX, Number};
use super::tests::{ACTIVATIONS, cases, exact, in_all_types, product, random};
use super::*;

/// A type that activations are stored in.
trait Stored: Number + PartialEq + Debug {
    /// Half the relative distance between neighbouring numbers.
    const ROUNDING: f64;
    fn of(x: f32) -> Self;
    fn wide(self) -> f32;
}

macro_rules! stored {
    ($number:ty, $rounding:expr, $of:expr, $wide:expr) => {
        impl Stored for $number {
            const ROUNDING: f64 = $rounding;
            fn of(x: f32) -> Self {
                $of(x)
            }
            fn wide(self) -> f32 {
                $wide(self)
            }
        }
    };
}

stored!(f32, 0.0, |x| x, |x| x);
stored!(f16, 1.0 / 2048.0, f16::from_f32, f16::to_f32);
stored!(bf16, 1.0 / 256.0, bf16::from_f32, bf16::to_f32);

/// Returns the numbers in `T`, and their values after rounding.
fn stored<T: Stored>(x: &[f32]) -> (Vec<T>, Vec<f32>) {
    let x: Vec<T> = x.iter().map(|&x| T::of(x)).collect();
    let values = x.iter().map(|x| x.wide()).collect();
    (x, values)
}

/// Returns the bits, which distinguish signed zeros and NaNs.
fn bits<T: Stored>(x: &[T]) -> Vec<u32> {
    x.iter().map(|x| x.wide().to_bits()).collect()
}

/// Asserts that each number is within a millionth of `scale` plus one rounding of its expected value.
#[track_caller]
fn assert_near<T: Stored>(kernels: Kernels, actual: &[T], expected: &[f64], scale: &[f64]) {
    assert_eq!(actual.len(), expected.len(), "{}", kernels.name());
    for (index, ((y, expected), scale)) in actual.iter().zip(expected).zip(scale).enumerate() {
        // Subnormal halves are rounded to multiples of 2^-24.
        let bound = 1e-6 * scale + T::ROUNDING * expected.abs() + if T::ROUNDING > 0.0 { 6e-8 } else { 0.0 };
        let error = (f64::from(y.wide()) - expected).abs();
        assert!(error <= bound, "{} {}: {y:?} at {index} instead of {expected}", kernels.name(), size_of::<T>());
    }
}

/// Computes `x W^T + b`, and the sum of the terms' magnitudes, which scales the rounding error.
fn affine(x: &[f32], weight: &[f32], bias: &[f32], n_in: usize) -> Vec<[f64; 2]> {
    let sizes = |x: &[f32]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
    let sums = product(x, weight, n_in).into_iter().zip(product(&sizes(x), &sizes(weight), n_in));
    sums.zip(bias.iter().cycle()).map(|((sum, size), &b)| [sum + f64::from(b), size + f64::from(b.abs())]).collect()
}

/// A map's sizes, including inputs around the ends of blocks.
fn sizes() -> impl Strategy<Value = [usize; 3]> {
    let n_in = prop_oneof![1usize..70, 250usize..262, 510usize..516];
    (0usize..15, n_in, 1usize..140).prop_map(|(n_rows, n_in, n_out)| [n_rows, n_in, n_out])
}

fn check_maps<T: Stored>([n_rows, n_in, n_out]: [usize; 3], seed: u64) {
    let (x, x_values) = stored::<T>(&random(n_rows * n_in, seed));
    let (residual, residual_values) = stored::<T>(&random(n_rows * n_out, seed ^ 1));
    let (weight, bias) = (random(n_out * n_in, seed ^ 2), random(n_out, seed ^ 3));
    let activation = ACTIVATIONS[seed as usize % ACTIVATIONS.len()];
    for kernels in Kernels::available() {
        for (packed, values) in in_all_types(kernels, &weight, n_out, n_in) {
            let part = Part { weight: &packed, bias: Some(&bias) };
            let sums = affine(&x_values, &values, &bias, n_in);
            let all = sums.iter().zip(&residual_values);
            let expected: Vec<f64> = all.clone().map(|([y, _], r)| exact(activation, *y) + f64::from(*r)).collect();
            let scale: Vec<f64> = all.map(|([_, size], r)| 2.0 * size + f64::from(r.abs())).collect();
            assert_near(kernels, &linear(&x, &[part], Some(activation), Some(&residual)), &expected, &scale);

            let expected: Vec<f64> = sums.iter().map(|[y, _]| exact(activation, *y) * y).collect();
            let scale: Vec<f64> = sums.iter().map(|[_, size]| 4.0 * size * size + size).collect();
            assert_near(kernels, &gated(&x, part, part, activation), &expected, &scale);
        }
    }
}

fn check_norms<T: Stored>(n_rows: usize, size: usize, seed: u64) {
    let (x, values) = stored::<T>(&random(n_rows * size, seed).iter().map(|x| 3.0 * x + 0.5).collect::<Vec<_>>());
    let (weight, bias) = (random(size, seed ^ 1), random(size, seed ^ 2));
    let [mut centred, mut scaled, mut scale] = [(); 3].map(|()| Vec::new());
    for row in values.chunks_exact(size) {
        let wide = || row.iter().map(|&x| f64::from(x));
        let mean = wide().sum::<f64>() / size as f64;
        let deviation = (wide().map(|x| (x - mean).powi(2)).sum::<f64>() / size as f64 + 1e-5).sqrt();
        let root = (wide().map(|x| x * x).sum::<f64>() / size as f64 + 1e-5).sqrt();
        for ((x, w), b) in wide().zip(&weight).zip(&bias) {
            centred.push((x - mean) / deviation * f64::from(*w) + f64::from(*b));
            scaled.push(x / root * f64::from(*w));
            scale.push(2.0 + 4.0 / deviation);
        }
    }
    for kernels in Kernels::available() {
        assert_near(kernels, &layer_norm(kernels, &x, &weight, &bias, 1e-5), &centred, &scale);
        assert_near(kernels, &rms_norm(kernels, &x, &weight, 1e-5), &scaled, &scale);
    }
}

fn check_activations<T: Stored>(n: usize, seed: u64) {
    let (x, values) = stored::<T>(&random(n, seed).iter().map(|x| 6.0 * x).collect::<Vec<_>>());
    let (factor, factors) = stored::<T>(&random(n, seed ^ 1));
    for kernels in Kernels::available() {
        for activation in ACTIVATIONS {
            let plain: Vec<f64> = values.iter().map(|&x| exact(activation, f64::from(x))).collect();
            let times: Vec<f64> = plain.iter().zip(&factors).map(|(y, f)| y * f64::from(*f)).collect();
            let scale = vec![12.0; n];
            assert_near(kernels, &activated(kernels, &x, activation, None), &plain, &scale);
            assert_near(kernels, &activated(kernels, &x, activation, Some(&factor)), &times, &scale);
        }
    }
}

/// Queries, keys and values.
type Three<'a, T> = [Heads<'a, T>; 3];

/// Returns the result for a buffer that receives the keys and values in two pieces, as the case says.
fn answer<T: Number>(kernels: Kernels, case: &Case, three: &dyn Fn([usize; 2]) -> Vec<T>, visible: Visible) -> Vec<T> {
    let [before, added] = case.n_tokens;
    let mut buffer = KvBuffer::new::<T>(kernels, case.batch, case.shape(), case.n_positions());
    let mut last = Vec::new();
    for [start, end] in [[0, before], [before, before + added]] {
        let rows = three([start, end]);
        let [queries, keys, values]: Three<T> = Heads::side_by_side(&rows, end - start, case.shape());
        buffer.append(keys, values, None);
        if end > before {
            last = attention(queries, None, visible, &buffer);
        }
    }
    last
}

/// Returns the tokens `start..end` of rows `(batch, positions, queries + keys + values)`.
fn tokens<T: Copy>(case: &Case, rows: &[T], [start, end]: [usize; 2]) -> Vec<T> {
    let width = case.shape().row();
    rows.chunks_exact(case.n_positions() * width).flat_map(|row| row[start * width..end * width].to_vec()).collect()
}

fn check_attention<T: Stored>(case: &Case) {
    let (rows, values) = stored::<T>(&case.inputs().0);
    let no_angles = vec![0f32; case.batch * case.n_positions() * case.head_size];
    let (before, n) = (case.n_tokens[0], case.n_positions());
    let causal = |query: usize, key: usize| key <= before + query;
    let expected = case.plainly(&values, &no_angles, &|_, query, key| {
        if causal(query, key) { 0.0 } else { f64::NEG_INFINITY }
    });
    let queries = 0..case.n_tokens[1];
    let ranges: Vec<[u32; 2]> = queries.clone().map(|query| [0, (before + query + 1) as u32]).collect();
    let hidden = |query: usize, key: usize| if causal(query, key) { 0.0 } else { f32::NEG_INFINITY };
    let added: Vec<f32> = queries.flat_map(|query| (0..n).map(move |key| hidden(query, key))).collect();
    // bf16 products also round the weights; values are below 2.
    let of_weights = if T::ROUNDING == bf16::ROUNDING { 2.0 * T::ROUNDING / 1e-6 } else { 0.0 };
    let scale = vec![10.0 + of_weights; expected.len()];
    for kernels in Kernels::available() {
        for visible in [Visible::Ranges(&ranges), Visible::Added(&added)] {
            let three = |range: [usize; 2]| tokens(case, &rows, range);
            assert_near(kernels, &answer(kernels, case, &three, visible), &expected, &scale);
        }
    }
}

fn attention_case(head_sizes: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Case> {
    // Includes sizes around the ends of panels and of blocks of keys.
    let before = prop_oneof![0usize..20, 60usize..68, 253usize..259];
    (1usize..3, 1usize..3, 1usize..4, head_sizes, before, 1usize..12, any::<u64>()).prop_map(
        |(batch, n_kv_heads, group, head_size, before, added, seed)| Case {
            batch,
            n_kv_heads,
            group,
            head_size,
            n_tokens: [before, added],
            seed,
        },
    )
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn maps_and_gates_of_any_size_and_type_are_what_plain_sums_are(sizes in sizes(), seed: u64) {
        check_maps::<f32>(sizes, seed);
        check_maps::<f16>(sizes, seed);
        check_maps::<bf16>(sizes, seed);
    }

    #[test]
    fn norms_of_any_size_and_type_are_what_plain_sums_are(n_rows in 0usize..20, size in 1usize..150, seed: u64) {
        check_norms::<f32>(n_rows, size, seed);
        check_norms::<f16>(n_rows, size, seed);
        check_norms::<bf16>(n_rows, size, seed);
    }

    #[test]
    fn activations_of_any_number_of_numbers_are_right(n in 0usize..100, seed: u64) {
        check_activations::<f32>(n, seed);
        check_activations::<f16>(n, seed);
        check_activations::<bf16>(n, seed);
    }

    #[test]
    fn attention_of_any_head_and_type_is_what_plain_sums_are(case in attention_case(2..=128)) {
        check_attention::<f32>(&case);
        check_attention::<f16>(&case);
        check_attention::<bf16>(&case);
    }

    #[test]
    fn maps_of_different_types_and_widths_side_by_side_are_the_maps_alone(
        n_rows in 0usize..9, n_in in 1usize..80, n_out in prop::array::uniform3(1usize..70), seed: u64
    ) {
        let (x, _) = stored::<bf16>(&random(n_rows * n_in, seed));
        for kernels in Kernels::available() {
            let weights: Vec<PackedWeight> = (0..3).map(|which| {
                let weight = random(n_out[which] * n_in, seed ^ which as u64);
                in_all_types(kernels, &weight, n_out[which], n_in).swap_remove(which).0
            }).collect();
            let parts: Vec<Part> = weights.iter().map(|weight| Part { weight, bias: None }).collect();
            let together = linear(&x, &parts, None, None);
            let width: usize = n_out.iter().sum();
            let mut start = 0;
            for part in &parts {
                let alone = linear(&x, &[*part], None, None);
                for (row, alone) in alone.chunks_exact(part.weight.n_out()).enumerate() {
                    prop_assert_eq!(&together[row * width + start..][..alone.len()], alone);
                }
                start += part.weight.n_out();
            }
        }
    }

    #[test]
    fn a_row_of_narrow_numbers_is_computed_as_if_it_were_alone(sizes in sizes(), seed: u64) {
        let [n_rows, n_in, n_out] = sizes;
        let (x, _) = stored::<bf16>(&random(n_rows * n_in, seed));
        let weight = random(n_out * n_in, seed ^ 1);
        for kernels in Kernels::available() {
            for (packed, _) in in_all_types(kernels, &weight, n_out, n_in) {
                let part = Part { weight: &packed, bias: None };
                let together = gated(&x, part, part, Activation::Silu);
                for (x, together) in x.chunks_exact(n_in).zip(together.chunks_exact(n_out)) {
                    prop_assert_eq!(gated(x, part, part, Activation::Silu), together);
                }
            }
        }
    }
}

/// Copies `x` to element `offset` of other memory.
fn moved<T: Stored>(x: &[T], offset: usize) -> Vec<T> {
    let mut memory = vec![T::of(f32::NAN); offset];
    memory.extend_from_slice(x);
    memory
}

fn check_places<T: Stored>(kernels: Kernels) {
    let (n_rows, n_in, n_out) = (7, 37, 41);
    let (x, _) = stored::<T>(&random(n_rows * n_in, 1));
    let (residual, _) = stored::<T>(&random(n_rows * n_out, 2));
    let (weight, bias) = (random(n_out * n_in, 3), random(n_out, 4));
    let case = Case { batch: 1, n_kv_heads: 1, group: 2, head_size: 11, n_tokens: [0, 9], seed: 5 };
    let (rows, _) = stored::<T>(&case.inputs().0);
    let of_attention = |rows: &[T]| {
        let [queries, keys, values] = Heads::side_by_side(rows, 9, case.shape());
        let mut buffer = KvBuffer::new::<T>(kernels, 1, case.shape(), 9);
        buffer.append(keys, values, None);
        attention(queries, None, Visible::All, &buffer)
    };
    for (packed, _) in in_all_types(kernels, &weight, n_out, n_in) {
        let at = |offset: usize| {
            let bias = moved(&bias, offset);
            let (x, residual, rows) = (moved(&x, offset), moved(&residual, offset), moved(&rows, offset));
            let (x, bias) = (&x[offset..], &bias[offset..]);
            let part = Part { weight: &packed, bias: Some(bias) };
            let scales = moved(&weight[..n_in], offset);
            [
                linear(x, &[part], None, Some(&residual[offset..])),
                gated(x, part, part, Activation::Gelu),
                layer_norm(kernels, x, &scales[offset..], &bias[..n_in], 1e-5),
                rms_norm(kernels, x, &scales[offset..], 1e-5),
                activated(kernels, x, Activation::Silu, Some(x)),
                of_attention(&rows[offset..]),
            ]
        };
        let expected = at(0);
        for offset in 1..=LANES_MAX {
            assert_eq!(at(offset), expected, "{} at {offset}", kernels.name());
        }
    }
}

#[test]
fn results_do_not_depend_on_where_slices_begin() {
    for kernels in Kernels::available() {
        check_places::<f32>(kernels);
        check_places::<f16>(kernels);
        check_places::<bf16>(kernels);
    }
}

fn check_poison<T: Stored>(kernels: Kernels, poison: f32) {
    let (n_rows, n_in, n_out) = (9, 45, 33);
    let weight = random(n_out * n_in, 1);
    let (clean, _) = stored::<T>(&random(n_rows * n_in, 2));
    let mut x = clean.clone();
    x[4 * n_in + 44] = T::of(poison);
    for (packed, _) in in_all_types(kernels, &weight, n_out, n_in) {
        let part = Part { weight: &packed, bias: None };
        let all = |x: &[T]| {
            let mut results = vec![
                (linear(x, &[part], None, None), n_out),
                (layer_norm(kernels, x, &weight[..n_in], &weight[..n_in], 1e-5), n_in),
                (rms_norm(kernels, x, &weight[..n_in], 1e-5), n_in),
            ];
            let activations = ACTIVATIONS.into_iter();
            results.extend(activations.clone().map(|activation| (gated(x, part, part, activation), n_out)));
            results.extend(activations.map(|activation| (linear(x, &[part], Some(activation), None), n_out)));
            results
        };
        for ((y, width), (expected, _)) in all(&x).into_iter().zip(all(&clean)) {
            for (row, (y, expected)) in y.chunks_exact(width).zip(expected.chunks_exact(width)).enumerate() {
                if row != 4 {
                    assert_eq!(bits(y), bits(expected), "{}", kernels.name());
                } else if poison.is_nan() {
                    assert!(y.iter().all(|y| y.wide().is_nan()), "{} {y:?}", kernels.name());
                }
            }
        }
    }
}

#[test]
fn what_is_no_number_stays_in_its_row_and_is_not_lost() {
    for kernels in Kernels::available() {
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            check_poison::<f32>(kernels, poison);
            check_poison::<f16>(kernels, poison);
            check_poison::<bf16>(kernels, poison);
        }
        let x = [f32::NAN, -1.0, f32::INFINITY];
        for activation in ACTIVATIONS {
            let y = activated(kernels, &x, activation, None);
            assert!(y[0].is_nan() && y[1].is_finite() && y[2] == f32::INFINITY, "{} {y:?}", kernels.name());
        }
    }
}

#[test]
fn a_query_that_is_no_number_spoils_its_own_head_alone() {
    let case = Case { batch: 2, n_kv_heads: 2, group: 2, head_size: 20, n_tokens: [0, 13], seed: 3 };
    let (rows, _) = case.inputs();
    let mut spoilt = rows.clone();
    // The second row's token 5, third head.
    spoilt[(13 + 5) * case.shape().row() + 2 * 20 + 7] = f32::NAN;
    for kernels in Kernels::available() {
        let of = |rows: &[f32]| answer(kernels, &case, &|range| tokens(&case, rows, range), Visible::All);
        let (expected, actual) = (of(&rows), of(&spoilt));
        for (index, (y, expected)) in actual.chunks_exact(20).zip(expected.chunks_exact(20)).enumerate() {
            match index == (13 + 5) * 4 + 2 {
                true => assert!(y.iter().all(|y| y.is_nan()), "{} {y:?}", kernels.name()),
                false => assert_eq!(y, expected, "{} {index}", kernels.name()),
            }
        }
    }
}

fn check_traces<T: Stored>(kernels: Kernels, n: usize) {
    let shape = HeadShape { n_heads: 2, n_kv_heads: 1, head_size: 9 };
    let (good, _) = stored::<T>(&random((n + 1) * shape.row(), n as u64));
    let bad = vec![T::of(f32::NAN); 3 * shape.row()];
    let of = |is_spoilt: bool| {
        let mut buffer = KvBuffer::new::<T>(kernels, 1, shape, n + 3);
        let mut append = |rows: &[T]| {
            let [queries, keys, values] = Heads::side_by_side(rows, rows.len() / shape.row(), shape);
            buffer.append(keys, values, None);
            if is_spoilt && buffer.n_positions() == n {
                let [_, keys, values] = Heads::side_by_side(&bad, 3, shape);
                buffer.append(keys, values, None);
                buffer.truncate(n);
            }
            attention(queries, None, Visible::All, &buffer)
        };
        [append(&good[..n * shape.row()]), append(&good[n * shape.row()..])]
    };
    assert_eq!(of(true), of(false), "{} after {n}", kernels.name());
}

#[test]
fn what_was_forgotten_or_comes_later_leaves_no_trace_even_if_it_is_no_number() {
    for kernels in Kernels::available() {
        let (panel, _) = kernels.panel_and_lanes();
        // Before, at and after the end of a panel.
        for n in [1, panel - 1, panel, panel + 1, 256, 257] {
            check_traces::<f32>(kernels, n);
            check_traces::<bf16>(kernels, n);
        }
    }
}

fn check_begun<T: Stored>(kernels: Kernels, n_before: usize) {
    let shape = HeadShape { n_heads: 4, n_kv_heads: 2, head_size: 9 };
    let (batch, n_added) = (3, 2);
    let (before, _) = stored::<T>(&random(n_before * shape.row(), n_before as u64));
    let (added, _) = stored::<T>(&random(batch * n_added * shape.row(), 2));
    let append = |buffer: &mut KvBuffer, rows: &[T], n_tokens: usize| {
        let [queries, keys, values] = Heads::side_by_side(rows, n_tokens, shape);
        buffer.append(keys, values, None);
        attention(queries, None, Visible::All, buffer)
    };
    let mut apart = KvBuffer::new::<T>(kernels, batch, shape, n_before + 40);
    append(&mut apart, &before.repeat(batch), n_before);
    let mut one = KvBuffer::new::<T>(kernels, 1, shape, n_before);
    append(&mut one, &before, n_before);
    let mut begun = one.begun(batch, n_before + n_added);
    assert_eq!(begun.n_positions(), n_before);
    let expected = append(&mut apart, &added, n_added);
    assert_eq!(append(&mut begun, &added, n_added), expected, "{} after {n_before}", kernels.name());
}

#[test]
fn rows_that_begin_with_one_rows_positions_go_on_as_if_each_had_read_them() {
    for kernels in Kernels::available() {
        let (panel, _) = kernels.panel_and_lanes();
        for n in [1, 2, panel - 1, panel, panel + 1, 257] {
            check_begun::<f32>(kernels, n);
            check_begun::<f16>(kernels, n);
            check_begun::<bf16>(kernels, n);
        }
    }
}

#[test]
fn heads_are_the_same_however_they_lie() {
    let case = Case { batch: 2, n_kv_heads: 3, group: 2, head_size: 13, n_tokens: [0, 21], seed: 8 };
    let shape = case.shape();
    let (rows, _) = case.inputs();
    // Queries, keys and values as (batch, tokens, heads, head size), and with heads before tokens.
    let apart = [0..6, 6..9, 9..12].map(|heads| {
        let of_token = |token: &[f32]| token[heads.start * 13..heads.end * 13].to_vec();
        (rows.chunks_exact(shape.row()).flat_map(of_token).collect::<Vec<f32>>(), heads.len())
    });
    let by_head = apart.each_ref().map(|(numbers, n_heads)| {
        let place = |row: usize, head: usize, token: usize| ((row * 21 + token) * n_heads + head) * 13;
        let places = (0..2).flat_map(|row| (0..*n_heads).flat_map(move |head| (0..21).map(move |t| (row, head, t))));
        places.flat_map(|(row, head, token)| numbers[place(row, head, token)..][..13].to_vec()).collect::<Vec<f32>>()
    });
    for kernels in Kernels::available() {
        let of = |[queries, keys, values]: Three<f32>| {
            let mut buffer = KvBuffer::new::<f32>(kernels, 2, shape, 21);
            buffer.append(keys, values, None);
            attention(queries, None, Visible::All, &buffer)
        };
        let expected = of(Heads::side_by_side(&rows, 21, shape));
        assert_eq!(of(apart.each_ref().map(|(numbers, n)| Heads::of_rows(numbers, 21, *n, 13))), expected);
        let [queries, keys, values] = &by_head;
        let turned = [(queries, 6), (keys, 3), (values, 3)].map(|(numbers, n)| Heads::by_head(numbers, 21, n, 13));
        assert_eq!(of(turned), expected, "{}", kernels.name());
    }
}

#[test]
fn of_nothing_comes_nothing() {
    let shape = HeadShape { n_heads: 2, n_kv_heads: 1, head_size: 5 };
    for kernels in Kernels::available() {
        let packed = PackedWeight::new(kernels, WeightNumbers::F32(&[1.0; 6]), 2, 3).unwrap();
        let part = Part { weight: &packed, bias: None };
        assert!(linear::<f32>(&[], &[part], None, Some(&[])).is_empty());
        assert!(linear::<bf16>(&[], &[part, part], Some(Activation::Gelu), None).is_empty());
        assert!(gated::<f16>(&[], part, part, Activation::Silu).is_empty());
        assert!(linear::<f32>(&[], &[], None, None).is_empty());
        assert!(layer_norm::<f32>(kernels, &[], &[1.0], &[1.0], 1e-5).is_empty());
        assert!(rms_norm::<f32>(kernels, &[], &[], 1e-5).is_empty());
        assert!(activated::<f32>(kernels, &[], Activation::Relu, Some(&[])).is_empty());

        let mut buffer = KvBuffer::new::<f32>(kernels, 1, shape, 4);
        let rows = random(3 * shape.row(), 1);
        let [_, keys, values] = Heads::side_by_side(&rows, 3, shape);
        buffer.append(keys, values, None);
        let [queries, keys, values] = Heads::side_by_side(&[], 0, shape);
        buffer.append(keys, values, None);
        assert_eq!(buffer.n_positions(), 3);
        assert!(attention::<f32>(queries, None, Visible::All, &buffer).is_empty());
        buffer.keep_rows(&[]);
        assert!(attention::<f32>(queries, None, Visible::All, &buffer).is_empty());
        for numbers in [WeightNumbers::F32(&[]), WeightNumbers::F32(&[1.0; 5])] {
            assert!(PackedWeight::new(kernels, numbers, 2, 3).is_none());
        }
    }
}

#[test]
fn sizes_that_disagree_are_refused_before_anything_is_read() {
    let shape = HeadShape { n_heads: 2, n_kv_heads: 1, head_size: 6 };
    let (x, angles) = (random(200, 1), random(200, 2));
    for kernels in Kernels::available() {
        let of = |n_out: usize, n_in: usize| {
            PackedWeight::new(kernels, WeightNumbers::F32(&x[..n_out * n_in]), n_out, n_in).unwrap()
        };
        let (weight, other, narrow) = (of(4, 6), of(4, 5), of(3, 6));
        let part = Part { weight: &weight, bias: None };
        let beside = |weight| Part { weight, bias: None };
        let buffer = |capacity: usize| KvBuffer::new::<f32>(kernels, 1, shape, capacity);
        let rotary = |n: usize| Some(RotaryRows { cos: &angles[..n], sin: &angles[..n] });
        let append = |capacity: usize, n_tokens: usize, rows: &[f32], rotary: Option<RotaryRows>| {
            let [queries, keys, values] = Heads::side_by_side(rows, n_tokens, shape);
            let mut buffer = buffer(capacity);
            buffer.append(keys, values, rotary);
            attention(queries, rotary, Visible::All, &buffer)
        };
        let attempts: [(&str, &dyn Fn() -> Vec<f32>); 14] = [
            ("half a row", &|| linear(&x[..7], &[part], None, None)),
            ("inputs of another part", &|| linear(&x[..12], &[part, beside(&other)], None, None)),
            ("a short bias", &|| linear(&x[..12], &[Part { bias: Some(&x[..3]), ..part }], None, None)),
            ("a short residual", &|| linear(&x[..12], &[part], None, Some(&x[..7]))),
            ("a narrow gate", &|| gated(&x[..12], beside(&narrow), part, Activation::Silu)),
            ("a gate of other inputs", &|| gated(&x[..12], part, beside(&other), Activation::Silu)),
            ("half a row to norm", &|| rms_norm(kernels, &x[..7], &x[..6], 1e-5)),
            ("a short shift", &|| layer_norm(kernels, &x[..12], &x[..6], &x[..5], 1e-5)),
            ("a short factor", &|| activated(kernels, &x[..12], Activation::Silu, Some(&x[..11]))),
            ("a full buffer", &|| append(2, 3, &x[..72], None)),
            ("missing tokens", &|| append(4, 4, &x[..72], None)),
            ("missing angles", &|| append(4, 3, &x[..72], rotary(8))),
            ("an unknown row", &|| {
                let mut buffer = buffer(4);
                buffer.keep_rows(&[1]);
                Vec::new()
            }),
            ("more numbers than there can be", &|| {
                KvBuffer::new::<f32>(kernels, 1, shape, usize::MAX / 4);
                Vec::new()
            }),
        ];
        for (what, attempt) in attempts {
            assert!(catch_unwind(AssertUnwindSafe(attempt)).is_err(), "{}: {what}", kernels.name());
        }
        assert_eq!(append(4, 3, &x[..72], rotary(9)).len(), 36);
    }
}

#[test]
fn an_odd_head_has_no_halves_to_turn() {
    let shape = HeadShape { n_heads: 1, n_kv_heads: 1, head_size: 5 };
    let (rows, angles) = (random(2 * shape.row(), 1), random(5, 2));
    let rotary = Some(RotaryRows { cos: &angles, sin: &angles });
    let [_, keys, values] = Heads::side_by_side(&rows, 2, shape);
    for kernels in Kernels::available() {
        let mut buffer = KvBuffer::new::<f32>(kernels, 1, shape, 2);
        assert!(catch_unwind(AssertUnwindSafe(|| buffer.append(keys, values, rotary))).is_err(), "{}", kernels.name());
    }
}
