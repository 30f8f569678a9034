//! Compares attention with plain sums in f64, over sizes that are multiples of nothing.

use proptest::prelude::*;

use super::*;

/// The sizes of a case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) batch: usize,
    pub(super) n_kv_heads: usize,
    pub(super) group: usize,
    pub(super) head_size: usize,
    /// Earlier tokens, and added tokens.
    pub(super) n_tokens: [usize; 2],
    pub(super) seed: u64,
}

impl Case {
    pub(super) fn shape(&self) -> HeadShape {
        HeadShape { n_heads: self.n_kv_heads * self.group, n_kv_heads: self.n_kv_heads, head_size: self.head_size }
    }

    pub(super) fn n_positions(&self) -> usize {
        self.n_tokens[0] + self.n_tokens[1]
    }

    /// Returns queries, keys and values `(batch, positions, …)` and angles `(batch, positions, head size / 2)`.
    pub(super) fn inputs(&self) -> (Vec<f32>, Vec<f32>) {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let n = self.batch * self.n_positions();
        let rows = (0..n * self.shape().row()).map(|_| random.f32() * 4.0 - 2.0).collect();
        (rows, (0..n * self.head_size / 2).map(|_| random.f32() * 6.0).collect())
    }

    /// Returns one head rotated by the angles of its token.
    fn turned(&self, x: &[f32], angles: &[f32]) -> Vec<f64> {
        let half = self.head_size / 2;
        let at = |i: usize| f64::from(x[i]);
        (0..self.head_size)
            .map(|i| {
                let angle = f64::from(angles[i % half]);
                let other = if i < half { -at(i + half) } else { at(i - half) };
                at(i) * angle.cos() + other * angle.sin()
            })
            .collect()
    }

    /// Computes the result for the queries of the added tokens, with `added` added to the scores.
    pub(super) fn plainly(&self, rows: &[f32], angles: &[f32], added: &dyn Fn(usize, usize, usize) -> f64) -> Vec<f64> {
        let HeadShape { n_heads, n_kv_heads, head_size } = self.shape();
        let n = self.n_positions();
        let head = |row: usize, position: usize, head: usize| {
            &rows[((row * n + position) * self.shape().row()) + head * head_size..][..head_size]
        };
        let angles = |row: usize, position: usize| &angles[(row * n + position) * head_size / 2..][..head_size / 2];
        let mut result = Vec::new();
        for row in 0..self.batch {
            for query in self.n_tokens[0]..n {
                for own in 0..n_heads {
                    let shared = n_heads + own / self.group;
                    let q = self.turned(head(row, query, own), angles(row, query));
                    let scores: Vec<f64> = (0..n)
                        .map(|key| {
                            let k = self.turned(head(row, key, shared), angles(row, key));
                            let dot: f64 = q.iter().zip(&k).map(|(q, k)| q * k).sum();
                            dot / (head_size as f64).sqrt() + added(row, query - self.n_tokens[0], key)
                        })
                        .collect();
                    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    let value = |key: usize, i: usize| f64::from(head(row, key, shared + n_kv_heads)[i]);
                    result.extend((0..head_size).map(|i| {
                        weights.iter().enumerate().map(|(key, weight)| weight / sum * value(key, i)).sum::<f64>()
                    }));
                }
            }
        }
        result
    }

    /// Returns the numbers of the tokens `start..start + n_tokens` of each row.
    fn part(&self, numbers: &[f32], width: usize, start: usize, n_tokens: usize) -> Vec<f32> {
        let rows = numbers.chunks_exact(self.n_positions() * width);
        rows.flat_map(|row| row[start * width..(start + n_tokens) * width].to_vec()).collect()
    }

    /// Computes the same by the kernels, with the earlier tokens in one piece and the others in another.
    fn by_kernels(&self, kernels: Kernels, rows: &[f32], angles: &[f32], visible: Visible) -> Vec<f32> {
        let shape = self.shape();
        let mut buffer = KvBuffer::new::<f32>(kernels, self.batch, shape, self.n_positions());
        let mut start = 0;
        let mut last = Vec::new();
        for n_tokens in self.n_tokens {
            let part = |numbers, width| self.part(numbers, width, start, n_tokens);
            let (rows, angles) = (part(rows, shape.row()), part(angles, self.head_size / 2));
            let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|angle| (angle.cos(), angle.sin())).unzip();
            let rotary = Some(RotaryRows { cos: &cos, sin: &sin });
            let [queries, keys, values] = Heads::side_by_side(&rows, n_tokens, shape);
            buffer.append(keys, values, rotary);
            start += n_tokens;
            if start == self.n_positions() {
                last = attention(queries, rotary, visible, &buffer);
            }
        }
        last
    }
}

