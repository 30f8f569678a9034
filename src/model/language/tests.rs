//! Text families compared with transformers: in full, step by step over a cache, and with adapters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use serde_json::{Value, json};

use super::{Decoder, DecoderConfig, DecoderState, LanguageModel, Pass, TokenInput};
use crate::model::Placement;
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::overlay::{LowRankUpdate, Overlay};
use crate::model::checkpoint::weights::testing::read_json;
use crate::model::checkpoint::weights::{Adapter, Checkpoint, Weights, canonical_llava};
use crate::model::layers::{Loader, causal_mask, left_padded_mask};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/text_families").join(name)
}

fn config(dir: &Path) -> DecoderConfig {
    let json = read_json(&dir.join("config.json"));
    DecoderConfig::from_config(&Config::new(&json, "config.json"), false).unwrap()
}

fn load(dir: &Path, overlay: impl FnOnce(&Weights) -> Overlay) -> Decoder {
    let mut weights = Weights::new(&Checkpoint::open(dir).unwrap(), canonical_llava).unwrap();
    let mut overlay = overlay(&weights);
    let placement = Placement::cpu();
    let decoder =
        Decoder::load(&mut Loader::with_overlay(&mut weights, &mut overlay, &placement), config(dir)).unwrap();
    weights.finish().unwrap();
    overlay.finish().unwrap();
    decoder
}

fn input(decoder: &Decoder, ids: &[u32], start: u32) -> TokenInput {
    let positions: Vec<u32> = (start..start + ids.len() as u32).collect();
    let positions = Tensor::from_vec(positions, (1, ids.len()), &Device::Cpu).unwrap();
    TokenInput::new(decoder.embed(ids).unwrap().unsqueeze(0).unwrap(), positions)
}

fn rows(decoder: &Decoder, hidden: &Tensor) -> Vec<Vec<f32>> {
    decoder.logits(hidden).unwrap().squeeze(0).unwrap().to_vec2().unwrap()
}

