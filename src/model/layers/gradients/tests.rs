//! Compares values and gradients with those of candle's own operations.

use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor, Var};

use super::super::dropout::{Dropout, StepCounter};
use super::super::rotary::rotate_in_steps;
use super::super::{Activation, causal_mask, fused, left_padded_mask, tree_mask};
use super::*;
use crate::model::kernels::HeadShape;

fn random(shape: &[usize], seed: u64) -> Var {
    let mut random = fastrand::Rng::with_seed(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.f32() * 4.0 - 2.0).collect();
    Var::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn frozen(shape: &[usize], seed: u64) -> Tensor {
    random(shape, seed).as_detached_tensor()
}

/// Asserts that ‖a − b‖ / ‖b‖ is below 1e-5.
#[track_caller]
fn assert_close(a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims());
    let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    let (difference, norm) = (norm(&(a - b).unwrap()), norm(b));
    assert!(difference <= 1e-5 * norm && norm > 0.0, "{difference} of {norm}");
}

/// Asserts that values and gradients of `ours` equal those of candle's own operations.
#[track_caller]
fn check(variables: &[Var], ours: impl Fn(&[Var]) -> Tensor, candles: impl Fn(&[Var]) -> Tensor) {
    let (y, expected) = (ours(variables), candles(variables));
    assert_close(&y, &expected);
    let weights = frozen(y.dims(), 99);
    let backward = |y: Tensor| (y * &weights).unwrap().sum_all().unwrap().backward().unwrap();
    let (gradients, expected) = (backward(y), backward(expected));
    for variable in variables {
        assert_close(gradients.get(variable).unwrap(), expected.get(variable).unwrap());
    }
}

fn affine(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    x.broadcast_matmul(&weight.t().unwrap()).unwrap().broadcast_add(bias).unwrap()
}

#[test]
fn a_frozen_map_with_and_without_an_update_equals_the_chain() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let stored = frozen(&[75, 37], 1).to_dtype(dtype).unwrap();
        let (weight, bias) = (stored.to_dtype(DType::F32).unwrap(), frozen(&[75], 2));
        let map = || FrozenMap {
            weight: Arc::new(fused::packed(&stored).unwrap()),
            bias: Some(fused::floats(&bias).unwrap().into()),
        };
        check(&[random(&[2, 11, 37], 3)], |v| frozen_linear(&v[0], map()).unwrap(), |v| affine(&v[0], &weight, &bias));
        for rate in [0.0, 0.3] {
            let dropout = (rate > 0.0).then(|| Dropout::new(rate, 5, StepCounter::default()));
            let mask = || dropout.as_ref().map(Dropout::mask);
            check(
                &[random(&[2, 11, 37], 4), random(&[5, 37], 5), random(&[75, 5], 6)],
                |v| low_rank_linear(&v[0], map(), [&v[1], &v[2]], 0.5, mask()).unwrap(),
                |v| {
                    let x = dropout.as_ref().map_or(v[0].as_tensor().clone(), |d| d.forward(&v[0]).unwrap());
                    let narrow = (x.broadcast_matmul(&v[1].t().unwrap()).unwrap() * 0.5).unwrap();
                    let update = narrow.broadcast_matmul(&v[2].t().unwrap()).unwrap();
                    (affine(&v[0], &weight, &bias) + update).unwrap()
                },
            );
        }
    }
}

#[test]
fn an_input_that_does_not_track_gets_no_gradient() {
    let (x, map) = (frozen(&[3, 4], 1), frozen(&[6, 4], 2));
    let map = FrozenMap { weight: Arc::new(fused::packed(&map).unwrap()), bias: None };
    let (a, b) = (random(&[2, 4], 3), random(&[6, 2], 4));
    let gradients = low_rank_linear(&x, map, [&a, &b], 1.0, None).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&a).is_some() && gradients.get(&b).is_some() && gradients.get(&x).is_none());
}

#[test]
fn a_trained_map_equals_the_chain() {
    let variables = [random(&[3, 7, 19], 1), random(&[21, 19], 2), random(&[21], 3)];
    check(&variables, |v| linear(&v[0], &v[1], Some(&v[2])).unwrap(), |v| affine(&v[0], &v[1], &v[2]));
    check(
        &variables[..2],
        |v| linear(&v[0], &v[1], None).unwrap(),
        |v| v[0].broadcast_matmul(&v[1].t().unwrap()).unwrap(),
    );
    let x = frozen(&[7, 19], 4);
    check(&variables[1..], |v| linear(&x, &v[0], Some(&v[1])).unwrap(), |v| affine(&x, &v[0], &v[1]));
}

