//! Operations with a backward pass of their own, for training on a CPU in f32.
//!
//! candle's differentiable forms are chains of passes over memory, each with passes of its own on the way back, and they
//! compute gradients of what does not train. Each operation here is one pass forward and one back. What it does not
//! cover (other devices and types, weights that train) takes candle's form.

use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, bail};

/// Whether the operations here serve `x`.
pub(super) fn serves(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The elements of a contiguous tensor.
pub(super) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("an operation of training needs contiguous tensors"),
    }
}

fn output(values: Vec<f32>, layout: &Layout) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), layout.shape().clone())
}

/// `x W^T` with a weight `(out, in)` that does not train: its own gradient, half of the way back, is not computed.
pub(super) fn frozen_product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(FrozenProduct { weight: weight.detach() })
}

struct FrozenProduct {
    weight: Tensor,
}

impl CustomOp1 for FrozenProduct {
    fn name(&self) -> &'static str {
        "frozen-product"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n_rows, n_in) = layout.shape().dims2()?;
        let transposed = self.weight.t()?;
        let n_out = transposed.dim(1)?;
        let (weight, weight_layout) = transposed.storage_and_layout();
        let Storage::Cpu(weight) = &*weight else { bail!("the weight is not on the CPU") };
        let product = storage.matmul(weight, (1, n_rows, n_out, n_in), layout, weight_layout)?;
        Ok((product, (n_rows, n_out).into()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(gradient.matmul(&self.weight)?))
    }
}

/// `softmax(scale * query key^T + mask) value` of `query` `(batch, heads, queries, head size)`, `key` and `value`
/// `(batch, heads, keys, head size)`; the mask `(1 or batch, 1, queries, keys)`.
pub(super) fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    scale: f64,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let (batch, n_heads, n_queries, _) = query.dims4()?;
    let n_keys = key.dim(2)?;
    let mask = match mask {
        Some(mask) => mask.flatten_all()?.to_vec1()?,
        None => Vec::new(),
    };
    if ![0, n_queries * n_keys, batch * n_queries * n_keys].contains(&mask.len()) {
        bail!("a mask of {} numbers does not fit {n_queries} queries and {n_keys} keys", mask.len());
    }
    let rows_per_mask = if mask.len() > n_queries * n_keys { n_heads * n_queries } else { usize::MAX };
    let softmax = MaskedSoftmax { scale: scale as f32, mask, n_queries, n_keys, rows_per_mask };
    let operation = Attention { softmax, weights: OnceLock::new() };
    query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, operation)
}

struct Attention {
    softmax: MaskedSoftmax,
    /// What the way back needs of the way there.
    weights: OnceLock<Vec<f32>>,
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, n_heads, n_queries, head_size) = l1.shape().dims4()?;
        let (n_pairs, n_keys) = (batch * n_heads, self.softmax.n_keys);
        let scores = s1.matmul(s2, (n_pairs, n_queries, n_keys, head_size), l1, &l2.transpose(2, 3)?)?;
        let CpuStorage::F32(mut weights) = scores else { bail!("attention is computed in f32") };
        self.softmax.apply(&mut weights);
        let weights = CpuStorage::F32(weights);
        let layout = Layout::contiguous((batch, n_heads, n_queries, n_keys));
        let mixed = weights.matmul(s3, (n_pairs, n_queries, head_size, n_keys), &layout, l3)?;
        if let CpuStorage::F32(weights) = weights {
            // The same operation is never computed twice.
            let _ = self.weights.set(weights);
        }
        Ok((mixed, l1.shape().clone()))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _mixed: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(weights) = self.weights.get() else { bail!("attention goes back before it went there") };
        let (batch, n_heads, n_queries, _) = query.dims4()?;
        let n_keys = self.softmax.n_keys;
        let weights = Tensor::from_slice(weights, (batch, n_heads, n_queries, n_keys), query.device())?;
        let gradient = gradient.contiguous()?;
        let of_value = weights.t()?.matmul(&gradient)?;
        let of_weights = gradient.matmul(&value.detach().t()?)?;
        let backward = SoftmaxBackward { scale: self.softmax.scale, n_keys };
        let of_scores = weights.apply_op2_no_bwd(&of_weights, &backward)?;
        let of_query = of_scores.matmul(&key.detach())?;
        let of_key = of_scores.t()?.matmul(&query.detach())?;
        Ok((Some(of_query), Some(of_key), Some(of_value)))
    }
}

/// Softmax over the keys of `scale * scores + mask`.
struct MaskedSoftmax {
    scale: f32,
    mask: Vec<f32>,
    n_queries: usize,
    n_keys: usize,
    /// Rows of scores that one mask serves.
    rows_per_mask: usize,
}

/// Scores so far below the highest have the weight 0 without being computed.
const HIDDEN: f32 = -10_000.0;