fn greedy(decoder: &Decoder, ids: &[u32], n_tokens: usize) -> Vec<u32> {
    let mut state = decoder.new_state(ids.len() + n_tokens);
    let step = |ids: &[u32], start: usize, state: &mut DecoderState| {
        let mask = left_padded_mask(&[0], ids.len(), start + ids.len(), DType::F32, &Device::Cpu).unwrap();
        let input = TokenInput { n_wanted: Some(1), ..input(decoder, ids, start as u32) };
        let logits =
            rows(decoder, &decoder.forward(Pass::new(&input).masked(&mask).after(state)).unwrap()).pop().unwrap();
        (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
    };
    let mut said = vec![step(ids, 0, &mut state)];
    while said.len() < n_tokens {
        let last = said[said.len() - 1];
        said.push(step(&[last], ids.len() + said.len() - 1, &mut state));
    }
    said
}

#[track_caller]
fn check(decoder: &Decoder, ids: &[u32], expected: &Value, what: &str) {
    let wanted: Vec<Vec<f32>> = serde_json::from_value(expected["logits"].clone()).unwrap();
    let mask = causal_mask(ids.len(), DType::F32, &Device::Cpu).unwrap();
    let found = rows(decoder, &decoder.forward(Pass::new(&input(decoder, ids, 0)).masked(&mask)).unwrap());
    let largest = wanted.iter().flatten().fold(0f32, |largest, value| largest.max(value.abs()));
    for (found, wanted) in found.iter().flatten().zip(wanted.iter().flatten()) {
        assert!((found - wanted).abs() <= 1e-4 * largest, "{what}: {found} {wanted}");
    }
    let wanted: Vec<u32> = serde_json::from_value(expected["generated"].clone()).unwrap();
    assert_eq!(greedy(decoder, ids, wanted.len()), wanted, "{what}");
}

#[test]
fn joined_maps_partly_turned_heads_head_norms_wide_heads_and_yarn_meet_transformers() {
    for name in ["phi3", "qwen3", "mistral", "qwen2_yarn"] {
        let (dir, reference) = (golden(name), read_json(&golden(name).join("reference.json")));
        let ids: Vec<u32> = serde_json::from_value(reference["ids"].clone()).unwrap();
        check(&load(&dir, |_| Overlay::default()), &ids, &reference, name);
    }
}

#[test]
fn an_adapter_of_joined_maps_meets_peft_beside_the_base_and_merged() {
    let dir = golden("phi3");
    let reference = read_json(&dir.join("reference.json"));
    let ids: Vec<u32> = serde_json::from_value(reference["ids"].clone()).unwrap();
    for is_merged in [false, true] {
        let overlay = |weights: &Weights| {
            let adapter = Adapter::open(&dir.join("adapter"), canonical_llava, weights).unwrap();
            adapter.overlay(&Placement::cpu(), is_merged).unwrap()
        };
        check(&load(&dir, overlay), &ids, &reference["adapter"], if is_merged { "merged" } else { "beside" });
    }
}

#[test]
fn windows_and_long_positions_limit_the_prompt_and_say_so() {
    let read = |value: Value| DecoderConfig::from_config(&Config::new(&value, "config.json"), false).unwrap();
    let limit = |value: Value| {
        let config = read(value);
        (config.n_positions, config.limit().map(str::to_owned).unwrap_or_default())
    };
    let (n, why) = limit(json!({"model_type": "mistral"}));
    assert!(n == 4096 && why.contains("sliding window has 4096"), "{n} {why}");
    let full = json!({"model_type": "mistral", "sliding_window": null, "max_position_embeddings": 32768});
    assert_eq!(limit(full), (32768, String::new()));
    let (n, why) = limit(json!({"model_type": "phi3", "sliding_window": 2047}));
    assert!(n == 2047 && why.contains("2047"), "{n} {why}");
    let long = json!({"model_type": "phi3", "hidden_size": 16, "num_attention_heads": 2, "max_position_embeddings": 131072,
        "rope_scaling": {"type": "su", "short_factor": [1.0, 1.0, 1.0, 1.0], "long_factor": [2.0, 2.0, 2.0, 2.0]}});
    let (n, why) = limit(long);
    assert!(n == 4096 && why.contains("original_max_position_embeddings"), "{n} {why}");
    // Only layers from `max_window_layers` on use the window.
    let qwen = |n_full: usize| {
        json!({"model_type": "qwen2", "use_sliding_window": true, "max_window_layers": n_full,
        "num_hidden_layers": 24, "sliding_window": 512})
    };
    assert_eq!(limit(qwen(24)), (32768, String::new()));
    assert_eq!(limit(qwen(12)).0, 512);
}

#[test]
fn a_language_model_that_is_not_read_is_named_with_those_that_are() {
    let value = json!({"model_type": "mamba"});
    let error = DecoderConfig::from_config(&Config::new(&value, "config.json"), false).unwrap_err().to_string();
    assert!(error.contains("`mamba`") && error.contains("Mistral") && error.contains("Phi-3"), "{error}");
}

#[test]
fn gradients_reach_every_update_of_joined_maps_and_partly_turned_heads() {
    let dir = golden("phi3");
    let ids: Vec<u32> = serde_json::from_value(read_json(&dir.join("reference.json"))["ids"].clone()).unwrap();
    let random = |shape: (usize, usize)| Tensor::randn(0f32, 0.2, shape, &Device::Cpu).unwrap();
    let mut updates = BTreeMap::new();
    for layer in 0..2 {
        for (module, n_out, n_in) in [
            ("self_attn.qkv_proj", 64, 32),
            ("self_attn.o_proj", 32, 32),
            ("mlp.gate_up_proj", 96, 32),
            ("mlp.down_proj", 32, 48),
        ] {
            let (a, b) = (random((2, n_in)), random((n_out, 2)));
            let update = LowRankUpdate { a, b, scale: 2.0, b_bias: None, magnitude: None, dropout: None };
            updates.insert(format!("language_model.layers.{layer}.{module}"), update);
        }
    }
    let variable = |tensor: &Tensor| Var::from_tensor(tensor).unwrap();
    let variables: Vec<(String, [Var; 2])> =
        updates.iter().map(|(module, update)| (module.clone(), [variable(&update.a), variable(&update.b)])).collect();
    let training = variables.iter().map(|(module, [a, b])| {
        let (a, b) = (a.as_tensor().clone(), b.as_tensor().clone());
        (module.clone(), LowRankUpdate { a, b, ..updates[module].clone() })
    });
    let training = Overlay::new(training.collect(), BTreeMap::new(), false);
    let logits = |decoder: &Decoder| {
        let mask = causal_mask(ids.len(), DType::F32, &Device::Cpu).unwrap();
        decoder.logits(&decoder.forward(Pass::new(&input(decoder, &ids, 0)).masked(&mask)).unwrap()).unwrap()
    };
    let asked = logits(&load(&dir, |_| Overlay::new(updates.clone(), BTreeMap::new(), false)));
    let trained = logits(&load(&dir, |_| training));
    crate::model::testing::assert_close(&trained, &asked, "the differentiable form");
    let gradients = trained.sqr().unwrap().mean_all().unwrap().backward().unwrap();
    for (module, factors) in &variables {
        for factor in factors {
            let gradient = gradients.get(factor).unwrap_or_else(|| panic!("{module} has no gradient"));
            let largest = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(largest > 0.0, "{module}");
        }
    }
}
