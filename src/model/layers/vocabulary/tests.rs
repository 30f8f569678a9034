use candle_core::{DType, Device};

use super::*;
use crate::model::Placement;
use crate::model::checkpoint::weights::testing::{golden, read_json};
use crate::model::checkpoint::weights::{Adapter, Checkpoint, Weights, canonical_llava};

fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.to_dtype(DType::F32).unwrap().to_vec2().unwrap()
}

/// A folder with the base of `tests/golden/make_tied.py`; its head is stored in addition to its embedding if
/// `stores_head`.
fn base(stores_head: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = candle_core::safetensors::load(golden("tied").join("base.safetensors"), &Device::Cpu).unwrap();
    if stores_head {
        tensors.insert(HEAD_WEIGHT.to_owned(), tensors["model.embed_tokens.weight"].clone());
    }
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    dir
}

fn effective(dir: &std::path::Path, adapter: &std::path::Path, is_merged: bool) -> [Vec<Vec<f32>>; 2] {
    let placement = Placement::cpu();
    let mut weights = Weights::new(&Checkpoint::open(dir).unwrap(), canonical_llava).unwrap();
    let adapter = Adapter::open(adapter, canonical_llava, &weights).unwrap();
    let mut overlay = adapter.overlay(&placement, is_merged).unwrap();
    let mut loader = Loader::with_overlay(&mut weights, &mut overlay, &placement);
    let (embedding, head) = load_vocabulary(&mut loader, [6, 0], 4, true).unwrap();
    weights.finish().unwrap();
    let identity = Tensor::eye(4, DType::F32, &Device::Cpu).unwrap();
    let head = head.forward(&identity).unwrap().t().unwrap();
    [rows(&embedding.forward(&[0, 1, 2, 3, 4, 5]).unwrap()), rows(&head)]
}

#[test]
fn every_adapter_of_a_tied_embedding_or_head_gives_what_peft_gives() {
    let expected = read_json(&golden("tied").join("expected.json"));
    let cases = expected.as_object().unwrap();
    assert_eq!(cases.len(), 13);
    for stores_head in [false, true] {
        let dir = base(stores_head);
        for (name, case) in cases {
            for (way, is_merged) in [("beside", false), ("merged", true)] {
                let found = effective(dir.path(), &golden("tied").join(name), is_merged);
                for (found, matrix) in found.iter().zip(["embedding", "head"]) {
                    let wanted: Vec<Vec<f32>> = serde_json::from_value(case[way][matrix].clone()).unwrap();
                    let pairs = found.iter().flatten().zip(wanted.iter().flatten());
                    let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(largest < 1e-5, "{name} {way} {matrix}: {largest}");
                }
            }
        }
    }
}
