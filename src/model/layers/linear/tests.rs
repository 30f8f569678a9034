use candle_core::Device;

use super::*;

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
}

fn update(magnitude: Option<Tensor>) -> LowRankUpdate {
    LowRankUpdate {
        a: tensor(&[1.0, -1.0, 2.0], &[1, 3]),
        b: tensor(&[0.5, 2.0], &[2, 1]),
        scale: 2.0,
        b_bias: Some(tensor(&[0.1, -0.2], &[2])),
        magnitude,
        dropout: None,
    }
}

#[test]
fn an_update_beside_its_weight_equals_the_merged_weight() {
    let weight = tensor(&[1.0, 2.0, 3.0, -1.0, 0.5, 0.25], &[2, 3]);
    let x = tensor(&[0.3, -0.7, 1.1, 2.0, 0.0, -1.0], &[2, 3]);
    for magnitude in [None, Some(tensor(&[1.5, 0.75], &[2]))] {
        let update = LowRankUpdate { b_bias: None, ..update(magnitude) };
        let base = x.matmul(&weight.t().unwrap()).unwrap();
        let beside = LowRank::new(update.clone(), || Ok(weight.clone())).unwrap().forward(&x, &base).unwrap();
        let inside = x.matmul(&merged(&update, &weight).unwrap().t().unwrap()).unwrap();
        let difference = (beside - inside).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(difference < 1e-5, "{difference}");
    }
}

#[test]
fn a_factor_multiplies_what_is_added_and_not_the_residual() {
    let weight = tensor(&[1.0, 2.0, 3.0, -1.0, 0.5, 0.25], &[2, 3]);
    let (bias, factor) = (tensor(&[0.5, -0.5], &[2]), tensor(&[2.0, -3.0], &[2]));
    let x = tensor(&[1.0, 1.0, 1.0, 2.0, 0.0, 0.0], &[1, 2, 3]);
    let residual = tensor(&[10.0, 20.0, 30.0, 40.0], &[1, 2, 2]);
    let map = Linear::from_tensors(weight, Some(bias)).times(factor);
    let tracked = candle_core::Var::from_tensor(&residual).unwrap();
    for residual in [&residual, tracked.as_tensor()] {
        let added = map.forward_with(&x, None, Some(residual)).unwrap();
        assert_eq!(added.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [23.0, 22.25, 35.0, 47.5]);
    }
    assert!(map.part(&x).is_none());
}

#[test]
fn an_update_of_other_sizes_is_refused_by_name() {
    let error = check_shapes(&update(None), [2, 4], "layers.7.q_proj").unwrap_err();
    assert!(error.to_string().contains("layers.7.q_proj"), "{error}");
}
