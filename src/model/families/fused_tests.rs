//! Fused layers and the layers through which gradients flow compute the same.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Var;

use super::tests::input;
use super::*;
use crate::model::checkpoint::weights::{Miniature, open_checkpoint};

/// An overlay that changes nothing but carries gradients.
fn trained(weights: &Weights) -> Overlay {
    let name = "multi_modal_projector.linear_1.weight";
    let shape = weights.shape(name).unwrap();
    let values = Tensor::from_vec(weights.values(name).unwrap(), shape, &candle_core::Device::Cpu).unwrap();
    let variable = Var::from_tensor(&values).unwrap();
    Overlay::new(BTreeMap::new(), BTreeMap::from([(name.to_owned(), variable.as_tensor().clone())]), false)
}

/// ‖a − b‖ / ‖b‖.
fn error(a: &Tensor, b: &Tensor) -> f64 {
    let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    f64::from(norm(&(a - b).unwrap()) / norm(b))
}

/// Random pixels for a model's tower.
fn noise(model: &Model) -> Tensor {
    let side = model.mllm.plain_tower().unwrap().tower.config().image_size();
    let mut random = fastrand::Rng::with_seed(7);
    let pixels: Vec<f32> = (0..3 * side * side).map(|_| random.f32() * 4.0 - 2.0).collect();
    Tensor::from_vec(pixels, (3, side, side), &candle_core::Device::Cpu).unwrap()
}

/// What a model sees in an image, and the logits of its first token.
fn results(model: &Model) -> [Tensor; 2] {
    let seen = model.mllm.see(&[&input(&noise(model))]).unwrap();
    let images = model.mllm.embed_images(&seen).unwrap();
    let prompt = model.dialogue.render("What is in the picture?").unwrap();
    let logits = model.first_logits_about(&prompt, &images[0]).unwrap();
    let n = logits.len();
    [images[0].embeddings.detach(), Tensor::from_vec(logits, n, &candle_core::Device::Cpu).unwrap()]
}

#[test]
fn fused_and_differentiable_layers_agree() {
    let checkpoint = open_checkpoint(Path::new("embedded"), Miniature::Model).unwrap();
    let opened = OpenedModel::open(&checkpoint, None, None).unwrap();
    let overlays = vec![Overlay::default(), trained(&opened.weights)];
    let models = opened.load_all(overlays, &Placement::cpu()).unwrap();
    for (fused, differentiable) in results(&models[0]).iter().zip(&results(&models[1])) {
        let error = error(fused, differentiable);
        assert!(error < 1e-5, "{error:e}");
    }
}

#[test]
fn a_model_rounded_to_8_bits_sees_the_same_and_says_nearly_the_same() {
    let checkpoint = open_checkpoint(Path::new("embedded"), Miniature::Model).unwrap();
    let of = |dtype: &str| {
        let opened = OpenedModel::open(&checkpoint, None, None).unwrap();
        results(&opened.load(&Placement::new("cpu", dtype).unwrap()).unwrap())
    };
    let [[seen, said], [seen_rounded, said_rounded]] = [of("f32"), of("f32+int8")];
    assert_eq!(seen_rounded.to_vec2::<f32>().unwrap(), seen.to_vec2::<f32>().unwrap(), "the tower is not rounded");
    let error = error(&said_rounded, &said);
    assert!(error > 0.0 && error < 0.02, "{error:e}");
}