impl MaskedSoftmax {
    /// Turns rows of scores into rows of weights.
    fn apply(&self, scores: &mut [f32]) {
        for (row, scores) in scores.chunks_exact_mut(self.n_keys).enumerate() {
            let start = ((row / self.rows_per_mask) * self.n_queries + row % self.n_queries) * self.n_keys;
            let mask = self.mask.get(start..start + self.n_keys);
            let mut highest = f32::NEG_INFINITY;
            for (key, score) in scores.iter_mut().enumerate() {
                *score = *score * self.scale + mask.map_or(0.0, |mask| mask[key]);
                highest = highest.max(*score);
            }
            let mut sum = 0.0;
            for score in scores.iter_mut() {
                *score = if *score < HIDDEN + highest { 0.0 } else { (*score - highest).exp() };
                sum += *score;
            }
            scores.iter_mut().for_each(|weight| *weight /= sum);
        }
    }
}

struct SoftmaxBackward {
    scale: f32,
    n_keys: usize,
}

impl CustomOp2 for SoftmaxBackward {
    fn name(&self) -> &'static str {
        "softmax-backward"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (weights, gradient) = (floats(s1, l1)?, floats(s2, l2)?);
        let mut result = Vec::with_capacity(weights.len());
        for (weights, gradient) in weights.chunks_exact(self.n_keys).zip(gradient.chunks_exact(self.n_keys)) {
            let dot: f32 = weights.iter().zip(gradient).map(|(w, g)| w * g).sum();
            result.extend(weights.iter().zip(gradient).map(|(w, g)| self.scale * w * (g - dot)));
        }
        Ok(output(result, l1))
    }
}

/// Root-mean-square normalisation with a weight `(size)` that does not train.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    x.contiguous()?.apply_op1(RmsNorm { weight: weight.to_vec1()?, epsilon })
}

#[derive(Clone)]
struct RmsNorm {
    weight: Vec<f32>,
    epsilon: f32,
}

impl RmsNorm {
    fn inverse(&self, row: &[f32]) -> f32 {
        let mean = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
        1.0 / (mean + self.epsilon).sqrt()
    }
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(storage, layout)?;
        let mut result = Vec::with_capacity(x.len());
        for row in x.chunks_exact(self.weight.len()) {
            let inverse = self.inverse(row);
            result.extend(row.iter().zip(&self.weight).map(|(x, w)| x * inverse * w));
        }
        Ok(output(result, layout))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.apply_op2_no_bwd(&gradient.contiguous()?, &RmsNormBackward(self.clone()))?))
    }
}

struct RmsNormBackward(RmsNorm);

impl CustomOp2 for RmsNormBackward {
    fn name(&self) -> &'static str {
        "rms-norm-backward"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, gradient) = (floats(s1, l1)?, floats(s2, l2)?);
        let weight = &self.0.weight;
        let n = weight.len();
        let mut result = Vec::with_capacity(x.len());
        for (x, gradient) in x.chunks_exact(n).zip(gradient.chunks_exact(n)) {
            let inverse = self.0.inverse(x);
            let dot: f32 = x.iter().zip(gradient).zip(weight).map(|((x, g), w)| x * g * w).sum();
            let pull = dot * inverse * inverse * inverse / n as f32;
            result.extend(x.iter().zip(gradient).zip(weight).map(|((x, g), w)| g * w * inverse - x * pull));
        }
        Ok(output(result, l1))
    }
}

/// `silu(gate) * up`.
pub(super) fn silu_gate(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, SiluGate)
}

struct SiluGate;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl CustomOp2 for SiluGate {
    fn name(&self) -> &'static str {
        "silu-gate"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (floats(s1, l1)?, floats(s2, l2)?);
        Ok(output(gate.iter().zip(up).map(|(g, u)| g * sigmoid(*g) * u).collect(), l1))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _y: &Tensor, d: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let d = d.contiguous()?;
        let of_gate = gate.apply_op3_no_bwd(up, &d, &SiluGateBackward { is_of_gate: true })?;
        let of_up = gate.apply_op3_no_bwd(up, &d, &SiluGateBackward { is_of_gate: false })?;
        Ok((Some(of_gate), Some(of_up)))
    }
}

struct SiluGateBackward {
    is_of_gate: bool,
}

impl CustomOp3 for SiluGateBackward {
    fn name(&self) -> &'static str {
        "silu-gate-backward"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up, d) = (floats(s1, l1)?, floats(s2, l2)?, floats(s3, l3)?);
        let result = if self.is_of_gate {
            let of_one = |((g, u), d): ((&f32, &f32), &f32)| {
                let s = sigmoid(*g);
                d * u * s * (1.0 + g * (1.0 - s))
            };
            gate.iter().zip(up).zip(d).map(of_one).collect()
        } else {
            gate.iter().zip(d).map(|(g, d)| d * g * sigmoid(*g)).collect()
        };
        Ok(output(result, l1))
    }
}