#[test]
fn norms_equal_their_chains() {
    let variables = [random(&[2, 3, 21], 5), random(&[21], 6), random(&[21], 7)];
    check(
        &variables[..2],
        |v| rms_norm(&v[0], &v[1], 1e-5).unwrap(),
        |v| candle_nn::ops::rms_norm_slow(&v[0], &v[1], 1e-5).unwrap(),
    );
    check(
        &variables,
        |v| layer_norm(&v[0], &v[1], &v[2], 1e-5).unwrap(),
        |v| candle_nn::ops::layer_norm_slow(&v[0], &v[1], &v[2], 1e-5).unwrap(),
    );
    let weight = frozen(&[21], 8);
    check(
        &variables[..1],
        |v| rms_norm(&v[0], &weight, 1e-5).unwrap(),
        |v| candle_nn::ops::rms_norm_slow(&v[0], &weight, 1e-5).unwrap(),
    );
}

#[test]
fn activations_and_gates_equal_their_chains() {
    let variables = [random(&[5, 37], 6), random(&[5, 37], 7)];
    let chain = |activation: Activation, x: &Tensor| match activation {
        Activation::Gelu => x.gelu_erf().unwrap(),
        Activation::GeluTanh => x.gelu().unwrap(),
        Activation::QuickGelu => (x * candle_nn::ops::sigmoid(&(x * 1.702).unwrap()).unwrap()).unwrap(),
        Activation::Silu => x.silu().unwrap(),
        Activation::Relu => x.relu().unwrap(),
    };
    for activation in
        [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu, Activation::Silu, Activation::Relu]
    {
        check(&variables[..1], |v| activated(&v[0], activation).unwrap(), |v| chain(activation, &v[0]));
        check(
            &variables,
            |v| gated(&v[0], &v[1], activation).unwrap(),
            |v| (chain(activation, &v[0]) * v[1].as_tensor()).unwrap(),
        );
    }
}

/// Attention by candle's operations, on `(batch, tokens, heads * head size)`.
fn chain(v: &[Var], inputs: &AttentionInputs) -> Tensor {
    let HeadShape { n_heads, n_kv_heads, head_size } = inputs.shape;
    let (batch, n_tokens, width) = v[0].dims3().unwrap();
    let heads = |x: &Tensor, n: usize| {
        x.reshape((batch, n_tokens, n, head_size)).unwrap().transpose(1, 2).unwrap().contiguous().unwrap()
    };
    let turned = |x: Tensor| match &inputs.rotary {
        Some((cos, sin)) => rotate_in_steps(&x, cos, sin).unwrap(),
        None => x,
    };
    let repeated = |x: Tensor| {
        let parts: Vec<Tensor> = (0..n_heads).map(|h| x.narrow(1, h * n_kv_heads / n_heads, 1).unwrap()).collect();
        Tensor::cat(&parts, 1).unwrap()
    };
    let query = turned(heads(&v[0], n_heads));
    let key = repeated(turned(heads(&v[1], n_kv_heads)));
    let value = repeated(heads(&v[2], n_kv_heads));
    let scores = (query.matmul(&key.t().unwrap()).unwrap() * (head_size as f64).powf(-0.5)).unwrap();
    let scores = match &inputs.mask {
        Some(mask) => scores.broadcast_add(mask.added().unwrap()).unwrap(),
        None => scores,
    };
    let mixed = candle_nn::ops::softmax(&scores, D::Minus1).unwrap().matmul(&value).unwrap();
    mixed.transpose(1, 2).unwrap().reshape((batch, n_tokens, width)).unwrap()
}

#[test]
fn attention_equals_the_chain() {
    let (n_tokens, cpu) = (71, Device::Cpu);
    let parents: Vec<Option<usize>> = (0..n_tokens).map(|node: usize| node.checked_sub(2)).collect();
    let masks = [
        None,
        Some(causal_mask(n_tokens, DType::F32, &cpu).unwrap()),
        Some(left_padded_mask(&[0, 9], n_tokens, n_tokens, DType::F32, &cpu).unwrap()),
        Some(tree_mask(&[0], 0, &parents, 0..n_tokens, DType::F32, &cpu).unwrap()),
    ];
    for (mask, n_kv_heads, is_turned) in masks.iter().flat_map(|mask| [(mask, 4, true), (mask, 2, false)]) {
        let shape = HeadShape { n_heads: 4, n_kv_heads, head_size: 10 };
        let angles = frozen(&[2, n_tokens, 5], 1);
        let rotary = is_turned.then(|| (angles.cos().unwrap(), angles.sin().unwrap()));
        let inputs = AttentionInputs { shape, mask: mask.clone(), rotary };
        let of = |n: usize, seed: u64| random(&[2, n_tokens, n * 10], seed);
        check(
            &[of(4, 2), of(n_kv_heads, 3), of(n_kv_heads, 4)],
            |v| attention([&v[0], &v[1], &v[2]], inputs.clone()).unwrap(),
            |v| chain(v, &inputs),
        );
    }
}