#[track_caller]
fn assert_near(kernels: Kernels, actual: &[f32], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len());
    for (a, b) in actual.iter().zip(expected) {
        assert!((f64::from(*a) - b).abs() < 1e-5, "{}: {a} {b}", kernels.name());
    }
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (1usize..3, 1usize..3, 1usize..4, 1usize..20, 0usize..90, 1usize..150, any::<u64>());
    sizes.prop_map(|(batch, n_kv_heads, group, half, before, added, seed)| Case {
        batch,
        n_kv_heads,
        group,
        head_size: 2 * half,
        n_tokens: [before, added],
        seed,
    })
}

proptest! {
    #![proptest_config(super::tests::cases(12))]

    #[test]
    fn attention_of_any_size_is_what_plain_sums_are(case in case()) {
        let (rows, angles) = case.inputs();
        let n = case.n_positions();
        let expected = case.plainly(&rows, &angles, &|_, _, _| 0.0);
        // Left padding that differs from row to row, and hidden later keys; a padded query sees itself.
        let first = |row: usize| (row * 7) % n;
        let ranges: Vec<[u32; 2]> = (0..case.batch)
            .flat_map(|row| (case.n_tokens[0]..n).map(move |query| {
                let start = if query < first(row) { query } else { first(row) };
                [start as u32, query as u32 + 1]
            }))
            .collect();
        let hidden = |row: usize, query: usize, key: usize| {
            let [start, end] = ranges[row * case.n_tokens[1] + query];
            if (start..end).contains(&(key as u32)) { 0.0 } else { -60_000.0 }
        };
        let causal = case.plainly(&rows, &angles, &hidden);
        let added: Vec<f32> =
            (0..case.n_tokens[1] * n).map(|i| if i % 3 == 1 && i % n > 0 { -60_000.0 } else { (i % 5) as f32 }).collect();
        let by_mask = case.plainly(&rows, &angles, &|_, query, key| f64::from(added[query * n + key]));
        for kernels in Kernels::available() {
            assert_near(kernels, &case.by_kernels(kernels, &rows, &angles, Visible::All), &expected);
            assert_near(kernels, &case.by_kernels(kernels, &rows, &angles, Visible::Ranges(&ranges)), &causal);
            assert_near(kernels, &case.by_kernels(kernels, &rows, &angles, Visible::Added(&added)), &by_mask);
        }
    }
}

#[test]
fn some_queries_turned_by_their_own_angles_are_answered_as_over_a_buffer() {
    for (head_size, n_tokens, group) in [(6, [3, 1], 1), (64, [49, 1], 2), (20, [70, 61], 3)] {
        let case = Case { batch: 2, n_kv_heads: 2, group, head_size, n_tokens, seed: 8 };
        let (rows, angles) = case.inputs();
        let (n_before, n_asked, n) = (n_tokens[0], n_tokens[1], case.n_positions());
        let ranges: Vec<[u32; 2]> = (0..n_asked).map(|query| [2, (n_before + query) as u32 + 1]).collect();
        let turned =
            |angles: &[f32]| -> (Vec<f32>, Vec<f32>) { angles.iter().map(|angle| (angle.cos(), angle.sin())).unzip() };
        let of_keys = turned(&angles);
        let of_queries = turned(&case.part(&angles, head_size / 2, n_before, n_asked));
        let rotary = [&of_queries, &of_keys].map(|(cos, sin)| RotaryRows { cos, sin });
        for kernels in Kernels::available() {
            let expected = case.by_kernels(kernels, &rows, &angles, Visible::Ranges(&ranges));
            let [queries, keys, values] = Heads::side_by_side(&rows, n, case.shape());
            let heads = [part_of(queries, n_before, n_asked, case.shape().row()), keys, values];
            let mixed = attention_within(kernels, 2, case.shape(), heads, Some(rotary), Visible::Ranges(&ranges));
            assert_eq!(mixed, expected, "{}", kernels.name());
        }
    }
}

/// Returns numbers rounded to bf16, and the same as f32.
fn rounded(numbers: &[f32]) -> (Vec<half::bf16>, Vec<f32>) {
    let narrow: Vec<half::bf16> = numbers.iter().copied().map(half::bf16::from_f32).collect();
    let wide = narrow.iter().map(|x| x.to_f32()).collect();
    (narrow, wide)
}