/// Turns `x` `(batch, heads, tokens, head size)` by `cos` and `sin` `(batch, tokens, head size / 2)`.
pub(super) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (cos, sin) = (cos.flatten_all()?.to_vec1()?, sin.flatten_all()?.to_vec1()?);
    x.contiguous()?.apply_op1(Rotation { cos, sin })
}

struct Rotation {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl CustomOp1 for Rotation {
    fn name(&self) -> &'static str {
        "rotation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(storage, layout)?;
        let (_, n_heads, n_tokens, head_size) = layout.shape().dims4()?;
        let n_half = head_size / 2;
        let mut result = vec![0f32; x.len()];
        for (index, (x, y)) in x.chunks_exact(head_size).zip(result.chunks_exact_mut(head_size)).enumerate() {
            let row = index / (n_heads * n_tokens);
            let angle = (row * n_tokens + index % n_tokens) * n_half;
            for pair in 0..n_half {
                let (cos, sin) = (self.cos[angle + pair], self.sin[angle + pair]);
                let (first, second) = (x[pair], x[pair + n_half]);
                y[pair] = first * cos - second * sin;
                y[pair + n_half] = second * cos + first * sin;
            }
        }
        Ok(output(result, layout))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        // The way back turns by the opposite angle.
        let back = Rotation { cos: self.cos.clone(), sin: self.sin.iter().map(|sin| -sin).collect() };
        Ok(Some(gradient.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Device, Var};

    use super::*;

    fn random(shape: &[usize], seed: u64) -> Var {
        let mut random = fastrand::Rng::with_seed(seed);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.f32() * 4.0 - 2.0).collect();
        Var::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[track_caller]
    fn assert_close(a: &Tensor, b: &Tensor) {
        assert_eq!(a.dims(), b.dims());
        for (a, b) in values(a).iter().zip(values(b)) {
            assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{a} {b}");
        }
    }

    /// Values and gradients of `ours` equal those of candle's own chain of operations.
    #[track_caller]
    fn check(variables: &[Var], ours: impl Fn(&[Var]) -> Tensor, candles: impl Fn(&[Var]) -> Tensor) {
        let (y, expected) = (ours(variables), candles(variables));
        assert_close(&y, &expected);
        let weights = random(y.dims(), 99);
        let backward = |y: Tensor| (y * weights.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        let (gradients, expected) = (backward(y), backward(expected));
        for variable in variables {
            assert_close(gradients.get(variable).unwrap(), expected.get(variable).unwrap());
        }
    }

    #[test]
    fn a_frozen_product_passes_the_gradient_of_its_input_alone() {
        let weight = random(&[5, 4], 1).as_detached_tensor();
        check(
            &[random(&[3, 4], 2)],
            |v| frozen_product(&v[0], &weight).unwrap(),
            |v| v[0].matmul(&weight.t().unwrap()).unwrap(),
        );
    }

    #[test]
    fn attention_under_a_mask_equals_the_chain() {
        for batch_of_mask in [1, 2] {
            let padding = &[0, 1][..batch_of_mask];
            let mask = super::super::left_padded_mask(padding, 3, 3, DType::F32, &Device::Cpu).unwrap();
            let shape = [2, 2, 3, 4];
            check(
                &[random(&shape, 3), random(&shape, 11), random(&shape, 12)],
                |v| attention(&v[0], &v[1], &v[2], 0.5, Some(&mask)).unwrap(),
                |v| {
                    let scores = (v[0].matmul(&v[1].t().unwrap()).unwrap() * 0.5).unwrap();
                    let weights = candle_nn::ops::softmax(&scores.broadcast_add(&mask).unwrap(), D::Minus1).unwrap();
                    weights.matmul(&v[2]).unwrap()
                },
            );
        }
    }

    #[test]
    fn norm_gate_and_rotation_equal_their_chains() {
        let weight = random(&[6], 4).as_detached_tensor();
        check(
            &[random(&[2, 3, 6], 5)],
            |v| rms_norm(&v[0], &weight, 1e-5).unwrap(),
            |v| candle_nn::ops::rms_norm_slow(&v[0], &weight, 1e-5).unwrap(),
        );
        check(
            &[random(&[2, 6], 6), random(&[2, 6], 7)],
            |v| silu_gate(&v[0], &v[1]).unwrap(),
            |v| (v[0].silu().unwrap() * v[1].as_tensor()).unwrap(),
        );
        let (cos, sin) = (random(&[2, 3, 2], 8).as_detached_tensor(), random(&[2, 3, 2], 9).as_detached_tensor());
        check(
            &[random(&[2, 2, 3, 4], 10)],
            |v| rotate(&v[0], &cos, &sin).unwrap(),
            |v| super::super::rotary::rotate_in_steps(&v[0], &cos, &sin).unwrap(),
        );
    }
}
