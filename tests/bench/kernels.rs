//! Times products and attention of the CPU kernels, for each instruction set that the processor has:
//!
//! ```text
//! cargo bench --bench kernels [-- SHAPE]
//! ```
//!
//! Lines are `kernels, threads, what, shape, milliseconds, GFLOP/s`, by tabs; the fastest of some runs counts. A product of one row is
//! as fast as memory: before it stands how long its weights take to be read and added up, in GB/s.

use std::time::Instant;

use emt::model::kernels::{
    HeadShape, Heads, Kernels, Number, PackedWeight, Part, Visible, WeightNumbers, attention_within, linear,
};
use half::bf16;
use rayon::prelude::*;

/// Rows, inputs and outputs: the size that machines are compared by, then those of towers and language models.
const PRODUCTS: [[usize; 3]; 7] = [
    [4096, 4096, 4096],
    [50, 768, 3072],
    [1600, 768, 3072],
    [577, 1024, 4096],
    [640, 2816, 1024],
    [8, 1024, 2816],
    [1, 4096, 32_000],
];
/// Rows of a batch, tokens, heads, heads of keys, and whether later tokens are hidden.
const ATTENTIONS: [(usize, usize, usize, usize, bool); 5] = [
    (1, 50, 12, 12, false),
    (32, 50, 12, 12, false),
    (1, 577, 16, 16, false),
    (1, 640, 16, 16, true),
    (1, 640, 32, 4, true),
];
const HEAD_SIZE: usize = 64;
const N_RUNS: usize = 5;

fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let is_wanted = |shape: &str| wanted.as_ref().is_none_or(|wanted| wanted == shape);
    for kernels in Kernels::available() {
        for [n_rows, n_in, n_out] in PRODUCTS {
            let shape = format!("{n_rows}x{n_in}x{n_out}");
            if !is_wanted(&shape) {
                continue;
            }
            let (x, weight) = (random(n_rows * n_in), random(n_out * n_in));
            let (narrow_x, narrow_weight) = (narrow(&x), narrow(&weight));
            let n_operations = 2 * n_rows * n_in * n_out;
            if n_rows == 1 {
                let n_bytes = 4 * n_out * n_in;
                let words = vec![1u64; n_bytes / 8];
                report(kernels, "read f32", &shape, n_bytes, || words.par_iter().sum::<u64>());
                report(kernels, "read bf16", &shape, n_bytes / 2, || words[..n_bytes / 16].par_iter().sum::<u64>());
                report(kernels, "read int8", &shape, n_bytes / 4, || words[..n_bytes / 32].par_iter().sum::<u64>());
            }
            let int8 = PackedWeight::rounded_to_int8(kernels, WeightNumbers::F32(&weight), n_out, n_in);
            let int8 = int8.expect("sizes agree");
            report(kernels, "product f32 by int8", &shape, n_operations, || product(&x, &int8));
            report(kernels, "product bf16 by int8", &shape, n_operations, || product(&narrow_x, &int8));
            let packed = |numbers| PackedWeight::new(kernels, numbers, n_out, n_in).expect("sizes agree");
            let weight = packed(WeightNumbers::F32(&weight));
            report(kernels, "product f32", &shape, n_operations, || product(&x, &weight));
            let weight = packed(WeightNumbers::Bf16(&narrow_weight));
            report(kernels, "product bf16", &shape, n_operations, || product(&narrow_x, &weight));
        }
        for (batch, n_tokens, n_heads, n_kv_heads, is_causal) in ATTENTIONS {
            let name = format!("{batch}x{n_tokens}x{n_heads}/{n_kv_heads}{}", if is_causal { " causal" } else { "" });
            if !is_wanted(&name) {
                continue;
            }
            let shape = HeadShape { n_heads, n_kv_heads, head_size: HEAD_SIZE };
            let rows = random(batch * n_tokens * shape.row());
            let narrow_rows = narrow(&rows);
            let ranges: Vec<[u32; 2]> = (0..n_tokens as u32).map(|query| [0, query + 1]).collect();
            let visible = if is_causal { Visible::Ranges(&ranges) } else { Visible::All };
            let n_operations = 4 * batch * n_heads * n_tokens * n_tokens * HEAD_SIZE / if is_causal { 2 } else { 1 };
            let mix =
                || attention_within(kernels, batch, shape, Heads::side_by_side(&rows, n_tokens, shape), None, visible);
            report(kernels, "attention f32", &name, n_operations, mix);
            let heads = Heads::side_by_side(&narrow_rows, n_tokens, shape);
            let mix = || attention_within(kernels, batch, shape, heads, None, visible);
            report(kernels, "attention bf16", &name, n_operations, mix);
        }
    }
}

fn product<T: Number>(x: &[T], weight: &PackedWeight) -> Vec<T> {
    linear(x, &[Part { weight, bias: None }], None, None)
}

fn random(n: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(n as u64);
    (0..n).map(|_| random.f32() - 0.5).collect()
}

fn narrow(numbers: &[f32]) -> Vec<bf16> {
    numbers.iter().copied().map(bf16::from_f32).collect()
}

#[expect(clippy::print_stdout, reason = "a benchmark's results")]
fn report<T>(kernels: Kernels, what: &str, shape: &str, n_operations: usize, compute: impl Fn() -> T) {
    let times = (0..=N_RUNS).map(|_| {
        let start = Instant::now();
        std::hint::black_box(compute());
        start.elapsed().as_secs_f64()
    });
    let best = times.skip(1).fold(f64::INFINITY, f64::min);
    let (name, n_threads) = (kernels.name(), rayon::current_num_threads());
    let rate = n_operations as f64 / best / 1e9;
    println!("{name}\t{n_threads}\t{what}\t{shape}\t{:.3}\t{rate:.1}", best * 1e3);
}
