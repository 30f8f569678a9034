//! What layers compute fused, and what they compute so that gradients flow, is the same.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Var;

use super::tests::input;
use super::*;
use crate::model::weights::{Miniature, open_checkpoint};

/// An overlay that changes nothing, and to which gradients flow.
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

#[test]
fn fused_and_differentiable_layers_agree() {
    let checkpoint = open_checkpoint(Path::new("embedded"), Miniature::Model).unwrap();
    let opened = OpenedModel::open(&checkpoint, None, None).unwrap();
    let overlays = vec![Overlay::default(), trained(&opened.weights)];
    let models = opened.load_all(overlays, &Placement::cpu()).unwrap();
    let tower = models[0].mllm.plain_tower().unwrap();
    let side = tower.tower.config().image_size();
    let mut random = fastrand::Rng::with_seed(7);
    let pixels: Vec<f32> = (0..3 * side * side).map(|_| random.f32() * 4.0 - 2.0).collect();
    let pixels = Tensor::from_vec(pixels, (3, side, side), &candle_core::Device::Cpu).unwrap();
    let results: Vec<[Tensor; 2]> = models
        .iter()
        .map(|model| {
            let seen = model.mllm.see(&[&input(&pixels)]).unwrap();
            let images = model.mllm.embed_images(&seen).unwrap();
            let prompt = model.dialogue.render("What is in the picture?").unwrap();
            let logits = model.first_logits(&prompt, &images[0]).unwrap();
            let n = logits.len();
            [images[0].embeddings.detach(), Tensor::from_vec(logits, n, &candle_core::Device::Cpu).unwrap()]
        })
        .collect();
    for (fused, differentiable) in results[0].iter().zip(&results[1]) {
        let error = error(fused, differentiable);
        assert!(error < 1e-5, "{error:e}");
    }
}