#[test]
fn attention_that_keeps_nothing_is_attention_over_a_buffer() {
    for (head_size, n_tokens, group) in [(5, 1, 1), (64, 50, 1), (20, 130, 3), (33, 300, 2)] {
        let case = Case { batch: 2, n_kv_heads: 2, group, head_size, n_tokens: [0, n_tokens], seed: 3 };
        let (rows, _) = case.inputs();
        let (narrow, rows) = rounded(&rows);
        let shape = case.shape();
        let ranges: Vec<[u32; 2]> = (0..n_tokens).map(|query| [query as u32 / 2, query as u32 + 1]).collect();
        for kernels in Kernels::available() {
            for visible in [Visible::All, Visible::Ranges(&ranges)] {
                let heads = Heads::side_by_side(&rows, n_tokens, shape);
                let mut buffer = KvBuffer::new::<f32>(kernels, 2, shape, n_tokens + 3);
                buffer.append(heads[1], heads[2], None);
                let expected = attention(heads[0], None, visible, &buffer);
                assert_eq!(attention_within(kernels, 2, shape, heads, None, visible), expected, "{}", kernels.name());

                let heads = Heads::side_by_side(&narrow, n_tokens, shape);
                let mut buffer = KvBuffer::new::<half::bf16>(kernels, 2, shape, n_tokens + 3);
                // An odd number of positions, then the rest.
                let first = n_tokens.min(7);
                for (start, n) in [(0, first), (first, n_tokens - first)] {
                    let [keys, values] = [1, 2].map(|which| part_of(heads[which], start, n, shape.row()));
                    buffer.append(keys, values, None);
                }
                let kept = attention(heads[0], None, visible, &buffer);
                let narrow = attention_within(kernels, 2, shape, heads, None, visible);
                assert_eq!(narrow, kept, "{}", kernels.name());
                for (narrow, wide) in narrow.iter().zip(&expected) {
                    // Weights and results are rounded to eight bits.
                    assert!((narrow.to_f32() - wide).abs() < 0.02, "{}: {narrow} {wide}", kernels.name());
                }
            }
        }
    }
}

/// Returns tokens `start..start + n` of each row.
fn part_of<T>(heads: Heads<'_, T>, start: usize, n: usize, row: usize) -> Heads<'_, T> {
    Heads { numbers: heads.numbers, strides: heads.strides, start: heads.start + start * row, n_tokens: n }
}

#[test]
fn blocks_of_numbers_are_transposed() {
    struct Transpose<'a>(&'a [u32], &'a mut [u32], usize);
    impl simd::Task for Transpose<'_> {
        type Output = usize;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> usize {
            // Safety: both are 16 rows of the stride.
            unsafe { simd.transpose(self.0.as_ptr(), self.2, self.1.as_mut_ptr(), self.2) };
            S::LANES
        }
    }
    let stride = 19;
    // Includes NaN patterns.
    let from: Vec<u32> = (0..16 * stride as u32).map(|i| i.wrapping_mul(0x9e37_79b9) | 0x7f80_0000).collect();
    for kernels in Kernels::available() {
        let mut to = vec![1; 16 * stride];
        let n = kernels.run(Transpose(&from, &mut to, stride));
        for (row, column) in (0..n).flat_map(|row| (0..n).map(move |column| (row, column))) {
            assert_eq!(to[column * stride + row], from[row * stride + column], "{}", kernels.name());
        }
    }
}

#[test]
fn long_prompts_pass_block_after_block() {
    let case = Case { batch: 1, n_kv_heads: 1, group: 2, head_size: 8, n_tokens: [700, 67], seed: 5 };
    let (rows, angles) = case.inputs();
    let expected = case.plainly(&rows, &angles, &|_, _, _| 0.0);
    for kernels in Kernels::available() {
        assert_near(kernels, &case.by_kernels(kernels, &rows, &angles, Visible::All), &expected);
    }
}

#[test]
fn kept_rows_go_on_as_they_would_have_alone() {
    let shape = HeadShape { n_heads: 2, n_kv_heads: 1, head_size: 6 };
    let mut random = fastrand::Rng::with_seed(9);
    let mut rows = |n: usize| -> Vec<f32> { (0..n * shape.row()).map(|_| random.f32()).collect() };
    let (before, after, scrap) = (rows(3 * 70), rows(2), rows(3));
    let row = |numbers: &[f32], n_tokens: usize, row: usize| {
        numbers[row * n_tokens * shape.row()..][..n_tokens * shape.row()].to_vec()
    };
    let step = |buffer: &mut KvBuffer, rows: &[f32], n_tokens: usize| {
        let [queries, keys, values] = Heads::side_by_side(rows, n_tokens, shape);
        buffer.append(keys, values, None);
        attention(queries, None, Visible::All, buffer)
    };
    for kernels in Kernels::available() {
        let mut buffer = KvBuffer::new::<f32>(kernels, 3, shape, 80);
        step(&mut buffer, &before, 70);
        // Dropped positions leave no trace.
        step(&mut buffer, &scrap, 1);
        buffer.truncate(70);
        buffer.keep_rows(&[2, 0]);
        let together = step(&mut buffer, &after, 1);
        for (index, kept) in [2, 0].into_iter().enumerate() {
            let mut alone = KvBuffer::new::<f32>(kernels, 1, shape, 80);
            step(&mut alone, &row(&before, 70, kept), 70);
            let answer = step(&mut alone, &row(&after, 1, index), 1);
            assert_eq!(together[index * 12..][..12], answer, "{}", kernels.name());
        }
    }
}
