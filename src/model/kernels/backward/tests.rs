//! Compares every instruction set of the processor with plain sums in f64, over sizes that are multiples of nothing.

use half::{bf16, f16};
use proptest::prelude::*;

use super::super::*;

/// Random numbers in -1..1.
fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..n).map(|_| random.f32() * 2.0 - 1.0).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// ‖a − b‖ / ‖b‖.
fn error(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| b * b).sum();
    (difference / norm.max(f64::MIN_POSITIVE)).sqrt()
}

/// `left` `(rows, steps)` times `right` `(steps, columns)`.
fn plain_product(left: &[f64], right: &[f64], [n_rows, n_steps, n_columns]: [usize; 3]) -> Vec<f64> {
    let at = |row: usize, column: usize| {
        (0..n_steps).map(|step| left[row * n_steps + step] * right[step * n_columns + column]).sum()
    };
    (0..n_rows * n_columns).map(|place| at(place / n_columns, place % n_columns)).collect()
}

fn plain_transposed(x: &[f64], n_columns: usize) -> Vec<f64> {
    let n_rows = x.len() / n_columns;
    (0..x.len()).map(|place| x[place % n_rows * n_columns + place / n_rows]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn sums_of_products_are_what_plain_sums_are(
        n_rows in 1usize..40, n_steps in 1usize..600, n_columns in 1usize..150, n_more in 1usize..40, seed: u64
    ) {
        let left = random(n_rows * n_steps, seed);
        let weight = random(n_steps * n_columns, seed ^ 1);
        let (second, columns) = (random(n_rows * n_more, seed ^ 2), random(n_columns * n_more, seed ^ 3));
        let bias = random(n_columns, seed ^ 4);
        let more = plain_product(&wide(&second), &plain_transposed(&wide(&columns), n_more), [n_rows, n_more, n_columns]);
        let halves: Vec<f16> = weight.iter().map(|&x| f16::from_f32(x)).collect();
        let brains: Vec<bf16> = weight.iter().map(|&x| bf16::from_f32(x)).collect();
        for kernels in Kernels::available() {
            let stored = [WeightNumbers::F32(&weight), WeightNumbers::F16(&halves), WeightNumbers::Bf16(&brains)];
            let packed = stored.map(|numbers| PackedWeight::new(kernels, numbers, n_steps, n_columns).unwrap());
            let values: Vec<Vec<f32>> = packed.iter().map(PackedWeight::unpacked).collect();
            let rights = packed.iter().map(Right::Weight).zip(&values).chain([(Right::Rows(&weight), &weight)]);
            for (right, values) in rights {
                let first = plain_product(&wide(&left), &wide(values), [n_rows, n_steps, n_columns]);
                let sums = first.iter().zip(&more).enumerate();
                let expected: Vec<f64> =
                    sums.map(|(place, (a, b))| 0.5 * (a + b) + f64::from(bias[place % n_columns])).collect();
                let terms = [
                    Term { left: &left, right, n_steps },
                    Term { left: &second, right: Right::Columns(&columns), n_steps: n_more },
                ];
                let y = product(kernels, &terms, [n_rows, n_columns], 0.5, Some(&bias));
                prop_assert!(error(&y, &expected) < 1e-6, "{} {right:?}", kernels.name());
            }
        }
    }

    #[test]
    fn matrices_are_turned_round_and_summed_exactly(n_rows in 1usize..300, n_columns in 1usize..40, seed: u64) {
        let x = random(n_rows * n_columns, seed);
        for kernels in Kernels::available() {
            let across = transposed(kernels, &x, n_columns);
            prop_assert_eq!(wide(&across), plain_transposed(&wide(&x), n_columns), "{}", kernels.name());
        }
        let ones = vec![1.0; n_rows];
        prop_assert!(error(&column_sums(&x, n_columns), &plain_product(&ones, &wide(&x), [1, n_rows, n_columns])) < 1e-5);
    }

    // The norm of two numbers is always 1 and -1, so the gradient through it is only rounding.
    #[test]
    fn norms_go_back_as_plain_sums_do(n_rows in 1usize..40, size in 8usize..150, seed: u64) {
        let x: Vec<f32> = random(n_rows * size, seed).into_iter().map(|x| 3.0 * x + 0.5).collect();
        let (dy, weight) = (random(n_rows * size, seed ^ 1), random(size, seed ^ 2));
        for is_centred in [false, true] {
            let (mut dx, mut dw, mut db) = (Vec::new(), vec![0.0; size], vec![0.0; size]);
            for (x, dy) in wide(&x).chunks_exact(size).zip(wide(&dy).chunks_exact(size)) {
                let n = size as f64;
                let mean = if is_centred { x.iter().sum::<f64>() / n } else { 0.0 };
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                let inverse = 1.0 / (variance + 1e-5).sqrt();
                let normed: Vec<f64> = x.iter().map(|x| (x - mean) * inverse).collect();
                let scaled: Vec<f64> = dy.iter().zip(&weight).map(|(dy, w)| dy * f64::from(*w)).collect();
                let along = scaled.iter().zip(&normed).map(|(d, x)| d * x).sum::<f64>() / n;
                let level = if is_centred { scaled.iter().sum::<f64>() / n } else { 0.0 };
                for i in 0..size {
                    dx.push(inverse * (scaled[i] - level - normed[i] * along));
                    dw[i] += dy[i] * normed[i];
                    db[i] += dy[i];
                }
            }
            for kernels in Kernels::available() {
                let found = norm_backward(kernels, &x, &dy, &weight, 1e-5, is_centred);
                prop_assert!(error(&found, &dx) < 2e-6, "{} {}", kernels.name(), error(&found, &dx));
                let [of_weight, of_bias] = norm_weight_backward(kernels, &x, &dy, size, 1e-5, is_centred);
                prop_assert!(error(&of_weight, &dw) < 5e-6 && error(&of_bias, &db) < 5e-6, "{}", kernels.name());
            }
        }
    }

    #[test]
    fn attention_goes_back_as_plain_sums_do(
        batch in 1usize..3, n_kv_heads in 1usize..3, group in 1usize..3, half_size in 1usize..20, n_tokens in 1usize..150,
        kind in 0usize..4, seed: u64
    ) {
        let shape = HeadShape { n_heads: n_kv_heads * group, n_kv_heads, head_size: 2 * half_size };
        let case = Case { shape, batch, n_tokens, seed, kind };
        let [queries, keys, values, dy] = case.inputs();
        let angles = random(batch * n_tokens * half_size, seed ^ 4);
        let cos: Vec<f32> = angles.iter().map(|x| (3.0 * x).cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|x| (3.0 * x).sin()).collect();
        let rotary = (seed % 2 == 0).then_some(RotaryRows { cos: &cos, sin: &sin });
        let (ranges, added) = case.masks();
        let visible = match kind {
            0 => Visible::All,
            1 | 2 => Visible::Ranges(&ranges),
            _ => Visible::Added(&added),
        };
        let expected = case.plainly([&queries, &keys, &values, &dy], rotary);
        for kernels in Kernels::available() {
            let of = |rows, n| Heads::of_rows(rows, n_tokens, n, shape.head_size);
            let inputs = [of(&queries, shape.n_heads), of(&keys, n_kv_heads), of(&values, n_kv_heads)];
            let found = attention_backward(kernels, shape, inputs, &dy, rotary, visible);
            for (found, expected) in [found.queries, found.keys, found.values].iter().zip(&expected) {
                // With one visible key, the first two are 0.
                let norm = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
                let error = error(found, expected) * norm / norm.max(1e-3);
                prop_assert!(error < 3e-6, "{} {error:e}", kernels.name());
            }
        }
    }
}

struct Case {
    shape: HeadShape,
    batch: usize,
    n_tokens: usize,
    seed: u64,
    kind: usize,
}

impl Case {
    /// Returns queries, keys, values and the gradient of their mixture.
    fn inputs(&self) -> [Vec<f32>; 4] {
        let HeadShape { n_heads, n_kv_heads, head_size } = self.shape;
        let mut seed = self.seed;
        [n_heads, n_kv_heads, n_kv_heads, n_heads].map(|n| {
            seed = seed.wrapping_add(1);
            random(self.batch * self.n_tokens * n * head_size, seed).into_iter().map(|x| 2.0 * x).collect()
        })
    }

    /// Returns the first and the last position that a query sees, causally. Kind 2 hides the first positions of later
    /// rows.
    fn range(&self, row: usize, query: usize) -> [usize; 2] {
        match self.kind {
            0 => [0, self.n_tokens],
            2 => [(3 * row).min(query), query + 1],
            _ => [0, query + 1],
        }
    }

    fn masks(&self) -> (Vec<[u32; 2]>, Vec<f32>) {
        let n_masks = if self.kind == 2 { self.batch } else { 1 };
        let queries = (0..n_masks).flat_map(|row| (0..self.n_tokens).map(move |query| (row, query)));
        let ranges = queries.map(|(row, query)| self.range(row, query));
        let added = ranges.clone().flat_map(|[start, end]| {
            (0..self.n_tokens).map(move |key| if (start..end).contains(&key) { 0.25 * (key % 3) as f32 } else { -6e4 })
        });
        (ranges.clone().map(|range| range.map(|end| end as u32)).collect(), added.collect())
    }

    /// Returns one rotated head of one row of `x` `(tokens, heads * head size)`.
    fn head(&self, x: &[f32], [row, head, n_heads]: [usize; 3], rotary: Option<RotaryRows>, sign: f64) -> Vec<f64> {
        let size = self.shape.head_size;
        let token = |token: usize| &x[((row * self.n_tokens + token) * n_heads + head) * size..][..size];
        (0..self.n_tokens).flat_map(|t| self.turned(&wide(token(t)), row * self.n_tokens + t, rotary, sign)).collect()
    }

    fn turned(&self, x: &[f64], token: usize, rotary: Option<RotaryRows>, sign: f64) -> Vec<f64> {
        let half = self.shape.head_size / 2;
        let Some(RotaryRows { cos, sin }) = rotary else { return x.to_vec() };
        let turn = |i: usize| {
            let angle = token * half + i % half;
            let other = if i < half { -x[i + half] } else { x[i - half] };
            x[i] * f64::from(cos[angle]) + sign * other * f64::from(sin[angle])
        };
        (0..2 * half).map(turn).collect()
    }

    fn plainly(&self, [queries, keys, values, dy]: [&[f32]; 4], rotary: Option<RotaryRows>) -> [Vec<f64>; 3] {
        let HeadShape { n_heads, n_kv_heads, head_size } = self.shape;
        let n = self.n_tokens;
        let added = self.masks().1;
        let mut results = [n_heads, n_kv_heads, n_kv_heads].map(|heads| vec![0.0; self.batch * n * heads * head_size]);
        for (row, head) in (0..self.batch).flat_map(|row| (0..n_heads).map(move |head| (row, head))) {
            let kv_head = head / (n_heads / n_kv_heads);
            let q = self.head(queries, [row, head, n_heads], rotary, 1.0);
            let k = self.head(keys, [row, kv_head, n_kv_heads], rotary, 1.0);
            let v = self.head(values, [row, kv_head, n_kv_heads], None, 1.0);
            let d = self.head(dy, [row, head, n_heads], None, 1.0);
            let scale = 1.0 / (head_size as f64).sqrt();
            let scores = plain_product(&q, &plain_transposed(&k, head_size), [n, head_size, n]);
            let d_weights = plain_product(&d, &plain_transposed(&v, head_size), [n, head_size, n]);
            let (mut weights, mut d_scores) = (vec![0.0; n * n], vec![0.0; n * n]);
            for query in 0..n {
                let [start, end] = self.range(row, query);
                let score = |key: usize| {
                    scores[query * n + key] * scale
                        + if self.kind == 3 { f64::from(added[query * n + key]) } else { 0.0 }
                };
                let sum: f64 = (start..end).map(|key| score(key).exp()).sum();
                (start..end).for_each(|key| weights[query * n + key] = score(key).exp() / sum);
                let along: f64 = (start..end).map(|key| weights[query * n + key] * d_weights[query * n + key]).sum();
                for place in query * n + start..query * n + end {
                    d_scores[place] = weights[place] * (d_weights[place] - along) * scale;
                }
            }
            let found = [
                (plain_product(&d_scores, &k, [n, n, head_size]), head, n_heads, rotary),
                (plain_product(&plain_transposed(&d_scores, n), &q, [n, n, head_size]), kv_head, n_kv_heads, rotary),
                (plain_product(&plain_transposed(&weights, n), &d, [n, n, head_size]), kv_head, n_kv_heads, None),
            ];
            for ((found, head, n_heads, rotary), result) in found.into_iter().zip(&mut results) {
                for (t, found) in found.chunks_exact(head_size).enumerate() {
                    let token = row * n + t;
                    let to = &mut result[(token * n_heads + head) * head_size..][..head_size];
                    let turned = self.turned(found, token, rotary, -1.0);
                    to.iter_mut().zip(turned).for_each(|(to, x)| *to += x);
                }
            }
        }
        results
    }
}

fn exact_slope(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let gate = |z: f64, slope: f64| sigmoid(z) + x * sigmoid(z) * (1.0 - sigmoid(z)) * slope;
    let root = (8.0 / std::f64::consts::PI).sqrt();
    match activation {
        Activation::Gelu => {
            0.5 * libm::erfc(-x / 2f64.sqrt()) + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
        }
        Activation::GeluTanh => gate(root * (x + 0.044_715 * x.powi(3)), root * (1.0 + 3.0 * 0.044_715 * x * x)),
        Activation::QuickGelu => gate(1.702 * x, 1.702),
        Activation::Silu => gate(x, 1.0),
        Activation::Relu => f64::from(u8::from(x > 0.0)),
    }
}

#[test]
fn activations_and_gates_go_back_by_their_slopes() {
    let x: Vec<f32> = (-8_000..8_000).map(|i| i as f32 * 1e-3 + 1e-4).collect();
    let (up, dy) = (random(x.len(), 1), random(x.len(), 2));
    for kernels in Kernels::available() {
        use Activation::*;
        for activation in [Gelu, GeluTanh, QuickGelu, Silu, Relu] {
            let slopes: Vec<f64> = x.iter().map(|&x| exact_slope(activation, f64::from(x))).collect();
            let dx = activated_backward(kernels, &x, activation, &vec![1.0; x.len()]);
            let worst = dx.iter().zip(&slopes).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            assert!(worst < 2e-6, "{} {activation:?}: {worst:e}", kernels.name());
            let [of_gate, of_up] = gated_backward(kernels, &x, &up, activation, &dy);
            let y = activated(kernels, &x, activation, None);
            let expected: Vec<f64> =
                slopes.iter().zip(&up).zip(&dy).map(|((s, u), d)| s * f64::from(*u) * f64::from(*d)).collect();
            assert!(error(&of_gate, &expected) < 2e-6, "{} {activation:?}", kernels.name());
            let expected: Vec<f64> = y.iter().zip(&dy).map(|(y, d)| f64::from(*y) * f64::from(*d)).collect();
            assert!(error(&of_up, &expected) < 1e-6, "{} {activation:?}", kernels.name());
        }
    }
}
